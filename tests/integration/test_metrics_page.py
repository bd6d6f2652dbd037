"""The page that Prometheus reads tells what is recorded and what real servers serve, and hangs with none."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployctl.bootstrap import opened
from deployctl.config.load import load
from deployctl.daemon import metrics
from deployctl.daemon.board import ModelHealth, TargetHealth
from deployctl.daemon.interface import Work
from deployctl.daemon.metrics import MetricsPage, metrics_page
from deployctl.domain.clock import Observer
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from tests.support.webhooks import receiver
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TARGET, Workspace

LOCAL = TargetName("local")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    workspace = Workspace.make(tmp_path / "work")
    yield workspace
    workspace.down()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, a look is waited for."""
    monkeypatch.setattr(metrics, "_PATIENCE_S", 60.0)


@contextmanager
def at_work(workspace: Workspace) -> Iterator[Work]:
    with opened(load(environment={}, directory=workspace.root).settings, Observer()) as shared:
        yield Work(shared)


def samples(text: str) -> dict[str, float]:
    """Returns the numbers of a page by name and labels, as they are written."""
    found = (re.fullmatch(r"(\S+(?:\{.*\})?) (\S+)", line) for line in text.splitlines() if not line.startswith("#"))
    return {each[1]: float(each[2]) for each in found if each}


def test_the_page_tells_what_serves_and_how_far_the_way_back_is(workspace: Workspace) -> None:
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    with at_work(workspace) as work:
        before = samples(metrics_page(work))
        workspace.ok("promote", "half@2")
        workspace.ok("freeze", "local", "-m", "a sale")
        work.metrics._made_at -= 60
        after = samples(metrics_page(work))

    model = '{target="local",model="half"}'
    assert (before[f"deployctl_model_version{model}"], after[f"deployctl_model_version{model}"]) == (1, 2)
    assert (before[f"deployctl_rollback_ready{model}"], after[f"deployctl_rollback_ready{model}"]) == (0, 1)
    assert after[f"deployctl_rollback_version{model}"] == 1
    assert after['deployctl_rollback_class{target="local",model="half",class="hot"}'] == 1
    assert after['deployctl_rollback_class{target="local",model="half",class="cold"}'] == 0
    assert after[f"deployctl_model_revision{model}"] == 2
    age_s = datetime.now(UTC).timestamp() - after[f"deployctl_model_last_change_timestamp_seconds{model}"]
    assert 0 <= age_s < 600
    assert after['deployctl_target_state{target="local",state="ready"}'] == 1
    assert after['deployctl_target_up{target="local"}'] == 1
    assert after['deployctl_target_healthy{target="local"}'] == 1
    assert after['deployctl_target_looked_at{target="local"}'] == 1
    assert (before['deployctl_target_frozen{target="local"}'], after['deployctl_target_frozen{target="local"}']) == (
        0,
        1,
    )
    assert before['deployctl_events_total{kind="revision.serving",target="local"}'] == 1
    assert after['deployctl_events_total{kind="revision.serving",target="local"}'] == 2
    assert after['deployctl_events_total{kind="version.published",target=""}'] == 2
    # What ended before the first page is not counted, what ended after it is, with its duration.
    done = '{verb="promote",outcome="done"}'
    assert f"deployctl_operation_duration_seconds_count{done}" not in before
    assert after[f"deployctl_operation_duration_seconds_count{done}"] == 1
    assert 0 < after[f"deployctl_operation_duration_seconds_sum{done}"] < 300
    assert after["deployctl_operations_interrupted"] == 0
    assert after["process_resident_memory_bytes"] > 1e6
    assert abs(after["process_start_time_seconds"] - time.time()) < 86400


