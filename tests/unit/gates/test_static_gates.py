"""The gates that only look: signature, compatibility, ops."""

from __future__ import annotations

import dataclasses
import re

import pytest

from deployctl.domain.saved_model import CLASSIFY_METHOD, REGRESS_METHOD
from deployctl.errors import MalformedSavedModelError
from deployctl.gates.compatibility import CompatibilityGate
from deployctl.gates.denied_ops import DENIED
from deployctl.gates.interface import Candidate, Outcome
from deployctl.gates.ops import OpsGate, listed_versions, nearest_listed, registered_ops
from deployctl.gates.signature import SignatureGate
from tests.support.gates import DOUBLE, judged, signature, version


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (signature({"x": "float32 ?"}, {}), "no signature can be called"),
        (
            signature({"inputs": "string ?", "more": "string ?"}, {"scores": "float32 ?"}, method=CLASSIFY_METHOD),
            "serving_default is a Classify signature whose inputs are 'inputs', 'more', not 'inputs'",
        ),
        (
            signature({"inputs": "int64 ?"}, {"scores": "float32 ?"}, method=CLASSIFY_METHOD),
            "serving_default is a Classify signature whose input is int64, not string or float32",
        ),
        (
            signature({"inputs": "string ?"}, {"probabilities": "float32 ?"}, method=CLASSIFY_METHOD),
            "serving_default is a Classify signature whose outputs are 'probabilities', not 'classes' or 'scores'",
        ),
        (
            signature({"x": "string ?"}, {"outputs": "float32 ?"}, method=REGRESS_METHOD),
            "serving_default is a Regress signature whose inputs are 'x', not 'inputs'",
        ),
        (
            signature({"inputs": "string ?"}, {"y": "float32 ?"}, method=REGRESS_METHOD),
            "serving_default is a Regress signature whose outputs are 'y', not 'outputs'",
        ),
        (
            signature({"x": "float32 ?"}, {"y": "float32 ?"}, method="my/own/method"),
            "serving_default has the method 'my/own/method', which TensorFlow Serving does not know",
        ),
    ],
)
def test_a_signature_that_breaks_a_rule_is_refused(wrong: object, words: str) -> None:
    assert judged(SignatureGate(), version({"serving_default": wrong})) == f"failed: {words}"  # type: ignore[dict-item]


def test_good_signatures_of_every_method_pass() -> None:
    signatures = {
        "serving_default": DOUBLE,
        "c": signature(
            {"inputs": "string ?"}, {"classes": "string ?,?", "scores": "float32 ?,?"}, method=CLASSIFY_METHOD
        ),
        "r": signature({"inputs": "string ?"}, {"outputs": "float32 ?"}, method=REGRESS_METHOD),
    }
    assert judged(SignatureGate(required=("c", "r")), version(signatures)) == "passed: ok"


def test_a_version_that_is_not_tagged_serve_is_refused() -> None:
    assert judged(SignatureGate(), version(tags=("serve", "gpu"))) == "failed: no MetaGraph tagged 'serve'"
    assert judged(OpsGate(), version(tags=("train",))) == "failed: no MetaGraph tagged 'serve'"


def test_a_required_signature_must_be_there() -> None:
    assert judged(SignatureGate(required=("embed",)), version()) == "failed: signature 'embed' is required and absent"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "uint16", "qint8"])
def test_types_that_rest_cannot_carry_are_refused_where_clients_use_nothing_else(dtype: str) -> None:
    odd = version({"serving_default": signature({"x": f"{dtype} ?"}, {"y": "float32 ?"})})

    assert judged(SignatureGate(), odd) == "passed: ok"
    words = f'failed: input "x" of serving_default is {dtype}, which the REST API cannot carry'
    assert judged(SignatureGate(rest_only=True), odd) == words


def test_unknown_ranks_are_told_and_accepted() -> None:
    unknown = version({"serving_default": signature({"x": "float32"}, {"y": "float32 ?"})})
    assert judged(SignatureGate(), unknown) == "passed: ok, 1 tensors of unknown rank"


def test_a_version_with_the_same_interface_is_compatible() -> None:
    verdict = CompatibilityGate().judge(Candidate(version(name="half@2"), None, version()))
    assert (verdict.outcome, verdict.summary) == (Outcome.PASSED, "the same interface as half@1")


def test_a_breaking_version_is_refused_with_each_change() -> None:
    other = version({"serving_default": signature({"z": "float32 ?"}, {"y": "float32 ?"})}, name="half@2")
    verdict = CompatibilityGate().judge(Candidate(other, None, version()))
    assert (verdict.outcome, verdict.summary) == (Outcome.FAILED, "BREAKING")
    assert [problem.partition(" became")[0] for problem in verdict.problems] == [
        'input "x" of serving_default float32 (?)',
        'input "z" of serving_default absent',
    ]


