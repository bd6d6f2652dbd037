"""A client of TensorFlow Serving's API: NumPy arrays in and out, by REST or gRPC; needs NumPy and, for gRPC, grpcio.

from deployctl.client import Client

with Client("http://127.0.0.1:8501") as client:
    answer = client.predict("planet", {"input_image": images}, label="stable")
"""

from deployctl.client.client import Client
from deployctl.client.errors import (
    BadRequestError,
    DeadlineError,
    NotServedError,
    PredictionError,
    UnavailableError,
)

__all__ = ["BadRequestError", "Client", "DeadlineError", "NotServedError", "PredictionError", "UnavailableError"]
