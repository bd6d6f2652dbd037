"""Options and arguments that commands share, and the session that they open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployctl.cli import completion

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.config.load import Loaded
    from deployctl.operations.target import Target


class Output(StrEnum):
    """How results are written to stdout."""

    TABLE = "table"
    JSON = "json"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Session:
    """What the words before the command said."""

    config: Path | None = None
    flags: tuple[str, ...] = ()

    def load(self) -> Loaded:
        """Returns the settings that apply; see `deployctl.config.load`."""
        from deployctl.config.load import load

        return load(file=self.config, flags=self.flags)

    @contextmanager
    def open(self, *, without_database: bool = False) -> Iterator[Deployment]:
        """Opens deployctl under the settings that apply, with progress on stderr.

        With `without_database`, the command goes on when the lineage database fails.
        """
        from deployctl.bootstrap import opened
        from deployctl.cli.progress import TerminalObserver

        with (
            TerminalObserver() as observer,
            opened(self.load().settings, observer, without_database=without_database) as deployment,
        ):
            yield deployment


def session(context: typer.Context) -> Session:
    """Returns what the words before the command said."""
    found = context.find_root().obj
    return found if isinstance(found, Session) else Session()


def patient(place: Target, lock_timeout: str | None) -> Target:
    """Returns the target with the wait for other operations as --lock-timeout says."""
    from deployctl.domain.duration import parse_duration

    return replace(place, lock_timeout_s=parse_duration(lock_timeout)) if lock_timeout else place


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Write the result as this.", show_default=True)]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", "-t", help="Target; default: the settings' default.", autocompletion=completion.targets),
]
TargetArgument = Annotated[
    str | None, typer.Argument(help="Target; default: the settings' default.", autocompletion=completion.targets)
]
ModelArgument = Annotated[str, typer.Argument(help="Model name.", autocompletion=completion.models)]
OptionalModelArgument = Annotated[str | None, typer.Argument(help="Model name.", autocompletion=completion.models)]
ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL@REF",
        help="Version: MODEL@7, MODEL@latest, MODEL@LABEL or MODEL@sha256:PREFIX.",
        autocompletion=completion.references,
    ),
]
ReasonOption = Annotated[str, typer.Option("--reason", "-m", help="Why; recorded with the change.")]
TimeoutOption = Annotated[str | None, typer.Option("--timeout", help="Longest wait, such as 90s or 5m.")]
LockTimeoutOption = Annotated[
    str | None, typer.Option("--lock-timeout", help="Longest wait for another operation; 0s for none.")
]
IfCurrentOption = Annotated[
    int | None,
    typer.Option("--if-current", min=0, help="Act only if this revision is current (0: none is). Else exit 8."),
]
NO_WAIT = "--no-wait"
NoWaitOption = Annotated[bool, typer.Option(NO_WAIT, help="Print the operation's id, and let it go on by itself.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
