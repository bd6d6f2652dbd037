"""The reference of JSON documents names every key that the commands write, with its type, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from deployctl.cli.servers import _upgrade_document
from deployctl.documents.text import as_text
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.serving import Endpoints
from deployctl.gates.interface import Outcome, Verdict
from deployctl.operations.upgrade import Compared, Upgraded
from deployctl.serving.interface import Image
from tests.docs.console import ROOT, Step, workspace

PAGE = ROOT / "docs" / "reference" / "json.md"
MODELS = "~/deployctl/tests/data/tensorflow_serving"
CHANNEL = (
    r'[daemon]\nlisten = ""\n[notifications.ops]\nurl = "http://127.0.0.1:8501"\nattempts = 1\nsecret_env = "KEY"\n'
)
# Python, as the commands run.
PYTHON = "PYTHONPATH=~/deployctl python"
# Holds the lock of a target until somebody takes it away, a minute at most.
HOLDER = """
import threading, time
from deployctl.bootstrap import opened
from deployctl.config.load import load
from deployctl.domain.clock import Observer
with opened(load().settings, Observer()) as deployment:
    lock, until = deployment.target(None).lock, time.monotonic() + 60
    with lock.hold(model=None, purpose="hold", timeout_s=60):
        while lock.leases() and time.monotonic() < until:
            threading.Event().wait(0.05)
"""
HELD = "until deployctl lock list -o name | grep -q local; do :; done"
RECEIVER = "WEBHOOK_SECRET=k python3 ~/deployctl/examples/webhook_receiver.py --port 8501 > received"
# Each command with the exit code that it ends with; its document goes to the file of its number.
COMMANDS: tuple[tuple[str, int], ...] = (
    ("deployctl init -o json", 0),
    ("export DEPLOYCTL_TARGETS_LOCAL_GATES=", 0),
    ("deployctl config show -o json", 0),
    (f"deployctl publish {MODELS}/saved_model_half_plus_two_cpu/00000123 --model half --metric a=0.5 -o json", 0),
    (f"deployctl publish {MODELS}/saved_model_half_plus_three/00000123 --model half --tag kind=test -o json", 0),
    ("deployctl up -o json", 0),
    ("deployctl validate half@1 --gate signature --gate ops -o json", 0),
    ("deployctl golden record half@1 --random 2 -o json", 0),
    ("deployctl promote half@1 -o json", 0),
    ("deployctl promote half@2 -o json", 0),
    ("deployctl rollback half -o json", 0),
    ("deployctl promote half@2 -o json", 0),
    ("deployctl rollback half --check -o json", 0),
    ("sleep 1", 0),
    ('deployctl rollback --all --before "$(date -u +%H:%M:%S)" --check -o json', 0),
    ('deployctl rollback --all --before "$(date -u +%H:%M:%S)" -o json', 0),
    ("deployctl freeze local -m sale --for 1h -o json", 0),
    ("deployctl promote half@1 --break-glass INC-1 -o json", 0),
    ("deployctl status -o json", 0),
    ("deployctl review half -o json", 0),
    ("deployctl unfreeze local -o json", 0),
    ("deployctl promote half@2 -o json", 0),
    ("deployctl quarantine half@1 -m slow -o json", 0),
    ("deployctl quarantine half@1 --release -m 'fast again' -o json", 0),
    ("deployctl op list -o json", 0),
    ("deployctl op show $(deployctl op list -n 1 -o name) -o json", 0),
    ("deployctl promote half@1 --no-wait -o json", 0),
    ("deployctl op wait $(deployctl op list -n 1 -o name) -o json", 0),
    ("deployctl promote half@2 -o json", 0),
    ("deployctl lock list -o json", 0),
    (
        f"{{ {PYTHON} -c '{HOLDER}' & timeout 60 sh -c '{HELD}'; }}",
        0,
    ),
    ("deployctl lock release local -m stuck -o json", 0),
    ("deployctl status -o json", 0),
    ("deployctl predict half --instances '[2.0]' -o json", 0),
    ("deployctl predict half --inputs 2.0 -o json", 0),
    ("deployctl history -o json", 0),
    ("deployctl versions -o json", 0),
    ("deployctl versions half -o json", 0),
    ("deployctl show half@2 -o json", 0),
    ("deployctl diff half@1 half@2 -o json", 0),
    ("mkdir other", 0),
    ("deployctl copy half@1 --to other --dry-run -o json", 0),
    ("deployctl copy half@1 --to other -o json", 0),
    ("mkdir -p models/half/.deployctl/staging/s-left", 0),
    ("deployctl gc -o json", 0),
    ("deployctl retire half --keep 1 --dry-run -o json", 0),
    ("cp deployctl.toml models/half/1/assets/foo.txt", 0),
    ("deployctl verify half@1 -o json", 1),
    (f"deployctl inspect {MODELS}/saved_model_half_plus_two_cpu/00000123 -o json", 0),
    (f"deployctl inspect {MODELS}/saved_model_half_plus_two_cpu/00000123 --values a -o json", 0),
    (f"deployctl convert checkpoint {MODELS}/bad_half_plus_two/00000123/export --publish converted -o json", 0),
    (f"cp -r {MODELS}/saved_model_half_plus_three/00000123 models/half/7", 0),
    ("mkdir models/half/008", 0),
    ("deployctl adopt half -o json", 0),
    ("deployctl doctor -o json", 10),
    ("deployctl db upgrade -o json", 0),
    ("deployctl db current -o json", 0),
    ("deployctl db check -o json", 0),
    ("deployctl db backup -o json", 0),
    ("deployctl db rebuild -o json", 0),
    ("deployctl audit verify -o json", 0),
    ("deployctl token create ci --role deployer --target local --model half --expires 1d -o json", 0),
    ("deployctl token list -o json", 0),
    ("deployctl token revoke ci -o json", 0),
    ("deployctl down -o json", 0),
    (f"{{ printf '{CHANNEL}' >> deployctl.toml; }}", 0),
    ("export KEY=k", 0),
    ("{ deployctl daemon 2> log & until grep -q telling log; do sleep 0.1; done; }", 0),
    ("deployctl freeze local -m sale -o json", 0),
    ("{ until deployctl notifications list -o json | grep -q '\"dead\": 1'; do :; done; }", 0),
    ("deployctl notifications list -o json", 0),
    ("deployctl notifications dead -o json", 0),
    ("deployctl notifications retry ops -o json", 0),
    (f"{{ {RECEIVER} & until curl -s http://127.0.0.1:8501 > got; do sleep 0.1; done; }}", 0),
    ("deployctl notifications test ops -o json", 0),
)
TYPES: Mapping[str, tuple[type, ...]] = {
    "text": (str,),
    "time": (str,),
    "whole number": (int,),
    "number": (int, float),
    "true or false": (bool,),
    "list": (list,),
    "object": (dict,),
    "map": (dict,),
    "any": (str, int, float, bool, list, dict),
    "null": (type(None),),
}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every command writes, read back."""
    with workspace(tmp_path_factory.mktemp("json")) as place:
        files = [place.home / f"{number}.json" for number in range(len(COMMANDS))]
        ran = place.run(
            [
                Step(number, number, f"{command} > {file}", ())
                for number, ((command, _), file) in enumerate(zip(COMMANDS, files, strict=True))
            ]
        )
        assert [each.status for each in ran] == [status for _, status in COMMANDS], [each.printed for each in ran]
        texts = [file.read_text() for file in files]
    return [*(json.loads(text) for text in texts if text), upgraded()]


