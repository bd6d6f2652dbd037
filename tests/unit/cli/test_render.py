from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployctl.cli.render import size, table_lines, write_json, write_table


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


STATUS = (
    ("TARGET", "MODEL", "STABLE", "CANARY", "SINCE", "BY", "STANDBY", "ROLLBACK", "STATE"),
    ("local", "half", "@2", "-", "5.5 s", "ada@build-machine-1", "@1", "hot to @1, about 0.09 s", "interrupted"),
)
OPERATIONS = (
    ("OPERATION", "BY", "TARGET", "WHAT", "STATE", "PHASE", "AGE", "OUTCOME"),
    (
        "op-20261121-8f3a",
        "ada@dev",
        "-",
        f"publish {'/exports' * 30} --model half",
        "done",
        "record",
        "3 s",
        "published",
    ),
)


def test_numbers_that_json_cannot_say_are_texts(capsys: pytest.CaptureFixture[str]) -> None:
    write_json("thing", {"outputs": [[float("nan"), 1.0], {"y": float("-inf")}]})

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refused)["outputs"] == [["nan", 1.0], {"y": "-inf"}]


@pytest.mark.parametrize("room", [120, 80, 60])
@pytest.mark.parametrize("table", [STATUS, OPERATIONS], ids=["status", "operations"])
def test_a_narrow_terminal_shows_every_column_and_the_state_whole(
    room: int, table: tuple[tuple[str, ...], ...]
) -> None:
    header, row = table_lines(table[0], table[1:], whole=("OPERATION", "STATE"), room=room)

    assert max(len(header), len(row)) <= room
    assert len(header.split()) == len(table[0])
    for name, cell in zip(*table, strict=True):
        if name in ("OPERATION", "STATE"):
            assert name in header
            assert cell in row


def test_the_widest_column_is_cut_and_no_other() -> None:
    header, row = ("A", "B", "C"), ("12345", "1234", "12")

    assert table_lines(header, [row], whole=(), room=15) == ["A      B     C", "12345  1234  12"]
    assert table_lines(header, [row], whole=(), room=14) == ["A     B     C", "123…  1234  12"]
    assert table_lines(header, [row], whole=("A",), room=14) == ["A      B    C", "12345  12…  12"]


def test_a_style_takes_no_room_and_ends_where_its_cell_does() -> None:
    cell = "\x1b[32mhealthy\x1b[0m"

    assert table_lines(("STATE", "X"), [(cell, "1")], whole=(), room=None) == ["STATE    X", f"{cell}  1"]
    assert table_lines(("STATE", "X"), [(cell, "1")], whole=(), room=8)[1] == "\x1b[32mheal…\x1b[0m  1"
