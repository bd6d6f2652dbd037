"""The commands as users run them: validate, golden record, publish --warmup, promote behind gates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deployctl.domain.golden import OWN_GOLDEN_PATH
from deployctl.domain.warmup import WARMUP_PATH
from tests.support.models import TensorFlowModels
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("gate_commands")]

GATED = """\
[targets.local]
rest_port = 0
grpc_port = 0
gates = ["integrity", "signature", "compatibility", "ops", "warmup"]
"""
GATE = """
from deployctl.gates.interface import Gate, Outcome, Verdict
class SizeGate(Gate):
    name = "size"
    def __init__(self, most): self.most = most
    def judge(self, candidate):
        size = sum(file.stat().st_size for file in candidate.version.path.rglob("*") if file.is_file())
        if size <= self.most: return Verdict(Outcome.PASSED, f"{size} bytes")
        return Verdict(Outcome.FAILED, "too large", (f"{size} bytes, and {self.most} are allowed",))
def make(options): return SizeGate(int(options.get("most", "10")))
def wrong(options): return 3
class OddGate(SizeGate):
    name = "odd"
    def judge(self, candidate): return eval(self.most, globals() | {"path": candidate.version.path})
def leave(): raise SystemExit(0)
def divide(): raise OSError("no such disk")
def odd(options): return OddGate(options["verdict"])
"""


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory, tensorflow_models: TensorFlowModels) -> Iterator[Workspace]:
    """Model `m`: @1 (x/2 + 1) serves behind gates that only look, @2 (x/2 + 2) is compatible, @3 is another model."""
    workspace = Workspace.make(tmp_path_factory.mktemp("gated"), targets=GATED)
    two = tensorflow_models.half_plus(2)
    workspace.publish("m", tensorflow_models.half_plus(1), two, HALF_PLUS_THREE)
    workspace.ok("up")
    try:
        workspace.ok("promote", "m@1")
        yield workspace
    finally:
        workspace.down()


@pytest.fixture
def bare(tmp_path: Path) -> Workspace:
    """A directory without settings."""
    return Workspace(tmp_path)


def refused(workspace: Workspace, *words: str) -> str:
    """Runs a command that a gate refuses with exit code 3, and returns what it writes."""
    done = workspace.run(*words)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    return done.stdout + done.stderr


def test_an_export_needs_no_settings(bare: Workspace) -> None:
    assert bare.ok("validate", str(HALF_PLUS_TWO)).startswith(f"{HALF_PLUS_TWO}   passed\n")
    assert list(bare.root.iterdir()) == []
    told = refused(bare, "validate", str(HALF_PLUS_THREE), "--against", str(HALF_PLUS_TWO))
    assert told.splitlines()[0].startswith(f"{HALF_PLUS_THREE}   refused by compatibility: signature classify_x_to_y")
    bare.fails(9, "validate", "missing/export", hint="ls -l missing")


def test_reports_are_written_also_where_a_gate_refuses(bare: Workspace) -> None:
    copy = shutil.copytree(HALF_PLUS_TWO, bare.root / "copy")
    (copy / "variables" / "variables.index").unlink()
    told = refused(bare, "validate", "./copy", "--junit", "gates.xml", "--sarif", "gates.sarif", "-o", "json")
    assert json.loads(told.partition("error: ")[0])["reason"].startswith("integrity: copy/variables")
    assert ElementTree.parse(bare.root / "gates.xml").getroot().get("failures") == "1"
    (run,) = json.loads((bare.root / "gates.sarif").read_text())["runs"]
    assert run["results"][0]["ruleId"] == "integrity"


def test_promote_asks_the_gates_and_records_what_they_said(gated: Workspace) -> None:
    assert "by the gate compatibility: " in gated.fails(
        3, "promote", "m@3", hint="deployctl validate m@3 --target local"
    )
    assert ask(gated.rest(), "m") == 2.0
    gated.ok("promote", "m@2")
    assert ask(gated.rest(), "m") == 3.0
    (serving, *_) = gated.json("history", "m", "-n", "1")["events"]
    assert serving["data"]["evidence"]["gates"]["compatibility"] == "passed: the same interface as m@1"
    gated.ok("rollback", "m")


def test_a_break_may_be_allowed_for_a_reason_that_is_recorded(gated: Workspace) -> None:
    allowed = gated.run("promote", "m@3", "--allow-breaking", "clients moved")
    assert allowed.returncode == 0, allowed.stderr
    assert "compatibility BREAKING, allowed: clients moved" in allowed.stderr
    (serving, *_) = gated.json("history", "m", "-n", "1")["events"]
    assert "allowed: clients moved" in serving["data"]["evidence"]["gates"]["compatibility"]
    gated.ok("rollback", "m")


def test_a_verdict_is_reused_until_it_is_asked_for_afresh(gated: Workspace) -> None:
    gated.ok("validate", "m@2")
    again = {gate["gate"]: gate["reused"] for gate in gated.json("validate", "m@2")["gates"]}
    fresh = {gate["gate"]: gate["reused"] for gate in gated.json("validate", "m@2", "--fresh")["gates"]}
    assert again == {"integrity": False, "signature": True, "compatibility": True, "ops": True, "warmup": False}
    assert not any(fresh.values())


def test_memory_that_was_measured_counts_also_when_the_version_is_not_loaded_again(
    tmp_path: Path, tensorflow_models: TensorFlowModels
) -> None:
    settings = '[targets.local]\nrest_port = 0\ngrpc_port = 0\ngates = ["integrity", "load", "resources"]\n'
    workspace = Workspace.make(
        tmp_path / "work", targets=f'{settings}[targets.local.gate.resources]\nmemory = "900MiB"\n'
    )
    try:
        workspace.publish("hungry", tensorflow_models.path("hungry"))
        workspace.ok("up")
        first = refused(workspace, "validate", "hungry@1")
        again = refused(workspace, "validate", "hungry@1")
        told = workspace.fails(3, "promote", "hungry@1")
    finally:
        workspace.down()
    assert "earlier" in again
    for each in (again, told):
        assert _needed(each) == _needed(first)


def _needed(told: str) -> str:
    """Returns what the gate `resources` says that the version needs, e.g. "850 MB of memory (measured)"."""
    return told.partition("resources: ")[2].partition(";")[0].partition(", ")[2]


def test_golden_answers_are_recorded_and_held_against(gated: Workspace) -> None:
    gated.ok("golden", "record", "m@1", "--random", "4", "--seed", "2")
    gated.ok("golden", "record", "m@1", "--random", "4", "--seed", "2", "--live", "--out", "live.jsonl")
    assert (gated.root / "golden" / "m.jsonl").read_text() == (gated.root / "live.jsonl").read_text()
    assert "4 records as the recorded answers" in gated.ok("validate", "m@1", "--gate", "golden")
    assert "golden: record 1: output 'y' is" in refused(gated, "validate", "m@2", "--gate", "load", "--gate", "golden")
    live = ("--set", "targets.local.gate.golden.max_changed=1", "validate", "m@2", "--against", "live")
    assert "y off by 1 at most, 1 on average" in gated.ok(*live, "--gate", "golden", "--gate", "latency")


def test_requests_that_are_none_or_do_not_fit_leave_what_is_recorded(gated: Workspace) -> None:
    kept = gated.root / "kept.jsonl"
    kept.write_text('{"inputs": [2.0]}\n')
    words = ("golden", "record", "m@1", "--out", "kept.jsonl", "--from")
    for lines, told in {
        "\n": "requests.jsonl holds no request",
        '{"inputs": [1.0]}\n\n{"inputs": {"z": [1.0]}}\n': "requests.jsonl:3 does not fit m@1: ",
        '{"inputs": [1.0]}\n{"signature": "embed", "inputs": [1.0]}\n': "requests.jsonl:2 does not fit m@1: m@1 has no",
    }.items():
        (gated.root / "requests.jsonl").write_text(lines)
        assert told in gated.fails(2, *words, "requests.jsonl")
    assert kept.read_text() == '{"inputs": [2.0]}\n'


def test_the_latency_gate_asks_what_the_version_brings(gated: Workspace, tensorflow_models: TensorFlowModels) -> None:
    brought = shutil.copytree(tensorflow_models.half_plus(2), gated.root / "brought")
    (brought / OWN_GOLDEN_PATH).parent.mkdir(parents=True)
    (brought / OWN_GOLDEN_PATH).write_text('{"inputs": {"x": [1.0]}}\n')
    generous = ("--set", "targets.local.gate.latency.max_ratio=1000")

    told = gated.ok(*generous, "validate", str(brought), "--against", "m@1", "--gate", "latency")

    assert "times as long as m@1" in told


def test_golden_answers_are_recorded_of_an_archive_and_versions_held_against_one(
    gated: Workspace, tensorflow_models: TensorFlowModels
) -> None:
    archive = shutil.make_archive(str(gated.root / "three"), "zip", tensorflow_models.half_plus(1))
    gated.ok("golden", "record", archive, "--random", "2", "--out", "packed.jsonl")

    held = gated.ok("validate", "m@1", "--gate", "compatibility", "--against", archive)
    same = gated.ok("validate", archive, "--gate", "golden", "--golden", "packed.jsonl", "--against", "m@1")

    assert f"the same interface as {archive}" in held
    assert "2 records as the serving version's answers" in same


def test_images_are_for_targets_in_containers(gated: Workspace) -> None:
    words = ("validate", "m@1", "--images", "one,two")
    told = gated.fails(2, *words, hint="deployctl validate m@1 --gate load")
    assert "local is served by runtime 'process'" in told
    (gated.root / "both.toml").write_text(f'{GATED}[targets.box]\nruntime = "docker"\n')
    gated.fails(
        2, "--config", "both.toml", *words, "-t", "local", hint="deployctl validate m@1 --images one,two --target box"
    )
    assert "is not IMAGE,IMAGE" in gated.fails(2, "validate", "m@1", "--images", "one,,two")


def test_golden_requests_become_the_warm_up_file_of_a_version(
    gated: Workspace, tensorflow_models: TensorFlowModels
) -> None:
    (gated.root / "requests.jsonl").write_text('{"inputs": [1.0, 2.0]}\n{"instances": [3.0]}\n')
    gated.ok("publish", str(tensorflow_models.half_plus(4)), "--model", "warm", "--warmup", "requests.jsonl")
    assert not (tensorflow_models.half_plus(4) / WARMUP_PATH).exists()
    told = gated.ok("validate", "warm@1", "--gate", "warmup", "--gate", "load")
    assert "ok, 2 records" in told
    (gated.root / "wrong.jsonl").write_text('{"inputs": {"z": [1.0]}}\n')
    words = ("publish", str(tensorflow_models.half_plus(5)), "--model", "warm", "--warmup", "wrong.jsonl")
    assert "wrong.jsonl:1 does not fit the export" in gated.fails(2, *words)
    assert gated.ok("versions", "warm", "-o", "name") == "warm@1\n"


def brought(workspace: Workspace) -> dict[str, str]:
    """Installs a package with gates, and returns the environment in which it is found."""
    packages = workspace.root / "packages"
    info = packages / "mygates-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / "mygates.py").write_text(GATE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mygates\nVersion: 1.0\n")
    entries = {"size": "mygates:make", "wrong": "mygates:wrong", "odd": "mygates:odd", "gone": "nogates:make"}
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[deployctl.gates]\n{lines}")
    return {"PYTHONPATH": f"{workspace.child_environment['PYTHONPATH']}:{packages}"}


def test_a_package_may_bring_a_gate(bare: Workspace) -> None:
    (bare.root / "deployctl.toml").write_text(f'{GATED}gate.options = ["size.most=100000"]\n')
    path = brought(bare)
    words = ("validate", str(HALF_PLUS_TWO), "--gate", "size")
    assert "size  passed" in bare.ok(*words, environment=path)
    (bare.root / "deployctl.toml").write_text(GATED)
    assert bare.run(*words, environment=path).returncode == 3
    bare.fails(2, *words[:2], "--gate", "wrong", environment=path)
    assert "there is no gate 'size', only integrity" in bare.fails(2, *words, hint="deployctl config show")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("int('abc')", "could not judge: ValueError: invalid literal for int() with base 10: 'abc'"),
        ("divide()", "could not judge: OSError: no such disk"),
        ("leave()", "could not judge: SystemExit: 0"),
        ("None", "could not judge: TypeError: it returned None, which is no verdict"),
    ],
)
def test_a_gate_of_a_package_that_cannot_judge_refuses(bare: Workspace, expression: str, words: str) -> None:
    path = brought(bare)
    (bare.root / "deployctl.toml").write_text(f'{GATED}gate.options = ["odd.verdict={expression}"]\n')

    done = bare.run("validate", str(HALF_PLUS_TWO), "--gate", "odd", environment=path)

    assert done.returncode == 3, done.stderr
    assert f"by the gate odd: {words}" in done.stderr


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("size", "the gate 'size' cannot be made with size.most=abc: ValueError: invalid literal"),
        ("odd", "the gate 'odd' cannot be made with no options: KeyError: 'verdict'"),
        (
            "gone",
            "the gate 'gone' cannot be imported from nogates:make: ModuleNotFoundError: No module named 'nogates'",
        ),
    ],
)
def test_a_gate_of_a_package_that_cannot_be_made_is_a_settings_error(bare: Workspace, gate: str, words: str) -> None:
    path = brought(bare)
    (bare.root / "deployctl.toml").write_text(f'{GATED}gate.options = ["size.most=abc"]\n')

    assert words in bare.fails(2, "validate", str(HALF_PLUS_TWO), "--gate", gate, environment=path)


def test_golden_requests_of_an_export_are_those_of_the_model_that_is_named(bare: Workspace) -> None:
    (bare.root / "golden").mkdir()
    (bare.root / "golden" / "model.jsonl").write_text('{"inputs": [2.0], "outputs": {"y": [9.0]}}\n')
    words = ("validate", str(HALF_PLUS_TWO), "--gate", "golden")

    alone = bare.ok(*words)
    named = bare.ok(*words, "--model", "half")
    other = refused(bare, *words, "--model", "model")

    assert "there are no golden requests without a model: --model NAME or --golden FILE says which" in alone
    assert "there are no golden requests in " in named
    assert "output 'y' is 3, not 9" in other


def test_what_breaks_clients_is_told_where_the_target_does_not_forbid_it(
    tmp_path: Path, tensorflow_models: TensorFlowModels
) -> None:
    workspace = Workspace.make(tmp_path / "work", targets="[targets.local]\nrest_port = 0\ngrpc_port = 0\n")
    try:
        workspace.publish("m", tensorflow_models.half_plus(1), HALF_PLUS_THREE)
        workspace.ok("up")
        workspace.ok("promote", "m@1")
        done = workspace.run("promote", "m@2")
        assert done.returncode == 0, done.stderr
        assert 'warning: the gate compatibility advises against m@2: input "x"' in done.stderr
    finally:
        workspace.down()
