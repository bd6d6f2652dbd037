"""The duty that looks after what serves: how servers do, and whether versions that were promoted lately do well."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from deployctl.bootstrap import Deployment
from deployctl.daemon.board import ModelHealth, TargetHealth
from deployctl.daemon.interface import Duty, Work
from deployctl.daemon.reconcile import looking
from deployctl.daemon.traffic import Traffic, Watch
from deployctl.domain.clock import Clock, Observer
from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.revision import BREAK_GLASS, Revision, RevisionKind
from deployctl.domain.serving import ServerCondition, ServerState
from deployctl.domain.size import parse_size
from deployctl.errors import DependencyError, DeployctlError, LockedError, PreconditionError, UsageError
from deployctl.operations.soak import take_back, taken_back
from deployctl.operations.target import Target
from deployctl.serving.interface import RequestCounts
from deployctl.validation import GoldenProbe

_log = logging.getLogger(__name__)

_CALL_TIMEOUT_S = 5.0
# While a version is watched.
_WATCHING_S = 1.0
_PROBE_WHILE_WATCHING_S = 5.0
# So often in a row it must be found ill, or well, to be recorded: what comes and goes fills no history.
_ILL, _WELL = 2, 3
_LOOK_BACK = 200
# A server that fails so many of its requests, and of no fewer, is ill whatever it did before.
_ERROR_RATE = 0.1
_FEWEST = 20


class TargetHealthDuty(Duty):
    """Looks after one target."""

    def __init__(self, target: TargetName, clock: Clock) -> None:
        self._name = target
        self._clock = clock
        self._traffic: dict[ModelName, Traffic] = {}
        self._watches: dict[ModelName, Watch] = {}
        self._given_up: dict[ModelName, int] = {}
        self._probes: dict[tuple[ModelName, VersionNumber], GoldenProbe] = {}
        self._answers: dict[tuple[ModelName, VersionNumber], tuple[float, str]] = {}
        self._server: tuple[str, ...] = ()
        self._times = 0
        self._said = ""

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"health {self._name}"

    def run(self, work: Work) -> None:
        """Samples the target until it must return."""
        with looking(work, self._name) as (_, target):
            silent = Deployment(work.settings, Observer(), over=work.shared)
            self._recall(work, target)
            while not work.stopping.is_set():
                try:
                    self._sample(work, silent, target)
                except DeployctlError as error:
                    self._say(f"cannot be looked after: {error}")
                work.pause(_WATCHING_S if self._watches else work.settings.daemon.reconcile_interval_s)

    def _recall(self, work: Work, target: Target) -> None:
        """Takes up what was recorded last, so that a daemon that was restarted tells nothing twice."""
        for event in target.lineage.history(target=self._name, limit=_LOOK_BACK):
            if event.content.kind is EventKind.TARGET_RECOVERED:
                return
            if event.content.kind is EventKind.TARGET_DEGRADED:
                work.board.change(self._name, partial(replace, degraded_since=event.content.at))
                return

    def _sample(self, work: Work, silent: Deployment, target: Target) -> None:
        state = target.runtime.state(timeout_s=_CALL_TIMEOUT_S)
        starts = work.board.target(self._name).starts + self._is_another(state)
        recorded = target.recorded()
        models: dict[ModelName, ModelHealth] = {}
        if state.condition is ServerCondition.READY:
            counts = self._counts(target)
            for model, revision in recorded.items():
                known = self._traffic.get(model, Traffic()).total
                counted = known if counts is None else counts.get(model, RequestCounts())
                models[model] = self._model(work, silent, target, revision, counted, starts)
        self._forget(recorded)
        health = partial(replace, condition=state.condition, models=models, starts=starts, memory_bytes=_memory(state))
        found = work.board.change(self._name, health)
        wanted = any(revision.desired.versions for revision in recorded.values())
        if state.condition is not ServerCondition.READY:
            # Who is changing the server, or has stopped it, knows.
            wanted = wanted and not target.lock.leases() and target.lineage.running(self._name) is not False
        self._judge(work, tuple(_problems(found)) if wanted else ())

    def _model(
        self, work: Work, silent: Deployment, target: Target, revision: Revision, counted: RequestCounts, starts: int
    ) -> ModelHealth:
        model, now = revision.model, self._clock.monotonic()
        traffic = self._traffic.setdefault(model, Traffic())
        usual, ever = traffic.usual(), traffic.total
        new = traffic.count(now, counted)
        is_new = self._begin(work, target, revision, usual if usual.total >= _FEWEST else ever, starts)
        answers = self._probe(work, silent, target, revision, at_once=is_new)
        watch = self._watches.get(model)
        if watch is not None:
            # What was counted in part before the change says nothing of either side of it.
            version = _promoted(revision)
            wrong = answers.get(version, "") if version is not None else ""
            problem = watch.judge(RequestCounts() if is_new else new, wrong, starts)
            if problem is not None:
                self._take_back(work, target, revision, problem)
        lately = traffic.lately(now)
        return ModelHealth(
            version=revision.desired.live(target.routing),
            requests=traffic.total.total,
            failed=traffic.total.failed,
            error_rate=lately.failed / lately.total if lately.total >= _FEWEST else None,
            latency_s=lately.latency_s / lately.timed if lately.timed else None,
            probes=answers,
        )

    def _counts(self, target: Target) -> Mapping[ModelName, RequestCounts] | None:
        """Returns what the server has counted by model, None where it does not tell."""
        try:
            return target.runtime.request_counts(timeout_s=_CALL_TIMEOUT_S)
        except DependencyError as error:
            self._say(f"does not tell of its requests: {error}")
            return None

    def _begin(self, work: Work, target: Target, revision: Revision, before: RequestCounts, starts: int) -> bool:
        """Begins to watch a revision that was promoted lately, or ends it; returns whether it has just begun."""
        model, watch = revision.model, self._watches.get(revision.model)
        settled = revision.settled_at or revision.recorded_at
        age_s = (self._clock.now() - settled).total_seconds()
        # A rollback is never taken back: whoever went back, by hand or after a soak, does not come forward again.
        wanted = (
            revision.kind is RevisionKind.PROMOTE
            and age_s < work.settings.targets[self._name].health.soak_s
            and self._given_up.get(model) != revision.number
        )
        if not wanted:
            self._watches.pop(model, None)
            return False
        if watch is not None and watch.revision == revision.number:
            return False
        if taken_back(target, revision):
            self._given_up[model] = revision.number
            self._watches.pop(model, None)
            return False
        self._watches[model] = Watch(revision.number, before, starts)
        return True

    def _probe(
        self, work: Work, silent: Deployment, target: Target, revision: Revision, *, at_once: bool
    ) -> Mapping[VersionNumber, str]:
        """Asks each version that clients reach its golden requests, where that is due; returns all answers."""
        every_s = work.settings.targets[self._name].health.probe_interval_s
        if every_s <= 0:
            return {}
        if revision.model in self._watches:
            every_s = min(every_s, _PROBE_WHILE_WATCHING_S)
        now, model = self._clock.monotonic(), revision.model
        live = revision.desired.live(target.routing)
        versions = {*revision.desired.labels.values(), *(() if live is None else (live,))}
        for version in sorted(versions):
            at, words = self._answers.get((model, version), (float("-inf"), ""))
            # What was wrong is asked again at once, to be sure.
            due_s = _WATCHING_S if words and model in self._watches else every_s
            if at_once or now - at >= due_s:
                self._answers[model, version] = (now, self._asked(silent, target, model, version))
        return {version: self._answers[model, version][1] for version in sorted(versions)}

    def _asked(self, silent: Deployment, target: Target, model: ModelName, version: VersionNumber) -> str:
        probe = self._probes.get((model, version))
        if probe is None:
            probe = self._probes[model, version] = GoldenProbe(silent, self._name, model, target.runtime)
        try:
            wrong = probe(version) or ""
        except DeployctlError as error:
            # That it cannot be asked is no wrong answer.
            self._say(f"{model}@{version} cannot be asked its golden requests: {error}")
            return ""
        if wrong and target.runtime.state(timeout_s=_CALL_TIMEOUT_S).condition is not ServerCondition.READY:
            return ""
        return wrong

    def _take_back(self, work: Work, target: Target, revision: Revision, problem: str) -> None:
        """Restores what served before, once for each revision."""
        model = revision.model
        what = f"{model}@{_promoted(revision)}"
        if BREAK_GLASS in revision.evidence:
            self._end(model, revision.number)
            _log.warning("%s %s; it was promoted under a ticket, and is left to whoever did", what, problem)
            return
        soak_s = work.settings.targets[self._name].health.soak_s
        with work.operation(f"daemon: soak {what}") as ours:
            place = replace(ours.target(self._name), runtime=target.runtime)
            try:
                back = take_back(place, ours.context, model, revision.number, problem, soak_s=soak_s)
            except PreconditionError:
                _log.info("%s %s; somebody has changed it already", what, problem)
            except LockedError as error:
                _log.info("%s %s; it is taken back later: %s", what, problem, error)
                return
            except DeployctlError as error:
                _log.error("%s %s, and could not be taken back: %s", what, problem, error)
            else:
                _log.warning("%s %s; @%s was restored", what, problem, back.version)
        self._end(model, revision.number)

    def _end(self, model: ModelName, revision: int) -> None:
        self._given_up[model] = revision
        self._watches.pop(model, None)

    def _judge(self, work: Work, problems: tuple[str, ...]) -> None:
        """Records that the target is ill, or well again, once it has been so for some samples."""
        health = work.board.change(self._name, partial(replace, problems=problems))
        since = health.degraded_since
        changed = bool(problems) is (since is None)
        self._times = self._times + 1 if changed else 0
        if self._times < (_ILL if since is None else _WELL):
            return
        self._times = 0
        with work.operation(f"daemon: health {self._name}") as ours:
            now = ours.context.clock.now()
            data: dict[str, Any] = {"problem": "; ".join(problems)}
            if since is not None:
                data = {"after_s": (now - since).total_seconds()}
            kind = EventKind.TARGET_DEGRADED if since is None else EventKind.TARGET_RECOVERED
            reason = problems[0] if problems else ""
            with ours.lineage.transaction() as transaction:
                transaction.append(ours.context.event(kind, target=self._name, reason=reason, data=data))
            _log.warning("%s %s", self._name, f"is degraded: {reason}" if since is None else "has recovered")
        work.board.change(self._name, partial(replace, degraded_since=now if since is None else None))

    def _is_another(self, state: ServerState) -> int:
        """Returns 1 where another server answers than at the last sample."""
        if state.condition is not ServerCondition.READY:
            return 0
        server = (state.detail.get("pid", ""), state.detail.get("restarts", ""), *state.identity.values())
        was, self._server = self._server, server
        return int(bool(was) and was != server)

    def _forget(self, recorded: Mapping[ModelName, Revision]) -> None:
        """Lets go of what is served no more."""
        serving = {(model, version) for model, each in recorded.items() for version in each.desired.versions}
        for model in self._traffic.keys() - recorded.keys():
            del self._traffic[model]
        for key in self._probes.keys() - serving:
            del self._probes[key]
        for key in self._answers.keys() - serving:
            del self._answers[key]

    def _say(self, words: str) -> None:
        """Logs what is new."""
        if words != self._said:
            _log.warning("%s %s", self._name, words)
        self._said = words


def _memory(state: ServerState) -> int | None:
    words = state.detail.get("memory", "").partition(" of ")[0]
    try:
        return parse_size(words.replace("kB", "KB")) if words else None
    except UsageError:
        return None


def _problems(health: TargetHealth) -> Iterator[str]:
    if health.condition is not ServerCondition.READY:
        yield f"the server is {health.condition.value if health.condition else 'not known'}"
    elif health.trouble:
        yield health.trouble
    for model, each in sorted(health.models.items()):
        for version, words in sorted(each.probes.items()):
            if words:
                yield f"{model}@{version} answers otherwise than is recorded: {words}"
        if each.error_rate is not None and each.error_rate > _ERROR_RATE:
            yield f"{model} failed {each.error_rate:.1%} of its requests of the last minute"


def _promoted(revision: Revision) -> VersionNumber | None:
    """Returns the version that a promotion gave a label."""
    before = revision.before.labels
    return next((version for label, version in revision.desired.labels.items() if before.get(label) != version), None)
