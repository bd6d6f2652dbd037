"""uvicorn's server, as one duty among others runs it."""

from __future__ import annotations

import asyncio
import threading

import uvicorn

# uvicorn looks ten times a second whether it is to end, which is most of what a daemon at rest would do.
_LOOK_S = 0.5


class Listener(uvicorn.Server):
    """Serves until `stopping` is set."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def main_loop(self) -> None:
        """Returns when it is to end; until then the time in the answers' headers is kept."""
        while not (self._stopping.is_set() or await self.on_tick(0)):
            await asyncio.sleep(_LOOK_S)
