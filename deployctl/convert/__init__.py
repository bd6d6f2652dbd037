"""Turns what models are kept in into SavedModels and back; TensorFlow runs in child processes only."""
