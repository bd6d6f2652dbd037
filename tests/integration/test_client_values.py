"""What the client sends arrives as it was given, or is refused; what comes has the types of what is served now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployctl.client import BadRequestError, Client, PredictionError
from tests.support.graphs import Node, write_model, write_zoo
from tests.support.model_server import ModelServerProcess, ModelServers
from tests.support.serving import TIMEOUT_S

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    directory = tmp_path_factory.mktemp("zoo")
    write_zoo(directory / "zoo" / "1")
    servers = ModelServers(directory)
    yield servers.start("--model_name=zoo", f"--model_base_path={directory / 'zoo'}")
    servers.stop_all()


def url(server: ModelServerProcess, scheme: str) -> str:
    return server.rest_url if scheme == "rest" else f"grpc://{server.grpc_address}"


@pytest.fixture(params=["rest", "grpc"])
def client(request: pytest.FixtureRequest, zoo: ModelServerProcess) -> Iterator[Client]:
    with Client(url(zoo, request.param), timeout_s=30) as client:
        yield client


@pytest.fixture
def by_grpc(zoo: ModelServerProcess) -> Iterator[Client]:
    with Client(url(zoo, "grpc"), timeout_s=30) as client:
        yield client


@pytest.mark.parametrize(
    ("strings", "lengths"),
    [
        ([b"a\x00"], [2]),
        ({"x": [b"a\x00", "b\x00"]}, [2, 2]),
        (b"a\x00\x00", 3),
        (["ä", b"\xff"], [2, 1]),
        (np.array([b"a\x00\x00"], object), [3]),
        ({"x": np.array(["a", "bc"])}, [1, 2]),
    ],
)
def test_bytes_arrive_whole(client: Client, strings: Any, lengths: Any) -> None:
    assert client.predict("zoo", strings)["len"].tolist() == lengths


@pytest.mark.parametrize(
    ("strings", "words"),
    [
        (["\ud800"], "UTF-8"),
        ([None], "neither str nor bytes|string"),
        ([["a"], ["b", "c"]], "ragged|differ"),
        (["a", 1], "neither str nor bytes"),
    ],
)
def test_what_is_no_string_is_refused(client: Client, strings: Any, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        client.predict("zoo", strings)
    with pytest.raises(BadRequestError, match=words):
        client.predict("zoo", {"x": strings})


@pytest.mark.parametrize(
    ("signature", "value", "offender"),
    [
        ("int32", [0, 2**40], "1099511627776"),
        ("int32", [1.7], "1.7"),
        ("uint8", [1, 300], "300"),
        ("uint8", [-1, 300], "-1"),
        ("float32", [None], "None"),
        ("float32", [1e300], "1e\\+300"),
        ("int64", [float("nan")], "nan"),
        ("int64", [2**63, -1], "9223372036854775808"),
        ("int64", [[1], [1, 2]], "differ|inhomogeneous"),
        ("int32", np.array([1.5], np.float16), "1.5"),
        ("int32", ["a"], "'a'"),
        ("uint64", [True], "True"),
        ("bool", [0.5], "0.5"),
    ],
)
def test_a_number_that_the_input_cannot_hold_is_refused(
    by_grpc: Client, signature: str, value: Any, offender: str
) -> None:
    with pytest.raises(BadRequestError, match=offender):
        by_grpc.predict("zoo", value, signature=signature)


def test_an_integer_too_large_for_a_named_input_is_refused(by_grpc: Client) -> None:
    with pytest.raises(BadRequestError, match="1099511627776"):
        by_grpc.predict("zoo", {"x": [2**40]}, signature="int32")


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("uint64", [2**64 - 1, 1]),
        ("int64", [2**53 + 1, 0]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("int32", [1.0, 2.0]),
        ("float32", [1, 2.5]),
        ("float64", []),
        ("uint8", [[0, 255]]),
        ("bool", [True, False]),
    ],
)
def test_numbers_come_back_as_they_were_sent(client: Client, signature: str, value: list[Any]) -> None:
    if signature == "int32":
        value = [int(item) for item in value]
    answer = client.predict("zoo", value, signature=signature)["y"]

    assert answer.dtype.name == signature
    assert answer.tolist() == value


def test_whole_numbers_beside_fractions_of_zero_stay_exact(by_grpc: Client) -> None:
    assert by_grpc.predict("zoo", [2**53 + 1, 0.0], signature="int64")["y"].tolist() == [2**53 + 1, 0]


@pytest.mark.parametrize("version", [1 << 70, -(1 << 70)])
def test_a_version_of_more_than_64_bits_is_refused(client: Client, version: int) -> None:
    with pytest.raises(BadRequestError, match="64 bits"):
        client.predict("zoo", ["a"], version=version)


@pytest.mark.parametrize("names", [{"model": "\ud800"}, {"label": "\ud800"}, {"signature": "\ud800"}])
def test_a_name_that_is_no_text_is_refused(client: Client, names: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match="UTF-8"):
        client.predict(**{"model": "zoo", "inputs": ["a"], **names})


def test_a_closed_client_asks_nothing(client: Client) -> None:
    client.predict("zoo", ["a"])
    client.close()

    with pytest.raises(PredictionError, match="closed"):
        client.predict("zoo", ["a"])


def replaced(
    model_servers: ModelServers, directory: Path, scheme: str, before: Node, after: Node, value: Any
) -> dict[str, Any]:
    """What a client that has asked version 1 gets once version 2 has taken its place."""
    write_model(directory / "m" / "1", {"serving_default": before})
    server = model_servers.start(
        "--model_name=m", f"--model_base_path={directory / 'm'}", "--file_system_poll_wait_seconds=1"
    )
    with Client(url(server, scheme), timeout_s=TIMEOUT_S) as kept:
        kept.predict("m", value)
        write_model(directory / "new", {"serving_default": after}).rename(directory / "m" / "2")
        with Client(url(server, scheme), timeout_s=TIMEOUT_S) as other:
            deadline = time.monotonic() + TIMEOUT_S
            while not _serves_only_2(other, value):
                assert time.monotonic() < deadline
        return kept.predict("m", value)


def _serves_only_2(client: Client, value: Any) -> bool:
    try:
        client.predict("m", {"x": value}, version=1)
    except BadRequestError:
        pass
    except PredictionError as error:
        return "1" in str(error)
    return False


def test_outputs_have_the_types_of_the_version_that_took_over(model_servers: ModelServers, tmp_path: Path) -> None:
    before, after = Node("float32", "int32"), Node("float32", "float32", "Identity")

    answer = replaced(model_servers, tmp_path, "rest", before, after, [0.75])["y"]

    assert answer.dtype == np.float32
    assert answer.tolist() == [0.75]


@pytest.mark.parametrize(
    "after", [Node("float32", "int32", x="renamed"), Node("int32", "int32", "Identity"), Node("float64", "int32")]
)
def test_an_unnamed_input_goes_to_the_version_that_took_over(
    model_servers: ModelServers, tmp_path: Path, after: Node
) -> None:
    answer = replaced(model_servers, tmp_path, "grpc", Node("float32", "int32"), after, [3.0])["y"]

    assert answer.tolist() == [3]
