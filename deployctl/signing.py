"""OpenSSF model signatures, by the library `model-signing`: made when publishing, checked by the gate `integrity`.

A signature is a Sigstore bundle that names every file of a version with its sha256. It is kept in the manifest, so that
it goes wherever the version goes and changes neither its digest nor what a server sees. The hashes are those of the
manifest, which the repository has computed and verified: no file is read again here.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl.domain.manifest import MANIFEST_PATH, FileEntry, Manifest
from deployctl.domain.names import ModelName
from deployctl.errors import DependencyError, InvalidRequestError, SettingsError

if TYPE_CHECKING:
    from model_signing import hashing, signing, verifying

Bundle = Mapping[str, Any]
_HINT = "openssl pkey -in KEY -noout"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs.

    Attributes:
        key: a file with an unencrypted private key on the curve P-256, P-384 or P-521, in PEM.
        certificates: files in PEM: the certificate of that key, then those that lead to one that is trusted; () for
            a signature that is checked with the public key alone.
    """

    key: Path
    certificates: tuple[Path, ...] = ()

    def signer(self) -> Callable[[ModelName, Sequence[FileEntry]], Bundle]:
        """Returns what signs files; the key is read now.

        Raises:
            InvalidRequestError: the key or a certificate cannot be used.
            DependencyError: the library is not installed.
        """
        _require_library()
        from model_signing import signing

        config = signing.Config()
        try:
            if self.certificates:
                certificate, *chain = self.certificates
                # The library cannot read a chain of none; the certificate itself adds nothing to it.
                chain = chain or [certificate]
                config.use_certificate_signer(
                    private_key=self.key, signing_certificate=certificate, certificate_chain=chain
                )
            else:
                config.use_elliptic_key_signer(private_key=self.key)
        # Whatever is in the files: the libraries below have a dozen words for it.
        except Exception as error:  # noqa: BLE001 - raised again as ours
            where = " and ".join(str(path) for path in (self.key, *self.certificates))
            raise InvalidRequestError(f"cannot sign with {where}: {_reason(error)}", hint=_HINT) from None
        return lambda model, files: _sign(config, model, files)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count: one by any of these keys, or under any of these certificates, is enough.

    Attributes:
        public_keys: files in PEM.
        certificates: files in PEM with certificates of authorities.
    """

    public_keys: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()

    def problem(self, manifest: Manifest) -> str:
        """Returns why the signature of a version does not count, "" where it does.

        Raises:
            SettingsError: a key or certificate of the settings cannot be read.
            DependencyError: the library is not installed.
        """
        if manifest.signature is None:
            return "the version is not signed"
        _require_library()
        reasons = [_checked(config, manifest, manifest.signature) for config in self._verifiers()]
        return "" if "" in reasons else f"no trusted key signed these files: {'; '.join(dict.fromkeys(reasons))}"

    def _verifiers(self) -> Iterator[verifying.Config]:
        from model_signing import verifying

        for path in self.public_keys:
            with _named(path):
                config = verifying.Config().use_elliptic_key_verifier(public_key=path)
            yield config
        if self.certificates:
            with _named(*self.certificates):
                config = verifying.Config().use_certificate_verifier(certificate_chain=self.certificates)
            yield config


@contextmanager
def _named(*paths: Path) -> Iterator[None]:
    """Says of what the settings name that it cannot be used."""
    try:
        yield
    except Exception as error:
        words = ", ".join(str(path) for path in paths)
        raise SettingsError(
            f"cannot check signatures with {words}: {_reason(error)}", hint="deployctl config show"
        ) from error


def _sign(config: signing.Config, model: ModelName, files: Sequence[FileEntry]) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.sig"
        config.set_hashing_config(_hashes(model, files)).sign(Path(model), file)
        bundle: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return bundle


def _checked(config: verifying.Config, manifest: Manifest, bundle: Bundle) -> str:
    """Returns why `bundle` is no signature of these files that `config` trusts, "" where it is one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.sig"
        file.write_text(json.dumps(bundle), encoding="utf-8")
        try:
            # The library says on stdout that a bundle is of an older kind.
            with redirect_stdout(io.StringIO()):
                config.set_hashing_config(_hashes(manifest.model, manifest.files)).verify(Path(manifest.model), file)
        # The bundle is anybody's: whatever goes wrong with it, it does not count.
        except Exception as error:  # noqa: BLE001 - it is the answer
            return _reason(error)
    return ""


def _hashes(model: ModelName, files: Sequence[FileEntry]) -> hashing.Config:
    """Returns a configuration of the library that takes the hashes which are known already."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    # For those who check a version directory with the library itself: the manifest is not among the files.
    arguments = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [MANIFEST_PATH]}
    kind = manifest.SerializationType.from_args(arguments)
    items = [kind.new_item(each.path, Digest("sha256", bytes.fromhex(each.sha256))) for each in files]

    class Known(hashing.Config):  # type: ignore[misc]
        def hash(self, model_path: object, *, files_to_hash: object = None) -> manifest.Manifest:
            return manifest.Manifest(model, items, kind)

        def add_ignored_paths(self, *, model_path: object, paths: object) -> None:
            """Does nothing: a signature does not say which files count."""

    return Known()


def _require_library() -> None:
    try:
        import model_signing.signing
        import model_signing.verifying  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"{error.name} is not installed, which signatures need", hint="pip install 'deployctl[signing]'"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, AttributeError):
        return "it is no key on an elliptic curve"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    words = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(" .")
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
