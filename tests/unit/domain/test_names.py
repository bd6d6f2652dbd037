from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.names import (
    MAX_VERSION,
    is_version_name,
    parse_digest,
    parse_label_name,
    parse_model_name,
    parse_version_number,
    server_takes_for_version,
)
from deployctl.errors import InvalidNameError


@pytest.mark.parametrize("text", ["digits", "a", "7", "ResNet-50_v1.5", "x" * 128])
def test_a_model_name_is_kept_as_it_is(text: str) -> None:
    assert parse_model_name(text) == text


@pytest.mark.parametrize("text", ["", ".hidden", "-x", "_x", "a/b", "..", "a b", "é", "a\n", "x" * 129, "a@1", "a:b"])
def test_a_name_that_is_no_directory_or_url_part_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError, match="cannot name a model"):
        parse_model_name(text)


@pytest.mark.parametrize("text", ["latest", "7", "007", "٣", "", "a b"])
def test_a_label_never_reads_as_a_version(text: str) -> None:
    with pytest.raises(InvalidNameError, match="cannot name a label"):
        parse_label_name(text)


@given(st.integers(0, MAX_VERSION))
def test_every_int64_from_0_is_a_version_by_its_canonical_name(number: int) -> None:
    assert parse_version_number(str(number)) == number
    assert server_takes_for_version(str(number))


@pytest.mark.parametrize(
    "text", ["007", "+7", " 7", "7 ", "-7", "", "7.0", "1_000", "٣", str(MAX_VERSION + 1), "9" * 40]
)
def test_a_name_that_is_not_canonical_is_no_version_of_ours(text: str) -> None:
    assert not is_version_name(text)
    with pytest.raises(InvalidNameError):
        parse_version_number(text)


# Names run through absl's safe_strto64_base inside TensorFlow 2.21.
@pytest.mark.parametrize("text", ["1", "00000123", "+5", "-5", " 7", "7 ", "\t8\n", "0", "-0", "9223372036854775807"])
def test_the_server_takes_what_absl_takes(text: str) -> None:
    assert server_takes_for_version(text)


@pytest.mark.parametrize("text", ["1_tmp", "1.0", ".1", "tmp-1", "0x10", "1e3", "", "9223372036854775808", "٣", "1 2"])
def test_the_server_leaves_what_absl_refuses(text: str) -> None:
    assert not server_takes_for_version(text)


def test_a_digest_is_sha256_in_lower_case_hex() -> None:
    assert parse_digest("sha256:" + "a1" * 32) == "sha256:" + "a1" * 32
    for wrong in ("a1" * 32, "sha256:" + "A1" * 32, "sha256:" + "a1" * 31, "md5:" + "a1" * 32):
        with pytest.raises(InvalidNameError):
            parse_digest(wrong)
