"""Values and rules of model deployment: standard library only, no I/O, clock or environment."""
