"""Which directory entries are versions, and which of them a policy wants.

The rules of tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc: only the name counts, so that
files, links and empty directories with such names are versions too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import assert_never

from deployctl.domain.names import server_takes_for_version
from deployctl.modelserver.model_config import ConfiguredModel, PolicyKind, VersionPolicy

logger = logging.getLogger(__name__)


class BasePathMissingError(Exception):
    """The base path of a model does not exist or cannot be listed."""


def versions_by_number(names: Iterable[str]) -> dict[int, str]:
    """Returns the entry that each version is loaded from; of `1` and `001` the last in byte order wins."""
    found: dict[int, str] = {}
    for name in sorted(names):
        if not server_takes_for_version(name):
            continue
        number = int(name)
        if number in found:
            logger.warning(
                "Duplicate version directories detected. Version %d will be loaded from %s, %s will be ignored.",
                number,
                name,
                found[number],
            )
        found[number] = name
    return found


def wanted_versions(policy: VersionPolicy, available: Mapping[int, str]) -> dict[int, str]:
    """Returns the versions, with their entries, that `policy` chooses of those available."""
    match policy.kind:
        case PolicyKind.LATEST:
            chosen = sorted(available, reverse=True)[: max(policy.latest, 1)]
        case PolicyKind.ALL:
            chosen = list(available)
        case PolicyKind.SPECIFIC:
            chosen = [number for number in available if number in policy.specific]
        case _:
            assert_never(policy.kind)
    return {number: available[number] for number in sorted(chosen)}


def aspired_versions(model: ConfiguredModel) -> dict[int, str]:
    """Returns the directory of each version of `model` that should be loaded now.

    Raises:
        BasePathMissingError: the base path is not there: nothing can be said, and nothing must be unloaded.
    """
    try:
        names = os.listdir(model.base_path)
    except OSError as error:
        raise BasePathMissingError(
            f"Could not find base path {model.base_path} for servable {model.name} with error "
            f"NOT_FOUND: {model.base_path} not found ({error.strerror})"
        ) from error
    wanted = wanted_versions(model.policy, versions_by_number(names))
    _warn_of_missing(model, wanted)
    return {number: os.path.join(model.base_path, name) for number, name in wanted.items()}


def _warn_of_missing(model: ConfiguredModel, wanted: Mapping[int, str]) -> None:
    if model.policy.kind is PolicyKind.SPECIFIC:
        for number in sorted(model.policy.specific - wanted.keys()):
            logger.warning(
                "Version %d of servable %s, which was requested to be served as a 'specific' version in the "
                "servable's version policy, was not found in the file system",
                number,
                model.name,
            )
    if not wanted:
        logger.warning(
            "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
            model.name,
            model.base_path,
        )
