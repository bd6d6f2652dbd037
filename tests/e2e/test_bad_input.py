"""Every command with what is wrong: the right exit code, one sentence, a hint, no trace and nothing on stdout."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-bad-input")]


@pytest.fixture(scope="module")
def with_model(served_either_way: Workspace) -> Workspace:
    """The running workspace with half@1, promoted, and half@2."""
    served_either_way.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served_either_way.ok("promote", "half@1")
    return served_either_way


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "promote half@9"),
        (9, "promote half@shadow"),
        (9, "promote half@sha256:0123456789"),
        (9, "promote nothing@1"),
        (9, "promote half@2 --target nowhere"),
        (2, "promote half"),
        (2, "promote half@007"),
        (2, "promote a/b@1"),
        (2, "promote half@2 --label latest"),
        (2, "promote half@2 --timeout soon"),
        (2, "promote half@2 --if-current -1"),
        (9, "rollback nothing"),
        (9, "rollback half --to 99"),
        (9, "rollback half@2"),
        (2, "rollback half@stable"),
        (2, "rollback half@1 --to 1"),
        (2, "promote half@1 --canary --label foo"),
        (9, "show half@9"),
        (9, "show nothing"),
        (9, "diff half@1 half@9"),
        (9, "verify half@9"),
        (9, "adopt nothing"),
        (2, "adopt ../x"),
        (9, "versions nothing"),
        (2, "versions half@1"),
        (9, "history nothing"),
        (9, "history --target nowhere"),
        (9, "status nowhere"),
        (9, "status --model nothing"),
        (9, "up nowhere"),
        (9, "down nowhere"),
        (9, "logs nowhere"),
        (2, "logs --since yesterday"),
        (9, "predict nothing --instances [1.0]"),
        (9, "predict half@9 --instances [1.0]"),
        (9, "predict half@9 --instances [1.0] --grpc"),
        (9, "predict half@shadow --instances [1.0]"),
        (9, "predict half@shadow --instances [1.0] --grpc"),
        (2, "predict half"),
        (2, "predict half --instances {"),
        (2, "predict half --instances {}"),
        (2, "predict half --inputs null"),
        (2, "predict half --inputs [1] --instances [1]"),
        (2, "predict half --file absent.json"),
        (2, 'predict half --instances ["text"]'),
        (2, 'predict half --instances [{"y":1}]'),
        (2, 'predict half --instances [{"y":1}] --grpc'),
        (2, "predict half --instances [1.0] --signature absent"),
        (1, "publish absent --model half"),
        (1, "publish deployctl.toml --model half"),
        (1, "publish models --model half"),
        (2, "publish models --numbering random"),
        (2, "publish models --metric accuracy=high"),
        (2, "publish models --tag x"),
        (2, "publish models --model .x"),
        (2, "publish models --code models"),
        (1, "inspect absent"),
        (2, "config show --output yaml"),
        (2, "absent"),
        (2, "--set x=1 status"),
        (2, "--set targets.local.rest_port=http status"),
        (2, "--config absent.toml status"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(with_model: Workspace, code: int, words: str) -> None:
    with_model.fails(code, *words.split())


@pytest.mark.parametrize("opening", ["[", '{"instances":'])
def test_a_request_nested_without_end_is_refused(with_model: Workspace, opening: str) -> None:
    with_model.fails(2, "predict", "half", "--file", "-", text=opening * 100_000)


def test_a_settings_file_that_is_wrong_is_named(workspace: Workspace) -> None:
    file = workspace.root / "deployctl.toml"
    for text in ("[targets", "[targets.local]\nport = 1", "nonsense = 1"):
        file.write_text(text)
        assert "deployctl.toml" in workspace.fails(2, "status")


def test_without_settings_the_hint_is_init(tmp_path: Path) -> None:
    for words in ("status", "versions", "up", "doctor", "config show", "db upgrade", "publish x"):
        Workspace(tmp_path).fails(2, *words.split(), hint="deployctl init")


def test_a_variable_that_is_no_setting_is_named(workspace: Workspace) -> None:
    assert "DEPLOYCTL_PORT" in workspace.fails(2, "status", environment={"DEPLOYCTL_PORT": "1"})
    workspace.fails(9, "up", environment={"DEPLOYCTL_TARGET": "nowhere"})


def test_an_empty_repository_lists_nothing(either_way: Workspace) -> None:
    workspace = either_way
    assert workspace.ok("versions").startswith("no models in ")
    assert workspace.json("versions")["models"] == []
    assert workspace.ok("versions", "-o", "name") == ""


def test_without_a_schema_commands_say_upgrade(workspace: Workspace) -> None:
    (workspace.root / "deployctl.db").unlink()

    for words in ("history", "db rebuild", "audit verify"):
        workspace.fails(10, *words.split(), hint="deployctl db upgrade")
    workspace.fails(10, "publish", str(HALF_PLUS_TWO), "--model", "half", hint="deployctl db upgrade")
    assert list((workspace.root / "models").glob("half/[0-9]*")) == []
    workspace.ok("db", "upgrade")
    assert workspace.json("history")["events"] == []


@pytest.mark.parametrize(
    ("found", "hint"), [("0001", "deployctl db upgrade"), ("9999", "pip install --upgrade deployctl")]
)
def test_another_schema_is_neither_used_nor_migrated_silently(workspace: Workspace, found: str, hint: str) -> None:
    with closing(sqlite3.connect(workspace.root / "deployctl.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (found,))

    workspace.fails(10, "history", hint=hint)
    workspace.fails(10, "publish", str(HALF_PLUS_TWO), "--model", "half", hint=hint)

    assert workspace.json("db", "current")["found"] == found


def test_a_database_that_is_none_is_said_to_be_damaged(workspace: Workspace) -> None:
    (workspace.root / "deployctl.db").write_bytes(b"not a database" * 1000)

    assert "is damaged" in workspace.fails(10, "history", hint="deployctl doctor")
    workspace.fails(10, "publish", str(HALF_PLUS_TWO), "--model", "half")


def test_a_database_that_another_program_locks_is_waited_for_and_then_told(workspace: Workspace) -> None:
    briefly = ("--set", "lineage.busy_timeout_s=0.2")
    locker = sqlite3.connect(workspace.root / "deployctl.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    try:
        done = workspace.run(*briefly, "publish", str(HALF_PLUS_TWO), "--model", "half")
        assert done.returncode == 10
        assert "lock" in done.stderr
        workspace.ok(*briefly, "status")
    finally:
        locker.close()

    workspace.ok("publish", str(HALF_PLUS_TWO), "--model", "half")
    assert workspace.ok("versions", "half", "-o", "name") == "half@1\n"


def test_a_port_that_is_taken_is_named_with_its_key(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = workspace.fails(10, "--set", f"targets.local.rest_port={port}", "up")

    assert str(port) in words
    assert workspace.json("status")["targets"][0]["state"] == "stopped"


def test_a_crashed_server_is_seen_and_up_starts_another(either_way: Workspace) -> None:
    workspace = either_way
    workspace.publish("half", HALF_PLUS_TWO)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    detail = workspace.json("status")["targets"][0]["detail"]
    os.kill(int(detail["pid"]), 9)

    done = workspace.run("status")
    assert done.returncode == 6
    assert "unreachable" in done.stderr
    workspace.fails(10, "promote", "half@1", hint="deployctl up local")
    workspace.fails(10, "predict", "half", "--instances", "[1.0]", hint="deployctl up local")
    assert workspace.json("up")["outcome"] == "started"
    assert workspace.ok("predict", "half", "--instances", "[2.0]") == '{"predictions": [3.0]}\n'


needs_permissions = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root passes over permissions, and there is no setpriv",
)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Takes the right to write in `directory` away."""
    modes = {path: path.stat().st_mode for path in (directory, *directory.rglob("*")) if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@needs_permissions
def test_in_a_read_only_directory_changes_fail_in_words(workspace: Workspace, tmp_path: Path) -> None:
    workspace.publish("half", HALF_PLUS_TWO)
    empty = tmp_path / "empty"
    empty.mkdir()

    with read_only(empty):
        workspace.fails(2, "init", directory=empty, bound=True)
    with read_only(workspace.root):
        for words in (("publish", str(HALF_PLUS_THREE), "--model", "half"), ("up",), ("promote", "half@1")):
            done = workspace.run(*words, bound=True)
            assert (done.returncode, done.stdout) == (10, ""), (words, done.stderr)
            assert "Traceback" not in done.stderr
            assert "error: " in done.stderr


@needs_permissions
def test_an_export_that_cannot_be_read_is_refused_with_the_file(workspace: Workspace, tmp_path: Path) -> None:
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "export")
    (export / "variables" / "variables.data-00000-of-00001").chmod(0)

    words = workspace.fails(1, "publish", str(export), "--model", "half", bound=True)

    assert "variables.data-00000-of-00001" in words


@needs_permissions
def test_a_home_that_may_not_be_searched_holds_no_settings(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    (home / ".config").mkdir(parents=True)
    here.mkdir()
    home.chmod(0)
    try:
        Workspace(here, {"XDG_CONFIG_HOME": str(home / ".config")}).fails(
            2, "status", hint="deployctl init", bound=True
        )
    finally:
        home.chmod(0o755)


def test_a_name_that_is_no_text_is_published_and_recorded(either_way: Workspace, tmp_path: Path) -> None:
    workspace = either_way
    export = shutil.copytree(HALF_PLUS_TWO, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))

    done = workspace.run("publish", str(export), "--model", "half", "-m", os.fsdecode(b"caf\xe9"))

    assert done.returncode == 0, done.stderr
    assert workspace.json("history", "half")["events"][0]["reason"]
    assert "source" in workspace.ok("show", "half@1")
