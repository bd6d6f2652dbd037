"""Makes the upgrade of a target's image: the server that is tried, and how its answers are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from deployctl.config.settings import TargetSettings
from deployctl.errors import InvalidRequestError, NotFoundError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.golden import GoldenRecord
    from deployctl.domain.names import ModelName, TargetName, VersionNumber
    from deployctl.gates.interface import Verdict, Version
    from deployctl.operations.target import Target
    from deployctl.operations.upgrade import Compare, Upgrade
    from deployctl.serving.interface import ServingRuntime

_CALL_TIMEOUT_S = 60.0
# How many requests are made for a signature that has no golden ones.
_RANDOM_REQUESTS = 8
_SEED = 0


def upgrade_of(deployment: Deployment, target: Target, image: str) -> Upgrade:
    """Returns the upgrade of a target's server to `image`, "" for the one that the settings name.

    Raises:
        UsageError: the target's server has no image.
    """
    from deployctl.operations.upgrade import Upgrade
    from deployctl.serving.docker_runtime import DockerRuntime

    settings = deployment.settings.targets[target.name]
    chosen = replace(settings, image=image or settings.image)
    runtime = deployment.runtime(target.name, chosen)
    if not isinstance(runtime, DockerRuntime):
        raise UsageError(
            f"the server of {target.name} has the runtime {settings.runtime.value} and therefore no image",
            hint="deployctl config show",
        )
    return Upgrade(
        replace(target, runtime=runtime),
        runtime,
        deployment.context,
        beside=lambda: _beside(deployment, chosen),
        compare=_comparison(deployment, target.name),
    )


@contextmanager
def _beside(deployment: Deployment, chosen: TargetSettings) -> Iterator[ServingRuntime]:
    """Gives a server as the target's, on ports of its own; one whose user was killed ends with the next one's start."""
    from deployctl.gates.scratch import own_directory, stop
    from deployctl.scratch import beside_target

    launch = beside_target(deployment, chosen)
    with own_directory(deployment.settings.state_path / "scratch", launch) as root:
        runtime = launch(root, deployment.settings.model_base_path)
        try:
            yield runtime
        finally:
            stop(runtime)


def _comparison(deployment: Deployment, target: TargetName) -> Compare:
    from deployctl.domain.golden import Tolerance
    from deployctl.gates.golden import GoldenFile, GoldenGate
    from deployctl.gates.interface import Candidate, Outcome, Verdict
    from deployctl.gates.scratch import LiveServer
    from deployctl.operations.candidate import of_version

    settings = deployment.settings.targets[target].gate
    tolerance = Tolerance(settings.golden.rtol, settings.golden.atol)

    def compare(old: ServingRuntime, new: ServingRuntime, model: ModelName, number: VersionNumber) -> Verdict:
        observer = deployment.context.observer
        version = of_version(deployment.repository, deployment.reader, model, number, observer, whole=False)
        golden, made, unasked = _requests(deployment, target, model, version)
        by_kind = {
            kind: tuple(_answered(old, model, number, version, requests))
            for kind, requests in (("golden", golden), ("random", made))
        }
        answered = by_kind["golden"] + by_kind["random"]
        refused = len(golden) + len(made) - len(answered)
        if not answered:
            return Verdict(Outcome.SKIPPED, f"nothing was compared: {_left_out(refused, unasked)}")
        answers = GoldenFile("the running server's answers", answered)
        server = LiveServer(new, model, number)
        gate = GoldenGate(server, answers, tolerance=tolerance, timeout_s=settings.load.timeout_s)
        verdict = gate.judge(Candidate(version, model))
        if verdict.outcome is Outcome.FAILED:
            return verdict
        left_out = _left_out(refused, unasked)
        kinds = " and ".join(f"{len(of_kind)} {kind}" for kind, of_kind in by_kind.items() if of_kind) + " requests"
        varying = verdict.evidence["varying"]
        words = f"{kinds} answered; answers vary ({', '.join(varying)})" if varying else f"{kinds} answered alike"
        return replace(verdict, summary=f"{words}; not compared: {left_out}" if left_out else words)

    return compare


def _requests(
    deployment: Deployment, target: TargetName, model: ModelName, version: Version
) -> tuple[tuple[GoldenRecord, ...], tuple[GoldenRecord, ...], tuple[str, ...]]:
    """Returns recorded requests, random ones for signatures without, and signatures that nothing is known to fit."""
    from deployctl.domain.golden import OWN_GOLDEN_PATH, parse_golden
    from deployctl.domain.saved_model import DEFAULT_SIGNATURE
    from deployctl.operations.golden import random_requests
    from deployctl.validation import GateMaker, Wishes

    records = GateMaker(deployment, target, model, Wishes()).golden_file.records
    own = version.path / OWN_GOLDEN_PATH
    if records is None and own.is_file():
        records = parse_golden(own.read_text(encoding="utf-8"), str(own))
    recorded = tuple(each for each in records or () if (each.signature or DEFAULT_SIGNATURE) in version.signatures)
    known = {each.signature or DEFAULT_SIGNATURE for each in recorded}
    made: list[GoldenRecord] = []
    unasked: list[str] = []
    for name in sorted(set(version.signatures) - known):
        try:
            made += random_requests(version, name, _RANDOM_REQUESTS, _SEED)
        except InvalidRequestError:
            unasked.append(name)
    return recorded, tuple(made), tuple(unasked)


def _answered(
    old: ServingRuntime, model: ModelName, number: VersionNumber, version: Version, requests: tuple[GoldenRecord, ...]
) -> Iterator[GoldenRecord]:
    """Yields the requests that the running server takes, with what it answers now."""
    from deployctl.domain.golden import columns, elements
    from deployctl.operations.golden import signature_of
    from deployctl.serving.interface import PredictionRequest, ServedSpec

    for each in requests:
        outputs = signature_of(version, each.signature).outputs
        request = PredictionRequest(ServedSpec(model, version=number), each.signature, each.instances, each.inputs)
        try:
            answer = old.predict(request, grpc=True, timeout_s=_CALL_TIMEOUT_S).outputs
        except (InvalidRequestError, NotFoundError):
            continue
        answered = columns(answer, rows=each.instances is not None, outputs=sorted(outputs))
        if any(isinstance(value, float) and math.isnan(value) for value in elements(list(answered.values()))):
            continue  # No answer is like it.
        yield replace(each, outputs=answered, dtypes={name: spec.dtype for name, spec in outputs.items()})


def _left_out(refused: int, unasked: tuple[str, ...]) -> str:
    words = [f"{refused} requests that the running server refuses or answers with NaN"] if refused else []
    words += [f"signature {name}, for which there is no request" for name in unasked]
    return ", ".join(words)
