"""Tokens are recognised by their secret, which is kept nowhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployctl.domain.authority import Authority, Role
from deployctl.domain.names import ModelName
from deployctl.errors import DeniedError, InvalidNameError, NotFoundError, PreconditionError, UnauthenticatedError
from deployctl.lineage.journal import FileOperationJournal
from deployctl.operations.context import Context
from deployctl.operations.tokens import Tokens, authenticate
from deployctl.system import SystemClock
from tests.support.lineage import ACTOR, InMemoryLineageStore


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(InMemoryLineageStore(), context(tmp_path))


def context(directory: Path, authority: Authority | None = None) -> Context:
    clock = SystemClock()
    journal = FileOperationJournal(directory, clock, lambda _: None)
    return Context(ACTOR, "op-1", clock, journal, authority=authority)


def now() -> datetime:
    return datetime.now(UTC)


def test_its_bearer_may_do_what_was_said(tokens: Tokens) -> None:
    made = tokens.create("ci", Role.DEPLOYER, models=frozenset({ModelName("half")}))

    found = authenticate(tokens.lineage.tokens, made.secret, "10.0.0.1", now())

    assert found == Authority(
        made.token.id, "ci", Role.DEPLOYER, frozenset(), frozenset({ModelName("half")}), "10.0.0.1"
    )
    assert made.secret not in repr(list(tokens.lineage.events()))


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "a", lambda s: s.upper(), lambda s: "", lambda s: s[:17]]
)
def test_another_secret_opens_nothing(tokens: Tokens, change: object) -> None:
    assert callable(change)
    secret = tokens.create("ci", Role.VIEWER).secret

    with pytest.raises(UnauthenticatedError):
        authenticate(tokens.lineage.tokens, change(secret), "", now())


def test_two_tokens_do_not_open_for_each_other(tokens: Tokens) -> None:
    one, other = (tokens.create(name, Role.VIEWER).secret for name in ("a", "b"))

    with pytest.raises(UnauthenticatedError):
        authenticate(tokens.lineage.tokens, one[:17] + other[17:], "", now())


def test_an_expired_token_opens_nothing_and_its_name_may_be_taken(tokens: Tokens) -> None:
    made = tokens.create("ci", Role.VIEWER, expires_at=now() + timedelta(hours=1))

    with pytest.raises(PreconditionError):
        tokens.create("ci", Role.ADMIN)
    with pytest.raises(UnauthenticatedError):
        authenticate(tokens.lineage.tokens, made.secret, "", now() + timedelta(hours=2))


def test_a_revoked_token_opens_nothing(tokens: Tokens) -> None:
    made = tokens.create("ci", Role.VIEWER)

    assert tokens.revoke(made.token.id) == (made.token,)

    with pytest.raises(UnauthenticatedError):
        authenticate(tokens.lineage.tokens, made.secret, "", now())
    with pytest.raises(NotFoundError):
        tokens.revoke("ci")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a" * 65, "a\n", "ä"])
def test_a_name_is_one_that_records_can_show(tokens: Tokens, name: str) -> None:
    with pytest.raises(InvalidNameError):
        tokens.create(name, Role.VIEWER)


def test_only_an_admin_of_everything_makes_tokens(tokens: Tokens, tmp_path: Path) -> None:
    for authority in (
        Authority("1", "ci", Role.DEPLOYER),
        Authority("2", "half-admin", Role.ADMIN, models=frozenset({ModelName("half")})),
    ):
        with pytest.raises(DeniedError):
            Tokens(tokens.lineage, context(tmp_path, authority)).create("more", Role.ADMIN)

    assert tokens.lineage.tokens() == ()
