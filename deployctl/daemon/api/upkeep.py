"""The duty that ends and removes what clients elsewhere have left."""

from __future__ import annotations

from deployctl.daemon.api.commands import tidy
from deployctl.daemon.interface import Duty, Work

_EVERY_S = 10.0


class ClientUpkeep(Duty):
    """Looks through the commands and the uploads of clients."""

    @property
    def name(self) -> str:
        """What logs call it."""
        return "clients"

    def run(self, work: Work) -> None:
        """Tidies until `work.stopping` is set."""
        while not work.pause(_EVERY_S):
            tidy(work)
