"""Loading stands back for requests."""

from __future__ import annotations

import os
import threading

import pytest

from deployctl.modelserver.background import in_background


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_work_in_the_background_has_a_low_priority_and_its_caller_keeps_its_own() -> None:
    before = niceness()

    assert in_background(niceness) == max(before, 10)
    assert niceness() == before


def test_an_error_in_the_background_reaches_the_caller() -> None:
    def fail() -> None:
        raise ValueError("in the background")

    with pytest.raises(ValueError, match="in the background"):
        in_background(fail)
