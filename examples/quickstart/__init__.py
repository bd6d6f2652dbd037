"""A real model trained, published, served, replaced and rolled back."""
