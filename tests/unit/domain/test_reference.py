from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.reference import ByLabel, ByNumber, DigestPrefix, Latest, Reference, parse_reference
from deployctl.errors import InvalidNameError, InvalidReferenceError, UsageError


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("resnet@7", ByNumber(VersionNumber(7))),
        ("resnet@0", ByNumber(VersionNumber(0))),
        ("resnet@latest", Latest()),
        ("resnet@stable", ByLabel(LabelName("stable"))),
        ("resnet@sha256:ab12", DigestPrefix("sha256:ab12")),
        ("resnet@sha256:" + "0" * 64, DigestPrefix("sha256:" + "0" * 64)),
    ],
)
def test_reads_each_form_and_writes_it_back(text: str, selector: object) -> None:
    reference = parse_reference(text)

    assert reference == Reference(ModelName("resnet"), selector)  # type: ignore[arg-type]
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "resnet",
        "resnet@",
        "resnet@007",
        "resnet@-1",
        "resnet@1@2",
        "resnet@sha256:ab1",
        "resnet@sha256:XY12",
        "resnet@a b",
    ],
)
def test_what_names_no_version_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as raised:
        parse_reference(text)

    assert repr(text) in str(raised.value)


@pytest.mark.parametrize("text", ["@1", "a/b@1", "@"])
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        parse_reference(text)


def test_without_at_the_default_is_meant() -> None:
    assert parse_reference("resnet", default=Latest()) == Reference(ModelName("resnet"), Latest())


@given(st.text(max_size=40))
def test_any_text_is_a_reference_that_writes_itself_back_or_a_usage_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(reference)) == reference
