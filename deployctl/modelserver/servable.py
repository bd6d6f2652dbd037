"""A loaded SavedModel as the front ends see it: signatures checked by TensorFlow Serving's rules, in its words."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from deployctl.domain.saved_model import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
)
from deployctl.modelserver import example_results
from deployctl.modelserver.interface import Code, InferenceTask, StatusError
from deployctl.modelserver.lifecycle import LoadedServable
from deployctl.modelserver.metrics import Metrics
from deployctl.modelserver.runner import Runner

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Classification, Inference, Regression, Tensor

# What tensorflow_serving/servables/tensorflow/predict_util.cc calls its runtime in metrics.
_RUNTIME = "TF1"
_VALUES = "outputs"


class TensorFlowServable(LoadedServable):
    """One version, run by a TensorFlow session (directly or in batches)."""

    def __init__(
        self,
        name: str,
        version: int,
        runner: Runner,
        *,
        check_method_names: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._runner = runner
        self._check_method_names = check_method_names
        self._metrics = metrics or Metrics()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures of the MetaGraph that was loaded, internal ones included."""
        return self._runner.signatures.signatures

    @property
    def signature_def_map(self) -> bytes:
        """A serialized tensorflow.serving.SignatureDefMap with every field as the model has it."""
        return self._runner.signatures.serialized_map

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
        *,
        timeout_s: float | None,
    ) -> dict[str, Tensor]:
        """Runs a signature (tensorflow_serving/servables/tensorflow/predict_util.cc, RunPredict)."""
        feeds, names, fetches = self._prediction(signature_name, inputs, output_filter)
        return dict(zip(names, self._run("Predict", feeds, fetches, timeout_s), strict=True))

    def predict_soon(
        self,
        signature_name: str,
        inputs: Mapping[str, Tensor],
        output_filter: Sequence[str],
        *,
        timeout_s: float | None,
    ) -> Awaitable[dict[str, Tensor]] | None:
        """Starts a prediction that waits for its batch."""
        feeds, names, fetches = self._prediction(signature_name, inputs, output_filter)
        started = time.perf_counter()
        running = self._runner.run_soon(feeds, fetches, timeout_s=timeout_s)
        if running is None:
            return None

        async def outputs() -> dict[str, Tensor]:
            results = await running
            self._timed("Predict", started)
            return dict(zip(names, results, strict=True))

        return outputs()

    def _prediction(
        self, signature_name: str, inputs: Mapping[str, Tensor], output_filter: Sequence[str]
    ) -> tuple[list[tuple[str, Tensor]], list[str], list[str]]:
        """What to feed, the outputs' names, and their tensors."""
        key = signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(key)
        if signature is None:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
        if self._check_method_names:
            _check_method_name(signature)
        _check_input_count(signature, inputs)
        feeds = _feeds(signature, inputs, self._runner.signatures.defaults.get(key, {}))
        names = _chosen_outputs(signature, output_filter)
        return feeds, names, [signature.outputs[name].tensor for name in names]

    def classify(self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None) -> Classification:
        """Runs a Classify signature (tensorflow_serving/servables/tensorflow/classifier.cc)."""
        (answer,) = self._answers("Classify", [self._question(signature_name, CLASSIFY_METHOD)], examples, timeout_s)
        return cast("Classification", answer)

    def regress(self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None) -> Regression:
        """Runs a Regress signature (tensorflow_serving/servables/tensorflow/regressor.cc)."""
        (answer,) = self._answers("Regress", [self._question(signature_name, REGRESS_METHOD)], examples, timeout_s)
        return cast("Regression", answer)

    def infer(
        self, tasks: Sequence[InferenceTask], examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[Inference]:
        """Runs all tasks at once (tensorflow_serving/servables/tensorflow/multi_inference.cc)."""
        keys: set[str] = set()
        questions: list[_Question] = []
        for task in tasks:
            key = task.signature_name or DEFAULT_SIGNATURE
            if key in keys:
                raise _invalid(f"Duplicate evaluation of signature: {key}")
            keys.add(key)
            if key not in self.signatures:
                raise _invalid(f"Requested signature not found in model graph: {key}")
            questions.append(self._question(key, task.method))
        return self._answers("MultiInference", questions, examples, timeout_s)

    def close(self) -> None:
        """Frees the session and what it holds."""
        self._runner.close()

    def _run(
        self, api: str, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], timeout_s: float | None
    ) -> list[Tensor]:
        started = time.perf_counter()
        results = self._runner.run(feeds, fetches, timeout_s=timeout_s)
        self._timed(api, started)
        return results

    def _timed(self, api: str, started: float) -> None:
        self._metrics.runtime_timed(self.name, api=api, runtime=_RUNTIME, micros=(time.perf_counter() - started) * 1e6)

    def _question(self, signature_name: str, method: str) -> _Question:
        key = signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(key)
        if signature is None:
            raise _invalid(f"No signature was found with the name: {key}")
        if method == CLASSIFY_METHOD:
            source, outputs = example_results.classification_tensors(signature, check_method=self._check_method_names)
            return _Question(method, source.tensor, {name: spec.tensor for name, spec in outputs.items()})
        if method == REGRESS_METHOD:
            source, output = example_results.regression_tensors(signature, check_method=self._check_method_names)
            return _Question(method, source.tensor, {_VALUES: output.tensor})
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")

    def _answers(
        self, api: str, questions: Sequence[_Question], examples: Sequence[bytes], timeout_s: float | None
    ) -> list[Inference]:
        if not examples:
            raise _invalid("Input is empty.")
        serialized = np.empty(len(examples), dtype=object)
        serialized[:] = list(examples)
        # Signatures by TensorFlow 2 have an input tensor each; all are fed the same examples.
        feeds = [(source, serialized) for source in sorted({question.source for question in questions})]
        fetches = sorted({tensor for question in questions for tensor in question.outputs.values()})
        results = dict(zip(fetches, self._run(api, feeds, fetches, timeout_s), strict=True))
        self._metrics.examples_received(self.name, len(examples))
        return [question.answer(results, len(examples)) for question in questions]


