"""What a conversion is asked for goes to the child and arrives as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from deployctl.cli.conversion_options import images, named_paths, own, renames, stem
from deployctl.convert.request import ConversionRequest, Result, SourceRequest
from deployctl.convert.run import digest_of
from deployctl.domain.manifest import FileEntry, content_digest
from deployctl.errors import UsageError

NAMES = some.dictionaries(some.text(min_size=1), some.text(min_size=1), max_size=3)
SOURCES = some.builds(
    SourceRequest,
    name=some.text(),
    path=some.text(),
    kind=some.just("keras"),
    inputs=NAMES,
    outputs=NAMES,
    tags=some.tuples(some.text()),
    signature=some.none() | some.text(),
)


@given(
    some.builds(
        ConversionRequest,
        sources=some.tuples(SOURCES),
        work=some.text(),
        result=some.sampled_from(Result),
        meta_graphs=some.lists(some.lists(some.text()).map(tuple)).map(tuple),
        merge=some.dictionaries(some.text(), some.tuples(some.text(), some.text())),
        drop=some.tuples(some.text()),
        custom=some.tuples(some.text()),
        sample=NAMES,
        scale=some.floats(allow_nan=False),
    )
)
def test_a_request_survives_the_way_to_the_child(request: ConversionRequest) -> None:
    assert ConversionRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/planet.h5", "planet"),
        ("a/trained.ckpt.index", "trained"),
        ("models/half/7", "half"),
        ("my model (2).keras", "my_model__2_"),
        ("plain", "plain"),
    ],
)
def test_a_source_is_named_by_its_file(path: str, name: str) -> None:
    assert stem(Path(path)) == name


def test_models_are_named_or_name_themselves() -> None:
    found = named_paths(["a.keras", "b=x/a.keras"])

    assert found == {"a": Path("a.keras"), "b": Path("x/a.keras")}


def test_tensors_are_for_all_sources_or_for_one() -> None:
    tensors = renames("--outputs", ["y=y:0,one/z=z:1", "two/z=z:2"])

    assert own("one", tensors) == {"y": "y:0", "z": "z:1"}
    assert own("two", tensors) == {"y": "y:0", "z": "z:2"}
    assert own("three", tensors) == {"y": "y:0"}


@pytest.mark.parametrize("word", ["y", "=y:0", "y=", "y=a,y=b"])
def test_a_word_that_renames_nothing_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--outputs"):
        renames("--outputs", [word])


def test_the_size_of_images_may_be_left_out() -> None:
    assert images(["a", "b=8x16"]) == {"a": "", "b": "8x16"}


def test_a_directory_s_digest_is_that_of_its_version(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(b"")
    (tmp_path / "saved_model.pb").write_bytes(b"abc")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    entries = (FileEntry("saved_model.pb", 3, abc), FileEntry("variables/variables.index", 0, empty))

    assert digest_of(tmp_path) == content_digest(entries)
    assert digest_of(tmp_path / "saved_model.pb") == f"sha256:{abc}"
