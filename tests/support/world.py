"""A target whose server, lock, clock and lineage are in memory, over a real directory of versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deployctl.domain.clock import Observer
from deployctl.domain.event import Actor
from deployctl.domain.names import LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.reference import parse_reference
from deployctl.domain.revision import Desired, Revision, Routing
from deployctl.lineage.interface import LineageTransaction
from deployctl.lineage.journal import FileOperationJournal
from deployctl.operations.bring_up import BringUp, TakeDown, TargetChange
from deployctl.operations.context import Context
from deployctl.operations.holds import Holds
from deployctl.operations.promote import Promote, PromoteRequest, Promotion
from deployctl.operations.rollback import Rollback, RollbackRequest, RolledBack
from deployctl.operations.target import Target
from deployctl.repository.local import LocalModelRepository
from deployctl.serving.lock import FileTargetLock
from tests.support.lineage import InMemoryLineageStore
from tests.support.memory_server import Fuse, InMemoryServer, ManualClock

ADA = Actor("ada", "build-1")
LOCAL = TargetName("local")
HALF = ModelName("half")


class Journal(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def step(self, name: str, text: str) -> None:
        self.steps.append(f"{name} {text}")

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class FusedLineageStore(InMemoryLineageStore):
    """Lineage whose every access counts as a call to the outside."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    @contextmanager
    def transaction(self) -> Iterator[LineageTransaction]:
        self._fuse.burn("begin")
        with super().transaction() as transaction:
            yield transaction
            # Killed before the commit, nothing is recorded; after it, everything.
            self._fuse.burn("commit")
        self._fuse.burn("committed")

    def current(self, target: TargetName) -> tuple[Revision, ...]:
        self._fuse.burn("current")
        return super().current(target)

    def pending(self, target: TargetName) -> tuple[Revision, ...]:
        self._fuse.burn("pending")
        return super().pending(target)


@dataclass
class World:
    """One target and all that it works with; a new operation is made for each call, as a new command would."""

    directory: Path
    routing: Routing = Routing.LABEL
    warm_standby: int = 1
    clock: ManualClock = field(default_factory=ManualClock)
    fuse: Fuse = field(default_factory=Fuse)
    journal: Journal = field(default_factory=Journal)
    operations: int = 0
    resource_preserving: tuple[str, ...] = ()
    soak_s: float = 0.0
    free_bytes: int | None = None

    def __post_init__(self) -> None:
        self.server = InMemoryServer(self.clock, self.fuse)
        self.lineage = FusedLineageStore(self.fuse)
        self.state = self.directory.with_name(f"{self.directory.name}.state")
        self.repository = LocalModelRepository(self.directory, self.clock)
        self.directory.mkdir(parents=True, exist_ok=True)

    @property
    def target(self) -> Target:
        return Target(
            name=LOCAL,
            runtime_name="memory",
            runtime=self.server,
            repository=self.repository,
            lineage=self.lineage,
            lock=self.lock(),
            routing=self.routing,
            warm_standby=self.warm_standby,
            lock_timeout_s=1.0,
            resource_preserving=self.resource_preserving,
            soak_s=self.soak_s,
            free_bytes=lambda: self.free_bytes,
        )

    @property
    def context(self) -> Context:
        self.operations += 1
        operations = FileOperationJournal(self.state / "operations", self.clock, self.journal.warn)
        return Context(ADA, f"op-{self.operations:04}", self.clock, operations, self.journal)

    def lock(self, operation: str = "op-0000") -> FileTargetLock:
        """Returns the lock of the target, for an operation."""
        return FileTargetLock(self.state / LOCAL, ADA, operation, self.clock)

    def add(self, *versions: int, model: str = HALF) -> None:
        """Puts version directories into the repository, without manifests."""
        for version in versions:
            (self.directory / model / str(version)).mkdir(parents=True)
            (self.directory / model / str(version) / "saved_model.pb").write_bytes(b"graph")

    def break_version(self, version: int, words: str, *, model: str = HALF) -> None:
        """Makes a version one that the server cannot load."""
        self.server.broken[ModelName(model), VersionNumber(version)] = words

    def up(self) -> TargetChange:
        return BringUp(self.target, self.context)(timeout_s=60.0)

    def down(self) -> TargetChange:
        return TakeDown(self.target, self.context)(timeout_s=5.0)

    def promote(
        self,
        version: int | str,
        *,
        model: str = HALF,
        label: str = "stable",
        if_current: int | None = None,
        dry_run: bool = False,
        timeout_s: float = 60.0,
        break_glass: str = "",
    ) -> Promotion:
        request = PromoteRequest(
            reference=parse_reference(f"{model}@{version}"),
            label=LabelName(label),
            if_current=if_current,
            timeout_s=timeout_s,
            dry_run=dry_run,
            break_glass=break_glass,
        )
        return Promote(self.target, self.context)(request)

    def rollback(
        self,
        *,
        model: str = HALF,
        to_revision: int | None = None,
        to_version: int | None = None,
        if_current: int | None = None,
        dry_run: bool = False,
    ) -> RolledBack:
        request = RollbackRequest(
            model=ModelName(model),
            to_revision=to_revision,
            to_version=None if to_version is None else VersionNumber(to_version),
            if_current=if_current,
            timeout_s=60.0,
            dry_run=dry_run,
        )
        return Rollback(self.target, self.context)(request)

    @property
    def holds(self) -> Holds:
        return Holds(self.lineage, self.context)

    def recorded(self, model: str = HALF) -> Desired:
        """Returns what is recorded to serve."""
        revision = InMemoryLineageStore.current(self.lineage, LOCAL)
        return next((each.desired for each in revision if each.model == model), Desired())

    def unsettled(self) -> tuple[Revision, ...]:
        """Returns the revisions that are pending."""
        return InMemoryLineageStore.pending(self.lineage, LOCAL)

    def sent(self, model: str = HALF) -> list[tuple[list[int], Mapping[LabelName, VersionNumber]]]:
        """Returns versions and labels of `model` in every configuration that the server was given."""
        found: list[tuple[list[int], Mapping[LabelName, VersionNumber]]] = []
        for config in self.server.sent:
            served = next((each for each in config.models if each.name == model), None)
            found.append((list(served.versions), served.labels) if served else ([], {}))
        return found
