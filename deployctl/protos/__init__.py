"""Minimal wire-compatible protocol buffers of TensorFlow and TensorFlow Serving."""
