"""What the shell offers while a command is typed: real models, versions, labels and targets.

A shell waits for these functions at each Tab, so they answer from local files, give up on a busy database at
once, and offer nothing rather than fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from deployctl.config.settings import Settings

_MOST = 500
_DATABASE_WAIT_S = 0.1


def targets(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the targets of the settings."""
    settings = _settings(context)
    return [name for name in settings.targets if name.startswith(incomplete)] if settings else []


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the models of the repository."""
    settings = _settings(context)
    return sorted(_entries(settings.model_base_path, incomplete))[:_MOST] if settings else []


def references(context: typer.Context, incomplete: str) -> list[str]:
    """Offers models, and after `MODEL@`, or for the only model, its labels and versions, newest first."""
    model, at, selector = incomplete.partition("@")
    if not at:
        names = models(context, model)
        if len(names) != 1:
            return [f"{name}@" for name in names]
        model = names[0]
    settings = _settings(context)
    if settings is None:
        return []
    from deployctl.domain.names import is_version_name

    versions = filter(is_version_name, _entries(settings.model_base_path / model, ""))
    offers = ["latest", *_labels(settings, model), *sorted(versions, key=int, reverse=True)[:_MOST]]
    return [f"{model}@{offer}" for offer in offers if offer.startswith(selector)]


def operations(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the operations that are known, newest first."""
    settings = _settings(context)
    found = sorted((settings.state_path / "operations").glob("*.json"), reverse=True) if settings else []
    return [path.stem for path in found if path.stem.startswith(incomplete)][:_MOST]


def _settings(context: typer.Context) -> Settings | None:
    from deployctl.config.load import load
    from deployctl.errors import DeployctlError

    config = context.find_root().params.get("config")
    with suppress(DeployctlError, OSError):
        return load(file=Path(config) if config else None).settings
    return None


def _entries(directory: Path, incomplete: str) -> Iterator[str]:
    with suppress(OSError):
        for entry in directory.iterdir():
            if entry.name.startswith(incomplete) and not entry.name.startswith(".") and entry.is_dir():
                yield entry.name


def _labels(settings: Settings, model: str) -> list[str]:
    from deployctl.bootstrap import absolute_sqlite_url
    from deployctl.errors import DeployctlError
    from deployctl.lineage.store import SqlLineageStore

    url = absolute_sqlite_url(settings.lineage.url, settings.root)
    if not url.startswith("sqlite"):
        return []
    labels: set[str] = set()
    with suppress(DeployctlError):
        store = SqlLineageStore(url, busy_timeout_s=_DATABASE_WAIT_S)
        for target in settings.targets:
            for revision in store.current(target):
                labels |= set(revision.desired.labels) if revision.model == model else set()
        store.close()
    return sorted(labels)
