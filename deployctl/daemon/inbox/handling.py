"""What is done with an export that is ready: it is published, or refused, or tried again later."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from threading import Event
from typing import TYPE_CHECKING

from deployctl.config.daemon_settings import Afterwards, RuleSettings
from deployctl.config.settings import Settings
from deployctl.daemon.inbox.judge import Arrival, Judge
from deployctl.daemon.inbox.memory import FollowUp, FollowUps, Handled, Memory
from deployctl.daemon.inbox.place import Found, Place, report_files
from deployctl.daemon.inbox.scan import Ready
from deployctl.daemon.interface import Work
from deployctl.domain.event import EventKind
from deployctl.domain.manifest import Provenance, format_time
from deployctl.domain.names import TargetName
from deployctl.errors import DependencyError, DeployctlError, ExportChangedError, InvalidModelError, StorageError
from deployctl.operations.provenance import parse_provenance
from deployctl.operations.publish import Publish, Published, PublishRequest
from deployctl.repository.sources import ExportSource

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment

_log = logging.getLogger(__name__)


def rule_for(settings: Settings, model: str) -> RuleSettings:
    """Returns the first rule that names the model; one after which nothing follows where none does."""
    rules = settings.rules.values()
    return next((rule for rule in rules if any(fnmatchcase(model, each) for each in rule.models)), RuleSettings())


def may_pass(error: DeployctlError) -> bool:
    """Whether the same call may succeed later with nothing mended in what it was called for."""
    return error.retryable or isinstance(error, DependencyError)


class Handling:
    """Handles the exports of one inbox, each in an operation of its own.

    Args:
        inbox: its name in the settings.
        follow: set when something is to follow for a version that was published.
    """

    def __init__(
        self, work: Work, inbox: str, place: Place, memory: Memory, follow_ups: FollowUps, judge: Judge, follow: Event
    ) -> None:
        self._work = work
        self._inbox = inbox
        self._place = place
        self._memory = memory
        self._follow_ups = follow_ups
        self._judge = judge
        self._follow = follow
        self._clock = work.shared.context.clock

    def __call__(self, ready: Ready) -> bool:
        """Handles one export; False where it must wait for something that may pass."""
        found = self._place.look_at(ready.found.model, ready.found.name)
        if found is None or found.fingerprint != ready.found.fingerprint:
            return True  # it went, or goes on changing: the next look tells
        with self._work.operation(f"daemon: inbox {self._inbox} {found.key}") as deployment:
            try:
                self._handle(deployment, found, ready.arrival)
            except DeployctlError as error:
                if not may_pass(error):
                    self._refuse(deployment, found, ready.arrival, error)
                    return True
                pause_s = self._judge.not_now(found, self._clock.monotonic())
                _log.warning("%s waits, and is tried again in %g s: %s", found.key, pause_s, error)
                return False
            except Exception as error:  # noqa: BLE001 - one export that meets a bug must not keep the others waiting
                _log.exception("%s met a bug", found.key)
                self._refuse(deployment, found, ready.arrival, error)
        return True

    def _handle(self, deployment: Deployment, found: Found, arrival: Arrival) -> None:
        known = self._memory.of(found.key)
        if known is not None and known.fingerprint == found.fingerprint and known.refusal is not None:
            self._move_refused(deployment, found, known)
            return
        rule = rule_for(self._work.settings, found.model)
        follows = bool(rule.promote or rule.keep)
        began = self._began(found, arrival, known) if follows else ""
        try:
            published = self._publish(deployment, found)
        except ExportChangedError:
            self._judge.forget(found.key)
            return
        except InvalidModelError as error:
            if arrival is not Arrival.SETTLED or self._judge.is_stalled(found, self._clock.monotonic()):
                raise
            if self._judge.not_whole(found, str(error)):
                _log.warning("%s has settled but is not whole, and is not published: %s", found.key, error)
            return
        self._tell(found, published)
        if follows and self._is_ours(deployment, published, began):
            self._let_follow(found, published, rule, began)
        self._let_go(found)

    def _publish(self, deployment: Deployment, found: Found) -> Published:
        source = ExportSource(self._place.location(found))
        provenance = Provenance(source=source.location)
        document = self._place.provenance(found)
        if document is not None:
            provenance = parse_provenance(document[1], where=document[0], source=source.location)
        publish = Publish(deployment.repository, deployment.reader, deployment.lineage, deployment.context)
        with deployment.export(source) as directory:
            return publish(PublishRequest(directory, found.model, provenance, reason=f"inbox {self._inbox}"))

    def _began(self, found: Found, arrival: Arrival, known: Handled | None) -> str:
        """Remembers, before anything is published, when that began; what was killed in it began then."""
        if known is not None and known.fingerprint == found.fingerprint and known.began:
            return known.began
        began = format_time(self._clock.now())
        self._memory.remember(Handled(found.key, found.fingerprint, began, arrival.value), durably=True)
        return began

    def _is_ours(self, deployment: Deployment, published: Published, began: str) -> bool:
        """Whether the version is there because of this export, be it that we were killed once it was."""
        if published.created or published.version is None:
            return published.created
        manifest = deployment.repository.manifest(published.model, published.version)
        return manifest is not None and format_time(manifest.published_at) >= began

    def _tell(self, found: Found, published: Published) -> None:
        name = f"{published.model}@{published.version}"
        if published.created:
            _log.info("%s is published as %s", found.key, name)
        else:
            _log.info("%s has the bytes of %s, which is published already", found.key, name)

    def _let_follow(self, found: Found, published: Published, rule: RuleSettings, began: str) -> None:
        if published.version is None:
            return
        targets = tuple(TargetName(each) for each in rule.promote)
        follow_up = FollowUp(
            published.model, published.version, found.key, began, targets, canary=rule.canary, keep=rule.keep
        )
        self._follow_ups.put(follow_up)
        self._follow.set()

    def _let_go(self, found: Found) -> None:
        """Moves a published export away, or remembers that it was handled."""
        self._judge.forget(found.key)
        if self._work.settings.inboxes[self._inbox].published is Afterwards.MOVE:
            self._move_away(found, lambda: self._place.move_done(found))
        else:
            self._memory.remember(Handled(found.key, found.fingerprint))

    def _move_away(self, found: Found, move: Callable[[], str]) -> str | None:
        """Moves an export and forgets it, and returns where it is; what cannot be moved is remembered as handled."""
        goal = None
        try:
            goal = move()
        except StorageError as error:
            if self._is_there(found):
                _log.warning("%s stays where it is, and is not tried again as it is: %s", found.key, error)
                self._memory.remember(Handled(found.key, found.fingerprint))
                return None
        self._memory.forget(found.key)
        return goal

    def _is_there(self, found: Found) -> bool:
        """Whether, for all that is known, nobody has taken an export away, as a daemon that leads in our place does."""
        with suppress(StorageError, OSError):
            return self._place.look_at(found.model, found.name) is not None
        return True

    def _refuse(self, deployment: Deployment, found: Found, arrival: Arrival, error: Exception) -> None:
        """Remembers the refusal first, so that whoever goes on with it after a kill says the same."""
        message = str(error) if isinstance(error, DeployctlError) else f"a bug: {type(error).__name__}: {error}"
        refusal = {
            "inbox": self._inbox,
            "export": found.key,
            "model": found.model,
            "error": message,
            "type": type(error).__name__,
            "hint": error.hint if isinstance(error, DeployctlError) else None,
            "at": format_time(self._clock.now()),
            "operation": deployment.context.operation,
        }
        handled = Handled(found.key, found.fingerprint, arrival=arrival.value, refusal=refusal)
        try:
            if self._place.look_at(found.model, found.name) != found:
                self._judge.forget(found.key)  # taken away, or written to, while it was read
                if not self._is_there(found):
                    self._memory.forget(found.key)
                return
            self._memory.remember(handled, durably=True)
            self._move_refused(deployment, found, handled)
        except DeployctlError as problem:
            pause_s = self._judge.not_now(found, self._clock.monotonic())
            _log.warning(
                "the refusal of %s is not recorded, and is tried again in %g s: %s", found.key, pause_s, problem
            )

    def _move_refused(self, deployment: Deployment, found: Found, handled: Handled) -> None:
        """Records a refusal, once, and moves the export away with a report.

        Raises:
            DatabaseError: it could not be recorded.
        """
        refusal = dict(handled.refusal or {})
        data = {name: _printable(refusal[name]) for name in ("inbox", "export", "error")}
        event = deployment.context.event(EventKind.VERSION_REFUSED, model=found.model, data=data)
        event = replace(event, operation=refusal["operation"])
        with deployment.lineage.transaction() as transaction:
            if not transaction.has_event(event.operation, event.kind):
                transaction.append(event)
        _log.error("%s is refused: %s", found.key, refusal["error"])
        document = json.dumps(refusal, indent=2).encode()
        self._judge.forget(found.key)
        goal = self._move_away(found, lambda: self._place.move_failed(found, report_files(refusal, document)))
        if goal is not None:
            _log.info("%s is in %s, with a report", found.key, goal)


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
