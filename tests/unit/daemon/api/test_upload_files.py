"""Files that clients send: whole or not at all, by their SHA-256, and never outside of where they belong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.daemon.api.upload_files import SentFile, Uploads, is_within, parse_files
from deployctl.errors import LockedError, PreconditionError, UsageError

CONTENT = b"variables" * 1000


def _file(content: bytes = CONTENT, path: str = "") -> SentFile:
    return SentFile(path, hashlib.sha256(content).hexdigest(), len(content))


def _uploads(tmp_path: Path, *, max_bytes: int = 0) -> Uploads:
    return Uploads(tmp_path / "uploads", max_bytes=max_bytes)


def test_a_file_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    uploads, file = _uploads(tmp_path), _file()
    assert uploads.lacking([file]) == {file.sha256: 0}
    with uploads.receiving(file, 0) as receiver:
        receiver.take(CONTENT[:100])

    assert uploads.lacking([file]) == {file.sha256: 100}
    with _uploads(tmp_path).receiving(file, 100) as receiver:
        receiver.take(CONTENT[100:])

    assert uploads.lacking([file]) == {}
    uploads.build([SentFile("a/b", file.sha256, file.size)], tmp_path / "tree")
    assert (tmp_path / "tree" / "a" / "b").read_bytes() == CONTENT


def test_other_bytes_than_were_announced_are_forgotten(tmp_path: Path) -> None:
    uploads, file = _uploads(tmp_path), _file()

    with pytest.raises(UsageError, match="has the SHA-256"), uploads.receiving(file, 0) as receiver:
        receiver.take(b"x" * file.size)

    assert uploads.lacking([file]) == {file.sha256: 0}
    with pytest.raises(UsageError, match="was not sent whole"):
        uploads.build([file], tmp_path / "file")


def test_more_bytes_than_were_announced_are_refused_and_so_is_a_gap(tmp_path: Path) -> None:
    uploads, file = _uploads(tmp_path), _file()

    with pytest.raises(UsageError, match="more than the"), uploads.receiving(file, 0) as receiver:
        receiver.take(CONTENT + b"x")
    with pytest.raises(PreconditionError, match="are there, not 7"), uploads.receiving(file, 7):
        pass


def test_two_that_send_the_same_file_do_not_mix(tmp_path: Path) -> None:
    file = _file()

    with _uploads(tmp_path).receiving(file, 0) as receiver:
        with pytest.raises(LockedError), _uploads(tmp_path).receiving(file, 0):
            pass
        receiver.take(CONTENT)

    assert _uploads(tmp_path).holds(file)


def test_a_file_of_this_machine_spares_sending_it_only_with_the_same_bytes(tmp_path: Path) -> None:
    uploads, file = _uploads(tmp_path), _file()
    (tmp_path / "right").write_bytes(CONTENT)
    (tmp_path / "wrong").write_bytes(b"x" * file.size)

    assert not uploads.offer(file, tmp_path / "wrong")
    assert not uploads.offer(file, tmp_path / "absent")
    assert uploads.lacking([file]) == {file.sha256: 0}
    assert uploads.offer(file, tmp_path / "right")
    assert uploads.lacking([file]) == {}


def test_an_export_that_is_larger_than_the_settings_allow_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    uploads, file = _uploads(tmp_path, max_bytes=1000), _file()

    with pytest.raises(UsageError, match="1000"):
        uploads.lacking([file])
    with pytest.raises(UsageError, match="1000"), uploads.receiving(file, 0):
        pass


def test_what_nobody_uses_any_more_is_removed(tmp_path: Path) -> None:
    uploads, file = _uploads(tmp_path), _file()
    with uploads.receiving(file, 0) as receiver:
        receiver.take(CONTENT)

    uploads.discard_old()
    assert uploads.holds(file)
    uploads.discard_old(kept_s=-1.0)
    assert not uploads.holds(file)


@pytest.mark.parametrize(
    "paths",
    [["../a"], ["/a"], ["a/../b"], ["a//b"], ["a/"], ["."], ["a\nb"], ["a\0b"], ["\udcff"], ["a", "a"], ["a", "a/b"]],
)
def test_paths_that_lead_out_or_clash_are_refused(paths: list[str]) -> None:
    documents = [{"path": path, "sha256": "0" * 64, "size": 1} for path in paths]

    with pytest.raises(UsageError):
        parse_files(documents)


@given(st.text(max_size=50))
def test_a_path_that_is_accepted_stays_below_its_directory(path: str) -> None:
    if is_within(path):
        assert os.path.normpath(f"/root/{path}").startswith("/root")
        assert "\0" not in path


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)
    | st.dictionaries(st.text(), st.text())
)
def test_documents_of_any_other_form_are_refused_in_words(document: object) -> None:
    if document != []:
        with pytest.raises(UsageError):
            parse_files(document)
