"""What five articles do by hand, each with a command: converted, published, promoted and asked over the network.

The letters and numbers are those of the list that the tests are named after: A, bundling models for TensorFlow
Serving; B, TensorFlow's checkpoints and frozen graphs; C, serving models in Python; D, production with TensorFlow
Serving; E, training and serving with Keras.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployctl.client import Client
from tests.support.build_sources import WORDS
from tests.support.closed_loop import ClosedLoop
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("articles")]

GOLDEN = "assets.extra/deployctl/golden.jsonl"
IMAGE = "zeros(1,128,128,3)"


class Place:
    """A workspace whose server runs, and the directory of what is converted."""

    def __init__(self, workspace: Workspace, sources: Path) -> None:
        self.workspace, self.sources = workspace, sources
        workspace.environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{sources}"
        self.connect()

    def connect(self) -> None:
        """Looks up where the server is; it takes other ports when it is restarted."""
        endpoints = self.workspace.json("status", "local")["targets"][0]["endpoints"]
        self.rest_url: str = endpoints["rest"]
        self.rest = Client(endpoints["rest"], timeout_s=30)
        self.grpc = Client(f"grpc://{endpoints['grpc']}", timeout_s=30)

    def restart(self) -> None:
        self.close()
        self.workspace.ok("restart", "local")
        self.connect()

    def close(self) -> None:
        self.rest.close()
        self.grpc.close()

    def convert(self, *words: str) -> dict[str, Any]:
        return self.workspace.json("convert", *words)

    def served(self, model: str, *words: str) -> dict[str, Any]:
        """Converts with `--publish`, and promotes."""
        converted = self.convert(*words, "--publish", model)
        self.workspace.ok("promote", f"{model}@{converted['published']['version']}")
        return converted

    def version(self, model: str, number: int = 1) -> Path:
        return self.workspace.root / "models" / model / str(number)

    def source(self, name: str) -> str:
        return str(self.sources / name)

    def check_golden(self, model: str, number: int = 1) -> None:
        """Asks the server what the version's golden requests ask, both ways, and compares the answers."""
        for line in (self.version(model, number) / GOLDEN).read_text().splitlines():
            golden = json.loads(line)
            for client in (self.rest, self.grpc):
                answer = client.predict(model, decoded(golden["inputs"]), label="stable", signature=golden["signature"])
                for name, expected in golden["outputs"].items():
                    assert answer[name] == pytest.approx(np.array(expected), rel=1e-4, abs=1e-5), name


def decoded(inputs: dict[str, Any]) -> dict[str, Any]:
    """Golden inputs as arrays: whole numbers of JSON are int64 to NumPy, and float32 or int32 to most models."""
    kinds = {"f": np.float32, "i": np.int32}
    arrays = {name: np.array(value) for name, value in inputs.items()}
    return {name: value.astype(kinds.get(value.dtype.kind, value.dtype)) for name, value in arrays.items()}


@pytest.fixture(scope="module")
def place(served: Workspace, sources: Path) -> Iterator[Place]:
    place = Place(served, sources)
    yield place
    place.close()


@pytest.fixture(scope="module")
def planet(place: Place) -> dict[str, Any]:
    """The satellite model of E, from `.h5`, as PlanetModel/1."""
    return place.served("PlanetModel", "keras", place.source("planet.h5"))


@pytest.fixture(scope="module")
def meta_model(place: Place) -> dict[str, Any]:
    """A's meta model: 36 classifiers over one input of raw tokens."""
    names = ("contract", "seniority", "remote", "shift")
    parts = [f"c{index:02}={place.source(names[index % 4])}.keras" for index in range(36)]
    front = ("--shared-input", "tokens", "--vectors", place.source("vectors.txt"))
    return place.served("meta", "bundle", *parts, *front)


def test_a1_a_preserved_keras_model_becomes_a_signature_with_names(place: Place, planet: dict[str, Any]) -> None:
    assert planet["signatures"] == {"serving_default": {"inputs": ["input_image"], "outputs": ["ground", "weather"]}}
    place.check_golden("PlanetModel")


