"""What a ModelServerConfig asks for, as values, and the rules that it must keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from deployctl.domain.serving import ServingConfig
from deployctl.modelserver.interface import Code, StatusError

TENSORFLOW_PLATFORM = "tensorflow"


class PolicyKind(Enum):
    """ServableVersionPolicy.policy_choice."""

    LATEST = "latest"
    ALL = "all"
    SPECIFIC = "specific"


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of the versions on disk are wanted.

    Attributes:
        latest: how many of the highest, for LATEST; 0 counts as 1.
        specific: which numbers, for SPECIFIC; those that do not exist are left out.
    """

    kind: PolicyKind = PolicyKind.LATEST
    latest: int = 1
    specific: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """One entry of a ModelConfigList; `labels` are versions by label."""

    name: str
    base_path: str
    platform: str = TENSORFLOW_PLATFORM
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = field(default_factory=dict)


def models_of(config: ServingConfig) -> tuple[ConfiguredModel, ...]:
    """Returns what a serving configuration of this program's own asks for."""
    return tuple(
        ConfiguredModel(
            model.name,
            model.base_path,
            policy=VersionPolicy(PolicyKind.SPECIFIC, specific=frozenset(model.versions)),
            labels={str(label): int(version) for label, version in model.labels.items()},
        )
        for model in config.models
    )


def check_models(models: Sequence[ConfiguredModel], before: Sequence[ConfiguredModel]) -> None:
    """Refuses a configuration that breaks a rule, in the words of tensorflow_serving/model_servers/server_core.cc.

    All rules are checked before anything changes. (TensorFlow Serving notices a missing platform only after it has
    adopted the configuration, and then refuses every later one.)

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise _invalid(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
    for model in models:
        if _is_relative(model.base_path):
            raise _invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    platforms = {model.name: model.platform for model in before}
    for model in models:
        _check_platform(model, platforms.get(model.name))


def _check_platform(model: ConfiguredModel, before: str | None) -> None:
    if not model.platform:
        raise _invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if before is not None and model.platform != before:
        raise _invalid(
            f"Illegal to change a model's platform. For model {model.name} platform was {before} "
            f"and new platform requested is {model.platform}"
        )
    if model.platform != TENSORFLOW_PLATFORM:
        raise _invalid(f"Model {model.name} requests unsupported platform {model.platform}")


def _is_relative(path: str) -> bool:
    scheme, separator, _ = path.partition("://")
    return not path.startswith("/") and not (separator and scheme)


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
