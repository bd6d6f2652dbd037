"""The composition root: settings become operations. Implementations are imported where they are made."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from deployctl import acting
from deployctl.config.settings import RuntimeName, Settings, TargetSettings
from deployctl.domain.authority import Authority
from deployctl.domain.clock import Observer
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.errors import SettingsError, TargetNotFoundError, UsageError
from deployctl.lineage.guarded import GuardedJournal
from deployctl.lineage.journal import FileOperationJournal
from deployctl.operations.context import Context
from deployctl.operations.target import Target
from deployctl.system import SystemClock, find_actor, new_operation

if TYPE_CHECKING:
    from deployctl.domain.event import Actor
    from deployctl.lineage.deliveries import Deliveries
    from deployctl.lineage.interface import OperationJournal
    from deployctl.lineage.leadership import Leadership
    from deployctl.lineage.mirrored import MirroredLineageStore
    from deployctl.lineage.store import SqlLineageStore
    from deployctl.lineage.tallies import Tallies
    from deployctl.repository.interface import ModelRepository
    from deployctl.repository.sources import ExportSource
    from deployctl.savedmodel.interface import SavedModelReader
    from deployctl.serving.docker_options import DockerOptions
    from deployctl.serving.external import ExternalOptions
    from deployctl.serving.interface import ServingRuntime, TargetLock


# Set for a process that runs an operation for another, which has told its id already.
OPERATION_VARIABLE = "_DEPLOYCTL_OPERATION"
# Set, as JSON, for a process that runs a command for the bearer of a token, and for its children.
AUTHORITY_VARIABLE = "_DEPLOYCTL_AUTHORITY"
# How long a command that can do without the database waits for it.
_INCIDENT_PATIENCE_S = 1.5


class Deployment:
    """One use of deployctl under one set of settings; what is not used is not made.

    Args:
        without_database: whether to go on with the state kept beside the servers when the lineage database fails.
        actor: who acts; by default who runs this process.
        authority: what they may do; by default what the environment says, which is everything where it says nothing.
        over: one whose connections this one uses, and does not close.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        *,
        without_database: bool = False,
        actor: Actor | None = None,
        authority: Authority | None = None,
        over: Deployment | None = None,
    ) -> None:
        self.settings = settings
        self._without_database = without_database
        self._over = over
        clock = SystemClock()
        authority = authority or _given_authority(os.environ)
        actor = actor or acting.actor() or _acting(authority, find_actor(os.environ, ["deployctl", *sys.argv[1:]]))
        operation = os.environ.pop(OPERATION_VARIABLE, "") or new_operation(clock.now())
        journal: OperationJournal = FileOperationJournal(settings.state_path / "operations", clock, observer.warn)
        if authority is not None:
            journal = GuardedJournal(journal, authority)
        self.context = Context(actor, operation, clock, journal, observer, authority)

    @cached_property
    def repository(self) -> ModelRepository:
        """The repository under `model_base_path`."""
        if self._over is not None:
            return self._over.repository
        return self.open_repository(self.settings.repository_location)

    def open_repository(self, location: str) -> ModelRepository:
        """Returns the repository at a directory or URL, reached as the settings say.

        Raises:
            SettingsError: no implementation knows the URL's scheme, or a setting cannot be right.
        """
        from deployctl.repository.opening import Opening, open_repository

        # Another repository than our own has a cache of its own: a version's number is not its identity.
        ours = location == self.settings.repository_location
        elsewhere = self.settings.state_path / "other" / sha256(location.encode()).hexdigest()[:16]
        return open_repository(
            Opening(
                location=location,
                directory=self.settings.model_base_path if ours else elsewhere,
                clock=self.context.clock,
                options=asdict(self.settings.repository.s3),
                cache_bytes=self.settings.repository.cache.max_size,
                held=self.held_versions,
                grace_s=self.settings.repository.retired_s,
            )
        )

    @contextmanager
    def export(self, source: ExportSource) -> Iterator[Path]:
        """Gives a directory with an export, wherever that is; see `ExportSource.opened`."""
        from deployctl.repository.sources import Scratch

        options = asdict(self.settings.repository.s3)
        directory = self.settings.state_path / "unpacked"
        with source.opened(Scratch(directory, self.context.clock, self.context.observer, options)) as export:
            yield export

    def held_versions(self) -> frozenset[tuple[ModelName, VersionNumber]]:
        """Returns the versions that serve, stand by, are labelled or are about to be, on any target."""
        revisions = [
            revision
            for target in self.settings.targets
            for revision in (*self.lineage.current(target), *self.lineage.pending(target))
        ]
        return frozenset(
            (revision.model, version)
            for revision in revisions
            for version in (*revision.desired.versions, *revision.desired.labels.values())
        )

    @cached_property
    def reader(self) -> SavedModelReader:
        """The reader of SavedModels."""
        from deployctl.savedmodel.reader import ProtobufSavedModelReader

        return ProtobufSavedModelReader()

    @cached_property
    def lineage_url(self) -> str:
        """The lineage database's URL with an absolute path."""
        return absolute_sqlite_url(self.settings.lineage.url, self.settings.root)

    @cached_property
    def lineage(self) -> MirroredLineageStore:
        """The lineage database, mirrored beside the servers."""
        from deployctl.lineage.mirrored import MirroredLineageStore
        from deployctl.lineage.state_copy import StateCopy

        return MirroredLineageStore(
            self._database,
            StateCopy(self.settings.state_path),
            self.context.clock,
            failover=self._without_database,
            warn=self.context.observer.warn,
        )

    @cached_property
    def _database(self) -> SqlLineageStore:
        if self._over is not None:
            return self._over._database
        from deployctl.lineage.store import SqlLineageStore

        patience_s = self.settings.lineage.busy_timeout_s
        if self._without_database:
            patience_s = min(patience_s, _INCIDENT_PATIENCE_S)
        return SqlLineageStore(self.lineage_url, busy_timeout_s=patience_s)

    def target_name(self, name: str | None) -> TargetName:
        """Returns the target that is meant: the named one, the default, or the first.

        Raises:
            TargetNotFoundError: no target of that name is set.
            SettingsError: no target is set at all.
            DeniedError: whoever acts may not know of it.
        """
        found = self._meant_target(name)
        if self.context.authority is not None:
            self.context.authority.check_target(found)
        return found

    def _meant_target(self, name: str | None) -> TargetName:
        targets = self.settings.targets
        wanted = name or os.environ.get("DEPLOYCTL_TARGET") or self.settings.default_target
        if wanted:
            if wanted not in targets:
                raise TargetNotFoundError(wanted)
            return TargetName(wanted)
        if not targets:
            raise SettingsError("the settings have no target", hint="deployctl config show")
        return next(iter(targets))

    def target(self, name: str | None) -> Target:
        """Returns the named target, or the one that is meant without a name; see `target_name`."""
        target = self.target_name(name)
        settings = self.settings.targets[target]
        return Target(
            name=target,
            runtime_name=settings.runtime.value,
            runtime=self.runtime(target, settings),
            repository=self.repository,
            lineage=self.lineage,
            lock=self._lock(target),
            routing=settings.routing,
            warm_standby=settings.warm_standby,
            lock_timeout_s=settings.lock_timeout_s,
            resource_preserving=settings.resource_preserving,
            soak_s=settings.soak_s,
            free_bytes=lambda: self._free_bytes(target, settings),
        )

    def _free_bytes(self, target: TargetName, settings: TargetSettings) -> int | None:
        from deployctl.headroom import headroom

        return headroom(self, target, settings, None).free_bytes

    def runtime(self, target: TargetName, settings: TargetSettings) -> ServingRuntime:
        """Returns what runs the target's server."""
        match settings.runtime:
            case RuntimeName.PROCESS:
                from deployctl.serving.process import ProcessOptions, ProcessRuntime

                return ProcessRuntime(
                    ProcessOptions(
                        target=target,
                        host=settings.host,
                        rest_port=settings.rest_port,
                        grpc_port=settings.grpc_port,
                        state_dir=self.settings.state_path,
                        extra_args=settings.server_args,
                    )
                )
            case RuntimeName.DOCKER:
                from deployctl.serving.docker_runtime import DockerRuntime

                return DockerRuntime(docker_options(target, self.settings, settings), self.context.observer.warn)
            case RuntimeName.EXTERNAL:
                from deployctl.serving.external import ExternalRuntime

                return ExternalRuntime(external_options(target, self.settings, settings))
            case _:
                assert_never(settings.runtime)

    def _lock(self, target: TargetName) -> TargetLock:
        from deployctl.serving.lock import FileTargetLock

        context = self.context
        return FileTargetLock(self.settings.state_path / target, context.actor, context.operation, context.clock)

    @contextmanager
    def leadership(self, holder: str, lease_s: float) -> Iterator[Leadership]:
        """Gives the lease that one daemon of those that use the lineage database holds."""
        from deployctl.lineage.leadership import Leadership

        leadership = Leadership(self.lineage_url, holder, lease_s, self.context.clock)
        try:
            yield leadership
        finally:
            leadership.close()

    @contextmanager
    def deliveries(self) -> Iterator[Deliveries]:
        """Gives what notification channels are still to be told."""
        from deployctl.lineage.deliveries import Deliveries

        patience_s = self.settings.lineage.busy_timeout_s
        deliveries = Deliveries(self.lineage_url, self.context.clock, busy_timeout_s=patience_s)
        try:
            yield deliveries
        finally:
            deliveries.close()

    @contextmanager
    def tallies(self) -> Iterator[Tallies]:
        """Gives what the lineage database holds, counted."""
        from deployctl.lineage.tallies import Tallies

        tallies = Tallies(self.lineage_url, busy_timeout_s=self.settings.lineage.busy_timeout_s)
        try:
            yield tallies
        finally:
            tallies.close()

    def close(self) -> None:
        """Closes what was opened."""
        if self._over is None and "_database" in self.__dict__:
            self._database.close()


