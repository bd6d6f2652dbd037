"""The embedded server as a process: found again, never mistaken for another, and never left behind."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.serving import ServerCondition, ServingConfig
from deployctl.errors import LockedError, PortTakenError, ServerStartError
from deployctl.files import file_lock
from deployctl.serving import child as children
from deployctl.serving.config import parse
from deployctl.serving.ports import free_ports
from deployctl.serving.process import ProcessOptions, ProcessRuntime
from tests.support.serving import (
    HALF_PLUS_TWO,
    TIMEOUT_S,
    Place,
    answer,
    spec,
)

pytestmark = pytest.mark.tensorflow

NOTHING = ServingConfig()


@pytest.fixture
def options(tmp_path: Path) -> Iterator[ProcessOptions]:
    options = ProcessOptions(target=TargetName("local"), state_dir=tmp_path / "state", rest_port=0, grpc_port=0)
    yield options
    ProcessRuntime(options).down(timeout_s=5)
    assert servers_of(options) == []


@pytest.fixture
def runtime(options: ProcessOptions) -> ProcessRuntime:
    return ProcessRuntime(options)


@pytest.fixture
def place(options: ProcessOptions, runtime: ProcessRuntime, tmp_path: Path) -> Place:
    return Place(runtime, tmp_path / "models", lambda: ProcessRuntime(options))


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us."""
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


def record(options: ProcessOptions) -> Path:
    return options.directory / "server.json"


def server(options: ProcessOptions) -> children.Child:
    found = children.read(record(options))
    assert found is not None
    return found


def servers_of(options: ProcessOptions) -> list[int]:
    return [pid for pid, _ in children.find(f"--model_config_file={options.directory / 'models.config'}")]


