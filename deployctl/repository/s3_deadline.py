"""How long a request to an object store may take, with all its repetitions."""

from __future__ import annotations

import threading
import time
from typing import Any

from deployctl.repository.s3_errors import DeadlinePassed


class Deadline(threading.local):
    """One deadline for each thread.

    Args:
        seconds: from `renew` on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at_s = float("inf")
        self._heard = ""

    def renew(self) -> None:
        """Starts anew, for the next request."""
        self._at_s = time.monotonic() + self._seconds
        self._heard = ""

    def check(self, **_: object) -> None:
        """Called before each attempt and while an answer arrives.

        Raises:
            DeadlinePassed: all together took too long.
        """
        if time.monotonic() > self._at_s:
            if self._heard:
                raise DeadlinePassed(f"no good answer within {self._seconds:g} s, the last was {self._heard}")
            raise DeadlinePassed(f"no answer within {self._seconds:g} s")

    def note(self, response: tuple[Any, Any] | None = None, **_: object) -> None:
        """Called by the SDK after each attempt; what a store says that is to be asked again is told in the end."""
        if response is not None and response[0].status_code >= 400:
            self._heard = str(response[1].get("Error", {}).get("Code", "")) or str(response[0].status_code)
