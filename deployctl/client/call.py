"""One prediction, whatever carries it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked.

    Attributes:
        inputs: arrays by name, or one array for a signature of one input.
        version, label: which version; the server's choice where both are None.
        signature: "" is serving_default.
        outputs: the ones wanted; () is all.
    """

    model: str
    inputs: Mapping[str, Any] | ArrayLike
    version: int | None = None
    label: str | None = None
    signature: str = ""
    outputs: tuple[str, ...] = ()

    @property
    def servable(self) -> tuple[str, int | None, str | None, str]:
        """What its types are those of."""
        return (self.model, self.version, self.label, self.signature)

    @property
    def is_pinned(self) -> bool:
        """Whether its types stay; a promotion changes what else a model or label stands for."""
        return self.version is not None


@dataclass(frozen=True, slots=True)
class Types:
    """Names of NumPy types ("object" for strings) of a signature's inputs and outputs, by name."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Transport(abc.ABC):
    """Carries calls to one server."""

    @abc.abstractmethod
    def predict(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Returns the outputs by name.

        Raises:
            PredictionError: see its subclasses.
        """

    @abc.abstractmethod
    async def predict_async(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Does what `predict` does, without keeping the event loop waiting."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes its connections."""