def test_a2_raw_tokens_are_looked_up_in_the_graph(place: Place, meta_model: dict[str, Any]) -> None:
    tokens = [["nurse", "night", "paris"], ["nobody", "", "cook"]]
    before = place.rest.predict("meta", {"tokens": tokens}, label="stable")
    place.restart()
    after = place.grpc.predict("meta", {"tokens": tokens}, label="stable")

    assert [each.name for each in (place.version("meta") / "assets").iterdir()] == ["vocabulary.txt"]
    for name in before:
        assert after[name] == pytest.approx(before[name], abs=1e-6)
    alike = place.rest.predict("meta", {"tokens": [["Nobody"], ["nothing"]]}, label="stable")["c00"]
    assert alike[0].tolist() == alike[1].tolist()


def test_a3_36_classifiers_answer_one_request(place: Place, meta_model: dict[str, Any]) -> None:
    names = [f"c{index:02}" for index in range(36)]
    assert meta_model["signatures"]["serving_default"] == {"inputs": ["tokens"], "outputs": names}
    assert meta_model["shared_bytes"] > 0
    answer = place.grpc.predict("meta", {"tokens": [list(WORDS)]}, label="stable")
    assert sorted(answer) == names
    assert [answer[name].shape for name in names[:4]] == [(1, 2), (1, 3), (1, 4), (1, 5)]


def test_a4_source_and_export_answer_alike_and_the_answers_are_kept(
    place: Place, planet: dict[str, Any], meta_model: dict[str, Any]
) -> None:
    differences = [*planet["parity"], *meta_model["parity"]]
    assert len(differences) == 2 + 36
    assert max(each["largest"] for each in differences) < 1e-5
    assert planet["golden_requests"] == meta_model["golden_requests"] == 1
    place.check_golden("meta")
    (verdict,) = place.workspace.json("validate", "meta@1", "--gate", "golden")["gates"]
    assert verdict["outcome"] == "passed", verdict


def test_a5_graph_variables_and_assets_travel_together(place: Place, meta_model: dict[str, Any]) -> None:
    assert place.workspace.json("verify", "meta@1")["intact"]
    files = {path.relative_to(place.version("meta")).as_posix() for path in place.version("meta").rglob("*.*")}
    assert {"saved_model.pb", "variables/variables.index", "assets/vocabulary.txt", GOLDEN} <= files


def test_b1_a_checkpoint_is_restored_from_meta_index_and_data(place: Place) -> None:
    place.served("restored", "checkpoint", place.source("trained.ckpt"), "--inputs", "x=x:0", "--outputs", "y=y:0")

    place.check_golden("restored")


def test_b2_a_graph_from_code_gets_a_checkpoint_s_weights(place: Place) -> None:
    builder = ("--builder", "builders_for_tests:network")
    place.served("built", "checkpoint", place.source("bare.ckpt"), *builder)

    place.check_golden("built")


def test_b3_several_models_live_in_one_process_under_names_of_their_own(place: Place) -> None:
    parts = (f"one={place.source('trained.ckpt')}", f"two={place.source('bare.ckpt')}", f"three={place.source('b.pb')}")
    more = ("--separate", "--outputs", "one/y=y:0", "--builder", "builders_for_tests:network")
    place.served("together", "bundle", *parts, *more)

    place.check_golden("together")
    row = {"x": np.full((1, 160), 0.5, np.float32)}
    answers = [place.rest.predict("together", row, label="stable", signature=name)["y"] for name in ("one", "two")]
    assert answers[0].tolist() == answers[1].tolist()


def test_b4_a_checkpoint_and_its_graph_are_inspected(place: Place, tmp_path: Path) -> None:
    checkpoint = place.source("trained.ckpt")

    variables = place.workspace.ok("inspect", checkpoint, "--variables")
    assert "weights/Adam" in variables
    assert "float32 (160,160)" in variables
    assert "160" in place.workspace.ok("inspect", checkpoint, "--values", "bias")
    assert "MatMul" in place.workspace.ok("inspect", place.source("training_and_serving"), "--ops")
    place.workspace.ok("inspect", place.source("training_and_serving"), "--pbtxt", str(tmp_path / "graph.pbtxt"))
    assert 'op: "MatMul"' in (tmp_path / "graph.pbtxt").read_text()