def upgraded() -> dict[str, Any]:
    """Returns what `upgrade` writes, which needs a container."""
    before, after = Image("server:1", "sha256:1", "server@sha256:1"), Image("server:2", "sha256:2", "server@sha256:2")
    compared = Compared(ModelName("half"), VersionNumber(1), Verdict(Outcome.PASSED, "2 requests answered alike"))
    endpoints = Endpoints(rest="http://127.0.0.1:8501", grpc="127.0.0.1:8500")
    done = Upgraded(TargetName("local"), "upgraded", before, after, (compared,), endpoints, 0.0, 4.2)
    found: dict[str, Any] = json.loads(as_text("upgrade", _upgrade_document(done)))
    return found


def documented() -> dict[str, dict[str, str]]:
    """Returns what the page says: by schema, the type of each key by its path."""
    found: dict[str, dict[str, str]] = {}
    schema = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `(deployctl\..+/\d+)`", line):
            schema = heading[1]
            found[schema] = {}
        elif row := re.match(r"\| `([^`]+)` \| ([^|]+) \|", line):
            found[schema][row[1]] = row[2].strip()
    return found


def values(document: Mapping[str, Any], closed: frozenset[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every value with its path; what is below a path in `closed` is the user's own."""
    for key, value in document.items():
        path = f"{prefix}{key}"
        yield path, value
        if path in closed:
            continue
        if isinstance(value, dict):
            yield from values(value, closed, f"{path}.")
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict):
                yield from values(item, closed, f"{path}[].")


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of a documented type such as "text or null, optional"."""
    names = kind.removesuffix(", optional").split(" or ") if "true or false" not in kind else ["true or false"]
    return any(type(value) in TYPES[name] for name in names)


@pytest.mark.tensorflow
@pytest.mark.xdist_group("json_documents")
def test_every_command_writes_a_documented_schema(documents: list[dict[str, Any]]) -> None:
    assert {document["schema"] for document in documents} == set(documented())


@pytest.mark.tensorflow
@pytest.mark.xdist_group("json_documents")
@pytest.mark.parametrize("schema", sorted(documented()))
def test_the_page_names_the_keys_of(schema: str, documents: list[dict[str, Any]]) -> None:
    keys = documented()[schema]
    closed = frozenset(path for path, kind in keys.items() if kind.startswith(("map", "any")))
    seen: set[str] = set()
    for document in (each for each in documents if each["schema"] == schema):
        for path, value in values({key: document[key] for key in document if key != "schema"}, closed):
            assert path in keys, f"{path} = {value!r} is not documented"
            assert fits(value, keys[path]), f"{path} = {value!r} is not {keys[path]}"
            seen.add(path)
    assert {path for path, kind in keys.items() if not kind.endswith(", optional")} <= seen
