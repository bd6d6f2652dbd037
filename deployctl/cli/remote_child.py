"""The daemon's side of a command that was typed elsewhere: what it may do is checked before it does anything."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployctl.acting import told
from deployctl.bootstrap import AUTHORITY_VARIABLE
from deployctl.cli.remote_rules import RULES, FileKind, Rule
from deployctl.cli.words import Call, Word, read_call
from deployctl.domain.authority import Authority, Role
from deployctl.domain.reference import Latest, parse_reference
from deployctl.errors import UsageError

_NAMED_FILE = re.compile(r"(in|out):(\d{1,4})")


def admitted(group: Any, context: Any, words: Sequence[str]) -> list[str]:
    """Returns the words to run, their files in this machine's paths.

    Raises:
        UsageError: they are none that are run for others, or name files of this machine.
        DeniedError: the token does not permit it.
    """
    acting = told()
    if any(context.params.get(name) for name in ("config", "flags", "server", "token_file", "ca_file")):
        raise UsageError("options before the command are the daemon's own")
    call = read_call(group, context, words)
    rule = RULES.get(call.name)
    if rule is None:
        raise UsageError(f"{call.name} runs on the machine itself, and not through a server")
    _check(Authority.from_json(json.loads(os.environ[AUTHORITY_VARIABLE])), call, rule)
    if rule.reads:
        Path(acting["directory"], "reads").touch()
    return call.changed(lambda word: _unpacked(word, rule, acting)).typed()


def _check(authority: Authority, call: Call, rule: Rule) -> None:
    """Refuses early what the operations would refuse too, and what they could not: what only reads."""
    authority.check_role(rule.role, call.name)
    for parameter in rule.admin:
        if any(call.values(parameter)):
            authority.check_role(Role.ADMIN, f"{call.name} --{parameter.replace('_', '-')}")
    models = [_model(value) for parameter in rule.models for value in call.values(parameter) if _is_model(value)]
    for model in models:
        authority.check_model(model)
    if not models and rule.all_models:
        authority.check_all_models(call.name)


def _is_model(value: str) -> bool:
    return value != "live" and not _NAMED_FILE.fullmatch(value)


def _model(reference: str) -> str:
    return reference.partition("@")[0]


def _unpacked(word: Word, rule: Rule, acting: Mapping[str, Any]) -> Word:
    kind = rule.files.get(word.parameter)
    if kind is None or word.value is None:
        return word
    named = _NAMED_FILE.fullmatch(word.value)
    if named is None:
        return _unsent(word, word.value, kind)
    files = acting["inputs" if named[1] == "in" else "outputs"]
    wanted = "out" if kind is FileKind.WRITTEN else "in"
    if named[1] != wanted or int(named[2]) >= len(files):
        raise UsageError(f"{word.value} is no file that was sent")
    return replace(word, value=files[int(named[2])]["path"])


def _unsent(word: Word, value: str, kind: FileKind) -> Word:
    """Returns a word that names no file that was sent, and none of this machine either."""
    from deployctl.cli.validation import export_path

    match kind:
        case FileKind.EXPORT | FileKind.URL | FileKind.SUBJECT if value.startswith("s3://"):
            return word
        case FileKind.EXPORT if "://" in value:
            raise UsageError(f"{value!r} is neither a path nor s3://BUCKET/KEY", hint="deployctl publish --help")
        case FileKind.SUBJECT if export_path(value) is None:
            return word
        case FileKind.SUBJECT if "/" not in value:
            # It was no file where it was typed, so it is a model, whatever has the same name here.
            return replace(word, value=str(parse_reference(value, default=Latest())))
        case FileKind.COMMIT if not os.path.isdir(value):
            return word
        case _:
            raise UsageError(f"{value!r} would be a file of the daemon's machine: send yours, or give an s3:// URL")