def _given_authority(environment: Mapping[str, str]) -> Authority | None:
    if AUTHORITY_VARIABLE not in environment:
        return None
    try:
        return Authority.from_json(json.loads(environment[AUTHORITY_VARIABLE]))
    except (KeyError, ValueError, TypeError, UsageError) as error:
        raise SettingsError(f"{AUTHORITY_VARIABLE} cannot be read: {error}") from error


def _acting(authority: Authority | None, actor: Actor) -> Actor:
    """Returns who acts: the bearer of a token rather than the user of the process that works for them."""
    if authority is None:
        return actor
    return replace(actor, user=authority.name, host=authority.address or actor.host)


@contextmanager
def opened(settings: Settings, observer: Observer, *, without_database: bool = False) -> Iterator[Deployment]:
    """Opens deployctl under `settings` while the block runs; see `Deployment`."""
    deployment = Deployment(settings, observer, without_database=without_database)
    try:
        yield deployment
    finally:
        deployment.close()


def docker_options(target: TargetName, settings: Settings, chosen: TargetSettings) -> DockerOptions:
    """Returns how the container of `target` is made."""
    from deployctl.serving.docker_options import DockerOptions

    container = chosen.docker
    return DockerOptions(
        target=target,
        state_dir=settings.state_path,
        repository=settings.model_base_path,
        image=chosen.image,
        host=chosen.host,
        rest_port=chosen.rest_port,
        grpc_port=chosen.grpc_port,
        extra_args=chosen.server_args,
        stop_timeout_s=chosen.stop_timeout_s,
        **{each.name: getattr(container, each.name) for each in fields(container)},
    )


def external_options(target: TargetName, settings: Settings, chosen: TargetSettings) -> ExternalOptions:
    """Returns where the server of `target` is."""
    from deployctl.serving.external import ExternalOptions

    server = chosen.external

    def path(text: str) -> Path | None:
        return settings.root / text if text else None

    return ExternalOptions(
        target=target,
        repository=settings.model_base_path,
        host=chosen.host,
        rest_port=chosen.rest_port,
        grpc_port=chosen.grpc_port,
        models_path=server.models_path,
        config_file=path(server.config_file),
        rest_url=server.rest_url,
        tls=server.tls,
        tls_ca_file=path(server.tls_ca_file),
        tls_cert_file=path(server.tls_cert_file),
        tls_key_file=path(server.tls_key_file),
    )


def absolute_sqlite_url(url: str, root: Path) -> str:
    """Returns `url` with a relative SQLite path made absolute below `root`; other URLs as they are."""
    prefix, separator, path = url.partition(":///")
    if not separator or not prefix.startswith("sqlite") or not path or path.startswith((":memory:", "file:")):
        return url
    return f"{prefix}:///{root / path}"
