"""Where everything is below the prefix.

    <model>/<version>/<path>                         the files of a version, as in a local repository
    .deployctl/manifests/<model>/<version>.json      the version exists when this does; empty: the number is spent
    .deployctl/claims/<model>/<version>              who uploads under this number
    .deployctl/contents/<model>/<sha256>/<sequence>  which version holds, or is to hold, these bytes
    .deployctl/retired/<model>/<version>.json        the manifest of a version that was retired: its number is spent

All that says which versions exist is under one prefix and apart from their files, so that one listing answers for
any number of versions, however many files they have.
"""

from __future__ import annotations

from deployctl.domain.manifest import MANIFEST_PATH
from deployctl.domain.names import Digest, ModelName, VersionNumber, is_version_name

MANIFESTS = ".deployctl/manifests/"
CLAIMS = ".deployctl/claims/"
CONTENTS = ".deployctl/contents/"
RETIRED = ".deployctl/retired/"
PROBES = ".deployctl/probes/"
_SUFFIX = ".json"


def version_key(model: ModelName, version: VersionNumber, path: str = "") -> str:
    """Returns the key of a file of a version; without a path, what all its keys start with."""
    return f"{model}/{version}/{path}"


def inner_manifest_key(model: ModelName, version: VersionNumber) -> str:
    """Returns the key of the manifest's copy among the files, which makes a synced directory a version as well."""
    return version_key(model, version, MANIFEST_PATH)


def manifest_key(model: ModelName, version: VersionNumber) -> str:
    """Returns the key whose existence makes the version exist."""
    return f"{MANIFESTS}{model}/{version}{_SUFFIX}"


def retired_key(model: ModelName, version: VersionNumber) -> str:
    """Returns the key of the manifest that a retired version had."""
    return f"{RETIRED}{model}/{version}{_SUFFIX}"


def claim_key(model: ModelName, version: VersionNumber) -> str:
    """Returns the key of the claim to a number."""
    return f"{CLAIMS}{model}/{version}"


def content_prefix(model: ModelName, digest: Digest) -> str:
    """Returns what the keys of the records of these bytes start with."""
    return f"{CONTENTS}{model}/{digest.removeprefix('sha256:')}/"


def version_of(key: str) -> VersionNumber | None:
    """Returns the version that a manifest, a claim or a directory prefix is named after, None for other names."""
    name = key.rstrip("/").rpartition("/")[2].removesuffix(_SUFFIX)
    return VersionNumber(int(name)) if is_version_name(name) else None
