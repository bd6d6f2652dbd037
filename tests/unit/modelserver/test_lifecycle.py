"""Loading and unloading in the order of upstream's AvailabilityPreservingPolicy, with a loader that only pretends."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from deployctl.domain.saved_model import Signature
from deployctl.domain.serving import VersionState
from deployctl.modelserver.interface import Code, InferenceTask, StatusError, VersionReport
from deployctl.modelserver.lifecycle import (
    Action,
    Harness,
    Lifecycle,
    LifecycleOptions,
    LoadedServable,
    Loader,
    Stage,
    next_action,
)
from deployctl.modelserver.states import StateMonitor
from tests.support.model_server import wait_until

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Inference, Tensor


class PretendServable(LoadedServable):
    """Answers nothing; notes that it was closed."""

    def __init__(self, name: str, version: int, events: list[str]) -> None:
        self.name, self.version, self._events = name, version, events

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return {}

    @property
    def signature_def_map(self) -> bytes:
        return b""

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
        *,
        timeout_s: float | None,
    ) -> dict[str, Tensor]:
        return {}

    def classify(
        self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[list[tuple[str, float]]]:
        return []

    def regress(self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None) -> list[float]:
        return []

    def infer(
        self, tasks: Sequence[InferenceTask], examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[Inference]:
        return []

    def close(self) -> None:
        self._events.append(f"closed {self.version}")


class PretendLoader(Loader):
    """Loads at once; versions in `broken` fail, those in `held` wait until they are let go."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.broken: dict[int, int] = {}
        self.held: dict[int, threading.Event] = {}
        self.in_background: list[bool] = []

    def load(self, name: str, version: int, path: str, *, background: bool) -> LoadedServable:
        self.events.append(f"load {version}")
        self.in_background.append(background)
        if version in self.held:
            assert self.held[version].wait(20)
        if self.broken.get(version, 0) > 0:
            self.broken[version] -= 1
            raise StatusError(Code.NOT_FOUND, f"{path} is broken")
        self.events.append(f"loaded {version}")
        return PretendServable(name, version, self.events)


@pytest.fixture
def loader() -> PretendLoader:
    return PretendLoader()


@pytest.fixture
def lifecycle(loader: PretendLoader) -> Iterator[Lifecycle]:
    lifecycle = Lifecycle(loader, LifecycleOptions(load_threads=2, max_load_retries=0))
    yield lifecycle
    for event in loader.held.values():
        event.set()
    lifecycle.stop(timeout_s=5)


def aspire(lifecycle: Lifecycle, *versions: int) -> None:
    lifecycle.set_aspired("m", {version: f"/m/{version}" for version in versions})


def states(lifecycle: Lifecycle) -> dict[int, VersionState]:
    return {report.version: report.state for report in lifecycle.states.versions("m")}


def wait_for(lifecycle: Lifecycle, **wanted: VersionState) -> None:
    expected = {int(name.removeprefix("v")): state for name, state in wanted.items()}
    wait_until(lambda: expected.items() <= states(lifecycle).items(), what=f"{expected}", timeout_s=5)


def serving(lifecycle: Lifecycle, version: int | None = None) -> int:
    with lifecycle.hold("m", version) as servable:
        return servable.version


def harness(version: int, stage: Stage, *, aspired: bool) -> Harness:
    return Harness("m", version, "", aspired=aspired, stage=stage)


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([(1, Stage.READY, False)], (Action.UNLOAD, 1)),
        ([(1, Stage.READY, False), (2, Stage.NEW, True)], (Action.LOAD, 2)),
        ([(1, Stage.READY, False), (2, Stage.LOADING, True)], None),
        ([(1, Stage.READY, False), (2, Stage.ERROR, True)], None),
        ([(1, Stage.READY, False), (2, Stage.READY, True)], (Action.UNLOAD, 1)),
        ([(1, Stage.READY, False), (2, Stage.READY, False), (3, Stage.NEW, True)], (Action.UNLOAD, 1)),
        ([(1, Stage.READY, False), (2, Stage.READY, True), (3, Stage.NEW, True)], (Action.UNLOAD, 1)),
        ([(1, Stage.NEW, True), (2, Stage.NEW, True)], (Action.LOAD, 2)),
        ([(1, Stage.READY, True)], None),
        ([], None),
    ],
)
def test_the_policy_prefers_availability(
    versions: list[tuple[int, Stage, bool]], expected: tuple[Action, int] | None
) -> None:
    action = next_action([harness(version, stage, aspired=aspired) for version, stage, aspired in versions])

    assert (action and (action[0], action[1].version)) == expected


