"""The error tree: what went wrong, the process exit code, and the command that helps.

    DeployctlError                      exit 1: failed, nothing changed
    ├── UsageError                      exit 2
    │   ├── InvalidNameError
    │   ├── InvalidReferenceError
    │   ├── SettingsError
    │   └── InvalidRequestError
    ├── InvalidModelError               exit 1: the export cannot be published
    │   ├── NotASavedModelError
    │   ├── MalformedSavedModelError
    │   ├── VariablesMissingError
    │   ├── VariablesTruncatedError
    │   ├── AssetMissingError
    │   ├── NoServeMetaGraphError
    │   ├── NoSignatureError
    │   ├── UnsafeExportError
    │   ├── UnreadableExportError
    │   ├── ExportChangedError
    │   ├── ArchiveError
    │   │   ├── UnsafeArchiveError
    │   │   ├── ArchiveTooLargeError
    │   │   └── MalformedArchiveError
    │   ├── UnknownFormatError
    │   └── MalformedGraphError
    ├── ConversionError                 exit 1: nothing was written
    ├── DiskFullError                   exit 1
    ├── ManifestError                   exit 1: a published version disagrees with its manifest
    ├── VersionNumbersExhaustedError    exit 1
    ├── VersionTakenError               exit 1
    ├── NotSignedError                  exit 1: the bytes are published already, unsigned
    ├── DeniedError                     exit 1: the token may not do that
    ├── UnauthenticatedError            exit 1: there is no token, or it opens nothing
    ├── GateRefusedError                exit 3
    │   └── QuarantinedError
    ├── TimedOutError                   exit 4: outcome unknown
    ├── RestoredError                   exit 5: failed, the previous revision serves again
    ├── DegradedError                   exit 6: failed and could not be restored
    ├── LockedError                     exit 7
    │   ├── FrozenError
    │   └── LeaseLostError
    ├── PreconditionError               exit 8
    │   ├── ConcurrentChangeError
    │   └── VersionHeldError
    ├── NotFoundError                   exit 9
    │   ├── ModelNotFoundError
    │   ├── VersionNotFoundError
    │   ├── LabelNotFoundError
    │   ├── TargetNotFoundError
    │   ├── RevisionNotFoundError
    │   ├── OperationNotFoundError
    │   └── ImageMissingError
    └── DependencyError                 exit 10: server, engine, store, database or receiver unavailable
        ├── NotificationError
        ├── EngineError
        │   └── EngineUnavailableError
        ├── StorageError
        │   ├── StoreUnavailableError
        │   ├── StoreCredentialsError
        │   ├── StoreDeniedError
        │   ├── BucketNotFoundError
        │   ├── ClockSkewError
        │   ├── DamagedTransferError
        │   └── ConditionalPutsError
        ├── DatabaseError
        │   ├── SchemaOutdatedError
        │   ├── SchemaTooNewError
        │   ├── LineageLostError
        │   ├── DatabaseBusyError
        │   └── DatabaseCorruptError
        └── ServerError
            ├── ServerUnavailableError
            │   ├── ServerTimedOutError
            │   ├── ReloadStuckError    exit 4: the server accepts no further reload
            │   ├── ServerUnhealthyError
            │   └── ServerOutOfMemoryError
            ├── ServerRefusedError
            ├── ServerStartError
            │   └── ServerExitedError
            ├── BasePathNotVisibleError
            ├── ExternallyRunError
            └── PortTakenError

Every message is one sentence with the offending value; every hint is a command to type.
"""

from __future__ import annotations

from shlex import quote


class DeployctlError(Exception):
    """Something failed and nothing changed.

    Attributes:
        exit_code: what the process exits with; the table is in the reference of the command line.
        retryable: whether the same call may succeed later with nothing mended.
        hint: a command to type, or None where no command helps.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(DeployctlError):
    """The words of the command are wrong."""

    exit_code = 2


class InvalidNameError(UsageError):
    """`value` cannot name a `noun`."""

    def __init__(self, noun: str, value: str, rule: str) -> None:
        super().__init__(f"{value!r} cannot name a {noun}: {rule}")


class InvalidReferenceError(UsageError):
    """`text` is not MODEL@REF."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text!r} is not a version reference: {reason}", hint="deployctl versions")


