"""Completion in bash of words that hold `@` or `:`.

Bash parts words at the characters of COMP_WORDBREAKS before a completer sees them, and puts what the completer offers
in place of the last part alone (bash(1), Programmable Completion). So `digits@2` comes as `digits`, `@`, `2`, and the
offer for it must be `@2`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

_BREAKS = frozenset("@:")


@dataclass(frozen=True, slots=True)
class Line:
    """A command line with whole words.

    Attributes:
        words: up to and with the one that is completed.
        kept: the start of the last word that bash keeps, and that offers must not repeat.
    """

    words: tuple[str, ...]
    kept: str


def is_asked_for() -> bool:
    """Whether bash has started this process to complete a word."""
    return os.environ.get("_DEPLOYCTL_COMPLETE") == "complete_bash" and "COMP_WORDS" in os.environ


def complete(run: Callable[[], object]) -> None:
    """Runs the completer `run` on whole words and writes its offers as bash wants them."""
    # The script joins the words with newlines (its IFS).
    line = whole(os.environ["COMP_WORDS"].split("\n"), int(os.environ.get("COMP_CWORD", "0")))
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(line.words), str(len(line.words) - 1)
    offers = io.StringIO()
    try:
        with redirect_stdout(offers):
            run()
    finally:
        for offer in offers.getvalue().splitlines():
            print(offer.removeprefix(line.kept))


def whole(parts: Sequence[str], current: int) -> Line:
    """Returns the line of which bash made `parts`, up to the one with index `current`."""
    words: list[str] = []
    kept = ""
    joining = False
    for part in [*parts, ""][: current + 1]:
        is_break = part != "" and set(part) <= _BREAKS
        if (is_break or joining) and words:
            if is_break:
                # Readline gives an "@" to be replaced with what follows it (rl_special_prefixes), a ":" not.
                kept = words[-1] if part == "@" else words[-1] + part
            words[-1] += part
        else:
            kept = ""
            words.append(part)
        joining = is_break
    return Line(tuple(words), kept)