def test_the_old_version_goes_only_after_the_new_one_is_ready(lifecycle: Lifecycle, loader: PretendLoader) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    loader.held[2] = threading.Event()

    aspire(lifecycle, 2)
    wait_for(lifecycle, v2=VersionState.LOADING)
    during = serving(lifecycle)
    loader.held[2].set()
    wait_for(lifecycle, v1=VersionState.END)

    assert during == 1
    assert serving(lifecycle) == 2
    assert loader.events == ["load 1", "loaded 1", "load 2", "loaded 2", "closed 1"]


def test_a_failed_version_leaves_the_old_one_and_is_not_retried_while_wanted(
    lifecycle: Lifecycle, loader: PretendLoader
) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    loader.broken[2] = 1

    aspire(lifecycle, 2)
    wait_for(lifecycle, v2=VersionState.END)
    aspire(lifecycle, 2)
    aspire(lifecycle, 2)

    assert serving(lifecycle) == 1
    assert loader.events.count("load 2") == 1
    report = lifecycle.states.versions("m")[0]
    assert (report.code, report.message) == (Code.NOT_FOUND, "/m/2 is broken")


def test_wanting_the_old_version_again_after_a_failure_waits_for_ever_as_upstream(
    lifecycle: Lifecycle, loader: PretendLoader
) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    loader.broken[2] = 1
    aspire(lifecycle, 2)
    wait_for(lifecycle, v2=VersionState.END)

    aspire(lifecycle, 1)
    aspire(lifecycle, 1, 2)
    stuck = (serving(lifecycle), loader.events.count("load 2"))
    aspire(lifecycle, 3)
    wait_for(lifecycle, v3=VersionState.AVAILABLE, v1=VersionState.END)

    assert stuck == (1, 1)


def test_keeping_the_old_version_wanted_lets_a_failed_one_be_retried(
    lifecycle: Lifecycle, loader: PretendLoader
) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    loader.broken[2] = 1
    aspire(lifecycle, 1, 2)
    wait_for(lifecycle, v2=VersionState.END)

    aspire(lifecycle, 1)
    wait_until(lambda: 2 not in lifecycle._harnesses["m"], timeout_s=5)
    aspire(lifecycle, 1, 2)

    wait_for(lifecycle, v1=VersionState.AVAILABLE, v2=VersionState.AVAILABLE)


def test_rolling_back_to_an_unloaded_version_leaves_no_gap(lifecycle: Lifecycle, loader: PretendLoader) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    aspire(lifecycle, 2)
    wait_for(lifecycle, v1=VersionState.END)

    aspire(lifecycle, 1)

    wait_for(lifecycle, v1=VersionState.AVAILABLE, v2=VersionState.END)
    assert loader.events[-3:] == ["load 1", "loaded 1", "closed 2"]


def test_unloading_waits_for_requests_that_hold_the_version(lifecycle: Lifecycle, loader: PretendLoader) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)

    with lifecycle.hold("m", 1):
        aspire(lifecycle)
        wait_for(lifecycle, v1=VersionState.UNLOADING)
        with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
            serving(lifecycle)
        while_held = list(loader.events)

    wait_for(lifecycle, v1=VersionState.END)
    assert "closed 1" not in while_held
    assert loader.events[-1] == "closed 1"