def test_the_page_tells_what_duties_have_found(workspace: Workspace) -> None:
    health = ModelHealth(
        VersionNumber(2), 10, 3, 0.3, 0.004, {VersionNumber(2): "", VersionNumber(1): "it is 2, not 3"}
    )
    degraded = datetime(2026, 11, 21, tzinfo=UTC)
    with at_work(workspace) as work:
        work.board.change(
            LOCAL,
            lambda _: TargetHealth(
                models={ModelName("half"): health},
                starts=4,
                memory_bytes=5000,
                problems=("a",),
                degraded_since=degraded,
            ),
        )
        work.board.queue("exports", 3)
        found = samples(metrics_page(work))

    assert found['deployctl_inbox_waiting{inbox="exports"}'] == 3
    assert found['deployctl_target_starts_total{target="local"}'] == 4
    assert found['deployctl_target_memory_bytes{target="local"}'] == 5000
    assert found['deployctl_target_degraded{target="local"}'] == 1
    assert found['deployctl_target_problems{target="local"}'] == 1
    assert found['deployctl_model_requests_total{target="local",model="half"}'] == 10
    assert found['deployctl_model_failed_requests_total{target="local",model="half"}'] == 3
    assert found['deployctl_model_error_ratio{target="local",model="half"}'] == 0.3
    assert found['deployctl_model_latency_seconds{target="local",model="half"}'] == 0.004
    assert found['deployctl_model_probe_ok{target="local",model="half",version="2"}'] == 1
    assert found['deployctl_model_probe_ok{target="local",model="half",version="1"}'] == 0


def test_a_target_that_hangs_keeps_neither_the_page_nor_the_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE_S", 0.2)
    (workspace.root / "deployctl.toml").write_text(f"{TARGET}\n{TARGET.replace('local', 'far')}")
    # Whoever reads it waits, as on a network file system that is away.
    record = workspace.root / ".deployctl" / "far" / "server.json"
    record.parent.mkdir(parents=True)
    os.mkfifo(record)
    pages: list[dict[str, float]] = []
    with at_work(workspace) as work:
        until = time.monotonic() + 60
        while not pages or (not pages[-1]['deployctl_target_looked_at{target="local"}'] and time.monotonic() < until):
            pages.append(samples(metrics_page(work)))
            work.metrics._made_at -= 60
        looking = [thread for thread in threading.enumerate() if thread.name == "metrics.far"]
        while any(thread.is_alive() for thread in looking) and time.monotonic() < until:
            with suppress(OSError):  # nobody reads it at this moment
                os.close(os.open(record, os.O_WRONLY | os.O_NONBLOCK))
            looking[0].join(0.05)
    record.unlink()

    assert len(looking) == 1
    assert pages[-1]['deployctl_target_looked_at{target="local"}'] == 1
    assert pages[-1]['deployctl_target_state{target="local",state="stopped"}'] == 1
    assert not any(page['deployctl_target_looked_at{target="far"}'] for page in pages)


def test_the_page_is_made_once_for_all_who_ask_at_the_same_time(workspace: Workspace) -> None:
    with at_work(workspace) as work:
        first = metrics_page(work)
        workspace.ok("freeze", "local", "-m", "a sale")
        work.metrics._made_at = time.monotonic() + 60

        assert metrics_page(work) == first
        assert MetricsPage().text(work) != first


def test_there_is_a_page_without_the_database(workspace: Workspace) -> None:
    (workspace.root / "deployctl.db").write_bytes(b"not a database at all" * 300)
    with at_work(workspace) as work:
        found = samples(metrics_page(work))

    assert found["deployctl_lineage_up"] == 0
    assert found['deployctl_target_looked_at{target="local"}'] == 0
    assert "process_cpu_seconds_total" in found


def test_the_page_tells_what_channels_wait_for(workspace: Workspace) -> None:
    with receiver() as server, (workspace.root / "deployctl.toml").open("a") as settings:
        settings.write(f'\n[notifications.ops]\nurl = "{server.url}"\n')
    with at_work(workspace) as work:
        with work.shared.deliveries() as deliveries:
            deliveries.begin("ops")
            workspace.ok("freeze", "local", "-m", "one")
            workspace.ok("freeze", "local", "-m", "two")
            deliveries.take_in("ops", lambda _: True)
            workspace.ok("freeze", "local", "-m", "three")
            delivery = deliveries.due("ops")
            assert delivery is not None
            deliveries.failed(delivery, "it answered 500", again_at=None)
        found = samples(metrics_page(work))

    assert found['deployctl_notifications_outstanding{channel="ops"}'] == 2
    assert found['deployctl_notifications_dead{channel="ops"}'] == 1
    assert found['deployctl_notifications_failing{channel="ops"}'] == 0
