"""The embedded model server: TensorFlow Serving's API over TensorFlow's C API."""
