"""What the shell offers while a command is typed: real models, versions, labels and targets.

A shell waits for these functions at each Tab, so they answer from local files, or from the daemon that the command is
for, give up on a busy database or a slow daemon at once, and offer nothing rather than fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from deployctl.config.settings import Settings

_MOST = 500
_DATABASE_WAIT_S = 0.1


class Offers(Protocol):
    """Where what is offered comes from."""

    def targets(self) -> Sequence[str]:
        """The names of the targets."""

    def models(self) -> Sequence[str]:
        """The names of the models."""

    def labels(self, model: str) -> Sequence[str]:
        """The labels that a model has on any target."""

    def versions(self, model: str) -> Sequence[str]:
        """The numbers of a model's versions."""

    def operations(self) -> Sequence[str]:
        """The ids of operations, newest first."""


def targets(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the targets of the settings."""
    offers = _offers(context)
    return [name for name in offers.targets() if name.startswith(incomplete)] if offers else []


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the models of the repository."""
    offers = _offers(context)
    return sorted(name for name in offers.models() if name.startswith(incomplete))[:_MOST] if offers else []


def references(context: typer.Context, incomplete: str) -> list[str]:
    """Offers models, and after `MODEL@`, or for the only model, its labels and versions, newest first."""
    return _selected(context, incomplete, lambda source, model: ["latest", *source.labels(model)])


def numbered(context: typer.Context, incomplete: str) -> list[str]:
    """As `references`, with versions alone: to what served before, no label points."""
    return _selected(context, incomplete, lambda source, model: [])


def labels(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the labels of the model that the line names."""
    # The parser stops at an option that has no value yet, and leaves what came before it as it was typed.
    words = [str(context.params.get("reference") or ""), *context.args]
    model = next((word for word in words if word), "").partition("@")[0]
    source = _offers(context) if model else None
    return [name for name in source.labels(model) if name.startswith(incomplete)] if source else []


def _selected(context: typer.Context, incomplete: str, words: Callable[[Offers, str], Sequence[str]]) -> list[str]:
    """Offers models, and after `MODEL@`, or for the only model, its `words` and versions, newest first."""
    model, at, selector = incomplete.partition("@")
    if not at:
        names = models(context, model)
        if len(names) != 1:
            return [f"{name}@" for name in names]
        model = names[0]
    source = _offers(context)
    if source is None:
        return []
    versions = sorted(source.versions(model), key=int, reverse=True)[:_MOST]
    offers = [*words(source, model), *versions]
    return [f"{model}@{offer}" for offer in offers if offer.startswith(selector)]


def operations(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the operations that are known, newest first."""
    offers = _offers(context)
    return [name for name in offers.operations() if name.startswith(incomplete)][:_MOST] if offers else []


def _offers(context: typer.Context) -> Offers | None:
    from deployctl.cli.placing import server_of
    from deployctl.config.load import load
    from deployctl.errors import DeployctlError

    parameters = context.find_root().params
    server = server_of(parameters, os.environ)
    if server is not None:
        from deployctl.cli.remote_offers import ServerOffers

        return ServerOffers(server)
    config = parameters.get("config")
    with suppress(DeployctlError, OSError):
        return _LocalOffers(load(file=Path(config) if config else None).settings)
    return None


class _LocalOffers:
    """What the settings, the repository and the database of this machine have."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def targets(self) -> Sequence[str]:
        return list(self._settings.targets)

    def models(self) -> Sequence[str]:
        return list(_directories(self._settings.model_base_path))

    def versions(self, model: str) -> Sequence[str]:
        from deployctl.domain.names import is_version_name

        return list(filter(is_version_name, _directories(self._settings.model_base_path / model)))

    def operations(self) -> Sequence[str]:
        found = sorted((self._settings.state_path / "operations").glob("*.json"), reverse=True)
        return [path.stem for path in found]

    def labels(self, model: str) -> Sequence[str]:
        from deployctl.bootstrap import absolute_sqlite_url
        from deployctl.errors import DeployctlError
        from deployctl.lineage.store import SqlLineageStore

        url = absolute_sqlite_url(self._settings.lineage.url, self._settings.root)
        if not url.startswith("sqlite"):
            return []
        labels: set[str] = set()
        with suppress(DeployctlError):
            store = SqlLineageStore(url, busy_timeout_s=_DATABASE_WAIT_S)
            for target in self._settings.targets:
                for revision in store.current(target):
                    labels |= set(revision.desired.labels) if revision.model == model else set()
            store.close()
        return sorted(labels)


def _directories(directory: Path) -> Iterator[str]:
    with suppress(OSError):
        for entry in directory.iterdir():
            if not entry.name.startswith(".") and entry.is_dir():
                yield entry.name
