from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployctl.repository.s3 import S3ModelRepository
from tests.support.s3 import Bucket
from tests.support.store_proxy import Proxy, running_proxy


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Proxy]:
    """Stands in front of the store; breaks nothing before it is told to."""
    with running_proxy(bucket.endpoint) as proxy:
        yield proxy


@pytest.fixture
def behind(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> S3ModelRepository:
    """A repository that is reached through the proxy, and is given up on soon."""
    return bucket.repository(
        tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path", attempts=2, answer_timeout_s=0.5
    )
