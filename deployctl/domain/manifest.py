"""The manifest of a published version: its files, its identity, and where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from deployctl.domain.names import Digest, ModelName, VersionNumber, parse_digest, parse_model_name
from deployctl.domain.saved_model import Signature, TensorSpec
from deployctl.errors import DeployctlError, ManifestError

MANIFEST_SCHEMA = 1
# TensorFlow ignores assets.extra, so the manifest travels inside the version.
MANIFEST_PATH = "assets.extra/deployctl/manifest.json"


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file of a version.

    Attributes:
        path: relative to the version directory, POSIX separators whatever the platform.
        size: in bytes.
        sha256: 64 lower-case hex digits.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version came from; every field is what the publisher said or what was found at publishing.

    Attributes:
        source: the export's path or URL.
        run: the training run's id or URL.
        code: commit of the training code, with "-dirty" if the tree had changes.
        datasets: digest or version by data set name.
        parents: digests of versions that this one was made from.
    """

    source: str = ""
    run: str = ""
    code: str = ""
    datasets: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[Digest, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The immutable record that makes a version directory a version.

    Attributes:
        files: sorted by path; the manifest itself is not among them.
        signatures: of the `serve` MetaGraph, callable ones only.
        frameworks: version by framework name, e.g. {"tensorflow": "2.21.0"}.
        published_at: aware, UTC.
        published_by: "user@host", and the CI job where there is one.
        signature: OpenSSF model signature of the files, a Sigstore bundle as JSON values; None where nobody signed.
    """

    model: ModelName
    version: VersionNumber
    files: tuple[FileEntry, ...]
    signatures: Mapping[str, Signature]
    frameworks: Mapping[str, str]
    provenance: Provenance
    published_at: datetime
    published_by: str
    signature: Mapping[str, Any] | None = None

    @property
    def digest(self) -> Digest:
        """The version's identity, whatever its number."""
        return content_digest(self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)


def content_digest(files: Iterable[FileEntry]) -> Digest:
    """Returns sha256 over one line "<sha256> <size> <path>" for each file, in path order (paths as UTF-8)."""
    digest = hashlib.sha256()
    for entry in sorted(files):
        digest.update(f"{entry.sha256} {entry.size} {entry.path}\n".encode("utf-8", "surrogateescape"))
    return Digest(f"sha256:{digest.hexdigest()}")


def to_json(manifest: Manifest) -> str:
    """Returns the manifest as the text of manifest.json; `from_json` gives the same manifest back."""
    provenance = manifest.provenance
    document: dict[str, Any] = {
        "schema": MANIFEST_SCHEMA,
        "model": manifest.model,
        "version": manifest.version,
        "digest": manifest.digest,
        "published_at": format_time(manifest.published_at),
        "published_by": manifest.published_by,
        "files": [{"path": entry.path, "size": entry.size, "sha256": entry.sha256} for entry in manifest.files],
        "signatures": signatures_to_json(manifest.signatures),
        "frameworks": dict(manifest.frameworks),
        "provenance": {
            "source": provenance.source,
            "run": provenance.run,
            "code": provenance.code,
            "datasets": dict(provenance.datasets),
            "parents": list(provenance.parents),
            "metrics": dict(provenance.metrics),
            "tags": dict(provenance.tags),
        },
    }
    if manifest.signature is not None:
        document["signature"] = dict(manifest.signature)
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def from_json(text: str | bytes, *, where: str) -> Manifest:
    """Returns the manifest that `text` holds; `where` names it in errors.

    Raises:
        ManifestError: it is not JSON, of a newer schema, incomplete, or its digest is not that of its files.
    """
    try:
        document = json.loads(text)
        if document["schema"] != MANIFEST_SCHEMA:
            raise ManifestError(f"{where} has manifest schema {document['schema']}, not {MANIFEST_SCHEMA}")
        manifest = _from_document(document)
        recorded = parse_digest(document["digest"])
    except ManifestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, DeployctlError) as error:
        raise ManifestError(f"{where} is not a manifest: {error}") from error
    if recorded != manifest.digest:
        raise ManifestError(f"{where} records digest {recorded}, but its files give {manifest.digest}")
    return manifest


def signatures_to_json(signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """Returns signatures as JSON values, by key."""

    def tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
        return {
            name: {
                "dtype": spec.dtype,
                "shape": None if spec.shape is None else list(spec.shape),
                "tensor": spec.tensor,
            }
            for name, spec in specs.items()
        }

    return {
        key: {
            "method": signature.method,
            "inputs": tensors(signature.inputs),
            "outputs": tensors(signature.outputs),
            "optional_inputs": sorted(signature.optional_inputs),
        }
        for key, signature in signatures.items()
    }


def signatures_from_json(document: Mapping[str, Any]) -> dict[str, Signature]:
    """Returns what `signatures_to_json` was given."""

    def tensors(specs: Mapping[str, Any]) -> dict[str, TensorSpec]:
        return {
            name: TensorSpec(spec["dtype"], None if spec["shape"] is None else tuple(spec["shape"]), spec["tensor"])
            for name, spec in specs.items()
        }

    return {
        key: Signature(
            value["method"],
            tensors(value["inputs"]),
            tensors(value["outputs"]),
            frozenset(value.get("optional_inputs", ())),
        )
        for key, value in document.items()
    }


def format_time(at: datetime) -> str:
    """Returns an aware time as RFC 3339 in UTC with microseconds, e.g. 2026-11-21T07:10:27.000000Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Returns the aware UTC time that `format_time` wrote."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _object(value: Any) -> Mapping[str, Any] | None:
    return None if value is None else dict(value)


def _from_document(document: Mapping[str, Any]) -> Manifest:
    provenance = document["provenance"]
    files = tuple(sorted(FileEntry(entry["path"], entry["size"], entry["sha256"]) for entry in document["files"]))
    return Manifest(
        model=parse_model_name(document["model"]),
        version=VersionNumber(int(document["version"])),
        files=files,
        signatures=signatures_from_json(document["signatures"]),
        frameworks=dict(document["frameworks"]),
        provenance=Provenance(
            source=provenance["source"],
            run=provenance["run"],
            code=provenance["code"],
            datasets=dict(provenance["datasets"]),
            parents=tuple(parse_digest(parent) for parent in provenance["parents"]),
            metrics=dict(provenance["metrics"]),
            tags=dict(provenance["tags"]),
        ),
        published_at=parse_time(document["published_at"]),
        published_by=document["published_by"],
        signature=_object(document.get("signature")),
    )
