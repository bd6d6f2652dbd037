"""How TFLite models are run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TfliteOptions:
    """How TFLite models are run.

    Attributes:
        pools: the most interpreters of one version, each of which runs one call at a time.
        interpreters_per_pool: with more than 1, calls run together in batches.
        threads: of each interpreter; 0 counts as 1.
    """

    pools: int = 1
    interpreters_per_pool: int = 1
    threads: int = 0
