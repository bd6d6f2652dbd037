"""What becomes of each command where it acts elsewhere: who may give it, and which of its words are files.

A command that is not in the table runs where it is typed. The daemon's side reads the same table, and so trusts no
client to have read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from deployctl.domain.authority import Role


class FileKind(Enum):
    """What a word is where it names a file: whose it is, and which way it goes."""

    EXPORT = "export"
    """A directory, an archive or a URL; paths are sent."""
    SUBJECT = "subject"
    """An export, or a version."""
    READ = "read"
    """A file, "-" for the standard input; it is sent."""
    WRITTEN = "written"
    """A file that the command writes; it is brought back."""
    COMMIT = "commit"
    """A commit, or a checkout whose commit is told."""
    KEPT = "kept"
    """One that stays where it is: the command cannot have it elsewhere."""
    HERE = "here"
    """One of this machine, with which the command needs no server at all."""
    URL = "url"
    """A URL; no path, which would be one of the daemon's machine."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one command acts elsewhere.

    Attributes:
        role: the least role that may give it.
        reads: whether it changes nothing, and so is ended when nobody listens any more.
        models: parameters that name a model, or a version of one.
        all_models: whether it concerns every model where none of them is given.
        files: what its parameters are that name files.
        admin: parameters that only an admin may use.
    """

    role: Role
    reads: bool = False
    models: tuple[str, ...] = ()
    all_models: bool = False
    files: Mapping[str, FileKind] = field(default_factory=dict)
    admin: tuple[str, ...] = ()


def _view(*models: str, every: bool = False) -> Rule:
    return Rule(Role.VIEWER, reads=True, models=models, all_models=every)


def _deploy(*models: str, every: bool = False) -> Rule:
    return Rule(Role.DEPLOYER, models=models, all_models=every)


RULES: Mapping[str, Rule] = {
    "doctor": Rule(Role.DEPLOYER, reads=True, all_models=True),
    "up": Rule(Role.ADMIN, all_models=True),
    "down": Rule(Role.ADMIN, all_models=True),
    "restart": Rule(Role.ADMIN, all_models=True),
    "upgrade": Rule(Role.ADMIN, all_models=True),
    "logs": _view(every=True),
    "publish": Rule(
        Role.DEPLOYER,
        models=("model",),
        files={
            "export": FileKind.EXPORT,
            "code": FileKind.COMMIT,
            "warmup": FileKind.READ,
            "sign": FileKind.KEPT,
            "sign_certificate": FileKind.KEPT,
        },
    ),
    "versions": _view("model", every=True),
    "show": _view("reference"),
    "diff": _view("before", "after"),
    "verify": _view("reference"),
    "adopt": _deploy("model"),
    "retire": Rule(Role.ADMIN, models=("references",)),
    "validate": Rule(
        Role.DEPLOYER,
        reads=True,
        models=("subject", "model", "against"),
        files={
            "subject": FileKind.SUBJECT,
            "against": FileKind.SUBJECT,
            "golden": FileKind.READ,
            "junit": FileKind.WRITTEN,
            "sarif": FileKind.WRITTEN,
        },
        admin=("images",),
    ),
    "promote": Rule(Role.DEPLOYER, models=("reference",), admin=("break_glass",)),
    "rollback": _deploy("model", every=True),
    "history": _view("model", every=True),
    "status": _view("model", every=True),
    "freeze": _deploy("model", every=True),
    "unfreeze": _deploy("model", every=True),
    "quarantine": Rule(Role.ADMIN, models=("reference",)),
    "review": Rule(Role.ADMIN, models=("model",)),
    "predict": Rule(
        Role.VIEWER,
        reads=True,
        models=("reference",),
        files={"file": FileKind.READ, "local": FileKind.HERE, "save": FileKind.HERE, "input_": FileKind.HERE},
    ),
    "gc": Rule(Role.ADMIN),
    "copy": Rule(Role.ADMIN, models=("reference", "model"), files={"to": FileKind.URL}),
    "config show": Rule(Role.ADMIN, reads=True),
    "golden record": Rule(
        Role.DEPLOYER,
        models=("subject",),
        files={"subject": FileKind.SUBJECT, "source": FileKind.READ, "out": FileKind.WRITTEN},
    ),
    "op list": _view(every=True),
    "op show": _view(),
    "op wait": _view(),
    "op resume": _deploy(),
    "op abort": _deploy(),
    "lock list": _view(every=True),
    "lock release": Rule(Role.ADMIN, models=("model",), all_models=True),
    "s3 policy": Rule(Role.ADMIN, reads=True),
    "db current": Rule(Role.ADMIN, reads=True),
    "db check": Rule(Role.ADMIN, reads=True),
    "db backup": Rule(Role.ADMIN),
    "db rebuild": Rule(Role.ADMIN),
    "audit verify": Rule(Role.VIEWER, reads=True, all_models=True),
    "notifications list": Rule(Role.ADMIN, reads=True),
    "notifications dead": Rule(Role.ADMIN, reads=True),
    "notifications retry": Rule(Role.ADMIN),
    "notifications test": Rule(Role.ADMIN),
    "token list": Rule(Role.ADMIN, reads=True),
    "token create": Rule(Role.ADMIN, models=("model",), all_models=True),
    "token revoke": Rule(Role.ADMIN),
}
