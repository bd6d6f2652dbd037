"""deployctl manages TensorFlow model repositories and what is served from them."""

__version__ = "0.1.0"
