"""Settings of gates: which a target has, and what each is held to."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployctl.config.definition import DURATION, SIZE, setting

# What costs no second and needs no server; the others are for the asking.
DEFAULT_GATES = ("integrity", "signature", "ops", "warmup")
# Whether a change breaks clients depends on what they call, which only who runs the target knows.
DEFAULT_ADVISORY_GATES = ("compatibility",)


@dataclass(frozen=True, slots=True)
class IntegrityGateSettings:
    """The gate `integrity`."""

    public_keys: tuple[str, ...] = setting(
        "Public keys in PEM, one of which must have signed a version; relative to the settings file. With neither "
        "these nor `certificates`, versions need not be signed.",
        default=(),
    )
    certificates: tuple[str, ...] = setting(
        "Certificates of authorities in PEM, under one of which the signer's must be, where none of `public_keys` "
        "signed; relative to the settings file.",
        default=(),
    )


@dataclass(frozen=True, slots=True)
class SignatureGateSettings:
    """The gate `signature`."""

    required: tuple[str, ...] = setting("Signatures that a version must have.", default=())
    rest_only: bool = setting(
        "Whether clients use REST only, so that types that it cannot carry are refused.", default=False
    )


@dataclass(frozen=True, slots=True)
class CompatibilityGateSettings:
    """The gate `compatibility`."""

    contracts: str = setting(
        "Directory with a contract `MODEL.toml` of each model that has one; relative to the settings file.",
        default="contracts",
    )


@dataclass(frozen=True, slots=True)
class OpsGateSettings:
    """The gate `ops`."""

    tensorflow: str = setting(
        'TensorFlow version of the server, such as "2.20"; empty: as the image\'s tag says, or else the newest.',
        default="",
    )
    allowed: tuple[str, ...] = setting(
        "Ops that are accepted though denied or unknown, such as custom ops that the server was given.", default=()
    )
    denied: tuple[str, ...] = setting("Ops that are refused beside those that always are.", default=())


@dataclass(frozen=True, slots=True)
class LoadGateSettings:
    """The gate `load`, and the scratch server of the gates `golden` and `latency`."""

    timeout_s: float = setting(
        "How long a version may take to become AVAILABLE in the scratch server.", default=120.0, kind=DURATION
    )
    max_memory: int = setting(
        'The most memory that the scratch server may have needed, such as "4GiB"; 0: no bound.', default=0, kind=SIZE
    )


@dataclass(frozen=True, slots=True)
class GoldenGateSettings:
    """The gate `golden`."""

    file: str = setting(
        "File of recorded requests, `{model}` standing for the model's name; relative to the settings file.",
        default="golden/{model}.jsonl",
    )
    rtol: float = setting("Relative tolerance of answers, where a record names none.", default=1e-5)
    atol: float = setting("Absolute tolerance of answers, where a record names none.", default=1e-6)
    max_changed: float = setting(
        "Share of records that may differ from the serving version's answers, with `--against live`.", default=0.0
    )


@dataclass(frozen=True, slots=True)
class LatencyGateSettings:
    """The gate `latency`."""

    max_ratio: float = setting("The most that a call may take, in times of the serving version's.", default=1.2)
    pairs: int = setting("How many pairs of calls are measured.", default=60)


@dataclass(frozen=True, slots=True)
class ResourcesGateSettings:
    """The gate `resources`."""

    memory: int = setting(
        "Memory that the target's server may use, such as \"8GiB\"; 0: its container's limit, or else this machine's.",
        default=0,
        kind=SIZE,
    )


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What gates are held to."""

    options: tuple[str, ...] = setting("Settings of gates of third parties, each GATE.KEY=VALUE.", default=())
    integrity: IntegrityGateSettings = field(default_factory=IntegrityGateSettings)
    signature: SignatureGateSettings = field(default_factory=SignatureGateSettings)
    compatibility: CompatibilityGateSettings = field(default_factory=CompatibilityGateSettings)
    ops: OpsGateSettings = field(default_factory=OpsGateSettings)
    load: LoadGateSettings = field(default_factory=LoadGateSettings)
    golden: GoldenGateSettings = field(default_factory=GoldenGateSettings)
    latency: LatencyGateSettings = field(default_factory=LatencyGateSettings)
    resources: ResourcesGateSettings = field(default_factory=ResourcesGateSettings)
