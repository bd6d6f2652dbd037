"""Targets: places that serve models, and the runtimes that drive them."""
