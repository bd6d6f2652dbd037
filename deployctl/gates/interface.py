"""The port to gates: checks that a version must pass before clients may reach it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from deployctl.domain.manifest import Manifest
from deployctl.domain.names import Digest
from deployctl.domain.saved_model import SERVE_TAG, MetaGraph, SavedModel


class Outcome(StrEnum):
    """What a gate says; only FAILED refuses a version."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's word on one version.

    Attributes:
        summary: one clause for people, e.g. "compatible with @1".
        problems: one sentence each, the worst first; at least one where it failed.
        evidence: JSON values that show how the verdict was reached.
    """

    outcome: Outcome
    summary: str
    problems: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A version, or an export that is not published yet.

    Attributes:
        name: "digits@3", or the export's path.
        digest: None for an export.
    """

    name: str
    path: Path
    saved_model: SavedModel
    manifest: Manifest | None = None
    digest: Digest | None = None

    @property
    def served(self) -> MetaGraph | None:
        """The MetaGraph that a server loads, None without one."""
        return self.saved_model.tagged(SERVE_TAG)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged, and what it is held against.

    Attributes:
        serving: the version that clients reach now, None without one.
        fallback: the version that a rollback would return to, None without one.
    """

    version: Version
    serving: Version | None = None
    fallback: Version | None = None


class Gate(abc.ABC):
    """One check. It judges; it changes nothing and raises only what its own failure to judge is.

    Attributes:
        name: as in the settings' list of gates.
    """

    name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with, as JSON values: a verdict holds for these only."""
        return {}

    @abc.abstractmethod
    def judge(self, candidate: Candidate) -> Verdict:
        """Returns the verdict on `candidate`.

        Raises:
            DeployctlError: it could not judge, e.g. because a file cannot be read; the version is then refused.
        """
