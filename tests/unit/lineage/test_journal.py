from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.operation import OperationRequest, OperationState, Phase
from deployctl.errors import OperationNotFoundError, RestoredError
from deployctl.lineage.journal import FileOperationJournal
from tests.support.memory_server import ManualClock
from tests.support.models import ROOT

PROMOTE = OperationRequest("promote", "half@2", TargetName("local"), ModelName("half"), {"version": 2})
RUN = """
import sys
from pathlib import Path
from deployctl.domain.operation import OperationRequest, Phase
from deployctl.lineage.journal import FileOperationJournal
from deployctl.system import SystemClock
journal = FileOperationJournal(Path(sys.argv[1]), SystemClock(), print)
with journal.open("op-1", OperationRequest("promote", "half@2", "local", "half", {"version": 2}), "ada") as running:
    running.enter(Phase.LOAD)
    print("loading", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def journal(tmp_path: Path, warnings: list[str]) -> FileOperationJournal:
    return FileOperationJournal(tmp_path / "operations", ManualClock(), warnings.append)


def test_an_operation_tells_each_phase_before_it_begins(journal: FileOperationJournal) -> None:
    with journal.open("op-1", PROMOTE, "ada") as running:
        running.enter(Phase.LOAD)
        record = journal.operation("op-1")
        assert (record.state, record.phase) == (OperationState.RUNNING, Phase.LOAD)
        running.enter(Phase.SWITCH)
        assert journal.operation("op-1").phase is Phase.SWITCH
        running.end("serving")

    record = journal.operation("op-1")
    assert (record.state, record.exit_code, record.outcome) == (OperationState.DONE, 0, "serving")
    assert record.request == PROMOTE
    assert str(record) == "promote half@2 by ada (operation op-1)"
    assert [phase for phase, _ in record.phases] == [Phase.LOCK, Phase.LOAD, Phase.SWITCH]


def test_an_error_is_the_end_with_its_exit_code_and_words(journal: FileOperationJournal) -> None:
    with pytest.raises(RestoredError), journal.open("op-1", PROMOTE, "ada"):
        raise RestoredError("half@2 cannot be loaded; @1 was restored and verified")

    record = journal.operation("op-1")
    assert (record.state, record.exit_code) == (OperationState.FAILED, 5)
    assert record.outcome == "half@2 cannot be loaded; @1 was restored and verified"


def test_a_bug_and_ctrl_c_are_ends_too(journal: FileOperationJournal) -> None:
    with pytest.raises(ZeroDivisionError), journal.open("op-1", PROMOTE, "ada"):
        raise ZeroDivisionError("division by zero")
    with pytest.raises(KeyboardInterrupt), journal.open("op-2", PROMOTE, "ada"):
        raise KeyboardInterrupt

    assert journal.operation("op-1").outcome == "ZeroDivisionError: division by zero"
    assert journal.operation("op-2").exit_code == 130


def test_a_killed_operation_is_interrupted_in_the_phase_that_it_had_entered(tmp_path: Path) -> None:
    journal = FileOperationJournal(tmp_path, ManualClock(), print)
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "loading\n"
        assert journal.operation("op-1").state is OperationState.RUNNING
        child.send_signal(signal.SIGKILL)

    record = journal.operation("op-1")
    assert (record.state, record.phase, record.exit_code) == (OperationState.INTERRUPTED, Phase.LOAD, None)
    journal.settle("op-1", by="op-2")
    assert journal.operation("op-1").state is OperationState.SETTLED
    assert journal.operation("op-1").settled_by == "op-2"


def test_an_operation_that_is_not_known_is_not_found_wherever_its_name_leads(
    journal: FileOperationJournal, tmp_path: Path
) -> None:
    (tmp_path / "secret.json").write_text("{}")

    for name in ("op-9", "../secret", ""):
        with pytest.raises(OperationNotFoundError):
            journal.operation(name)


def test_a_file_that_does_not_read_is_no_operation(journal: FileOperationJournal, tmp_path: Path) -> None:
    with journal.open("op-1", PROMOTE, "ada"):
        pass
    (tmp_path / "operations" / "op-2.json").write_text("{")

    assert [record.id for record in journal.operations()] == ["op-1"]


def test_only_the_newest_ended_operations_are_kept(journal: FileOperationJournal) -> None:
    for number in range(110):
        with journal.open(f"op-{number:03}", PROMOTE, "ada"):
            pass

    found = journal.operations()
    assert len(found) == 100
    assert found[0].id == "op-109"


def test_what_another_process_writes_is_seen_of_operations_that_had_ended(
    journal: FileOperationJournal, tmp_path: Path
) -> None:
    with journal.open("op-1", PROMOTE, "ada"):
        assert journal.operations()[0].state is OperationState.RUNNING
    assert journal.operations()[0].state is OperationState.DONE

    FileOperationJournal(tmp_path / "operations", ManualClock(), print).settle("op-1", by="op-2")

    assert [(each.state, each.settled_by) for each in journal.operations()] == [(OperationState.SETTLED, "op-2")]


def test_a_journal_that_cannot_be_written_keeps_nothing_from_running(
    journal: FileOperationJournal, tmp_path: Path, warnings: list[str]
) -> None:
    (tmp_path / "operations").write_text("a file")

    with journal.open("op-1", PROMOTE, "ada") as running:
        running.enter(Phase.LOAD)

    assert len(warnings) == 1
    assert warnings[0].startswith("this operation is not journalled: cannot write ")
