"""The port to whatever runs a loaded graph: a session, or a batch scheduler before one."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor
    from deployctl.modelserver.signatures import LoadedSignatures


class Runner(abc.ABC):
    """Runs a loaded graph; calls may come from any thread."""

    @property
    @abc.abstractmethod
    def signatures(self) -> LoadedSignatures:
        """The signatures of the graph."""

    @abc.abstractmethod
    def run(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> list[Tensor]:
        """Runs the graph.

        Args:
            feeds: tensor names ("x:0") and their values.
            fetches: tensor names.
            timeout_s: after which the call fails with DEADLINE_EXCEEDED; None for no limit.

        Raises:
            StatusError: TensorFlow's own code and words.
        """

    def run_soon(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> Awaitable[list[Tensor]] | None:
        """Starts `run` without holding up the event loop that calls; None when there is nothing to wait for but work.

        Raises:
            StatusError: as `run`, here or when it is awaited.
        """
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Frees everything; no call may be under way or come later."""
