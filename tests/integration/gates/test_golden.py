"""The golden gate and `golden record`, with real versions in a scratch server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.domain.golden import OWN_GOLDEN_PATH, Comparison, GoldenRecord, Tolerance
from deployctl.errors import InvalidRequestError
from deployctl.gates.golden import GoldenFile, GoldenGate
from deployctl.gates.interface import Candidate, Outcome, Verdict, Version
from deployctl.gates.scratch import ScratchServer
from deployctl.operations.candidate import of_export
from deployctl.operations.golden import random_requests, record_answers
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from deployctl.scratch import scratch_server
from deployctl.serving.interface import Prediction, PredictionRequest, ServedSpec
from tests.support.models import TensorFlowModels
from tests.support.scratch import deployment
from tests.support.world import HALF

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("golden")]

READER = ProtobufSavedModelReader()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchServer]:
    made = deployment(tmp_path_factory.mktemp("golden"))
    with scratch_server(made, made.settings.targets[made.target_name(None)]) as server:
        yield server


@pytest.fixture
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that outlives the test: the server of this module goes on serving what it has loaded."""
    return tmp_path_factory.mktemp("kept")


def judge(
    scratch: ScratchServer,
    records: Sequence[GoldenRecord],
    version: Version,
    *,
    serving: Version | None = None,
    max_changed: float = 0.0,
) -> Verdict:
    gate = GoldenGate(
        scratch,
        GoldenFile("golden.jsonl", tuple(records)),
        tolerance=Tolerance(1e-5, 1e-6),
        timeout_s=60.0,
        against_live=serving is not None,
        max_changed=max_changed,
    )
    return gate.judge(Candidate(version, HALF, serving))


def recorded(scratch: ScratchServer, version: Version, *requests: GoldenRecord) -> tuple[GoldenRecord, ...]:
    assert scratch.load(version, timeout_s=60.0).error == ""

    def ask(record: GoldenRecord) -> Prediction:
        request = PredictionRequest(ServedSpec(HALF), record.signature, record.instances, record.inputs)
        return scratch.predict(version, request, grpc=True, timeout_s=30.0)

    return record_answers(requests or random_requests(version, "", 3, seed=7), version, ask)


@pytest.fixture
def one(tensorflow_models: TensorFlowModels) -> Version:
    return of_export(READER, tensorflow_models.half_plus(1))


@pytest.fixture
def two(tensorflow_models: TensorFlowModels) -> Version:
    return of_export(READER, tensorflow_models.half_plus(2))


@pytest.mark.parametrize(
    ("own", "model_s", "outcome"),
    [
        ('{"inputs": {"x": [2.0]}, "outputs": {"y": [2.0]}}', None, Outcome.PASSED),
        ('{"inputs": {"x": [2.0]}, "outputs": {"y": [9.0]}}', None, Outcome.FAILED),
        ("no record", None, Outcome.FAILED),
        ('{"inputs": {"x": [2.0]}, "outputs": {"y": [9.0]}}', ([2.0], [2.0]), Outcome.PASSED),
    ],
)
def test_what_a_version_brings_counts_where_the_model_has_no_records(
    scratch: ScratchServer,
    one: Version,
    kept: Path,
    own: str,
    model_s: tuple[list[float], list[float]] | None,
    outcome: Outcome,
) -> None:
    brought = kept / "export"
    shutil.copytree(one.path, brought)
    (brought / OWN_GOLDEN_PATH).parent.mkdir(parents=True)
    (brought / OWN_GOLDEN_PATH).write_text(f"{own}\n")
    records = model_s and (GoldenRecord(inputs={"x": model_s[0]}, outputs={"y": model_s[1]}),)
    gate = GoldenGate(scratch, GoldenFile("golden.jsonl", records), tolerance=Tolerance(1e-5, 1e-6), timeout_s=60.0)

    verdict = gate.judge(Candidate(of_export(READER, brought), HALF))

    assert verdict.outcome is outcome, verdict.summary


def test_a_version_passes_with_its_own_answers(scratch: ScratchServer, one: Version) -> None:
    records = recorded(scratch, one)
    assert [record.dtypes for record in records] == [{"y": "float32"}] * 3
    assert judge(scratch, records, one).summary == "3 records as the recorded answers"


def test_other_answers_are_refused_with_the_worst_first(scratch: ScratchServer, one: Version, two: Version) -> None:
    rows = recorded(scratch, one, GoldenRecord(instances=[2.0]), GoldenRecord(inputs=[8.0, 0.0]))
    verdict = judge(scratch, rows, two)
    assert verdict.outcome is Outcome.FAILED
    assert verdict.problems == (
        "record 1: output 'y' is 3, not 2",
        "record 2: output 'y' is 6, not 5, and 1 more differ",
    )
    assert verdict.evidence["outputs"]["y"] == {"max_abs": 1.0, "mean_abs": 1.0, "top1_agreement": None}
    assert [each["record"] for each in verdict.evidence["worst"]] == [1, 2]


def test_a_record_may_tolerate_more(scratch: ScratchServer, one: Version, two: Version) -> None:
    (record,) = recorded(scratch, one, GoldenRecord(inputs=[2.0]))
    assert judge(scratch, [replace(record, atol=1.5)], two).outcome is Outcome.PASSED
    assert judge(scratch, [replace(record, compare={"y": Comparison.ARGMAX})], two).outcome is Outcome.PASSED


