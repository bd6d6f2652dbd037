from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployctl.cli.render import size, write_json, write_table


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (412_345, "412 kB"), (9_960_000, "10 MB"), (2 * 10**12, "2.0 TB")],
)
def test_sizes_are_in_powers_of_a_thousand(count: int, text: str) -> None:
    assert size(count) == text


def test_a_document_says_its_schema_first_and_holds_no_times_but_rfc_3339(capsys: pytest.CaptureFixture[str]) -> None:
    write_json("thing", {"at": datetime(2026, 11, 21, tzinfo=UTC), "path": Path("/x"), "text": "é\x1b"})

    text = capsys.readouterr().out
    assert list(json.loads(text)) == ["schema", "at", "path", "text"]
    assert json.loads(text)["schema"] == "deployctl.thing/1"
    assert json.loads(text)["at"] == "2026-11-21T00:00:00.000000Z"
    assert text.isascii()


def test_columns_are_aligned_and_never_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("A", "B"), [("long" * 40, "x"), ("y", "")])

    assert capsys.readouterr().out == f"A{' ' * 159}  B\n{'long' * 40}  x\ny\n"
