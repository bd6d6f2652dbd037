"""Text of others, such as models and servers, as a terminal may show it."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    """Returns `text` on one line, with what is not printable escaped, but for the characters of `keep`.

    Models name their ops and signatures as they like: one with ESC in it would clear a terminal, a newline forge a line
    of a report.
    """
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )
