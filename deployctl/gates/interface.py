"""The port to gates: checks that a version must pass before clients may reach it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from deployctl.domain.manifest import Manifest
from deployctl.domain.names import Digest, ModelName
from deployctl.domain.saved_model import SERVE_TAG, MetaGraph, SavedModel, Signature
from deployctl.errors import InvalidModelError


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


class Reuse(StrEnum):
    """Which of a gate's verdicts hold for as long as what they were reached from is the same."""

    ALWAYS = "always"
    PASSED = "passed"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Version:
    """A version, or an export that is not published yet.

    Attributes:
        name: "digits@3", or the export's path.
        saved_model: None where it cannot be read, for the reason that is the `problem`.
        digest: None for an export.
        problem: why it cannot be loaded whole, None where it can.
        published: False for an export.
    """

    name: str
    path: Path
    saved_model: SavedModel | None
    manifest: Manifest | None = None
    digest: Digest | None = None
    problem: InvalidModelError | None = None
    published: bool = True

    @property
    def served(self) -> MetaGraph | None:
        """The MetaGraph that a server loads, None without one."""
        return self.saved_model.tagged(SERVE_TAG) if self.saved_model else None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures that a client can call; none where nothing can be served."""
        return self.served.callable_signatures if self.served else {}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged, and what it is held against.

    Attributes:
        model: None for an export of no model.
        serving: the version that clients reach now, None without one.
        fallback: the version that a rollback would return to once the candidate serves, None without one.
    """

    version: Version
    model: ModelName | None = None
    serving: Version | None = None
    fallback: Version | None = None


class Gate(abc.ABC):
    """One check. It judges; it changes nothing and raises only what its own failure to judge is.

    Attributes:
        name: as in the settings' list of gates.
        compares: whether its verdicts also depend on the serving version and the fallback.
        needs_whole: whether it judges only versions that can be loaded whole.
        runs: whether it runs the version, which is not done to one that an earlier gate refused.
        reuse: which verdicts need not be reached again for the same bytes and settings.
        beside_others: whether it may judge in a thread of its own while its neighbours that say the same do.
    """

    name: str
    compares: bool = False
    needs_whole: bool = True
    runs: bool = False
    reuse: Reuse = Reuse.ALWAYS
    beside_others: bool = False

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

    def take_over(self, candidate: Candidate, verdict: Verdict) -> None:  # noqa: B027 - most have nothing to keep
        """Takes note of an earlier verdict of its own on `candidate`, which still holds and so is not reached again."""

    def give_up(self) -> None:  # noqa: B027 - most gates judge at once
        """Makes a `judge` that runs in another thread end soon, in whatever way."""
