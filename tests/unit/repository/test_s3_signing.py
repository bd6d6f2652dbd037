"""Signatures are those of AWS's SDK."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployctl.repository.s3_signing import EMPTY_SHA256, Signer

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)
VALUES = st.text("abcXYZ0189-_=/+ ", max_size=30)
NAMES = st.sampled_from(["range", "x-amz-meta-sha256", "x-amz-checksum-sha256", "x-amz-request-payer", "x-amz-tagging"])


def credentials(*, secret: str = "secret", token: str | None = None) -> Any:
    frozen = SimpleNamespace(access_key="AKIDEXAMPLE", secret_key=secret, token=token)
    return SimpleNamespace(get_frozen_credentials=lambda: frozen)


def signed_by_the_sdk(
    method: str, url: str, headers: dict[str, str], body: bytes, given: Any, at: float, monkeypatch: pytest.MonkeyPatch
) -> str:
    from botocore import auth
    from botocore.awsrequest import AWSRequest

    monkeypatch.setattr(auth, "get_current_datetime", lambda: datetime.fromtimestamp(at, UTC).replace(tzinfo=None))
    request = AWSRequest(method, url, dict(headers), body)
    auth.S3SigV4Auth(given.get_frozen_credentials(), "s3", "eu-central-1").add_auth(request)
    return str(request.headers["Authorization"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    key=KEYS,
    prefix=KEYS,
    headers=st.dictionaries(NAMES, VALUES),
    body=st.binary(max_size=20),
    token=st.none() | st.just("a token"),
    at=st.integers(0, 4_000_000_000).map(float),
)
def test_objects_are_signed_as_by_the_sdk(
    key: str, prefix: str, headers: dict[str, str], body: bytes, token: str | None, at: float
) -> None:
    given, path = credentials(token=token), "/bucket/" + quote(key, safe="/~")
    signer = Signer(given, "eu-central-1", "store.example:9000")
    query = urlencode(sorted({"list-type": "2", "prefix": prefix}.items()), quote_via=quote, safe="~")
    with pytest.MonkeyPatch.context() as patched:
        for method, sent, words in (("PUT", body, ""), ("GET", b"", query)):
            url = f"http://store.example:9000{path}" + (f"?{words}" if words else "")
            expected = signed_by_the_sdk(method, url, headers, sent, given, at, patched)
            ours = signer.signed(method, path, words, headers, hashlib.sha256(sent).hexdigest(), at=at)
            assert ours["authorization"] == expected
            assert ours.get("x-amz-security-token") == token


def test_a_key_is_of_its_day_and_of_its_secret() -> None:
    first, given = Signer(credentials(), "eu-central-1", "x"), credentials(secret="another")

    def signature(signer: Signer, at: float) -> str:
        return signer.signed("GET", "/", "", {}, EMPTY_SHA256, at=at)["authorization"]

    early, late = signature(first, 0.0), signature(first, 100_000.0)
    assert early != late
    assert signature(first, 0.0) == early
    first._credentials = given
    assert signature(first, 0.0) == signature(Signer(given, "eu-central-1", "x"), 0.0) != early