def kill(pid: int) -> None:
    """Kills the server and returns once it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], TIMEOUT_S)[0]
    finally:
        os.close(descriptor)


def test_its_state_tells_process_uptime_and_memory(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    runtime.up(NOTHING, timeout_s=TIMEOUT_S)

    detail = runtime.state(timeout_s=5).detail

    assert detail["pid"] == str(server(options).pid)
    assert detail["uptime"].endswith("s")
    assert int(detail["memory"].split()[0]) > 10
    assert detail["log"] == str(options.directory / "server.log")


def test_a_record_of_a_process_that_ended_is_seen_through(
    runtime: ProcessRuntime, options: ProcessOptions, bystander: subprocess.Popen[bytes]
) -> None:
    gone = children.identify(bystander.pid, rest_port=1, grpc_port=2)
    assert gone is not None
    bystander.kill()
    bystander.wait()
    options.directory.mkdir(parents=True)
    children.write(record(options), gone)

    assert runtime.state(timeout_s=5).condition is ServerCondition.UNREACHABLE
    runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    assert runtime.state(timeout_s=5).condition is ServerCondition.READY


@pytest.mark.parametrize("other", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_a_process_that_got_the_servers_number_is_not_touched(
    runtime: ProcessRuntime,
    options: ProcessOptions,
    bystander: subprocess.Popen[bytes],
    other: dict[str, object],
) -> None:
    found = children.identify(bystander.pid, rest_port=1, grpc_port=2)
    assert found is not None
    options.directory.mkdir(parents=True)
    children.write(record(options), found)
    record(options).write_text(json.dumps(json.loads(record(options).read_text()) | other))

    assert runtime.state(timeout_s=5).condition is ServerCondition.UNREACHABLE
    assert runtime.down(timeout_s=5) is False
    assert bystander.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "1"}'])
def test_a_record_that_cannot_be_read_is_none(runtime: ProcessRuntime, options: ProcessOptions, text: str) -> None:
    options.directory.mkdir(parents=True)
    record(options).write_text(text)

    assert runtime.down(timeout_s=5) is False


def test_a_server_whose_record_was_lost_is_found_again(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    endpoints = runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    pid = server(options).pid
    record(options).unlink()

    other = ProcessRuntime(options)

    assert other.state(timeout_s=5).condition is ServerCondition.READY
    assert other.up(NOTHING, timeout_s=TIMEOUT_S) == endpoints
    assert server(options).pid == pid
    record(options).unlink()
    assert other.down(timeout_s=5) is True
    assert servers_of(options) == []


def test_a_server_that_was_killed_is_started_again_with_what_was_live(place: Place, options: ProcessOptions) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    live = place.config("m", 1, stable=1)
    place.runtime.up(live, timeout_s=TIMEOUT_S)

    kill(server(options).pid)

    assert place.runtime.state(timeout_s=5).condition is ServerCondition.UNREACHABLE
    written = parse((options.directory / "models.config").read_text())
    assert written == live
    place.runtime.up(written, timeout_s=TIMEOUT_S)
    assert answer(place.runtime, spec("m", label="stable"), grpc=True) == 3.0


def test_a_server_that_was_killed_and_taken_down_is_stopped(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    kill(server(options).pid)

    assert runtime.down(timeout_s=5) is False
    assert runtime.state(timeout_s=5).condition is ServerCondition.STOPPED


def test_no_zombie_is_left_when_the_starter_stops_its_server(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    pid = server(options).pid

    runtime.down(timeout_s=5)

    assert not Path(f"/proc/{pid}").exists()


def test_a_frozen_server_is_unreachable_and_can_still_be_stopped(
    runtime: ProcessRuntime, options: ProcessOptions
) -> None:
    runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    os.kill(server(options).pid, signal.SIGSTOP)

    assert runtime.state(timeout_s=0.2).condition is ServerCondition.UNREACHABLE
    assert runtime.down(timeout_s=0.2) is True
    assert servers_of(options) == []


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"])
@pytest.mark.parametrize("listening_on", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_program_holds_is_named_with_its_holder(
    options: ProcessOptions, which: str, listening_on: str
) -> None:
    with socket.create_server((listening_on, 0)) as taken:
        port = taken.getsockname()[1]
        runtime = ProcessRuntime(replace(options, **{which: port}))

        with pytest.raises(PortTakenError, match=rf"port {port} .* process {os.getpid()} \("):
            runtime.up(NOTHING, timeout_s=TIMEOUT_S)

    assert not record(options).exists()


def test_a_port_with_connections_that_are_still_closing_is_free(options: ProcessOptions) -> None:
    rest_port, grpc_port = free_ports("127.0.0.1", 2)
    runtime = ProcessRuntime(replace(options, rest_port=rest_port, grpc_port=grpc_port))

    for _ in range(2):
        endpoints = runtime.up(NOTHING, timeout_s=TIMEOUT_S)
        # Closed by the server, so that its side waits in TIME_WAIT on the port.
        with socket.create_connection(("127.0.0.1", rest_port), timeout=TIMEOUT_S) as connection:
            connection.sendall(b"GET /v1/models/none HTTP/1.1\r\nHost: local\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 404")
            runtime.down(timeout_s=TIMEOUT_S)
            while connection.recv(4096):
                pass

    assert endpoints.rest == f"http://127.0.0.1:{rest_port}"


def test_a_server_that_ends_at_once_is_told_with_exit_code_and_log(options: ProcessOptions) -> None:
    runtime = ProcessRuntime(replace(options, extra_args=("--no_such_flag=1",)))

    with pytest.raises(ServerStartError, match=r"ended with exit code [1-9]") as raised:
        runtime.up(NOTHING, timeout_s=TIMEOUT_S)

    assert any("no_such_flag" in line for line in raised.value.log)
    assert "no_such_flag" in str(raised.value)
    assert not record(options).exists()


def test_a_server_whose_model_cannot_be_loaded_is_told_in_its_own_words(place: Place, options: ProcessOptions) -> None:
    place.add_broken("m", 1)

    with pytest.raises(ServerStartError) as raised:
        place.runtime.up(place.config("m", 1), timeout_s=TIMEOUT_S)

    assert any("did not become available" in line for line in raised.value.log)
    assert servers_of(options) == []


def test_only_this_starts_log_is_told(place: Place, options: ProcessOptions) -> None:
    place.runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    place.runtime.down(timeout_s=5)
    before = (options.directory / "server.log").read_text().splitlines()

    with pytest.raises(ServerStartError) as raised:
        ProcessRuntime(replace(options, extra_args=("--no_such_flag=1",))).up(NOTHING, timeout_s=TIMEOUT_S)

    assert before
    assert set(before).isdisjoint(raised.value.log)


def test_a_server_that_is_not_ready_in_time_is_ended(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    with pytest.raises(ServerStartError, match="not ready in time"):
        runtime.up(NOTHING, timeout_s=0.05)

    assert servers_of(options) == []
    assert runtime.state(timeout_s=5).condition is ServerCondition.STOPPED


def test_several_ups_at_once_start_one_server(options: ProcessOptions) -> None:
    with ThreadPoolExecutor(3) as pool:
        ups = [pool.submit(ProcessRuntime(options).up, NOTHING, timeout_s=TIMEOUT_S) for _ in range(3)]
        endpoints = {future.result() for future in ups}

    assert len(endpoints) == 1
    assert len(servers_of(options)) == 1


def test_an_up_that_waits_in_vain_for_another_says_so(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    options.directory.mkdir(parents=True)

    with (
        file_lock(options.directory / "server.lock", what="it", holder="deployctl up", timeout_s=1),
        pytest.raises(LockedError, match="deployctl up"),
    ):
        runtime.up(NOTHING, timeout_s=0.1)


STARTER = """
import os, signal, sys
from pathlib import Path
from deployctl.domain.names import TargetName
from deployctl.domain.serving import ServingConfig
from deployctl.serving.process import ProcessOptions, ProcessRuntime

options = ProcessOptions(target=TargetName("local"), state_dir=Path(sys.argv[1]), rest_port=0, grpc_port=0)
ProcessRuntime(options).up(ServingConfig(), timeout_s=60)
print("up", flush=True)
if sys.argv[2] == "exit":
    sys.exit()
