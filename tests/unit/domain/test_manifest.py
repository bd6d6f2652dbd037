from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.manifest import (
    FileEntry,
    Manifest,
    Provenance,
    content_digest,
    format_time,
    from_json,
    parse_time,
    to_json,
)
from deployctl.domain.names import Digest, ModelName, VersionNumber
from deployctl.domain.saved_model import Signature, TensorSpec
from deployctl.errors import ManifestError

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
texts = st.text(max_size=20)
words = st.dictionaries(texts, texts, max_size=3)
times = st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1))  # noqa: DTZ001
entries = st.builds(FileEntry, path=st.text(min_size=1, max_size=20), size=st.integers(0, 2**62), sha256=hexes)
specs = st.builds(
    TensorSpec,
    dtype=st.sampled_from(["float32", "int64", "string"]),
    shape=st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4).map(tuple),
    tensor=texts,
)
signatures = st.builds(
    Signature,
    method=texts,
    inputs=st.dictionaries(texts, specs, max_size=2),
    outputs=st.dictionaries(texts, specs, max_size=2),
    optional_inputs=st.frozensets(texts, max_size=2),
)
provenances = st.builds(
    Provenance,
    source=texts,
    run=texts,
    code=texts,
    datasets=words,
    parents=st.lists(hexes.map(lambda each: Digest(f"sha256:{each}")), max_size=2).map(tuple),
    metrics=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    tags=words,
)
manifests = st.builds(
    Manifest,
    model=st.just(ModelName("digits")),
    version=st.integers(0, 2**63 - 1).map(VersionNumber),
    files=st.lists(entries, max_size=5, unique_by=lambda entry: entry.path).map(lambda each: tuple(sorted(each))),
    signatures=st.dictionaries(texts, signatures, max_size=2),
    frameworks=words,
    provenance=provenances,
    published_at=times,
    published_by=texts,
)


@given(manifests)
def test_a_manifest_comes_back_from_its_text(manifest: Manifest) -> None:
    assert from_json(to_json(manifest), where="it") == manifest


@given(manifests)
def test_the_text_is_ascii_and_a_parser_for_json_reads_it(manifest: Manifest) -> None:
    text = to_json(manifest)

    assert text.isascii()
    assert json.loads(text)["digest"] == manifest.digest


@given(st.lists(entries, max_size=5, unique_by=lambda entry: entry.path), st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_files(files: list[FileEntry], random: Any) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)

    assert content_digest(shuffled) == content_digest(files)


def test_the_digest_is_sha256_over_lines_of_hash_size_and_path() -> None:
    # printf '<64 zeros> 3 a\n<64 ones> 4 b\n' | sha256sum
    files = (FileEntry("b", 4, "1" * 64), FileEntry("a", 3, "0" * 64))

    assert content_digest(files) == "sha256:8a97a3de965ff88d4d9f58f14c28f5c851b1588634eb16bbfbd83c6cf53fa924"


def a_document() -> dict[str, Any]:
    manifest = Manifest(
        ModelName("digits"),
        VersionNumber(1),
        (FileEntry("saved_model.pb", 9, "a" * 64),),
        {},
        {},
        Provenance(),
        datetime(2026, 11, 21, tzinfo=UTC),
        "ada@build-1",
    )
    document: dict[str, Any] = json.loads(to_json(manifest))
    return document


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"digest": "sha256:" + "0" * 64},
        {"digest": "md5"},
        {"model": "../x"},
        {"version": "seven"},
        {"files": [{"path": "saved_model.pb"}]},
        {"published_at": "yesterday"},
        {"provenance": None},
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused_by_its_name(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match=r"half/1/manifest\.json"):
        from_json(json.dumps(a_document() | change), where="half/1/manifest.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", b"\xff\xfe", '{"schema": 1}'])
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(ManifestError, match="is not a manifest"):
        from_json(text, where="x")


def test_times_are_written_in_utc_to_the_microsecond() -> None:
    at = datetime(2026, 11, 21, 8, 10, 27, 5, tzinfo=timezone(timedelta(hours=1)))

    assert format_time(at) == "2026-11-21T07:10:27.000005Z"
    assert parse_time(format_time(at)) == at