class SettingsError(UsageError):
    """A setting is unknown, of the wrong type or out of range."""


class InvalidRequestError(UsageError):
    """A prediction request cannot be read or does not fit the signature."""


class InvalidModelError(DeployctlError):
    """The export at `path` cannot be published."""

    def __init__(self, path: str, reason: str, *, hint: str | None = None) -> None:
        # `inspect` reads what is on this machine.
        looking = "aws s3 ls --recursive" if "://" in path else "deployctl inspect"
        super().__init__(f"{path} {reason}", hint=hint or f"{looking} {quote(path)}")
        self.path = path


class NotASavedModelError(InvalidModelError):
    """There is no saved_model.pb or saved_model.pbtxt."""


class MalformedSavedModelError(InvalidModelError):
    """saved_model.pb or .pbtxt does not parse."""


class VariablesMissingError(InvalidModelError):
    """The graph restores variables whose index or data file is absent."""


class VariablesTruncatedError(InvalidModelError):
    """A data shard is shorter than its index says, or the index cannot be read."""


class AssetMissingError(InvalidModelError):
    """A listed asset is absent."""


class NoServeMetaGraphError(InvalidModelError):
    """No MetaGraph is tagged `serve`."""


class NoSignatureError(InvalidModelError):
    """The served MetaGraph has no signature that a client could call."""


class UnsafeExportError(InvalidModelError):
    """A symlink leaves the export, or a file is not a regular file."""


class UnreadableExportError(InvalidModelError):
    """A file of the export cannot be read."""


class ExportChangedError(InvalidModelError):
    """A file changed while it was being copied."""


class ArchiveError(InvalidModelError):
    """The archive at `path` cannot be unpacked."""


class UnsafeArchiveError(ArchiveError):
    """An entry would be written outside of the archive, or is neither a file, a directory nor a link within it."""


class ArchiveTooLargeError(ArchiveError):
    """The archive unpacks to more, or to more for its size, than any model has."""


class MalformedArchiveError(ArchiveError):
    """The file is no tar or zip archive, or one that is cut short, damaged or encrypted."""


class UnknownFormatError(InvalidModelError):
    """The file is of no format that models are kept in."""


class MalformedGraphError(InvalidModelError):
    """A frozen graph, graph definition or TFLite file is cut short or malformed."""


class ConversionError(DeployctlError):
    """A model cannot be read or converted by TensorFlow; nothing was written.

    Attributes:
        kind: what went wrong, for programs: "unsupported", "unsafe", "crashed", "timeout", "missing" and the like.
    """

    def __init__(self, message: str, *, kind: str = "failed", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class DiskFullError(DeployctlError):
    """The repository's file system has no room; nothing was published."""

    retryable = True


class ManifestError(DeployctlError):
    """A published version's files disagree with its manifest, or the manifest cannot be read."""


class VersionNumbersExhaustedError(DeployctlError):
    """`model` holds a version, or a stray entry, with the highest number that a server can read."""

    def __init__(self, model: str, highest: int) -> None:
        super().__init__(f"{model} has no version number left above {highest}", hint="deployctl doctor")


class VersionTakenError(DeployctlError):
    """The number that a version was to get is that of another one, or was once."""

    def __init__(self, model: str, version: int, where: str) -> None:
        super().__init__(f"{model} has something else under {version} already in {where}", hint="deployctl copy --help")
        self.model, self.version = model, version


class NotSignedError(DeployctlError):
    """The export was to be published signed, and a version that is not signed has the same bytes."""

    def __init__(self, version: str, export: str) -> None:
        super().__init__(
            f"{version} has the same bytes as {export} and is not signed; --new-version publishes them again, signed",
            hint="deployctl publish --help",
        )
        self.version = version


class DeniedError(DeployctlError):
    """The bearer of the token may not do that, or not there; nothing changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="deployctl token list")


class UnauthenticatedError(DeployctlError):
    """There is no token, or one that is wrong, was revoked or has expired; nothing changed."""


class GateRefusedError(DeployctlError):
    """A gate refused the version; nothing changed."""

    exit_code = 3


class QuarantinedError(GateRefusedError):
    """The bytes of the version are never to be served."""


class TimedOutError(DeployctlError):
    """A deadline passed and the outcome is unknown."""

    exit_code = 4
    retryable = True


class RestoredError(DeployctlError):
    """The change failed; the previous revision was restored and verified."""

    exit_code = 5


class DegradedError(DeployctlError):
    """The change failed and the previous revision could not be restored."""

    exit_code = 6


class LockedError(DeployctlError):
    """Another operation holds the lock, or the target is frozen."""

    exit_code = 7
    retryable = True


class LeaseLostError(LockedError):
    """What the operation held was given to another; it stopped where it was."""

    retryable = False


class FrozenError(LockedError):
    """Nothing is to be promoted there now."""

    retryable = False


class PreconditionError(DeployctlError):
    """What serves is not what `--if-current` expected."""

    exit_code = 8


class ConcurrentChangeError(PreconditionError):
    """Another operation made revision `number` of `model` on `target` first."""

    retryable = True

    def __init__(self, target: str, model: str, number: int) -> None:
        super().__init__(
            f"revision {number} of {model} on {target} was made by another operation meanwhile",
            hint=f"deployctl history {model} --target {target}",
        )
        self.target, self.model, self.number = target, model, number


class VersionHeldError(PreconditionError):
    """A target still needs the version `name`, for the reason `why`."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} is not retired: {why}", hint=f"deployctl show {name}")


