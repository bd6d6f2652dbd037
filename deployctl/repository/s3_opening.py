"""From settings to a repository in an object store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployctl.errors import SettingsError
from deployctl.repository.cache import CacheOptions, VersionCache
from deployctl.repository.s3 import S3ModelRepository
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_session import S3Options, is_endpoint, no_endpoint, parse_url

if TYPE_CHECKING:
    from deployctl.repository.opening import Opening

_LOOK = "deployctl config show --origin"


def open_s3(opening: Opening) -> S3ModelRepository:
    """Returns the repository at `s3://BUCKET/PREFIX`; nothing is asked of the store before it is used.

    Raises:
        SettingsError: the URL or a setting cannot be right.
    """
    store = open_store(opening)
    options = store.options
    cache = CacheOptions(opening.directory, max_bytes=opening.cache_bytes, workers=options.connections)
    return S3ModelRepository(
        store, VersionCache(cache, opening.clock, opening.held), opening.clock, grace_s=opening.grace_s
    )


def open_store(opening: Opening) -> S3Store:
    """Returns what is at `s3://BUCKET/PREFIX`, whatever it is.

    Raises:
        SettingsError: as above.
    """
    return S3Store(s3_options(opening))


def s3_options(opening: Opening) -> S3Options:
    """Returns how the store is reached.

    Raises:
        SettingsError: as above.
    """
    bucket, prefix = parse_url(opening.location)
    options = S3Options(bucket=bucket, prefix=prefix, **opening.options)
    wrong = [tag for tag in options.tags if "=" not in tag or tag.startswith("=")]
    if wrong:
        raise SettingsError(f"repository.s3.tags: {wrong[0]!r} is not KEY=VALUE", hint=_LOOK)
    if options.endpoint_url and not is_endpoint(options.endpoint_url):
        raise no_endpoint(options.endpoint_url, "repository.s3.endpoint_url")
    if options.kms_key_id and options.sse != "aws:kms":
        raise SettingsError('repository.s3.kms_key_id needs repository.s3.sse = "aws:kms"')
    if options.connections < 1:
        raise SettingsError(f"repository.s3.connections = {options.connections} is not at least 1")
    return options
