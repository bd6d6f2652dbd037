"""Makes the gates of a target from its settings; `bootstrap` for what judges rather than acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl import __version__
from deployctl.config.settings import RuntimeName, TargetSettings
from deployctl.errors import InvalidRequestError, SettingsError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.manifest import Manifest
    from deployctl.domain.names import ModelName, TargetName, VersionNumber
    from deployctl.gates.golden import GoldenFile
    from deployctl.gates.interface import Candidate, Gate, Version
    from deployctl.gates.scratch import ScratchServer
    from deployctl.operations.admission import Judge
    from deployctl.operations.rollback import RolledBack
    from deployctl.operations.rollout import Prover
    from deployctl.operations.validate import Report
    from deployctl.repository.interface import FileProblem
    from deployctl.serving.interface import ServingRuntime

_LOAD = "load"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the words of one command say about gates.

    Attributes:
        gates: the gates to run; () for those of the target.
        allow_breaking: the reason for which a breaking change is accepted, "" for none.
        golden: the file of golden records, None for the model's.
        against_live: whether golden answers are held against the serving version's.
        images: the images that the version is tried in, beside each other; () for the target's.
    """

    gates: tuple[str, ...] = ()
    allow_breaking: str = ""
    golden: Path | None = None
    against_live: bool = False
    images: tuple[str, ...] = ()


