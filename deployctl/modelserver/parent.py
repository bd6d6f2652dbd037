"""Ends a child with the process that waits for its answer."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

# prctl(2)
_PR_SET_PDEATHSIG = 1


def end_with_parent(arguments: Sequence[str]) -> None:
    """Has the kernel end this process when its parent ends, however that is.

    Args:
        arguments: of the command line; the first, if there is one, is the parent's process number.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before that, and its request may be in the pipe: nobody waits for the answer then.
    if arguments and os.getppid() != int(arguments[0]):
        sys.exit("the process that asked has ended")