@pytest.fixture(scope="module")
def frozen_checkpoint(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """B5's graph, as a file."""
    file = tmp_path_factory.mktemp("frozen") / "trained.pb"
    words = ("--inputs", "x=x:0", "--outputs", "y=y:0", "--out", str(file))
    return file, place.convert("freeze", place.source("trained.ckpt"), *words)


def test_b5_freezing_takes_the_training_state_away(frozen_checkpoint: tuple[Path, dict[str, Any]]) -> None:
    file, converted = frozen_checkpoint

    assert 0.25 <= converted["result_bytes"] / converted["source_bytes"] <= 0.35
    assert converted["result_bytes"] == file.stat().st_size


def test_b6_a_keras_model_becomes_a_frozen_graph_with_named_outputs(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "planet.pb"
    place.convert("keras", place.source("planet.h5"), "--frozen", "--out", str(file))

    inspected = place.workspace.json("inspect", str(file))
    assert list(inspected["inputs"]) == ["input_image:0"]
    assert sorted(inspected["outputs"]) == ["ground:0", "weather:0"]


def test_b7_several_frozen_models_are_deployed_together(place: Place) -> None:
    place.served("pair", "frozen", place.source("a.pb"), place.source("b.pb"), "--prefix", "first,second")

    answer = place.rest.predict("pair", {"x": [3.0, 4.0]}, label="stable")
    assert {name: value.tolist() for name, value in answer.items()} == {"first": [7.0, 9.0], "second": [9.0, 16.0]}


def test_b8_predictions_go_over_the_web(place: Place, planet: dict[str, Any]) -> None:
    url = f"{place.rest_url}/v1/models/PlanetModel/labels/stable:predict"
    body = json.dumps({"instances": np.zeros((2, 128, 128, 3)).tolist()}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as response:
        rows = json.load(response)["predictions"]

    assert [sorted(row) for row in rows] == [["ground", "weather"]] * 2


def test_c1_every_meta_graph_is_published_and_the_one_for_serving_is_served(place: Place) -> None:
    place.workspace.publish("tagged", Path(place.source("training_and_serving")))
    place.workspace.ok("promote", "tagged@1")

    tags = [graph["tags"] for graph in place.workspace.json("inspect", str(place.version("tagged")))["meta_graphs"]]
    assert tags == [["train"], ["serve"]]
    answer = place.rest.predict("tagged", {"x": np.zeros((1, 160))}, label="stable")
    assert answer["y"].sum() == pytest.approx(1, abs=1e-4)


def test_c2_the_directory_is_kept_as_it_is(place: Place, planet: dict[str, Any]) -> None:
    names = sorted(path.name for path in place.version("PlanetModel").iterdir())

    assert names == ["assets.extra", "fingerprint.pb", "saved_model.pb", "variables"]
    assert (place.version("PlanetModel") / "assets.extra/deployctl/manifest.json").is_file()


def test_c3_a_model_is_loaded_by_tags_and_asked_by_tensor_name(place: Place) -> None:
    path = place.source("training_and_serving")
    asked = ("--tags", "train", "--input", "x:0=zeros(1,160)", "--fetch", "y:0")
    answer = place.workspace.json("predict", "--local", path, *asked)

    assert sum(answer["outputs"]["y:0"][0]) == pytest.approx(1, abs=1e-4)


def test_c4_a_frozen_graph_is_loaded_and_asked(place: Place, frozen_checkpoint: tuple[Path, dict[str, Any]]) -> None:
    file, _ = frozen_checkpoint
    answer = place.workspace.json("predict", "--local", str(file), "--input", "x=zeros(1,160)", "--fetch", "y")
    (row,) = answer["outputs"]["y"]
    assert sum(row) == pytest.approx(1, abs=1e-4)


def test_c5_a_keras_model_becomes_a_tflite_file_that_runs(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "planet.tflite"
    converted = place.convert("tflite", place.source("planet.h5"), "--out", str(file))

    assert max(each["largest"] for each in converted["parity"]) < 1e-5
    answer = place.workspace.json("predict", "--local", str(file), "--input", f"input_image={IMAGE}")
    assert answer["shapes"] == {"ground": [1, 13], "weather": [1, 4]}


def states(place: Place, model: str) -> dict[str, str]:
    """What the server says of each version of `model`."""
    with urllib.request.urlopen(f"{place.rest_url}/v1/models/{model}", timeout=30) as response:
        return {each["version"]: each["state"] for each in json.load(response)["model_version_status"]}


def test_d1_a_new_version_is_loaded_beside_the_old_one_and_then_served(place: Place) -> None:
    place.workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    place.workspace.ok("promote", "half@1")
    assert states(place, "half") == {"1": "AVAILABLE"}

    with ClosedLoop(place.rest_url, "/v1/models/half/labels/stable:predict").running() as client:
        place.workspace.ok("promote", "half@2")

    assert client.failures == []
    assert client.answers[3.0] > 0
    assert place.rest.predict("half", {"x": [2.0]}, label="stable")["y"].tolist() == [4.0]


def test_d2_the_old_version_is_kept_until_the_new_one_serves_or_is_let_go_before(place: Place) -> None:
    place.workspace.publish("kept", HALF_PLUS_TWO, HALF_PLUS_THREE)
    place.workspace.publish("tight", HALF_PLUS_TWO, HALF_PLUS_THREE)
    place.workspace.environment["DEPLOYCTL_TARGETS_LOCAL_RESOURCE_PRESERVING"] = "tight"
    evidence = {}
    for model in ("kept", "tight"):
        place.workspace.ok("promote", f"{model}@1")
        place.workspace.ok("promote", f"{model}@2")
        evidence[model] = place.workspace.json("history", model)["events"][0]["data"]["evidence"]

    assert states(place, "kept") == {"1": "AVAILABLE", "2": "AVAILABLE"}
    assert states(place, "tight") == {"1": "END", "2": "AVAILABLE"}
    assert "gap_s" not in evidence["kept"]
    assert 0 < evidence["tight"]["gap_s"] < 60


def test_d3_classify_regress_and_predict_are_all_called(place: Place) -> None:
    more = ("--classify", "--labels", place.source("labels.txt"))
    place.served("digits", "keras", place.source("digits.keras"), *more)
    place.served("bright", "keras", place.source("bright.keras"), "--regress")

    pixels = [0.5] * 64
    predicted = place.rest.predict("digits", {"picture": np.reshape(pixels, (1, 8, 8, 1))}, label="stable")
    classified = verb(place, "digits", "classify", pixels)["results"][0]
    brightness = place.rest.predict("bright", {"picture": np.reshape(pixels, (1, 8, 8, 1))}, label="stable")
    assert [label for label, _ in classified] == ["zero", "one", "two"]
    assert [score for _, score in classified] == pytest.approx(predicted["scores"][0], rel=1e-4)
    assert predicted["scores_label"].tolist() == [max(classified, key=lambda pair: pair[1])[0].encode()]
    assert verb(place, "bright", "regress", pixels)["results"] == pytest.approx(brightness["brightness"][0], rel=1e-4)


def verb(place: Place, model: str, name: str, pixels: list[float]) -> dict[str, Any]:
    body = json.dumps({"signature_name": name, "examples": [{"picture": pixels}]}).encode()
    request = urllib.request.Request(f"{place.rest_url}/v1/models/{model}/labels/stable:{name}", body)
    with urllib.request.urlopen(request, timeout=30) as response:
        document: dict[str, Any] = json.load(response)
    return document


def test_d4_meta_graphs_share_their_variables(place: Place) -> None:
    inspected = place.workspace.json("inspect", place.source("training_and_serving"))

    training, serving = inspected["meta_graphs"]
    assert training["tags"] == ["train"]
    assert serving["tags"] == ["serve"]
    assert len(inspected["tensors"]) == 2 * 3 + 2


def test_d5_image_height_and_width_give_a_segmentation_map(place: Place) -> None:
    samples = ("image=rand(1, 1,20,30,3) * 255", "height=24", "width=36")
    options = [word for sample in samples for word in ("--sample", sample)]
    place.served("deeplab", "frozen", place.source("deeplab.pb"), *options)

    inputs = {"image": np.zeros((1, 20, 30, 3), np.uint8), "height": 24, "width": 36}
    by_grpc, by_rest = (client.predict("deeplab", inputs, label="stable") for client in (place.grpc, place.rest))
    assert by_grpc["segmentation_map"].shape == (1, 24, 36)
    assert by_grpc["segmentation_map"].dtype == by_rest["segmentation_map"].dtype == np.int64
    assert by_grpc["segmentation_map"].tolist() == by_rest["segmentation_map"].tolist()


def test_d6_grpc_is_called_in_turn_and_at_once(place: Place, planet: dict[str, Any]) -> None:
    image = np.full((1, 128, 128, 3), 0.5, np.float32)

    async def at_once() -> list[dict[str, Any]]:
        asked = (place.grpc.predict_async("PlanetModel", {"input_image": image}, label="stable") for _ in range(8))
        return await asyncio.gather(*asked)

    one = place.grpc.predict("PlanetModel", {"input_image": image}, label="stable")
    for answer in asyncio.run(at_once()):
        assert answer["weather"] == pytest.approx(one["weather"], abs=1e-6)


def test_d7_versions_are_numbered_directories(place: Place, planet: dict[str, Any]) -> None:
    base = place.workspace.root / "models" / "PlanetModel"

    assert planet["published"]["version"] == 1
    assert (base / "1" / "saved_model.pb").is_file()


def test_e1_a_better_model_is_served_when_it_is_promoted(place: Place, planet: dict[str, Any]) -> None:
    better = place.convert("keras", place.source("planet_better.keras"), "--publish", "PlanetModel")
    image = {"input_image": np.full((1, 128, 128, 3), 0.5, np.float32)}
    first = place.grpc.predict("PlanetModel", image, label="stable")
    promoted = place.workspace.json("promote", "PlanetModel@2")
    second = place.grpc.predict("PlanetModel", image, label="stable")

    assert better["path"] is None
    assert better["published"]["version"] == promoted["version"] == 2
    assert first["weather"].tolist() != second["weather"].tolist()
    place.check_golden("PlanetModel", 2)
    lineage = place.workspace.json("show", "PlanetModel@2")["manifest"]["provenance"]
    assert lineage["source"] == place.source("planet_better.keras")
    assert lineage["parents"] == [better["sources"][0]["digest"]]


def test_e2_two_outputs_are_told_apart(place: Place, planet: dict[str, Any]) -> None:
    answer = place.rest.predict("PlanetModel", np.zeros((2, 128, 128, 3)), version=1)

    assert {name: value.shape for name, value in answer.items()} == {"ground": (2, 13), "weather": (2, 4)}
    assert answer["weather"].sum(axis=1) == pytest.approx([1, 1], abs=1e-4)


def test_e3_inputs_and_outputs_are_shown_without_tensorflow(place: Place, planet: dict[str, Any]) -> None:
    shown = place.workspace.ok("inspect", str(place.version("PlanetModel")))

    assert re.search(r"in +input_image +float32 \(\?,128,128,3\)", shown)
    assert re.search(r"out +weather +float32 \(\?,4\)", shown)


def test_e4_an_expression_is_an_input_and_never_code(place: Place, planet: dict[str, Any]) -> None:
    version = str(place.version("PlanetModel"))

    answer = place.workspace.json("predict", "--local", version, "--input", f"input_image={IMAGE}")
    assert answer["shapes"] == {"ground": [1, 13], "weather": [1, 4]}
    evil = "input_image=__import__('os').system('touch exploded')"
    place.workspace.fails(2, "predict", "--local", version, "--input", evil)
    assert not (place.workspace.root / "exploded").exists()


def test_e5_the_command_asks_the_server_as_clients_do(place: Place, planet: dict[str, Any]) -> None:
    body = place.workspace.root / "request.json"
    body.write_text(json.dumps({"instances": np.zeros((1, 128, 128, 3)).tolist()}))

    for how in ((), ("--grpc",)):
        answer = place.workspace.json("predict", "PlanetModel@1", "--file", str(body), *how)
        assert sorted(answer["predictions"][0]) == ["ground", "weather"]
