"""A loaded SavedModel as the front ends see it: signatures checked by TensorFlow Serving's rules, in its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deployctl.domain.saved_model import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
    TensorSpec,
)
from deployctl.modelserver import example_results
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.lifecycle import LoadedServable
from deployctl.modelserver.runner import Runner

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor


class TensorFlowServable(LoadedServable):
    """One version, run by a TensorFlow session (directly or in batches)."""

    def __init__(self, name: str, version: int, runner: Runner, *, check_method_names: bool = False) -> None:
        self.name = name
        self.version = version
        self._runner = runner
        self._check_method_names = check_method_names

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
        key = signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(key)
        if signature is None:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.')
        if self._check_method_names:
            _check_method_name(signature)
        _check_input_count(signature, inputs)
        feeds = _feeds(signature, inputs, self._runner.signatures.defaults.get(key, {}))
        names = _chosen_outputs(signature, output_filter)
        results = self._runner.run(feeds, [signature.outputs[name].tensor for name in names], timeout_s=timeout_s)
        return dict(zip(names, results, strict=True))

    def classify(
        self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None
    ) -> list[list[tuple[str, float]]]:
        """Runs a Classify signature (tensorflow_serving/servables/tensorflow/classifier.cc)."""
        signature = self._example_signature(signature_name, CLASSIFY_METHOD, "classification")
        source, outputs = example_results.classification_tensors(signature)
        results = self._run_examples(source, outputs.values(), examples, timeout_s)
        return example_results.classifications(dict(zip(outputs, results, strict=True)), len(examples))

    def regress(self, signature_name: str, examples: Sequence[bytes], *, timeout_s: float | None) -> list[float]:
        """Runs a Regress signature (tensorflow_serving/servables/tensorflow/regressor.cc)."""
        signature = self._example_signature(signature_name, REGRESS_METHOD, "regression")
        source, output = example_results.regression_tensors(signature)
        (result,) = self._run_examples(source, [output], examples, timeout_s)
        return example_results.regressions(result, len(examples))

    def close(self) -> None:
        """Frees the session and what it holds."""
        self._runner.close()

    def _example_signature(self, signature_name: str, method: str, noun: str) -> Signature:
        key = signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(key)
        if signature is None:
            raise StatusError(Code.INVALID_ARGUMENT, f"No signature was found with the name: {key}")
        if signature.method != method:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                f"Expected {noun} signature method_name to be {method}. Was: {signature.method}",
            )
        return signature

    def _run_examples(
        self, source: TensorSpec, outputs: Iterable[TensorSpec], examples: Sequence[bytes], timeout_s: float | None
    ) -> list[Tensor]:
        if not examples:
            raise StatusError(Code.INVALID_ARGUMENT, "Input is empty.")
        serialized = np.empty(len(examples), dtype=object)
        serialized[:] = list(examples)
        return self._runner.run([(source.tensor, serialized)], [spec.tensor for spec in outputs], timeout_s=timeout_s)


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