class GateMaker:
    """Makes gates for one model on one target; a scratch server lives as long as the block does.

    Args:
        target: None for the default settings of one.
        model: None for an export of no model.
    """

    def __init__(
        self, deployment: Deployment, target: TargetName | None, model: ModelName | None, wishes: Wishes
    ) -> None:
        self.deployment = deployment
        self.target_name = target
        self.target = deployment.settings.targets[target] if target else TargetSettings()
        self.model = model
        self.wishes = wishes
        self._stack = ExitStack()

    def __enter__(self) -> tuple[Gate, ...]:
        """Returns the gates in the order in which they judge.

        Raises:
            SettingsError: there is no gate of a name that the settings or the command line give.
        """
        every = (*self.target.gates, *self.target.advisory_gates) if self.target.gates else ()
        names = dict.fromkeys(self.wishes.gates or every)
        if not self.wishes.images:
            return tuple(self._gate(name) for name in names)
        # Where the gates do not have `load`, the images are tried last.
        places = names if _LOAD in names else (*names, _LOAD)
        return tuple(gate for name in places for gate in (self._loads() if name == _LOAD else [self._gate(name)]))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def _scratch(self) -> ScratchServer:
        from deployctl.scratch import scratch_server

        return self._stack.enter_context(scratch_server(self.deployment, self.target))

    def _gate(self, name: str) -> Gate:
        from deployctl.gates.third_party import third_party_gate

        made = self._built_in().get(name)
        return made() if made else third_party_gate(name, self._options(name), known=tuple(self._built_in()))

    def _built_in(self) -> Mapping[str, Callable[[], Gate]]:
        return {
            "integrity": self._integrity,
            "signature": self._signature,
            "compatibility": self._compatibility,
            "ops": self._ops,
            "warmup": self._warmup,
            "load": self._load,
            "golden": self._golden,
            "latency": self._latency,
            "resources": self._resources,
        }

    def _integrity(self) -> Gate:
        from deployctl.gates.integrity import IntegrityGate

        def verify(manifest: Manifest) -> Sequence[FileProblem]:
            return self.deployment.repository.verify(manifest, self.deployment.context.observer)

        return IntegrityGate(verify, self._signature_check())

    def _signature_check(self) -> Callable[[Manifest], str] | None:
        settings = self.target.gate.integrity
        if not settings.public_keys and not settings.certificates:
            return None
        from deployctl.signing import Trust

        keys, certificates = (tuple(map(self._path, each)) for each in (settings.public_keys, settings.certificates))
        return Trust(keys, certificates).problem

    def _signature(self) -> Gate:
        from deployctl.gates.signature import SignatureGate

        settings = self.target.gate.signature
        return SignatureGate(required=settings.required, rest_only=settings.rest_only)

    def _compatibility(self) -> Gate:
        from deployctl.gates.compatibility import CompatibilityGate
        from deployctl.gates.contract import read_contract

        folder = self._path(self.target.gate.compatibility.contracts)
        contract = read_contract(folder / f"{self.model}.toml") if self.model else None
        return CompatibilityGate(contract=contract, allow_breaking=self.wishes.allow_breaking)

    def _ops(self) -> Gate:
        from deployctl.gates.ops import OpsGate

        settings = self.target.gate.ops
        return OpsGate(
            tensorflow=settings.tensorflow or self._image_version(), allowed=settings.allowed, denied=settings.denied
        )

    def _warmup(self) -> Gate:
        from deployctl.gates.warmup import WarmupGate
        from deployctl.savedmodel.warmup import read_warmup

        return WarmupGate(read_warmup)

    def _load(self) -> Gate:
        from deployctl.gates.load import LoadGate

        settings = self.target.gate.load
        return LoadGate(
            self._scratch,
            server=self._server(self.target),
            timeout_s=settings.timeout_s,
            max_memory=settings.max_memory,
        )

    def _loads(self) -> list[Gate]:
        """Returns a gate for each image to be tried, each with a scratch server of its own."""
        from deployctl.gates.load import LoadGate
        from deployctl.scratch import scratch_server

        settings = self.target.gate.load
        targets = [replace(self.target, image=image) for image in self.wishes.images]
        return [
            LoadGate(
                self._stack.enter_context(scratch_server(self.deployment, target)),
                server=self._server(target),
                timeout_s=settings.timeout_s,
                max_memory=settings.max_memory,
                image=target.image,
            )
            for target in targets
        ]

    def _golden(self) -> Gate:
        from deployctl.domain.golden import Tolerance
        from deployctl.gates.golden import GoldenGate

        settings = self.target.gate.golden
        return GoldenGate(
            self._scratch,
            self.golden_file,
            tolerance=Tolerance(settings.rtol, settings.atol),
            timeout_s=self.target.gate.load.timeout_s,
            against_live=self.wishes.against_live,
            max_changed=settings.max_changed,
        )

    def _latency(self) -> Gate:
        from deployctl.gates.latency import LatencyGate

        settings = self.target.gate.latency
        return LatencyGate(
            self._scratch,
            self.golden_file,
            self.deployment.context.clock,
            max_ratio=settings.max_ratio,
            pairs=settings.pairs,
            timeout_s=self.target.gate.load.timeout_s,
        )

    def _resources(self) -> Gate:
        from deployctl.gates.resources import ResourcesGate
        from deployctl.headroom import headroom

        return ResourcesGate(
            lambda: headroom(self.deployment, self.target_name, self.target, self.model),
            lambda candidate: self._scratch.loaded(candidate.version),
        )

    @cached_property
    def golden_file(self) -> GoldenFile:
        """The golden records of the model; of an export of no model, none but those that were asked for."""
        from deployctl.domain.golden import parse_golden
        from deployctl.gates.golden import GoldenFile

        path = self.wishes.golden
        if path is None and self.model is None:
            return GoldenFile("", None)
        path = path or self._path(self.target.gate.golden.file.replace("{model}", str(self.model)))
        try:
            return GoldenFile(str(path), parse_golden(path.read_text(encoding="utf-8"), str(path)))
        except FileNotFoundError as error:
            if self.wishes.golden is not None:
                raise InvalidRequestError(f"there is no file {path}", hint="deployctl golden record --help") from error
            return GoldenFile(str(path), None)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"cannot read {path}: {error}") from error

    def _server(self, target: TargetSettings) -> str:
        """Returns what a scratch server of `target` is: of an image its digest, since a tag may move."""
        if target.runtime is RuntimeName.DOCKER:
            from deployctl.scratch import image_digest

            return image_digest(self.deployment, target)
        return f"deployctl-model-server {__version__} {' '.join(self.target.server_args)}".rstrip()

    def _image_version(self) -> str:
        """Returns the TensorFlow version that the target's image is named after, "" where it says none."""
        if self.target.runtime is not RuntimeName.DOCKER:
            return ""
        tag = self.target.image.partition("@")[0].rpartition(":")[2].partition("-")[0]
        return tag if tag.replace(".", "").isdecimal() else ""

    def _path(self, text: str) -> Path:
        return self.deployment.settings.root / text

    def _options(self, name: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in self.target.gate.options:
            key, equals, value = each.partition("=")
            gate, dot, option = key.partition(".")
            if not equals or not dot:
                raise SettingsError(f"the gate option {each!r} is not GATE.KEY=VALUE", hint="deployctl config show")
            if gate == name:
                found[option] = value
        return found


def candidate_on(deployment: Deployment, target: TargetName, model: ModelName, version: VersionNumber) -> Candidate:
    """Returns a published version with what it is held against on the target."""
    from deployctl.operations.candidate import against_target, of_version

    observer = deployment.context.observer
    found = of_version(deployment.repository, deployment.reader, model, version, observer)
    return against_target(found, version, model, deployment.target(target), deployment.reader, deployment.context)


def promotion_judge(deployment: Deployment, target: TargetName, wishes: Wishes) -> Judge | None:
    """Returns what asks the target's gates about a version that is to be promoted, None where it has none."""
    from deployctl.operations.validate import Validate

    settings = deployment.settings.targets[target]
    if not settings.gates:
        return None
    advisory = frozenset(settings.advisory_gates) - frozenset(settings.gates)
    # A reason to accept what breaks clients says that it is known.
    if wishes.allow_breaking:
        advisory -= {"compatibility"}

    def judge(model: ModelName, version: VersionNumber) -> Report:
        candidate = candidate_on(deployment, target, model, version)
        with GateMaker(deployment, target, model, wishes) as gates:
            report = Validate(gates, deployment.lineage, deployment.context, target=target)(candidate)
            return replace(report, advisory=advisory)

    return judge


def golden_prover(deployment: Deployment, target: TargetName, model: ModelName) -> Prover | None:
    """Returns what asks the target's server golden requests about a version that it has loaded.

    None where the target does not have the gate `golden`: an answer that changed may be what was wanted.
    """
    if "golden" not in deployment.settings.targets[target].gates:
        return None
    return GoldenProbe(deployment, target, model, deployment.target(target).runtime)


class GoldenProbe:
    """Asks a target's server the golden requests of one model about versions that it has loaded."""

    def __init__(self, deployment: Deployment, target: TargetName, model: ModelName, runtime: ServingRuntime) -> None:
        self._deployment = deployment
        self._target = target
        self._model = model
        self._runtime = runtime
        # What is known of the version that was asked about last.
        self._read: tuple[VersionNumber, Version] | None = None
        self._own: tuple[VersionNumber, bool] | None = None

    def __call__(self, version: VersionNumber) -> str | None:
        """Returns why the version does not answer as is recorded, None where it does, or nothing is recorded.

        Raises:
            InvalidRequestError: the golden records cannot be read.
            NotFoundError, DependencyError: the version's files cannot be.
        """
        from deployctl.domain.golden import Tolerance
        from deployctl.gates.golden import GoldenGate
        from deployctl.gates.interface import Candidate, Outcome
        from deployctl.gates.scratch import LiveServer

        settings = self._deployment.settings.targets[self._target].gate
        golden = GateMaker(self._deployment, self._target, self._model, Wishes()).golden_file
        if golden.records is None and not self._brings_records(version):
            return None
        gate = GoldenGate(
            LiveServer(self._runtime, self._model, version),
            golden,
            tolerance=Tolerance(settings.golden.rtol, settings.golden.atol),
            timeout_s=settings.load.timeout_s,
        )
        verdict = gate.judge(Candidate(self._version(version), self._model))
        if verdict.outcome is Outcome.SKIPPED:
            return None
        if verdict.outcome is Outcome.FAILED:
            return verdict.problems[0] if verdict.problems else verdict.summary
        self._deployment.context.observer.step("golden", verdict.summary)
        return None

    def _brings_records(self, version: VersionNumber) -> bool:
        from deployctl.domain.golden import OWN_GOLDEN_PATH

        if self._own is None or self._own[0] != version:
            path = self._deployment.repository.local_path(self._model, version)
            self._own = (version, (path / OWN_GOLDEN_PATH).is_file())
        return self._own[1]

    def _version(self, version: VersionNumber) -> Version:
        """Returns the version as gates see it, read once while the same one is asked about."""
        from deployctl.operations.candidate import of_version

        if self._read is None or self._read[0] != version:
            deployment = self._deployment
            observer = deployment.context.observer
            found = of_version(deployment.repository, deployment.reader, self._model, version, observer)
            self._read = (version, found)
        return self._read[1]


def rollback_report(deployment: Deployment, plan: RolledBack) -> Report:
    """Returns whether a planned rollback would work: bytes as in the manifest, loadable, with room for them."""
    from deployctl.gates.interface import Candidate
    from deployctl.operations.candidate import of_version
    from deployctl.operations.rollout import RolloutClass
    from deployctl.operations.validate import Validate

    observer = deployment.context.observer
    version = of_version(deployment.repository, deployment.reader, plan.model, plan.version, observer)
    # What is loaded already needs no more room.
    names = ("integrity", "load") if plan.rollout_class is RolloutClass.HOT else ("integrity", "load", "resources")
    with GateMaker(deployment, plan.target, plan.model, Wishes(gates=names)) as gates:
        # Not recorded: it is a question about now.
        return Validate(gates, None, deployment.context, target=plan.target)(Candidate(version, plan.model))
