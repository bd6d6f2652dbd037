"""What a prediction can fail with.

PredictionError        any failure
  BadRequestError      the server, or the client before it, refused the request as malformed
  NotServedError       the server has no such model, version or label
  UnavailableError     nothing answered, or the server is overloaded: another attempt may succeed
  DeadlineError        there was no answer in time
"""

from __future__ import annotations


class PredictionError(Exception):
    """A prediction failed; the message has the server's own words."""


class BadRequestError(PredictionError):
    """The request is malformed: names, shapes or types are not those of the signature."""


class NotServedError(PredictionError):
    """The server has no such model, version or label."""


class UnavailableError(PredictionError):
    """Nothing answered, or the server is overloaded."""


class DeadlineError(PredictionError):
    """There was no answer in time."""
