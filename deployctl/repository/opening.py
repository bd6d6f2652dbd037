"""Which implementation keeps the repository at an address, found by the address's scheme and imported when used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl.errors import SettingsError
from deployctl.repository.interface import GRACE_S, ModelRepository

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock
    from deployctl.domain.names import ModelName, VersionNumber

# By scheme, "" for a directory: "module:function", called with an Opening.
REPOSITORIES: Mapping[str, str] = {
    "": "deployctl.repository.local:open_local",
    "s3": "deployctl.repository.s3_opening:open_s3",
}


def _nothing() -> frozenset[tuple[ModelName, VersionNumber]]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of a repository before it is opened.

    Attributes:
        location: a directory, or a URL.
        directory: what servers on this machine read: the repository, or the cache of one that is elsewhere.
        options: the settings of the kind of store, by name.
        cache_bytes: what the cache is kept below, 0 for no bound.
        held: gives the versions that may not leave the cache.
        grace_s: how long what was retired is kept, in seconds.
    """

    location: str
    directory: Path
    clock: Clock
    options: Mapping[str, Any] = field(default_factory=dict)
    cache_bytes: int = 0
    held: Callable[[], frozenset[tuple[ModelName, VersionNumber]]] = _nothing
    grace_s: float = GRACE_S


def scheme_of(location: str) -> str:
    """Returns the scheme of a URL, "" for a directory."""
    scheme, separator, _ = location.partition("://")
    return scheme if separator else ""


def open_repository(opening: Opening) -> ModelRepository:
    """Returns the repository at `opening.location`.

    Raises:
        SettingsError: no implementation knows the scheme.
    """
    scheme = scheme_of(opening.location)
    if scheme not in REPOSITORIES:
        known = ", ".join(f"{each}://" for each in REPOSITORIES if each)
        raise SettingsError(
            f"model_base_path {opening.location!r} is neither a directory nor one of {known}",
            hint="deployctl config show",
        )
    module, _, function = REPOSITORIES[scheme].partition(":")
    found: ModelRepository = getattr(import_module(module), function)(opening)
    return found