class NotFoundError(DeployctlError):
    """What was named does not exist."""

    exit_code = 9


class ModelNotFoundError(NotFoundError):
    """The repository has no model of that name."""

    def __init__(self, model: str) -> None:
        super().__init__(f"there is no model {model!r} in the repository", hint="deployctl versions")
        self.model = model


class VersionNotFoundError(NotFoundError):
    """`model` has no version that `wanted` names."""

    def __init__(self, model: str, wanted: object) -> None:
        super().__init__(f"{model} has no version {wanted}", hint=f"deployctl versions {model}")
        self.model, self.wanted = model, wanted


class LabelNotFoundError(NotFoundError):
    """`label` names no version of `model` on `target`."""

    def __init__(self, model: str, label: str, target: str) -> None:
        super().__init__(f"{model} has no label {label!r} on {target}", hint=f"deployctl status {target}")


class TargetNotFoundError(NotFoundError):
    """No target of that name is configured."""

    def __init__(self, target: str) -> None:
        super().__init__(f"there is no target {target!r} in the settings", hint="deployctl config show")


class OperationNotFoundError(NotFoundError):
    """No operation of that id is known here."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"no operation {operation!r} is known here", hint="deployctl op list")


class RevisionNotFoundError(NotFoundError):
    """There is no revision to show or to return to."""


class ImageMissingError(NotFoundError):
    """The engine does not have `image`, and may not or cannot pull it."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"there is no image {image} on the engine: {reason}", hint=f"docker pull {image}")
        self.image = image


class DependencyError(DeployctlError):
    """A server, engine, store or database is unavailable."""

    exit_code = 10
    retryable = True


class NotificationError(DependencyError):
    """A webhook was not called, or did not say that it took the notification.

    Attributes:
        retry_after_s: how long its receiver wants to be left alone, 0.0 where it does not say.
    """

    def __init__(self, message: str, *, retry_after_s: float = 0.0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class StorageError(DependencyError):
    """The repository's storage cannot be reached or refuses the action."""


class StoreUnavailableError(StorageError):
    """The object store does not answer, answers too slowly, or fails on its own side."""


class StoreCredentialsError(StorageError):
    """There are no credentials for the object store, or it takes them for expired or wrong."""

    retryable = False


class StoreDeniedError(StorageError):
    """The credentials are valid, but may not do this."""

    retryable = False


class BucketNotFoundError(StorageError):
    """The bucket does not exist."""

    retryable = False


class ClockSkewError(StorageError):
    """The object store refuses requests because this machine's clock is wrong."""

    retryable = False


class DamagedTransferError(StorageError):
    """What arrived is cut short or holds other bytes than were published, and went on doing so when asked again."""


class ConditionalPutsError(StorageError):
    """The object store ignores conditional puts, so that two publishers could take the same version number."""

    retryable = False


class EngineError(DependencyError):
    """The Docker engine refused a call; its own words."""

    retryable = False


class EngineUnavailableError(EngineError):
    """The Docker engine does not answer."""

    retryable = True

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"the Docker engine at {address} does not answer: {reason}", hint="docker info")


