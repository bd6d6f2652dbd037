from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import verifying

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import FileEntry, Manifest, from_json, to_json
from deployctl.domain.names import VersionNumber
from deployctl.errors import InvalidRequestError, NotSignedError, SettingsError
from deployctl.gates.integrity import IntegrityGate
from deployctl.gates.interface import Candidate, Outcome
from deployctl.operations.candidate import of_export, of_version
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from deployctl.signing import SigningKey, Trust
from tests.support.workspace import HALF_PLUS_TWO
from tests.support.world import HALF, World

READER = ProtobufSavedModelReader()
NOW = datetime.datetime.now(datetime.UTC)
PEM = serialization.Encoding.PEM


class Signer:
    """A key pair in files."""

    def __init__(self, folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> None:
        self.secret = ec.generate_private_key(curve or ec.SECP256R1())
        self.key, self.public = folder / f"{name}.key", folder / f"{name}.pub"
        plain = serialization.NoEncryption()
        self.key.write_bytes(self.secret.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public.write_bytes(self.secret.public_key().public_bytes(PEM, form))
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    def certify(self, other: Signer, file: Path, *, authority: bool = False) -> Path:
        builder = x509.CertificateBuilder().subject_name(other.name).issuer_name(self.name)
        builder = builder.public_key(other.secret.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(NOW - datetime.timedelta(days=1))
        builder = builder.not_valid_after(NOW + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        usage = x509.KeyUsage(
            digital_signature=not authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=authority,
            crl_sign=authority,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = builder.add_extension(usage, critical=True).sign(self.secret, hashes.SHA256())
        file.write_bytes(certificate.public_bytes(PEM))
        return file


@pytest.fixture
def ada(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "ada")


@pytest.fixture
def eve(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "eve")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "models")


def published(world: World, key: SigningKey | None, *, again: bool = False) -> Manifest:
    operation = Publish(world.repository, READER, world.lineage, world.context)
    sign = key.signer() if key else None
    done = operation(PublishRequest(HALF_PLUS_TWO, HALF, sign=sign, allow_duplicate=again))
    assert done.version is not None
    manifest = world.repository.manifest(HALF, done.version)
    assert manifest is not None
    return manifest


def refusal(world: World, trust: Trust, number: int = 1) -> str:
    def verify(manifest: Manifest) -> object:
        return world.repository.verify(manifest, Observer())

    version = of_version(world.repository, READER, HALF, VersionNumber(number), Observer())
    verdict = IntegrityGate(verify, trust.problem).judge(Candidate(version, HALF))  # type: ignore[arg-type]
    assert (verdict.outcome is Outcome.FAILED) == bool(verdict.problems)
    return verdict.problems[0] if verdict.problems else ""


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_version_signed_by_a_trusted_key_passes(world: World, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    signer = Signer(tmp_path, "grace", curve)
    published(world, SigningKey(signer.key))
    assert refusal(world, Trust(public_keys=(signer.public,))) == ""


def test_one_of_several_trusted_keys_is_enough(world: World, ada: Signer, eve: Signer) -> None:
    published(world, SigningKey(ada.key))
    assert refusal(world, Trust(public_keys=(eve.public, ada.public))) == ""


def test_a_signature_changes_neither_the_digest_nor_the_files(world: World, ada: Signer) -> None:
    plain = published(world, None)
    signed = published(world, SigningKey(ada.key), again=True)
    assert (signed.digest, signed.files) == (plain.digest, plain.files)
    files = [
        {path.relative_to(folder) for path in folder.rglob("*")}
        for folder in (world.directory / HALF / "1", world.directory / HALF / "2")
    ]
    assert files[0] == files[1]


def test_an_unsigned_version_is_refused(world: World, ada: Signer) -> None:
    published(world, None)
    assert refusal(world, Trust(public_keys=(ada.public,))) == "the version is not signed"


def test_a_version_without_a_manifest_is_refused(world: World, ada: Signer) -> None:
    shutil.copytree(HALF_PLUS_TWO, world.directory / HALF / "1")
    assert refusal(world, Trust(public_keys=(ada.public,))) == "the version has no manifest, so no signature"


def test_another_key_does_not_count(world: World, ada: Signer, eve: Signer) -> None:
    published(world, SigningKey(eve.key))
    assert refusal(world, Trust(public_keys=(ada.public,))).startswith(
        "no trusted key signed these files: Key mismatch"
    )


def test_changed_bytes_do_not_count_even_with_a_manifest_that_agrees_with_them(world: World, ada: Signer) -> None:
    manifest = published(world, SigningKey(ada.key))
    directory = world.directory / HALF / "1"
    changed = directory / "assets" / "foo.txt"
    changed.chmod(0o644)
    changed.write_bytes(b"tampered with")
    assert refusal(world, Trust(public_keys=(ada.public,))) == "assets/foo.txt is changed"
    entry = FileEntry("assets/foo.txt", 13, hashlib.sha256(b"tampered with").hexdigest())
    files = tuple(entry if each.path == entry.path else each for each in manifest.files)
    forged = directory / "assets.extra" / "deployctl" / "manifest.json"
    forged.chmod(0o644)
    forged.write_text(to_json(replace(manifest, files=files)))
    words = "no trusted key signed these files: Signature mismatch: [\"Hash mismatch for 'assets/foo.txt'"
    assert refusal(world, Trust(public_keys=(ada.public,))).startswith(words)


def test_the_signature_of_other_files_does_not_count(world: World, ada: Signer) -> None:
    manifest = published(world, SigningKey(ada.key))
    fewer = replace(manifest, files=manifest.files[1:])
    assert "Missing files" in Trust(public_keys=(ada.public,)).problem(fewer)
    more = replace(manifest, files=(*manifest.files, FileEntry("more", 0, "0" * 64)))
    assert "Extra files" in Trust(public_keys=(ada.public,)).problem(more)


@pytest.mark.parametrize(
    "bundle", [{}, {"mediaType": 1}, {"verificationMaterial": []}, {"verificationMaterial": {"publicKey": None}}]
)
def test_what_is_no_signature_does_not_count(world: World, ada: Signer, bundle: dict[str, object]) -> None:
    manifest = replace(published(world, None), signature=bundle)
    assert "no trusted key" in Trust(public_keys=(ada.public,)).problem(manifest)


def test_a_signature_cut_short_does_not_count(world: World, ada: Signer) -> None:
    manifest = published(world, SigningKey(ada.key))
    bundle = json.loads(json.dumps(manifest.signature))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    assert Trust(public_keys=(ada.public,)).problem(replace(manifest, signature=bundle))


def test_a_certificate_leads_to_the_authority_that_the_target_trusts(world: World, ada: Signer, tmp_path: Path) -> None:
    root, middle = Signer(tmp_path, "root"), Signer(tmp_path, "middle")
    trusted = root.certify(root, tmp_path / "root.crt", authority=True)
    chain = root.certify(middle, tmp_path / "middle.crt", authority=True)
    own = middle.certify(ada, tmp_path / "ada.crt")
    published(world, SigningKey(ada.key, (own, chain)))
    assert refusal(world, Trust(certificates=(trusted,))) == ""


def test_a_certificate_of_another_authority_does_not_count(
    world: World, ada: Signer, eve: Signer, tmp_path: Path
) -> None:
    own = eve.certify(ada, tmp_path / "ada.crt")
    root = Signer(tmp_path, "root")
    trusted = root.certify(root, tmp_path / "root.crt", authority=True)
    published(world, SigningKey(ada.key, (own,)))
    assert refusal(world, Trust(certificates=(trusted,))).startswith("no trusted key signed these files: X509Store")


def test_the_library_itself_agrees(world: World, ada: Signer, eve: Signer, tmp_path: Path) -> None:
    manifest = published(world, SigningKey(ada.key))
    file = tmp_path / "model.sig"
    file.write_text(json.dumps(manifest.signature))
    version = world.directory / HALF / "1"
    verifying.Config().use_elliptic_key_verifier(public_key=ada.public).verify(version, file)
    with pytest.raises(ValueError, match="Key mismatch"):
        verifying.Config().use_elliptic_key_verifier(public_key=eve.public).verify(version, file)


def test_a_manifest_comes_back_with_its_signature(world: World, ada: Signer) -> None:
    manifest = published(world, SigningKey(ada.key))
    assert from_json(to_json(manifest), where="here") == manifest


def test_nothing_of_the_key_is_recorded(world: World, ada: Signer) -> None:
    published(world, SigningKey(ada.key))
    secret = "".join(ada.key.read_text().splitlines()[1:-1])
    recorded = repr(world.lineage.events()) + to_json(published(world, SigningKey(ada.key)))
    assert "signature" in recorded
    assert secret[:40] not in recorded


def test_an_unsigned_version_of_the_same_bytes_is_no_success(world: World, ada: Signer) -> None:
    published(world, None)
    with pytest.raises(NotSignedError, match="half@1 has the same bytes"):
        published(world, SigningKey(ada.key))
    assert published(world, SigningKey(ada.key), again=True).signature


def test_an_export_is_not_asked_for_a_signature(ada: Signer) -> None:
    gate = IntegrityGate(lambda _: (), Trust(public_keys=(ada.public,)).problem)
    assert gate.judge(Candidate(of_export(READER, HALF_PLUS_TWO))).outcome is Outcome.PASSED


def test_what_cannot_sign_is_refused_before_anything_is_done(ada: Signer, eve: Signer, tmp_path: Path) -> None:
    locked, other = tmp_path / "locked.key", tmp_path / "rsa.key"
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(ada.secret.private_bytes(PEM, form, serialization.BestAvailableEncryption(b"x")))
    plain = serialization.NoEncryption()
    other.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(PEM, form, plain))
    certificate = eve.certify(eve, tmp_path / "eve.crt")
    cases = {
        "No such file": SigningKey(tmp_path / "none"),
        "encrypted": SigningKey(locked),
        "elliptic curve": SigningKey(other),
        "private key": SigningKey(ada.public),
        "does not match": SigningKey(ada.key, (certificate,)),
    }
    for words, key in cases.items():
        with pytest.raises(InvalidRequestError, match=words):
            key.signer()


def test_a_key_of_the_settings_that_cannot_be_read_is_named(world: World, ada: Signer, tmp_path: Path) -> None:
    manifest = published(world, SigningKey(ada.key))
    for trust in (Trust(public_keys=(tmp_path / "none",)), Trust(certificates=(ada.public,))):
        with pytest.raises(SettingsError, match="cannot check signatures with"):
            trust.problem(manifest)