def test_a_break_that_is_allowed_is_told_with_its_reason() -> None:
    other = version({"v2": DOUBLE}, name="half@2")
    gate = CompatibilityGate(allow_breaking="clients moved last week")

    verdict = gate.judge(Candidate(other, None, version()))

    assert (verdict.outcome, verdict.summary) == (Outcome.PASSED, "BREAKING, allowed: clients moved last week")
    assert verdict.evidence["allowed"] == "clients moved last week"
    assert verdict.problems
    assert gate.settings != CompatibilityGate().settings


def test_that_there_is_no_way_back_is_told_and_accepted() -> None:
    more = version({"serving_default": DOUBLE, "new": DOUBLE}, name="half@2")
    words = "passed: compatible with half@1; going back to half@1 would break its clients"
    assert judged(CompatibilityGate(), more, serving=version(), fallback=version()) == words


def test_a_contract_holds_whatever_serves() -> None:
    contract = {"serving_default": signature({"x": "float32 ?"}, {"y": "float64 ?"})}
    verdict = CompatibilityGate(contract=contract).judge(Candidate(version()))
    (problem,) = verdict.problems
    assert problem.startswith('contract: output "y" of serving_default float64 (?) became float32 (?)')


def test_outputs_and_signatures_that_no_contract_names_may_come() -> None:
    more = signature({"x": "float32 ?"}, {"y": "float32 ?", "z": "float32 ?"})
    gate = CompatibilityGate(contract={"serving_default": DOUBLE})
    verdict = gate.judge(Candidate(version({"serving_default": more, "new": DOUBLE})))
    assert verdict.outcome is Outcome.PASSED


def test_a_serving_version_that_cannot_be_read_decides_nothing() -> None:
    broken = dataclasses.replace(version(), problem=MalformedSavedModelError("half/1", "is not whole"))
    assert judged(CompatibilityGate(), version(), serving=broken).startswith("inconclusive: half@1 cannot be read")


def test_a_broken_contract_is_refused_also_where_the_serving_version_cannot_be_read() -> None:
    broken = dataclasses.replace(version(), problem=MalformedSavedModelError("half/1", "is not whole"))
    contract = {"serving_default": signature({"x": "float32 ?"}, {"y": "float64 ?"})}

    refused = CompatibilityGate(contract=contract).judge(Candidate(version(), None, broken))
    held = CompatibilityGate(contract={"serving_default": DOUBLE}).judge(Candidate(version(), None, broken))

    assert refused.outcome is Outcome.FAILED
    assert refused.problems[0].startswith('contract: output "y" of serving_default')
    assert (held.outcome, held.summary) == (Outcome.INCONCLUSIVE, "half@1 cannot be read to compare with")


@pytest.mark.parametrize("op", sorted(DENIED))
def test_a_denied_op_is_refused_also_inside_a_function(op: str) -> None:
    words = f"failed: op {op} in a function is not to be run by a served model"
    assert judged(OpsGate(), version(function_ops={op: 1, "Mul": 3})) == words


def test_every_denied_op_is_one_that_tensorflow_has() -> None:
    assert registered_ops(listed_versions()[-1]).keys() >= DENIED


# Names of what opens files or connections; each such op is denied, or known here to be harmless or needed.
OUTWARD = re.compile(
    "File|Reader|Record|CSV|Sql|LMDB|Snapshot|Summary|Event|Debug|Rpc|DataService|RegisterDataset|Save|Load|Restore"
    "|Checkpoint|Cache|PyFunc|Print|Dump|Abort|Vocab|Remap|FromGraph|Distributed"
)
ACCEPTED = re.compile(
    # Checkpoints of variables and vocabularies of tables are part of SavedModels.
    "(Save|SaveV2|SaveSlices|Restore|RestoreV2|RestoreSlice|ShardedFilename|ShardedFilespec|MergeV2Checkpoints)"
    "|InitializeTableFromTextFile(V2)?"
    # Summaries as values, which are written nowhere; BoostedTrees' are statistics.
    "|(Audio|Tensor)Summary(V2)?|(Histogram|Image|Merge|Scalar)Summary|(Experimental)?StatsAggregatorSummary"
    "|BoostedTrees.*|DebugNumericSummaryV2|DebugGradient(Ref)?Identity"
    # Readers of what was opened by an op that is denied, or of the text that they are given.
    "|Reader(Read|Reset|NumRecordsProduced|NumWorkUnitsCompleted|RestoreState|SerializeState)(UpTo)?(V2)?"
    "|IdentityReader(V2)?|DecodeCSV"
    # Memory of the process and of accelerators, and how these are set up.
    "|(Anonymous|Delete|Dummy)MemoryCache|Load(All)?TPUEmbedding.*|.*Distributed.*TPU.*"
    # What only passes a tensor on, and what graphs that were exported do not hold.
    "|Snapshot|_.*"
)