signal.pause()
"""


def starter(options: ProcessOptions, then: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(options.state_dir), then],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": "secret", "DEPLOYCTL_TOKEN": "secret"},
    )


@pytest.mark.parametrize("end", ["exit", "hangup", "kill"])
def test_the_server_survives_its_starter(runtime: ProcessRuntime, options: ProcessOptions, end: str) -> None:
    with starter(options, end) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        if end != "exit":
            # The whole group of the starter, as a terminal that closes does.
            os.killpg(process.pid, signal.SIGHUP if end == "hangup" else signal.SIGKILL)
        process.wait(TIMEOUT_S)

    assert runtime.state(timeout_s=5).condition is ServerCondition.READY
    assert runtime.down(timeout_s=5) is True


def test_a_server_whose_starter_was_killed_while_it_started_is_taken_over(
    runtime: ProcessRuntime, options: ProcessOptions
) -> None:
    with starter(options, "kill") as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := servers_of(options)):
            assert time.monotonic() < deadline
            threading.Event().wait(0.001)
        process.kill()

    runtime.up(NOTHING, timeout_s=TIMEOUT_S)

    assert servers_of(options) == found
    assert server(options).pid == found[0]


def test_the_server_gets_no_secret_of_its_starter(options: ProcessOptions) -> None:
    with starter(options, "exit") as process:
        process.wait(TIMEOUT_S)
        assert process.stdout is not None
        assert process.stdout.read() == "up\n"

    environment = Path(f"/proc/{server(options).pid}/environ").read_bytes()

    assert b"secret" not in environment
    assert b"PATH=" in environment


def test_requests_in_flight_are_answered_while_the_server_goes_down(place: Place) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.runtime.up(place.config("m", 1), timeout_s=TIMEOUT_S)
    other = place.again()
    other.up(NOTHING, timeout_s=TIMEOUT_S)
    began, answers = threading.Event(), []

    def client() -> None:
        while True:
            try:
                answers.append(answer(place.runtime, spec("m"), grpc=False))
            except Exception as error:  # noqa: BLE001  # whatever ended the loop is looked at below
                answers.append(error)
                return
            began.set()

    thread = threading.Thread(target=client)
    thread.start()
    assert began.wait(TIMEOUT_S)
    other.down(timeout_s=10)
    thread.join(TIMEOUT_S)

    *answered, last = answers
    assert set(answered) == {3.0}
    assert "nothing answers" in str(last)


def test_a_kernel_without_process_descriptors_is_enough(
    runtime: ProcessRuntime, options: ProcessOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    pid = server(options).pid
    monkeypatch.setattr(os, "pidfd_open", missing)

    assert runtime.down(timeout_s=10) is True
    assert not Path(f"/proc/{pid}").exists()


def test_the_server_runs_apart_from_its_starter(runtime: ProcessRuntime, options: ProcessOptions) -> None:
    runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    pid = server(options).pid

    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == str(options.directory)
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/2") == str(options.directory / "server.log")


def test_the_server_listens_on_loopback_alone(runtime: ProcessRuntime) -> None:
    endpoints = runtime.up(NOTHING, timeout_s=TIMEOUT_S)

    for address in (endpoints.grpc, endpoints.rest.removeprefix("http://")):
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        # 127.0.0.2 is this machine too: only a server that listens everywhere answers there.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(port)), timeout=5)


def test_following_the_log_shows_what_comes(place: Place) -> None:
    place.runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    following = place.runtime.logs(lines=1, since_s=None, follow=True)
    next(following)
    place.add_broken("m", 1)
    place.runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)

    assert next(line for line in following if "m" in line)


def test_a_log_that_has_grown_large_is_set_aside_at_the_next_start(options: ProcessOptions) -> None:
    runtime = ProcessRuntime(replace(options, log_limit_bytes=1000))
    options.directory.mkdir(parents=True)
    (options.directory / "server.log").write_text("old line\n" * 200)

    runtime.up(NOTHING, timeout_s=TIMEOUT_S)

    assert (options.directory / "server.log.1").read_text().startswith("old line")
    assert "old line" not in (options.directory / "server.log").read_text()


def test_the_file_is_written_before_the_server_is_told(place: Place, options: ProcessOptions) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.runtime.up(NOTHING, timeout_s=TIMEOUT_S)
    kill(server(options).pid)
    wanted = place.config("m", 1)

    with pytest.raises(Exception, match="nothing answers"):
        place.runtime.apply(wanted, timeout_s=5)

    assert parse((options.directory / "models.config").read_text()) == wanted


def test_a_configuration_that_the_server_refuses_is_not_kept(place: Place, options: ProcessOptions) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_TWO, "m", 2)
    served = place.config("m", 1, stable=1)
    place.runtime.up(served, timeout_s=TIMEOUT_S)

    with pytest.raises(Exception, match="not currently available"):
        place.runtime.apply(place.config("m", 1, 2, stable=2), timeout_s=TIMEOUT_S)

    assert parse((options.directory / "models.config").read_text()) == served
    assert [status.version for status in place.runtime.statuses(ModelName("m"), timeout_s=5)] == [1]
