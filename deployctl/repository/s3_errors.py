"""What an object store and its SDK say when something fails, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
        "AuthorizationHeaderMalformed",
        "UnrecognizedClientException",
    }
)
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "KMS.AccessDeniedException", "403"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
# A body that was altered or cut short on its way to the store.
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})
# AWS says ConditionalRequestConflict, Ceph ConcurrentModification.
_LOST_RACE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "ConcurrentModification", "412", "409"})
_MEND = "deployctl doctor"
_LOOK = "deployctl config show --origin"
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchUpload"})


class LostRace(Exception):  # noqa: N818 - an answer, not a failure
    """A conditional put found that something is there, or lost to one that was under way."""


class Absent(Exception):  # noqa: N818 - an answer, not a failure
    """There is no such object, or no such upload."""


class DeadlinePassed(Exception):  # noqa: N818 - turned into StoreUnavailableError below
    """All attempts at a request together took too long."""


@contextmanager
def store_errors(action: str, where: str) -> Iterator[None]:
    """Raises our error in place of any of the SDK's raised while `action` (a verb phrase) is done at `where`.

    Raises:
        LostRace, Absent: see there.
        StorageError: anything else; the subclass says what.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise _from_answer(action, where, error.response) from error
    except DeadlinePassed as error:
        raise StoreUnavailableError(f"cannot {action} {where}: {error}", hint=_LOOK) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise from_sdk(action, where, error) from error


def _from_answer(action: str, where: str, response: dict[str, Any]) -> Exception:
    """Returns the error for an error response of the store."""
    details = response.get("Error", {})
    code, words = str(details.get("Code", "")), str(details.get("Message", "")) or "no reason given"
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"cannot {action} {where}: {code}: {words}"
    if code == "NoSuchBucket":
        bucket = where.removeprefix("s3://").partition("/")[0]
        return BucketNotFoundError(f"there is no bucket {bucket!r}", hint=f"aws s3 mb s3://{bucket}")
    if code in _LOST_RACE:
        return LostRace(said)
    if code in _ABSENT:
        return Absent(said)
    if code in _CREDENTIALS:
        return StoreCredentialsError(said, hint="aws sts get-caller-identity")
    if code in _SKEWED:
        return ClockSkewError(f"{said} (is this machine's clock right?)", hint="timedatectl status")
    if code in _DAMAGED:
        return DamagedTransferError(said, hint=_MEND)
    if code in _DENIED or status == 403:
        return StoreDeniedError(said, hint="deployctl s3 policy --role publisher")
    if code in {"SlowDown", "RequestTimeout"} or status >= 500 or status == 429:
        return StoreUnavailableError(said, hint=_LOOK)
    return StorageError(said, hint=_MEND)


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
    parts = urlsplit(str(error.kwargs.get("endpoint_url", "")))
    return f"nothing answers at {parts.scheme}://{parts.netloc}"