@pytest.mark.parametrize("tensorflow", listed_versions())
def test_every_op_whose_name_speaks_of_files_or_connections_is_denied_or_known_to_be_harmless(tensorflow: str) -> None:
    outward = {op for op in registered_ops(tensorflow) if OUTWARD.search(op)}

    undecided = {op for op in outward - DENIED if not ACCEPTED.fullmatch(op)}

    assert undecided == set()
    assert not {op for op in DENIED if ACCEPTED.fullmatch(op)}


@pytest.mark.parametrize(
    "op",
    [
        *("DatasetToTFRecord", "ExperimentalDatasetToTFRecord", "SaveDatasetV2", "SnapshotDatasetV2", "ImportEvent"),
        *("CreateSummaryFileWriter", "WriteScalarSummary", "DebugIdentityV3", "SqlDataset", "RpcCall", "LoadDataset"),
        *("DataServiceDatasetV4", "RegisterDatasetV2", "LMDBReader", "DatasetFromGraph", "Abort", "DumpTensor"),
    ],
)
def test_what_writes_or_reads_files_or_connects_is_denied(op: str) -> None:
    assert op in DENIED


@pytest.mark.parametrize(
    "op",
    [
        *("SaveV2", "RestoreV2", "ShardedFilename", "MergeV2Checkpoints", "Save", "RestoreSlice"),
        *("InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "HashTableV2", "ScalarSummary"),
    ],
)
def test_what_saved_models_are_made_of_is_not_denied(op: str) -> None:
    assert judged(OpsGate(), version(graph_ops={op: 1})).startswith("passed")


def test_an_op_that_tensorflow_does_not_know_is_refused_unless_it_is_allowed() -> None:
    custom = version(graph_ops={"Placeholder": 1, "MyCompanyMul": 1})
    words = "failed: op MyCompanyMul in the graph is unknown to TensorFlow 2.20"
    assert judged(OpsGate(tensorflow="2.20"), custom) == words
    assert judged(OpsGate(allowed=("MyCompanyMul",)), custom) == "passed: ok"


def test_a_target_may_deny_more_and_allow_more() -> None:
    assert judged(OpsGate(denied=("Cumsum",)), version(graph_ops={"Cumsum": 1})).startswith("failed: op Cumsum")
    assert judged(OpsGate(allowed=("PrintV2",)), version(graph_ops={"PrintV2": 1})).startswith("passed")


def test_ops_that_are_new_and_ops_whose_answers_vary_are_noted() -> None:
    after = version(graph_ops={"Placeholder": 1, "RandomUniform": 1, "VarHandleOp": 1}, name="half@2")
    verdict = OpsGate().judge(Candidate(after, None, version()))
    assert verdict.summary == "ok, answers may vary (RandomUniform), new since half@1: RandomUniform, VarHandleOp"
    assert verdict.evidence["varying"] == ["RandomUniform"]
    assert verdict.evidence["new"] == ["RandomUniform", "VarHandleOp"]


@pytest.mark.parametrize("op", ["ResourceGather", "TensorArrayReadV3", "XlaCallModule", "CheckNumerics"])
def test_ops_that_read_what_a_version_brings_do_not_vary_its_answers(op: str) -> None:
    assert judged(OpsGate(), version(graph_ops={"Placeholder": 1, op: 1})) == "passed: ok"


def test_an_op_is_known_to_the_version_that_brought_it() -> None:
    picture = version(graph_ops={"DecodeWebP": 1})
    assert judged(OpsGate(tensorflow="2.19.1"), picture) == (
        "failed: op DecodeWebP in the graph is unknown to TensorFlow 2.19"
    )
    assert judged(OpsGate(tensorflow="2.20.0"), picture) == "passed: ok"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("", "2.21"), ("2.19.1", "2.19"), ("2.20", "2.20"), ("2.99.0", "2.21"), ("2.4.1", "2.19"), ("nightly", "2.21")],
)
def test_a_version_without_a_list_is_judged_by_the_next_older_one(wanted: str, found: str) -> None:
    assert nearest_listed(wanted) == found


def test_lists_are_in_the_order_of_versions() -> None:
    assert listed_versions() == ("2.19", "2.20", "2.21")
