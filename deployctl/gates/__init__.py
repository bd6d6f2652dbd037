"""Checks that a version must pass before it is promoted."""