@dataclass(frozen=True, slots=True)
class _Question:
    """A Classify or Regress signature: the tensor that takes the examples, and its outputs' tensors by role."""

    method: str
    source: str
    outputs: Mapping[str, str]

    def answer(self, results: Mapping[str, Tensor], count: int) -> Inference:
        if self.method == CLASSIFY_METHOD:
            named = {role: results[tensor] for role, tensor in self.outputs.items()}
            return example_results.classifications(named, count)
        return example_results.regressions(results[self.outputs[_VALUES]], count)


def _check_method_name(signature: Signature) -> None:
    if signature.method not in (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD):
        raise StatusError(
            Code.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{PREDICT_METHOD}, {CLASSIFY_METHOD}, {REGRESS_METHOD}}}. Was: {signature.method}",
        )


def _check_input_count(signature: Signature, inputs: Mapping[str, Tensor]) -> None:
    given, wanted = len(inputs), len(signature.inputs)
    if given == wanted or (given < wanted and signature.optional_inputs):
        return
    extra = inputs.keys() - signature.inputs.keys()
    missing = signature.inputs.keys() - inputs.keys()
    raise StatusError(
        Code.INVALID_ARGUMENT,
        f"input size does not match signature: {given}!={wanted} len({{{_joined(inputs)}}}) != "
        f"len({{{_joined(signature.inputs)}}}). Sent extra: {{{_joined(extra)}}}. "
        f"Missing but required: {{{_joined(missing)}}}.",
    )


def _feeds(
    signature: Signature, inputs: Mapping[str, Tensor], defaults: Mapping[str, Tensor]
) -> list[tuple[str, Tensor]]:
    """The value of each input (tensorflow/cc/saved_model/util.cc, GetInputValues)."""
    feeds, used = [], []
    for alias, spec in signature.inputs.items():
        value = inputs.get(alias)
        if value is not None:
            used.append(alias)
        else:
            value = defaults.get(alias)
        if value is None:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Signature input alias: {alias}(feed name: {spec.tensor}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {{{_joined(inputs)}}}, or default input alias set: "
                f"{_joined(defaults)}",
            )
        feeds.append((spec.tensor, value))
    if len(used) != len(inputs):
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"Inputs contains invalid name. Used request inputs: {_joined(used)}, request input: {_joined(inputs)}",
        )
    return feeds


def _chosen_outputs(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{{{_joined(signature.outputs)}}}.",
            )
        if alias in seen:
            raise StatusError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return list(output_filter) or list(signature.outputs)


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