class DatabaseError(DependencyError):
    """The lineage database cannot be reached or refuses the action."""


class SchemaOutdatedError(DatabaseError):
    """The lineage database has an older schema, or none."""

    retryable = False

    def __init__(self, found: str | None, expected: str) -> None:
        state = f"has schema {found}" if found else "has no schema yet"
        super().__init__(f"the lineage database {state}, this deployctl needs {expected}", hint="deployctl db upgrade")


class SchemaTooNewError(DatabaseError):
    """The lineage database was written by a newer deployctl."""

    retryable = False

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"the lineage database has schema {found}, which is newer than this deployctl's {expected}",
            hint="pip install --upgrade deployctl",
        )


class LineageLostError(DatabaseError):
    """The lineage database knows nothing of what was kept beside a server, as one that was made anew."""

    retryable = False

    def __init__(self, target: str) -> None:
        super().__init__(
            f"the lineage database knows nothing of what serves on {target}, which is kept beside the server",
            hint="deployctl db rebuild",
        )


class DatabaseBusyError(DatabaseError):
    """Another program kept the lineage database locked for longer than the busy timeout."""


class DatabaseCorruptError(DatabaseError):
    """The lineage database is damaged, is no database, or holds an event that cannot be read.

    Attributes:
        sequence: the event that cannot be read, None where the file itself is damaged.
    """

    retryable = False

    def __init__(self, message: str, *, sequence: int | None = None) -> None:
        super().__init__(message, hint="deployctl doctor" if sequence is None else "deployctl audit verify")
        self.sequence = sequence


class ServerError(DependencyError):
    """The model server refused a call or answered with an error."""


class ServerUnavailableError(ServerError):
    """Nothing answers at the server's address."""


class ServerTimedOutError(ServerUnavailableError):
    """The server took longer than a call's deadline to answer."""


class ReloadStuckError(ServerUnavailableError):
    """A reload did not return in time; the server goes on with it, and lets every later one wait.

    It waits for a model that is new to it, and only a restart ends that (tensorflow/serving#1447).
    """

    exit_code = 4
    retryable = False

    def __init__(self, target: str, timeout_s: float) -> None:
        super().__init__(
            f"the server of {target} had not finished a reload after {timeout_s:g} s and takes no other until it has",
            hint=f"deployctl restart {target}",
        )


class ServerUnhealthyError(ServerUnavailableError):
    """The server runs and does not answer."""


class ServerOutOfMemoryError(ServerUnavailableError):
    """The server was killed because it needed more memory than its container may have."""

    retryable = False

    def __init__(self, target: str, limit: str, setting: str) -> None:
        super().__init__(
            f"the server of {target} was killed for want of memory (OOMKilled): the limit of its container is {limit}",
            hint=f"deployctl --set {setting}=SIZE up {target}",
        )
        self.limit = limit


class ServerRefusedError(ServerError):
    """The server at `address` answered with an error: its status code's name ("NOT_FOUND") and its own words."""

    retryable = False

    def __init__(self, address: str, code: str, words: str) -> None:
        super().__init__(f"the model server at {address} refused: {words}")
        self.code, self.words = code, words


class ServerStartError(ServerError):
    """The server ended, or was not ready in time, after it was started; `log` holds its last lines, oldest first."""

    def __init__(self, message: str, *, log: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__("\n".join((message, *(f"  {line}" for line in log))), hint=hint)
        self.log = log


class ServerExitedError(ServerStartError):
    """The server ended before it was ready, with exit status `status`."""

    def __init__(self, message: str, status: int, *, log: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, log=log, hint=hint)
        self.status = status


class BasePathNotVisibleError(ServerError):
    """The server cannot see a version directory that is there."""

    retryable = False


class ExternallyRunError(ServerError):
    """Someone else starts and stops the target's server."""

    retryable = False

    def __init__(self, target: str, action: str) -> None:
        super().__init__(
            f"deployctl cannot {action} the server of {target}, which someone else runs (runtime external)",
            hint=f"deployctl status {target}",
        )


class PortTakenError(ServerError):
    """A port that the server needs is in use by another program."""

    retryable = False
