"""What an object store and its SDK say when something fails, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from deployctl.errors import (
    BucketNotFoundError,
    ClockSkewError,
    DamagedTransferError,
    StorageError,
    StoreCredentialsError,
    StoreDeniedError,
    StoreUnavailableError,
)

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "KMS.AccessDeniedException", "403"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
# A body that was altered or cut short on its way to the store.
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})
# AWS says ConditionalRequestConflict, Ceph ConcurrentModification.
_LOST_RACE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "ConcurrentModification", "412", "409"})
# What lies in an archive has to be asked for hours before it can be read.
_ARCHIVED = frozenset({"InvalidObjectState"})
_FULL = frozenset({"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"})
_MEND = "deployctl doctor"
_LOOK = "deployctl config show --origin"
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchUpload"})


class LostRace(Exception):  # noqa: N818 - an answer, not a failure
    """A conditional put found that something is there, or lost to one that was under way."""


class Absent(Exception):  # noqa: N818 - an answer, not a failure
    """There is no such object, or no such upload."""


class DeadlinePassed(Exception):  # noqa: N818 - turned into StoreUnavailableError below
    """All attempts at a request together took too long."""


class NoListing(Exception):  # noqa: N818 - turned into StorageError below
    """What was answered to a request for a listing is none."""


@contextmanager
def store_errors(action: str, where: str, endpoint_url: str = "") -> Iterator[None]:
    """Raises our error in place of any of the SDK's raised while `action` (a verb phrase) is done at `where`.

    `endpoint_url` is that of the store, empty for AWS's own.

    Raises:
        LostRace, Absent: see there.
        StorageError: anything else; the subclass says what.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise _from_answer(action, where, endpoint_url, error.response) from error
    except DeadlinePassed as error:
        raise StoreUnavailableError(f"cannot {action} {where}: {error}", hint=_LOOK) from error
    except NoListing as error:
        raise StorageError(f"cannot {action} {where}: {error}", hint=_LOOK) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise from_sdk(action, where, error) from error


def _from_answer(action: str, where: str, endpoint_url: str, response: dict[str, Any]) -> Exception:
    """Returns the error for an error response of the store."""
    details, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code, status = str(details.get("Code", "")), int(metadata.get("HTTPStatusCode", 0))
    said = f"cannot {action} {where}: {_words(code, str(details.get('Message', '')), status)}"
    bucket, _, key = where.removeprefix("s3://").partition("/")
    if code == "NoSuchBucket":
        hint = f"aws s3 mb s3://{bucket}{endpoint_option(endpoint_url)}"
        return BucketNotFoundError(f"there is no bucket {bucket!r}", hint=hint)
    if code in _LOST_RACE:
        return LostRace(said)
    if code in _ABSENT:
        return Absent(said)
    if code == "AuthorizationHeaderMalformed":
        return StoreCredentialsError(said, hint=_with_setting("region", details.get("Region")))
    if code in _CREDENTIALS:
        return StoreCredentialsError(said, hint="aws sts get-caller-identity")
    if code in _SKEWED:
        return ClockSkewError(f"{said} (is this machine's clock right?)", hint="timedatectl status")
    if code in _DAMAGED:
        return DamagedTransferError(said, hint=_MEND)
    if code in _ARCHIVED:
        return StorageError(said, hint=_restore(bucket, key, endpoint_url))
    if code in _FULL:
        return StorageError(said, hint="deployctl gc --dry-run")
    if code in _DENIED or status == 403:
        role = "server" if action in {"read", "list"} else "publisher"
        return StoreDeniedError(said, hint=f"deployctl s3 policy --role {role}")
    if code in {"SlowDown", "RequestTimeout"} or status >= 500 or status == 429:
        return StoreUnavailableError(said, hint=_LOOK)
    if 300 <= status < 400 and (to := told_url(str(metadata.get("HTTPHeaders", {}).get("location", "")))):
        return StorageError(
            f"cannot {action} {where}: the store redirects to {to}", hint=_with_setting("endpoint_url", to)
        )
    return StorageError(said, hint=_MEND)


def told_url(url: str) -> str:
    """Returns the scheme, host and port of a URL, "" where it has no host: nothing that may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}" if host else ""


def endpoint_option(endpoint_url: str) -> str:
    """Returns the option that has `aws` ask the same store, with the blank before it; "" for AWS's own."""
    told = told_url(endpoint_url)
    return f" --endpoint-url {told}" if told else ""


def _words(code: str, message: str, status: int) -> str:
    if not code and not message:
        return f"the store answered {status} and gave no reason"
    return f"{code or status}: {message or 'no reason given'}"


def _with_setting(name: str, value: object) -> str:
    return f"deployctl --set repository.s3.{name}={quote(str(value))} versions" if value else _LOOK


def _restore(bucket: str, key: str, endpoint_url: str) -> str:
    return (
        f"aws s3api restore-object --bucket {bucket} --key {quote(key)} --restore-request Days=7"
        f"{endpoint_option(endpoint_url)}"
    )


def from_sdk(action: str, where: str, error: Exception) -> StorageError:
    """Returns the error for what the SDK raised before or instead of an answer."""
    from botocore import exceptions as sdk
    from urllib3.exceptions import HTTPError, ProtocolError

    words = _unreachable(error) or str(error).replace("\n", " ")
    said = f"cannot {action} {where}: {words}"
    credentials = (
        sdk.NoCredentialsError,
        sdk.PartialCredentialsError,
        sdk.CredentialRetrievalError,
        sdk.TokenRetrievalError,
        sdk.SSOError,
        sdk.RefreshWithMFAUnsupportedError,
        sdk.ProfileNotFound,
        sdk.NoAuthTokenError,
        sdk.LoginError,
    )
    if isinstance(error, credentials):
        return StoreCredentialsError(said, hint="aws configure list")
    if isinstance(
        error, sdk.IncompleteReadError | sdk.FlexibleChecksumError | sdk.ResponseStreamingError | ProtocolError
    ):
        return DamagedTransferError(said, hint=_MEND)
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError | HTTPError | OSError):
        return StoreUnavailableError(said, hint=_LOOK)
    return StorageError(said, hint=_MEND)


def _unreachable(error: Exception) -> str:
    """Returns what to say where nothing answers, "" for other errors: the SDK's words repeat the whole request."""
    from botocore import exceptions as sdk

    if not isinstance(error, sdk.EndpointConnectionError | sdk.ConnectTimeoutError | sdk.ReadTimeoutError):
        return ""
    return f"nothing answers at {told_url(str(error.kwargs.get('endpoint_url', '')))}"
