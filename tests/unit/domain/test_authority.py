"""What a token may do, and where."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.authority import ROLES, Authority, Role
from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, TargetName
from deployctl.errors import DeniedError

LOCAL, PRODUCTION = TargetName("local"), TargetName("production")
HALF, DIGITS = ModelName("half"), ModelName("digits")
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
authorities = st.builds(
    Authority,
    names,
    names,
    st.sampled_from(Role),
    st.frozensets(names.map(TargetName), max_size=2),
    st.frozensets(names.map(ModelName), max_size=2),
    st.just("127.0.0.1"),
)
ADMIN = Authority("1", "root", Role.ADMIN)
SCOPED = Authority("2", "ci", Role.DEPLOYER, frozenset({LOCAL}), frozenset({HALF}))


@given(authorities)
def test_an_authority_survives_json(authority: Authority) -> None:
    assert Authority.from_json(json.loads(json.dumps(authority.to_json()))) == authority


def test_every_kind_of_event_has_a_role() -> None:
    assert set(EventKind) <= set(ROLES)


@given(authorities, st.text(max_size=10).filter(lambda text: text not in ROLES))
def test_what_is_in_no_table_needs_an_admin(authority: Authority, action: str) -> None:
    everywhere = dataclasses.replace(authority, targets=frozenset(), models=frozenset())

    assert everywhere.allows(action) == (authority.role is Role.ADMIN)


def test_a_role_includes_those_before_it() -> None:
    assert [[role.includes(other) for other in Role] for role in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(
    ("target", "model", "may"),
    [(LOCAL, HALF, True), (PRODUCTION, HALF, False), (LOCAL, DIGITS, False), (LOCAL, None, False), (None, HALF, False)],
)
def test_a_scope_is_for_its_own(target: TargetName | None, model: ModelName | None, may: bool) -> None:
    assert SCOPED.allows("promote", target, model) == may


def test_publishing_concerns_no_target() -> None:
    SCOPED.require("publish", model=HALF)
    with pytest.raises(DeniedError, match="not for digits"):
        SCOPED.require("publish", model=DIGITS)


def test_a_scoped_admin_makes_no_token() -> None:
    scoped = dataclasses.replace(ADMIN, targets=frozenset({LOCAL}))

    assert ADMIN.allows(EventKind.TOKEN_CREATED)
    assert not scoped.allows(EventKind.TOKEN_CREATED)
    assert not dataclasses.replace(ADMIN, models=frozenset({HALF})).allows(EventKind.TOKEN_CREATED)


def test_a_denial_says_whose_and_what() -> None:
    with pytest.raises(DeniedError, match="token ci has the role deployer, and gc needs admin"):
        SCOPED.require("gc")
    with pytest.raises(DeniedError, match="token ci is not for half on production"):
        SCOPED.require("promote", PRODUCTION, HALF)
