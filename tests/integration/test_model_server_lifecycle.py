"""What the embedded server serves as versions, configurations and faults come and go."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.model_server import ModelServerProcess, ModelServers, ServerEndedError, wait_until
from tests.support.models import TensorFlowModels
from tests.support.serving_client import ServingClient, model_config, model_config_list

QUICK = ("--file_system_poll_wait_seconds=1", "--load_timeout=3")


class Repository:
    """Versions m/N that answer x/2 + N, published by rename."""

    def __init__(self, root: Path, models: TensorFlowModels) -> None:
        self.root = root
        self._models = models

    def publish(self, number: int, *, model: str = "m", name: str | None = None) -> Path:
        return self.publish_model(f"half_plus_{number}", name or str(number), model=model)

    def publish_model(self, source: str, name: str, *, model: str = "m") -> Path:
        staged = self._models.copy(source, self.root / f"staging-{model}-{name.strip()}")
        return self._rename(staged, model, name)

    def publish_truncated(self, number: int) -> Path:
        """A version whose variables were cut short by an interrupted copy."""
        staged = self._models.copy(f"half_plus_{number}", self.root / f"staging-{number}")
        data = staged / "variables" / "variables.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:10])
        return self._rename(staged, "m", str(number))

    def path(self, model: str = "m") -> Path:
        return self.root / model

    def _rename(self, staged: Path, model: str, name: str) -> Path:
        self.path(model).mkdir(exist_ok=True)
        return staged.rename(self.path(model) / name)


@pytest.fixture
def repository(tmp_path: Path, tensorflow_models: TensorFlowModels) -> Repository:
    root = tmp_path / "models"
    root.mkdir()
    return Repository(root, tensorflow_models)


@pytest.fixture
def start(model_servers: ModelServers) -> Iterator[Callable[..., ServingClient]]:
    """Starts a server with these flags and returns a client of it."""
    clients: list[ServingClient] = []

    def starter(*flags: str) -> ServingClient:
        client = ServingClient(model_servers.start(*QUICK, *flags).grpc_address)
        clients.append(client)
        return client

    yield starter
    for client in clients:
        client.channel.close()


def started_with(model_servers: ModelServers, *flags: str) -> tuple[int, str]:
    """Starts a server that should fail; returns its exit status and log."""
    server = model_servers.launch(*QUICK, *flags)
    with pytest.raises(ServerEndedError):
        server.wait_ready()
    return server.wait_ended(), server.log_text()


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details()


def wait_for_state(client: ServingClient, version: int, state: str, model: str = "m") -> None:
    wait_until(lambda: client.states(model).get(version) == state, what=f"{model} {version} {state}")


def test_a_new_version_is_found_loaded_and_replaces_the_old(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")
    assert client.half_plus() == (2.0, 1)

    repository.publish(2)

    wait_for_state(client, 2, "AVAILABLE")
    assert client.half_plus() == (3.0, 2)
    wait_for_state(client, 1, "END")
    assert refusal(lambda: client.half_plus(version=1)) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(m, 1)",
    )


def test_a_broken_new_version_ends_in_error_and_the_old_serves_on(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    repository.publish_truncated(2)

    wait_for_state(client, 2, "END")
    (version, _, code, message), old = client.status("m")
    assert (version, code) == (2, grpc.StatusCode.OUT_OF_RANGE.value[0])
    assert "Read less bytes than requested" in message or "checkpoint" in message
    assert old == (1, "AVAILABLE", 0, "")
    assert client.half_plus() == (2.0, 1)


def test_a_version_with_an_unknown_op_ends_in_error(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    repository.publish_model("unknown_op", "2")

    wait_for_state(client, 2, "END")
    assert "MyCompanyMul" in client.status("m", version=2)[0][3]
    assert client.half_plus() == (2.0, 1)


def test_a_stray_file_with_a_numeric_name_is_taken_for_a_version(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    (repository.path() / "4").write_text("notes")
    (repository.path() / "5.tmp").mkdir()

    wait_for_state(client, 4, "END")
    assert "Could not find SavedModel .pb or .pbtxt" in client.status("m", version=4)[0][3]
    assert client.states("m") == {4: "END", 1: "AVAILABLE"}


def test_renaming_a_version_away_blocks_it(repository: Repository, start: Callable[..., ServingClient]) -> None:
    repository.publish(1)
    second = repository.publish(2)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")
    assert client.half_plus() == (3.0, 2)

    second.rename(repository.path() / "2.denied")

    wait_for_state(client, 1, "AVAILABLE")
    assert client.half_plus() == (2.0, 1)


def test_an_emptied_base_path_unloads_everything(repository: Repository, start: Callable[..., ServingClient]) -> None:
    version = repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    shutil.rmtree(version)

    wait_for_state(client, 1, "END")
    assert client.status("m") == [(1, "END", 0, "")]


def test_a_vanished_base_path_freezes_discovery_and_unloads_nothing(
    repository: Repository, model_servers: ModelServers, tmp_path: Path
) -> None:
    repository.publish(1)
    repository.publish(1, model="n")
    config = tmp_path / "models.config"
    config.write_text(model_config_list(model_config("m", repository.path()), model_config("n", repository.path("n"))))
    server = model_servers.start(*QUICK, f"--model_config_file={config}")

    with ServingClient(server.grpc_address) as client:
        repository.path("n").rename(repository.root / "gone")
        repository.publish(2)
        wait_until(lambda: "Could not find base path" in server.log_text())
        assert client.half_plus("m") == (2.0, 1)
        assert client.half_plus("n") == (2.0, 1)

        (repository.root / "gone").rename(repository.path("n"))
        wait_for_state(client, 2, "AVAILABLE")


def test_labels_route_and_move_only_to_available_versions(
    repository: Repository, start: Callable[..., ServingClient], tmp_path: Path
) -> None:
    repository.publish(1)
    repository.publish(2)
    config = tmp_path / "models.config"
    config.write_text(model_config_list(model_config("m", repository.path(), versions=[1])))
    client = start(f"--model_config_file={config}")

    early = refusal(lambda: client.reload(model_config("m", repository.path(), versions=[1, 2], stable=2)))
    client.reload(model_config("m", repository.path(), versions=[1, 2], stable=1))
    wait_for_state(client, 2, "AVAILABLE")
    before = client.half_plus(label="stable")
    client.reload(model_config("m", repository.path(), versions=[1, 2], stable=2, previous=1))

    assert early == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 2 of model m, which is not currently available for inference",
    )
    assert before == (2.0, 1)
    assert client.half_plus(label="stable") == (3.0, 2)
    assert client.half_plus(label="previous") == (2.0, 1)
    client.reload(model_config("m", repository.path(), versions=[1, 2]))
    assert refusal(lambda: client.half_plus(label="stable"))[1] == "Unrecognized servable version label: stable"


def test_labels_at_the_start_need_their_flag(
    repository: Repository, model_servers: ModelServers, start: Callable[..., ServingClient], tmp_path: Path
) -> None:
    repository.publish(1)
    config = tmp_path / "models.config"
    config.write_text(model_config_list(model_config("m", repository.path(), stable=1)))

    status, log = started_with(model_servers, f"--model_config_file={config}")
    client = start(f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models")

    assert status == 255
    assert (
        "Failed to start server. Error: FAILED_PRECONDITION: Request to assign label to version 1 of model m, "
        "which is not currently available for inference"
    ) in log
    assert client.half_plus(label="stable") == (2.0, 1)


def test_a_reload_replaces_everything_and_answers_for_new_models(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    repository.publish(3, model="n")
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    response = client.reload(model_config("n", repository.path("n")))

    assert response.status.error_code == 0
    assert client.half_plus("n") == (4.0, 3)
    assert refusal(lambda: client.half_plus("m"))[0] is grpc.StatusCode.NOT_FOUND
    wait_for_state(client, 1, "END")
    client.reload()
    wait_for_state(client, 3, "END", model="n")


def test_a_reload_whose_new_model_fails_says_so_and_stays_adopted(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    repository.publish_model("unknown_op", "7", model="n")
    client = start("--model_name=m", f"--model_base_path={repository.path()}")
    both = (model_config("m", repository.path()), model_config("n", repository.path("n")))

    code, details = refusal(lambda: client.reload(*both))

    assert code is grpc.StatusCode.UNKNOWN
    assert details.startswith(
        "1 model(s) did not become available: {{{name: n version: 7} due to error: NOT_FOUND: Op type not registered"
    )
    assert client.half_plus("m") == (2.0, 1)
    assert client.reload(*both).status.error_code == 0


def test_a_reload_naming_a_missing_path_gives_up_and_a_later_one_mends_it(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")
    missing = (model_config("m", repository.path()), model_config("n", repository.root / "none"))

    code, details = refusal(lambda: client.reload(*missing))
    repository.publish(2, model="n")
    client.reload(model_config("m", repository.path()), model_config("n", repository.path("n")))

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"Could not find base path {repository.root / 'none'} for servable n" in details
    assert client.half_plus("m") == (2.0, 1)
    wait_for_state(client, 2, "AVAILABLE", model="n")


@pytest.mark.parametrize(
    ("models", "details"),
    [
        (
            ['name: "m" base_path: "/a" model_platform: "tensorflow"'] * 2,
            "Illegal to list model m multiple times in config list",
        ),
        (
            ['name: "m" base_path: "a/b" model_platform: "tensorflow"'],
            "Expected model m to have an absolute path or URI; got base_path()=a/b",
        ),
        (
            ['name: "q" base_path: "/a"'],
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        (['name: "q" base_path: "/a" model_platform: "caffe"'], "Model q requests unsupported platform caffe"),
        (
            ['name: "m" base_path: "/a" model_platform: "caffe"'],
            "Illegal to change a model's platform. For model m platform was tensorflow and new platform requested "
            "is caffe",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_and_changes_nothing(
    repository: Repository, start: Callable[..., ServingClient], models: list[str], details: str
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    assert refusal(lambda: client.reload(*models)) == (grpc.StatusCode.INVALID_ARGUMENT, details)

    assert client.half_plus() == (2.0, 1)
    assert client.reload(model_config("m", repository.path())).status.error_code == 0


def test_an_empty_reload_request_is_refused(repository: Repository, start: Callable[..., ServingClient]) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")

    code, details = refusal(
        lambda: client.models.HandleReloadConfigRequest(
            client.apis.model_management_pb2.ReloadConfigRequest(), timeout=10
        )
    )

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
    )


def test_an_empty_list_serves_nothing_until_a_reload(
    start: Callable[..., ServingClient], repository: Repository, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list {}")
    repository.publish(1)
    client = start(f"--model_config_file={config}")

    client.reload(model_config("m", repository.path()))

    assert client.half_plus() == (2.0, 1)


def test_the_config_file_is_read_again_and_reverts_a_reload(
    start: Callable[..., ServingClient], repository: Repository, tmp_path: Path
) -> None:
    config = tmp_path / "models.config"
    config.write_text(model_config_list(model_config("m", repository.path(), versions=[1])))
    repository.publish(1)
    repository.publish(2)
    client = start(f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1")

    client.reload(model_config("m", repository.path(), versions=[2]))
    wait_for_state(client, 2, "AVAILABLE")
    wait_for_state(client, 1, "AVAILABLE")

    assert client.half_plus() == (2.0, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "INVALID_ARGUMENT: Both server_options.model_base_path and server_options.model_config_file are empty!"),
        (("--model_base_path=relative",), "INVALID_ARGUMENT: Expected model default to have an absolute path or URI"),
        (("--model_base_path=/a", "--batching_parameters_file=/b"), "INVALID_ARGUMENT: server_options.batching_"),
        (("--model_base_path=/none/such",), "DEADLINE_EXCEEDED: 1 servable(s) did not become available: {"),
        (("--model_config_file=/none",), "NOT_FOUND: /none; No such file"),
        (("--port=0", "--model_base_path=/a"), "INVALID_ARGUMENT: At least one of server_options.grpc_port"),
    ],
)
def test_a_start_that_fails_says_why_and_exits_255(
    model_servers: ModelServers, flags: tuple[str, ...], message: str
) -> None:
    status, log = started_with(model_servers, *flags)

    assert status == 255
    assert f"Failed to start server. Error: {message}" in log


def test_a_start_with_a_broken_model_names_it(model_servers: ModelServers, repository: Repository) -> None:
    repository.publish(1)
    repository.publish_truncated(2)

    status, log = started_with(model_servers, "--model_name=m", f"--model_base_path={repository.path()}")

    assert status == 255
    assert "Error: UNKNOWN: 1 servable(s) did not become available: {{{name: m version: 2} due to error: " in log


def test_a_config_file_that_does_not_parse_is_named(model_servers: ModelServers, tmp_path: Path) -> None:
    config = tmp_path / "bad.config"
    config.write_text("improperly formatted file")

    status, log = started_with(model_servers, f"--model_config_file={config}")

    assert status == 255
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in log
    assert f"Failed to start server. Error: INVALID_ARGUMENT: Invalid protobuf file: '{config}'" in log


def test_a_taken_port_is_named(model_servers: ModelServers, repository: Repository) -> None:
    repository.publish(1)
    flags = ("--model_name=m", f"--model_base_path={repository.path()}")
    first = model_servers.start(*flags)

    second = model_servers.launch(*flags, grpc_port=first.grpc_port)

    assert second.wait_ended() == 255
    assert f"Cannot listen for gRPC on 127.0.0.1:{first.grpc_port}" in second.log_text()


def test_an_unknown_flag_is_an_error(model_servers: ModelServers) -> None:
    server = model_servers.launch("--model_bas_path=/a")

    assert server.wait_ended() == 2
    assert "unknown argument: --model_bas_path=/a" in server.log_text()


def test_a_channel_argument_without_a_value_is_an_error_before_anything_starts(model_servers: ModelServers) -> None:
    server = model_servers.launch("--grpc_channel_arguments=foo", "--model_base_path=/none/such")

    assert server.wait_ended() == 2
    assert "'foo' is not key=value" in server.log_text()
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('client_verify: true server_key: "k" server_cert: "c"', "has client_verify without custom_ca"),
        ('server_key: "k" server_cert: "c"', "server_key and server_cert do not make a TLS server: "),
        ("", "server_key and server_cert do not make a TLS server: "),
    ],
)
def test_certificates_that_cannot_be_used_fail_the_start(
    model_servers: ModelServers, repository: Repository, tmp_path: Path, text: str, message: str
) -> None:
    repository.publish(1)
    config = tmp_path / "ssl.config"
    config.write_text(text)

    status, log = started_with(
        model_servers, f"--ssl_config_file={config}", "--model_name=m", f"--model_base_path={repository.path()}"
    )

    assert status == 255
    assert "Failed to start server. Error: INVALID_ARGUMENT: " in log
    assert message in log
    assert "Traceback" not in log


@pytest.mark.parametrize("seconds", ["inf", "1e300"])
def test_a_drain_may_take_for_ever(model_servers: ModelServers, repository: Repository, seconds: str) -> None:
    repository.publish(1)
    server = model_servers.start(
        f"--drain_timeout={seconds}", "--model_name=m", f"--model_base_path={repository.path()}"
    )

    server.terminate()

    assert server.wait_ended() == 0
    assert "Traceback" not in server.log_text()


def test_sigterm_finishes_requests_in_flight_and_exits_0(
    repository: Repository, model_servers: ModelServers, tmp_path: Path
) -> None:
    repository.publish(1)
    # Requests stay in flight while their batch waits for more.
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 100 } batch_timeout_micros { value: 1500000 }")
    server = model_servers.start(
        "--enable_batching",
        f"--batching_parameters_file={batching}",
        "--model_name=m",
        f"--model_base_path={repository.path()}",
    )

    with ServingClient(server.grpc_address) as client:
        request = client.predict_request("m", {"x": [2.0]})
        pending = [client.prediction.Predict.future(request, timeout=20) for _ in range(4)]
        # The server takes calls of one connection in turn, so that it has the four when it has answered this.
        client.status("m")
        server.terminate()
        wait_until(lambda: "draining" in server.log_text())
        answers = [call.result().outputs["y"].float_val[0] for call in pending]

    assert answers == [2.0] * 4
    assert server.wait_ended() == 0


class Load:
    """Clients in closed loops; `failures` and `answers` say what they saw."""

    def __init__(self, server: ModelServerProcess, clients: int = 4) -> None:
        self.failures: list[str] = []
        self.answers: dict[float, int] = {}
        self._server = server
        self._ending = threading.Event()
        loops = [self._grpc_loop, self._rest_loop]
        self._threads = [threading.Thread(target=loops[index % 2]) for index in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _grpc_loop(self) -> None:
        with ServingClient(self._server.grpc_address) as client:
            while not self._ending.is_set():
                try:
                    self._note(client.half_plus("m", 0.0)[0])
                except grpc.RpcError as error:
                    self.failures.append(str(error))

    def _rest_loop(self) -> None:
        url = f"{self._server.rest_url}/v1/models/m:predict"
        while not self._ending.is_set():
            try:
                with urllib.request.urlopen(url, data=b'{"instances": [0.0]}', timeout=20) as response:
                    self._note(json.load(response)["predictions"][0])
            except OSError as error:
                self.failures.append(str(error))

    def _note(self, answer: float) -> None:
        self.answers[answer] = self.answers.get(answer, 0) + 1


def test_no_request_fails_while_versions_come_and_go(repository: Repository, model_servers: ModelServers) -> None:
    for number in (1, 2, 3):
        repository.publish(number)
    server = model_servers.start(
        *QUICK, "--model_name=m", f"--model_base_path={repository.path()}", "--num_load_threads=2"
    )

    with ServingClient(server.grpc_address) as client, Load(server) as load:
        for number in (1, 2, 3, 1, 3, 2, 1):
            client.reload(model_config("m", repository.path(), versions=[number]))
            wait_until(lambda number=number: client.half_plus("m")[1] == number)  # type: ignore[misc]
        repository.publish_truncated(4)
        client.reload(model_config("m", repository.path(), versions=[1, 4]))
        wait_for_state(client, 4, "END")

    assert load.failures == []
    assert set(load.answers) == {1.0, 2.0, 3.0}


def test_a_failed_version_is_tried_again_once_it_was_let_go(
    repository: Repository, start: Callable[..., ServingClient]
) -> None:
    repository.publish(1)
    client = start("--model_name=m", f"--model_base_path={repository.path()}")
    broken = repository.publish_truncated(2)
    client.reload(model_config("m", repository.path(), versions=[1, 2]))
    wait_for_state(client, 2, "END")
    shutil.rmtree(broken)
    repository.publish(2)

    # A reload does not wait for the look at the file system that follows it, so the next may come before that.
    for _ in range(10):
        client.reload(model_config("m", repository.path(), versions=[1]))
        client.reload(model_config("m", repository.path(), versions=[1, 2]))
        with contextlib.suppress(AssertionError):
            wait_until(lambda: client.states("m")[2] != "END", timeout_s=2)
            break

    wait_for_state(client, 2, "AVAILABLE")
    assert client.half_plus() == (3.0, 2)
