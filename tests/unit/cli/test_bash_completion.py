"""Words as bash 5.2 parts them (seen with `declare -p COMP_WORDS` in a completion function)."""

from __future__ import annotations

import pytest

from deployctl.cli.bash_completion import Line, whole


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (["d", "promote", "ha"], Line(("d", "promote", "ha"), "")),
        (["d", "promote", "half", "@"], Line(("d", "promote", "half@"), "half")),
        (["d", "promote", "half", "@", "st"], Line(("d", "promote", "half@st"), "half")),
        (["d", "show", "h", "@", "sha256", ":", "ab"], Line(("d", "show", "h@sha256:ab"), "h@sha256:")),
        (["d", "show", "h", "@", "sha256", ":"], Line(("d", "show", "h@sha256:"), "h@sha256:")),
        (["d", "diff", "h", "@", "1", "h", "@", "2"], Line(("d", "diff", "h@1", "h@2"), "h")),
        (["d", "promote", "h", "@", "1", ""], Line(("d", "promote", "h@1", ""), "")),
        (["d", "--target", "=", "lo"], Line(("d", "--target", "=", "lo"), "")),
        # With an "@" that the user has taken out of COMP_WORDBREAKS, words come whole.
        (["d", "promote", "half@st"], Line(("d", "promote", "half@st"), "")),
    ],
)
def test_parts_become_whole_words_again(parts: list[str], line: Line) -> None:
    assert whole(parts, len(parts) - 1) == line


def test_what_follows_the_cursor_is_left_out() -> None:
    assert whole(["d", "promote", "h", "--target", "x"], 2) == Line(("d", "promote", "h"), "")


def test_a_new_word_that_bash_does_not_list_is_empty() -> None:
    assert whole(["d", "promote"], 2) == Line(("d", "promote", ""), "")