def test_against_live_the_serving_versions_answers_count(scratch: ScratchServer, one: Version, two: Version) -> None:
    records = recorded(scratch, two, GoldenRecord(inputs=[2.0]))
    same = judge(scratch, records, one, serving=replace(one, name="half@1"))
    assert same.summary.startswith("1 records as the serving version's answers; y off by 0 at most")
    other = judge(scratch, records, one, serving=two)
    assert other.problems == ("record 1: output 'y' is 2, not 3",)
    assert judge(scratch, records, one, serving=two, max_changed=1.0).outcome is Outcome.PASSED


def test_how_many_records_were_compared_is_told_and_why_others_were_not(
    scratch: ScratchServer, one: Version, tensorflow_models: TensorFlowModels
) -> None:
    several = of_export(READER, tensorflow_models.path("several_signatures"))
    shift = GoldenRecord(signature="shift", inputs={"x": [[1.0, 2.0]]})
    both = recorded(scratch, one, GoldenRecord(inputs={"x": [2.0]})) + (GoldenRecord(inputs={"x": [4.0]}),)

    some = judge(scratch, both, one)
    unanswered = judge(scratch, recorded(scratch, several, shift), several, serving=replace(one, name="half@1"))
    unrecorded = judge(scratch, [GoldenRecord(inputs=[2.0])], one)

    assert (some.outcome, some.summary) == (
        Outcome.PASSED,
        "1 of 2 records as the recorded answers; 1 not compared, since no answers are recorded",
    )
    assert (unrecorded.outcome, unrecorded.summary) == (
        Outcome.INCONCLUSIVE,
        "1 records answered; 1 not compared, since no answers are recorded",
    )
    assert unanswered.outcome is Outcome.INCONCLUSIVE
    assert unanswered.summary.startswith("1 records answered; 1 not compared, since half@1 gave no answer: ")
    assert (unanswered.evidence["records"], unanswered.evidence["compared"]) == (1, 0)


def test_answers_that_vary_decide_nothing(scratch: ScratchServer, one: Version) -> None:
    records = recorded(scratch, one, GoldenRecord(inputs=[2.0]))
    assert one.saved_model is not None
    (graph,) = one.saved_model.meta_graphs
    drawing = replace(graph, graph_ops={**graph.graph_ops, "RandomUniform": 1})
    varying = replace(one, saved_model=replace(one.saved_model, meta_graphs=(drawing,)))

    verdict = judge(scratch, records, varying)

    assert (verdict.outcome, verdict.summary) == (
        Outcome.INCONCLUSIVE,
        "1 records answered; 1 not compared, since answers vary (RandomUniform)",
    )


def test_what_loading_took_is_known_where_an_earlier_verdict_is_taken_over(
    scratch: ScratchServer, one: Version, tmp_path: Path
) -> None:
    verdict = judge(scratch, recorded(scratch, one), one)
    made = deployment(tmp_path)
    with scratch_server(made, made.settings.targets[made.target_name(None)]) as unused:
        gate = GoldenGate(unused, GoldenFile("golden.jsonl", ()), tolerance=Tolerance(1e-5, 1e-6), timeout_s=60.0)
        assert unused.loaded(one) is None

        gate.take_over(Candidate(one, HALF), verdict)

        assert unused.loaded(one) == scratch.loaded(one)


def test_an_answer_that_is_no_number_is_refused_whatever_was_expected(
    scratch: ScratchServer, tensorflow_models: TensorFlowModels
) -> None:
    several = of_export(READER, tensorflow_models.path("several_signatures"))
    request = GoldenRecord(inputs=[[3e38, 3e38]])
    assert judge(scratch, [request], several).problems == ("record 1: output 'y' holds inf",)
    with pytest.raises(InvalidRequestError, match="request 1 is answered with inf in output 'y'"):
        recorded(scratch, several, request)


def test_another_type_or_a_missing_signature_is_refused(scratch: ScratchServer, one: Version) -> None:
    typed = GoldenRecord(inputs=[1.0], dtypes={"y": "float64"})
    named = GoldenRecord(signature="embed", inputs=[1.0])
    assert judge(scratch, [typed, named], one).problems == (
        "record 1: output 'y' is float32, not float64",
        "record 2: there is no signature 'embed'",
    )


def test_a_request_that_the_version_does_not_take_is_refused(scratch: ScratchServer, one: Version) -> None:
    (problem,) = judge(scratch, [GoldenRecord(inputs={"z": [1.0]})], one).problems
    assert "the signature takes x" in problem


def test_random_requests_are_the_same_for_a_seed_and_answered(
    scratch: ScratchServer, tensorflow_models: TensorFlowModels
) -> None:
    for name in ("keras_two_outputs", "segmentation", "vocabulary"):
        version = of_export(READER, tensorflow_models.path(name))
        requests = random_requests(version, "", 4, seed=1)
        assert requests == random_requests(version, "", 4, seed=1)
        assert requests != random_requests(version, "", 4, seed=2)
        records = recorded(scratch, version, *requests)
        assert judge(scratch, records, version).outcome is Outcome.PASSED


def test_without_records_nothing_is_judged(tmp_path: Path, one: Version) -> None:
    made = deployment(tmp_path)
    with scratch_server(made, made.settings.targets[made.target_name(None)]) as unused:
        assert judge(unused, [], one).summary == "there are no golden requests in golden.jsonl"
    assert not (tmp_path / ".deployctl").exists()
