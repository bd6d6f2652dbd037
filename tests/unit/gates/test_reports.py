"""The report in the forms that CI systems read."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployctl.cli.gate_reports import junit, sarif, write_report
from deployctl.documents.reports import report_document
from deployctl.domain.names import TargetName
from deployctl.errors import GateRefusedError
from deployctl.gates.interface import Outcome, Verdict
from deployctl.operations.validate import Judged, Report, check_passed

PASSED = Judged("integrity", Verdict(Outcome.PASSED, "ok"), 0.25)
FAILED = Judged("ops", Verdict(Outcome.FAILED, "2 ops", ("op <A> & B", "op C")), 0.5)
SKIPPED = Judged("warmup", Verdict(Outcome.SKIPPED, "no file"), 0.0)
UNSURE = Judged("latency", Verdict(Outcome.INCONCLUSIVE, "noise"), 3.0, reused=True)


def report(*results: Judged) -> Report:
    return Report("half@2", TargetName("local"), "half@1", results, 4.0)


EVERY = report(PASSED, FAILED, SKIPPED, UNSURE)


def test_the_first_reason_is_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    write_report(EVERY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "half@2 on local   refused by ops: op <A> & B"
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["GATE", "OUTCOME"],
        ["integrity", "passed"],
        ["ops", "failed"],
        ["warmup", "skipped"],
        ["latency", "inconclusive"],
    ]
    assert lines[6:] == ["ops: op <A> & B", "ops: op C"]


def test_no_name_that_a_model_gives_moves_the_cursor_or_begins_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    op = "Evil\x1b[2J\x1b[31mOK\nGATE passed\r\u202e\x9b"
    forged = Judged("ops\n", Verdict(Outcome.FAILED, op, (f"op {op}",)), 0.5)

    write_report(report(PASSED, forged))

    told = capsys.readouterr().out
    assert told.replace("\n", "").isprintable()
    assert len(told.splitlines()) == 5
    assert r"op Evil\x1b[2J\x1b[31mOK\nGATE passed\r\u202e\x9b" in told
    with pytest.raises(GateRefusedError) as refused:
        check_passed(report(forged), hint="deployctl show half@2")
    assert str(refused.value).isprintable()


def test_what_passed_says_what_it_was_held_against(capsys: pytest.CaptureFixture[str]) -> None:
    write_report(report(PASSED))
    assert capsys.readouterr().out.startswith("half@2 on local   passed   held against half@1\n")


def test_junit_has_a_case_for_each_gate() -> None:
    suite = ElementTree.fromstring(junit(EVERY))
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "2",
        "errors": "0",
    }
    cases = {case.get("name"): case for case in suite}
    failure = cases["ops"].find("failure")
    assert failure is not None
    assert (failure.get("message"), failure.text) == ("op <A> & B", "op <A> & B\nop C")
    assert [cases[name].find("skipped") is not None for name in cases] == [False, False, True, True]


def test_sarif_has_a_rule_for_each_gate_and_a_result_for_each_problem() -> None:
    (run,) = sarif(EVERY)["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["integrity", "ops", "warmup", "latency"]
    found = [(each["ruleId"], each["level"], each["message"]["text"]) for each in run["results"]]
    assert found == [("ops", "error", "op <A> & B"), ("ops", "error", "op C"), ("latency", "warning", "noise")]


def test_json_says_whether_it_passed_and_why_not() -> None:
    document = report_document(EVERY)
    assert (document["passed"], document["reason"]) == (False, "ops: op <A> & B")
    assert report_document(report(PASSED, SKIPPED, UNSURE))["passed"]


@pytest.mark.parametrize(
    ("subject", "uri"),
    [
        ("my dir/bad op", "my%20dir/bad%20op"),
        ("half@2", "half@2"),
        ("s3://models/a b.zip", "s3://models/a%20b.zip"),
        ("C:100%/größe#1", "C%3A100%25/gr%C3%B6%C3%9Fe%231"),
    ],
)
def test_sarif_names_the_subject_by_an_uri(subject: str, uri: str) -> None:
    (run,) = sarif(dataclasses.replace(EVERY, subject=subject))["runs"]
    (location,) = run["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == uri


@given(st.text(), st.text())
@example("\ufffe", "\uffff")
def test_junit_is_xml_whatever_a_model_calls_its_tensors(summary: str, problem: str) -> None:
    ElementTree.fromstring(junit(report(Judged("ops", Verdict(Outcome.FAILED, summary, (problem,)), 0.1))))
