"""Measures what the design promises: each budget as a ratio of two things measured in one run."""
