"""How far two answers are from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def difference(expected: Array, actual: Array, *, rtol: float, atol: float) -> dict[str, Any]:
    """Returns how far `actual` is from `expected`: the largest difference, and whether it is within tolerance."""
    if expected.shape != actual.shape:
        reason = f"shape {list(actual.shape)} instead of {list(expected.shape)}"
        return {"within": False, "max_difference": None, "reason": reason}
    if expected.dtype.kind == "O" or expected.dtype != actual.dtype or expected.dtype.names:
        same = expected.dtype.kind == actual.dtype.kind and bool(np.all(expected == actual))
        return {"within": same, "max_difference": 0.0 if same else None, "reason": "" if same else "other values"}
    # Of scalars, NumPy would give numbers and not arrays.
    expected, actual = np.atleast_1d(expected), np.atleast_1d(actual)
    off = np.abs(expected.astype(np.complex128) - actual.astype(np.complex128))
    both_nan = np.isnan(expected) & np.isnan(actual) if expected.dtype.kind in "fc" else np.zeros(off.shape, bool)
    off[both_nan] = 0
    equal_infinities = expected == actual
    off[equal_infinities] = 0
    allowed = atol + rtol * np.abs(expected.astype(np.complex128))
    within = bool(np.all((off <= allowed) | equal_infinities | both_nan))
    return {"within": within, "max_difference": float(off.max()) if off.size else 0.0, "reason": ""}