def test_requests_without_a_version_get_the_highest_that_is_ready(lifecycle: Lifecycle, loader: PretendLoader) -> None:
    loader.held[3] = threading.Event()

    aspire(lifecycle, 1, 2, 3)
    wait_for(lifecycle, v2=VersionState.AVAILABLE, v1=VersionState.AVAILABLE)
    before = serving(lifecycle)
    loader.held[3].set()
    wait_for(lifecycle, v3=VersionState.AVAILABLE)

    assert (before, serving(lifecycle), serving(lifecycle, 1)) == (2, 3, 1)


def test_loading_is_tried_again_and_its_failures_stay_inside(loader: PretendLoader) -> None:
    loader.broken[1] = 2
    lifecycle = Lifecycle(loader, LifecycleOptions(max_load_retries=2, retry_interval_s=0.01))

    aspire(lifecycle, 1)

    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    assert loader.events == ["load 1", "load 1", "load 1", "loaded 1"]
    lifecycle.stop(timeout_s=5)


def test_letting_a_version_go_ends_its_retries(loader: PretendLoader) -> None:
    loader.broken[1] = 99
    lifecycle = Lifecycle(loader, LifecycleOptions(max_load_retries=5, retry_interval_s=60))
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.LOADING)

    aspire(lifecycle, 2)

    wait_for(lifecycle, v1=VersionState.END, v2=VersionState.AVAILABLE)
    lifecycle.stop(timeout_s=5)


def test_a_model_dropped_and_wanted_again_at_once_is_loaded_again(lifecycle: Lifecycle, loader: PretendLoader) -> None:
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)
    since = lifecycle.states.serial

    aspire(lifecycle)
    aspire(lifecycle, 1)
    settled = lifecycle.states.wait_settled(["m"], since=since, idle_timeout_s=5)

    assert settled["m"] is not None
    assert loader.events == ["load 1", "loaded 1", "closed 1", "load 1", "loaded 1"]


def test_stopping_closes_what_is_loaded(loader: PretendLoader) -> None:
    lifecycle = Lifecycle(loader, LifecycleOptions())
    aspire(lifecycle, 1)
    wait_for(lifecycle, v1=VersionState.AVAILABLE)

    lifecycle.stop(timeout_s=5)

    assert loader.events[-1] == "closed 1"


class SlowReader(StateMonitor):
    """Lets the thread that reports one state wait until another state of that version has come, or a moment."""

    def __init__(self, slow: VersionState, later: VersionState) -> None:
        super().__init__()
        self.seen: list[VersionState] = []
        self._slow, self._later = slow, later
        self._came = threading.Event()

    def report(self, name: str, report: VersionReport) -> None:
        if report.state is self._slow:
            self._came.wait(0.3)
        if report.state is self._later:
            self._came.set()
        super().report(name, report)
        self.seen.append(report.state)


@pytest.mark.parametrize(
    ("slow", "later"),
    [
        (VersionState.LOADING, VersionState.AVAILABLE),
        (VersionState.AVAILABLE, VersionState.UNLOADING),
        (VersionState.AVAILABLE, VersionState.END),
        (VersionState.UNLOADING, VersionState.END),
    ],
)
def test_a_late_report_never_overwrites_a_later_state(
    loader: PretendLoader, slow: VersionState, later: VersionState
) -> None:
    lifecycle = Lifecycle(loader, LifecycleOptions())
    states = lifecycle.states = SlowReader(slow, later)
    aspire(lifecycle, 1)
    wait_until(lambda: "m" in lifecycle._serving, timeout_s=5)

    aspire(lifecycle)
    wait_until(lambda: not lifecycle._harnesses, timeout_s=5)
    wait_until(lambda: len(states.seen) == 5, timeout_s=5)

    assert states.seen == list(VersionState)[-5:]
    lifecycle.stop(timeout_s=5)


def test_only_what_loads_beside_something_that_serves_loads_in_the_background(
    lifecycle: Lifecycle, loader: PretendLoader
) -> None:
    aspire(lifecycle, 1)
    wait_until(lambda: states(lifecycle).get(1) is VersionState.AVAILABLE)
    aspire(lifecycle, 1, 2)
    wait_until(lambda: states(lifecycle).get(2) is VersionState.AVAILABLE)

    assert loader.in_background == [False, True]
