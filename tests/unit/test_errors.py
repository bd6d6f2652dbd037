"""The tree that the docstring of `deployctl.errors` draws is the tree of its classes."""

from __future__ import annotations

import inspect
import re

import pytest

from deployctl import errors
from deployctl.errors import DeployctlError, InvalidModelError

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, BaseException)]


def drawn() -> dict[str, tuple[str | None, int]]:
    """Returns parent and exit code by class name, as drawn."""
    tree: dict[str, tuple[str | None, int]] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>\w+Error)\b(?P<rest>.*)$", line)
        if match is None:
            continue
        depth = len(match["branch"])
        while path and path[-1][0] >= depth:
            path.pop()
        parent = path[-1][1] if path else None
        stated = re.search(r"exit (\d+)", match["rest"])
        inherited = tree[parent][1] if parent else 1
        tree[match["name"]] = (parent, int(stated[1]) if stated else inherited)
        path.append((depth, match["name"]))
    return tree


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_drawn_below_its_parent_with_its_exit_code(kind: type[DeployctlError]) -> None:
    parent = kind.__mro__[1].__name__ if kind is not DeployctlError else None

    assert drawn().get(kind.__name__) == (parent, kind.exit_code)


def test_nothing_is_drawn_that_is_not_there() -> None:
    assert set(drawn()) == {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/models/export", "deployctl inspect /models/export"),
        ("/my models/export", "deployctl inspect '/my models/export'"),
        ("s3://bucket/some export", "aws s3 ls --recursive 's3://bucket/some export'"),
    ],
)
def test_an_export_is_looked_at_with_what_can_read_it(path: str, hint: str) -> None:
    assert InvalidModelError(path, "is none").hint == hint


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_says_what_it_means(kind: type[DeployctlError]) -> None:
    assert kind.__doc__
    assert kind.__name__.endswith("Error")
    assert 1 <= kind.exit_code <= 10
