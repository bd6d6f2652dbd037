"""Publish, promote, predict and roll back with the command, on the embedded server."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.support.workspace import (
    HALF_PLUS_THREE,
    HALF_PLUS_TWO,
    HALF_PLUS_TWO_TF2,
    Workspace,
    ask,
    truncate,
    with_unknown_op,
)

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-main")]


def test_publish_promote_predict_replace_and_roll_back(served_either_way: Workspace) -> None:
    served = served_either_way
    url = served.rest()
    served.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)

    first = served.json("promote", "half@1")
    assert ask(url, "half") == 3.0
    second = served.json("promote", "half@2", "-m", "retrained")
    assert ask(url, "half") == 4.0
    back = served.json("rollback", "half", "-m", "recall dropped")
    assert ask(url, "half") == 3.0

    keys = {"model", "target", "version", "previous_version", "revision", "outcome", "duration_s"}
    assert keys <= set(first)
    assert keys | {"class"} <= set(back)
    assert [first["version"], first["previous_version"], first["revision"]] == [1, None, 1]
    assert [second["version"], second["previous_version"], second["revision"]] == [2, 1, 2]
    assert [back["version"], back["previous_version"], back["revision"], back["class"]] == [1, 2, 3, "hot"]
    assert {each["schema"] for each in (first, second)} == {"deployctl.promote/1"}
    assert back["schema"] == "deployctl.rollback/1"
    events = served.json("history", "half")["events"]
    assert [event["kind"] for event in events[:2]] == ["revision.serving", "revision.pending"]
    assert events[1]["reason"] == "recall dropped"


def test_publish_says_which_version_has_the_bytes(served_either_way: Workspace) -> None:
    served = served_either_way
    first = served.json("publish", str(HALF_PLUS_TWO), "--model", "bytes", "--metric", "accuracy=0.97", "--tag", "a=b")
    again = served.json("publish", str(HALF_PLUS_TWO), "--model", "bytes")

    assert {"schema", "model", "version", "digest", "created"} <= set(first)
    assert (first["model"], first["version"], first["created"]) == ("bytes", 1, True)
    assert (again["version"], again["created"], again["digest"]) == (1, False, first["digest"])
    assert "already published (same bytes)" in served.ok("publish", str(HALF_PLUS_TWO), "--model", "bytes")
    listed = served.json("versions", "bytes")["versions"]
    assert [(each["version"], each["metrics"], each["tags"]) for each in listed] == [
        (1, {"accuracy": 0.97}, {"a": "b"})
    ]
    assert served.ok("versions", "bytes", "-o", "name") == "bytes@1\n"
    assert served.json("show", f"bytes@{first['digest'][:20]}")["version"] == 1


def test_predicts_alike_by_rest_and_grpc_by_rows_and_columns(served_either_way: Workspace) -> None:
    served = served_either_way
    served.publish("asked", HALF_PLUS_TWO)
    served.ok("promote", "asked@latest")

    for words in (("--instances", "[[2.0], [4.0]]"), ("--inputs", '{"x": [[2.0], [4.0]]}')):
        by_rest = served.json("predict", "asked", *words)
        by_grpc = served.json("predict", "asked@1", *words, "--grpc")
        key = "predictions" if "--instances" in words else "outputs"
        assert by_rest[key] == by_grpc[key] == [[3.0], [4.0]]
        assert by_grpc["version"] == 1
    piped = served.ok("predict", "asked@stable", "--file", "-", text='{"instances": [2.0]}')
    assert piped == '{"predictions": [3.0]}\n'


def test_diff_and_show_tell_versions_apart(served_either_way: Workspace) -> None:
    served = served_either_way
    served.publish("differ", HALF_PLUS_TWO, HALF_PLUS_THREE)

    document = served.json("diff", "differ@1", "differ@2")

    assert {"signatures", "ops", "files", "size_bytes", "identical"} <= set(document)
    assert document["identical"] is False
    assert any(change["subject"].startswith("file variables/") for change in document["files"])
    assert served.json("diff", "differ@1", "differ@1")["identical"] is True
    other = served.json("publish", str(HALF_PLUS_TWO_TF2), "--model", "differ")["version"]
    sides = [side for change in served.json("diff", "differ@1", f"differ@{other}")["files"] for side in change.values()]
    assert None in sides
    assert "" not in sides
    assert "signature   serving_default" in served.ok("show", "differ@1")
    assert served.json("verify", "differ@2")["intact"] is True


def test_status_tells_what_serves_where_and_what_a_rollback_would_do(served_either_way: Workspace) -> None:
    served = served_either_way
    served.publish("told", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served.ok("promote", "told@1")
    served.ok("promote", "told@2", "--label", "canary")

    document = served.json("status", "--model", "told")
    (target,) = document["targets"]
    (model,) = target["models"]

    assert document["schema"] == "deployctl.status/1"
    assert {"name", "state", "endpoints", "models"} <= set(target)
    assert (target["name"], target["state"]) == ("local", "ready")
    assert set(target["endpoints"]) == {"rest", "grpc"}
    assert (model["name"], model["revision"], model["labels"]) == ("told", 2, {"stable": 1, "canary": 2})
    assert [(each["version"], each["state"]) for each in model["versions"]] == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    assert ask(target["endpoints"]["rest"], "told", label="canary") == 4.0
    assert ask(target["endpoints"]["rest"], "told", label="stable") == 3.0
    served.ok("promote", "told@canary")
    assert served.json("status", "--model", "told")["targets"][0]["models"][0]["rollback"]["version"] == 1
    table = served.ok("status")
    assert table.startswith("TARGET  MODEL")
    assert "hot to @1" in table


def test_an_op_that_tensorflow_does_not_know_leaves_the_old_version_and_tells_the_servers_words(
    served_either_way: Workspace, tmp_path: Path
) -> None:
    served = served_either_way
    served.publish("odd", HALF_PLUS_TWO, with_unknown_op(tmp_path / "odd"))
    served.ok("promote", "odd@1")

    words = served.fails(5, "promote", "odd@2", hint="deployctl logs local")

    assert "Op type not registered 'Mvl'" in words
    assert "@1 was restored and verified" in words
    assert ask(served.rest(), "odd") == 3.0
    assert served.json("history", "odd", "-n", "1")["events"][0]["kind"] == "revision.failed"


def test_truncated_data_that_was_put_there_by_hand_leaves_the_old_version(served_either_way: Workspace) -> None:
    served = served_either_way
    served.publish("cut", HALF_PLUS_TWO)
    served.ok("promote", "cut@1")
    shutil.copytree(HALF_PLUS_THREE, served.root / "models" / "cut" / "2")
    truncate(served.root / "models" / "cut" / "2")

    words = served.fails(5, "promote", "cut@2")

    assert "cut@2 cannot be loaded: " in words
    assert "@1 was restored and verified" in words
    assert ask(served.rest(), "cut") == 3.0
    assert "variables" in served.fails(1, "adopt", "cut")


def test_a_published_version_that_was_damaged_never_reaches_the_server(served_either_way: Workspace) -> None:
    served = served_either_way
    served.publish("rotten", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served.ok("promote", "rotten@1")
    truncate(served.root / "models" / "rotten" / "2")

    words = served.fails(5, "promote", "rotten@2", hint="deployctl verify rotten@2")

    assert "does not match its manifest: variables/variables.data-00000-of-00001 is changed" in words
    assert ask(served.rest(), "rotten") == 3.0
    done = served.run("verify", "rotten@2")
    assert done.returncode == 1


def test_files_that_were_damaged_while_they_serve_are_told_and_not_put_down_to_the_server(
    served_either_way: Workspace,
) -> None:
    served = served_either_way
    served.publish("worn", HALF_PLUS_TWO)
    served.ok("promote", "worn@1")
    variables = served.root / "models" / "worn" / "1" / "variables" / "variables.data-00000-of-00001"
    whole = variables.read_bytes()
    truncate(served.root / "models" / "worn" / "1")

    done = served.run("status", "--model", "worn", "--verify")

    assert (done.returncode, served.run("status", "--model", "worn").returncode) == (6, 0)
    assert "worn: @1 does not match its manifest: variables/variables.data-00000-of-00001 is changed" in done.stdout
    assert "hint:  deployctl verify worn@1" in done.stderr
    # The server is others' as well.
    variables.write_bytes(whole)


def test_the_standing_version_is_not_promoted_twice_and_a_dry_run_does_nothing(served_either_way: Workspace) -> None:
    served = served_either_way
    served.publish("plan", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served.ok("promote", "plan@1", "--if-current", "0")

    assert "plan@2 would serve stable on local instead of @1" in served.ok("promote", "plan@2", "--dry-run")
    assert served.json("promote", "plan@1")["outcome"] == "unchanged"
    served.fails(8, "promote", "plan@2", "--if-current", "7", hint="deployctl history plan")
    served.ok("promote", "plan@2", "--if-current", "1")
    assert "would serve stable" in served.ok("rollback", "plan", "--dry-run")

    assert ask(served.rest(), "plan") == 4.0
    assert served.json("status", "--model", "plan")["targets"][0]["models"][0]["revision"] == 2


def test_numbers_by_time_and_exports_named_in_every_way(served_either_way: Workspace, tmp_path: Path) -> None:
    served = served_either_way
    export = shutil.copytree(HALF_PLUS_TWO, tmp_path / "named")
    # A client elsewhere has no settings to name.
    config = () if "DEPLOYCTL_SERVER" in served.environment else ("--config", str(served.root / "deployctl.toml"))

    by_dot = served.json(*config, "publish", ".", directory=export)
    by_slash = served.json(*config, "publish", "named/", directory=tmp_path)
    by_parent = served.json(*config, "publish", "variables/..", directory=export)

    assert [(each["model"], each["version"]) for each in (by_dot, by_slash, by_parent)] == [("named", 1)] * 3
    by_time = served.json("publish", str(export), "--numbering", "timestamp", "--new-version")
    assert by_time["version"] > 1_700_000_000
    assert served.json("publish", str(HALF_PLUS_THREE), "--model", "named")["version"] == by_time["version"] + 1


def test_what_others_put_there_is_adopted_and_promoted(served_either_way: Workspace) -> None:
    served = served_either_way
    shutil.copytree(HALF_PLUS_TWO_TF2, served.root / "models" / "stranger" / "20260101")

    assert served.json("adopt", "stranger")["adopted"] == [20260101]
    served.ok("promote", "stranger@20260101")

    assert ask(served.rest(), "stranger") == 3.0
    assert served.json("adopt", "stranger")["known"] == [20260101]


def test_holds_gates_and_files_act_alike_wherever_the_command_runs(
    served_either_way: Workspace, tmp_path: Path
) -> None:
    served = served_either_way
    served.publish("held", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served.ok("promote", "held@1")
    assert "nope" in served.fails(9, "freeze", "--model", "nope", "-m", "fair")
    assert "0s" in served.fails(2, "freeze", "--model", "held", "-m", "fair", "--for", "0s")
    served.ok("freeze", "--model", "held", "-m", "fair")
    again = served.run("freeze", "--model", "held", "-m", "fair")
    assert (again.returncode, "warning: this replaces: held on local is frozen" in again.stderr) == (0, True)

    assert "fair" in served.fails(7, "promote", "held@2", hint="deployctl unfreeze")
    served.ok("promote", "held@2", "--label", "canary", "--break-glass", "T-1", "-m", "now")
    served.ok("review", "held", "-m", "seen")
    served.ok("unfreeze", "--model", "held")
    served.ok("promote", "held@1", "--label", "blue", "-m", "for the blue ones")
    served.ok("quarantine", "held@2", "-m", "bad")
    shown = served.ok("status", "--model", "held")
    assert "local/held: other labels: blue @1" in shown
    assert ": for the blue ones" in shown
    assert re.search(r"local/held: @2 serves, and sha256:.* is quarantined by .*: bad", shown)
    assert [line for line in served.ok("versions", "held").splitlines() if "in quarantine" in line][0].startswith("@2 ")
    assert re.search(r"quarantine .*: bad", served.ok("show", "held@2"))
    assert "quarantine" not in served.ok("show", "held@1")
    served.ok("rollback", "held@1")
    refused = served.fails(3, "promote", "held@2", hint="deployctl quarantine held@2 --release -m")
    assert "quarantined" in refused
    served.ok(*shlex.split(refused.partition("hint:")[2])[1:])
    served.ok("promote", "held@2", "--dry-run")

    records, report = tmp_path / "new" / "golden.jsonl", tmp_path / "report.sarif"
    served.ok("golden", "record", "held@1", "--random", "2", "--live", "--out", str(records))
    assert len(records.read_text().splitlines()) == 2
    judged = served.run(
        "validate", str(HALF_PLUS_THREE), "--model", "held", "--against", "held@1", "--gate", "compatibility",
        "--sarif", str(report), "-o", "json",
    )  # fmt: skip
    assert (judged.returncode, json.loads(judged.stdout)["passed"]) == (3, False), judged.stderr
    assert json.loads(report.read_text())["runs"][0]["results"]
    assert served.json("gc", "--dry-run")["schema"] == "deployctl.gc/1"
    assert "nothing to retire" in served.ok("retire", "held", "--keep", "1", "--dry-run")


def test_a_file_asks_the_signature_that_it_names(served_either_way: Workspace, tmp_path: Path) -> None:
    served = served_either_way
    served.publish("named-signature", HALF_PLUS_TWO)
    served.ok("promote", "named-signature@1")
    file = tmp_path / "request.json"
    # y = x/2 + 3, where the default is x/2 + 2
    file.write_text('{"signature_name": "regress_x2_to_y3", "inputs": {"inputs": [[1.0]]}}')

    for words in (("named-signature",), ("named-signature", "--grpc"), ("--local", str(HALF_PLUS_TWO))):
        assert "3.5" in served.ok("predict", *words, "--file", str(file))
        assert json.loads(served.ok("predict", *words, "--instances", "[NaN]"), parse_constant=int) == {
            "predictions": ["nan"]
        }


def test_down_and_up_keep_what_was_live_and_up_twice_is_one_server(either_way: Workspace) -> None:
    workspace = either_way
    assert workspace.run("status").returncode == 0
    workspace.ok("up")
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")

    assert workspace.json("up")["outcome"] == "already running"
    assert workspace.json("down")["outcome"] == "stopped"
    assert workspace.json("down")["outcome"] == "not running"
    assert workspace.run("status").returncode == 6
    workspace.fails(10, "predict", "half", "--instances", "[2.0]", hint="deployctl up local")
    workspace.fails(10, "promote", "half@1", hint="deployctl up local")

    assert workspace.json("up")["outcome"] == "started"
    assert ask(workspace.rest(), "half") == 4.0
    assert workspace.json("rollback", "half")["class"] == "hot"
    workspace.ok("down")
    assert workspace.json("rollback", "half@2")["outcome"] == "recorded"
    workspace.ok("up")
    assert ask(workspace.rest(), "half") == 4.0
    assert workspace.json("audit", "verify")["intact"] is True


def test_two_targets_serve_apart_and_one_may_route_by_the_latest_version(tmp_path: Path) -> None:
    ports = "rest_port = 0\ngrpc_port = 0\ngates = []\n"
    both = f"[targets.staging]\n{ports}[targets.live]\nrouting = 'latest'\n{ports}"
    workspace = Workspace.make(tmp_path / "two", targets=both)
    try:
        workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
        for target in ("staging", "live"):
            workspace.ok("up", target)
        workspace.ok("promote", "half@2", environment={"DEPLOYCTL_TARGET": "live"})
        workspace.ok("promote", "half@1", "--target", "staging")
        staging, live = workspace.rest("staging"), workspace.rest("live")
        assert (ask(staging, "half"), ask(live, "half", label=None)) == (3.0, 4.0)

        # A lower version takes the traffic of clients that name none.
        lower = workspace.json("promote", "half@1", "-t", "live")

        assert ask(live, "half", label=None) == 3.0
        assert lower["standby"] == []
        assert workspace.json("rollback", "half", "-t", "live")["version"] == 2
        assert ask(live, "half", label=None) == 4.0
        assert ask(staging, "half") == 3.0
        assert workspace.fails(9, "rollback", "half", "--target", "staging")
    finally:
        workspace.down()


def test_a_server_that_was_changed_behind_our_back_is_seen_and_put_right(served_either_way: Workspace) -> None:
    served = served_either_way
    from deployctl.domain.serving import ServingConfig
    from deployctl.serving.model_service import ModelService

    served.publish("drift", HALF_PLUS_TWO)
    served.ok("promote", "drift@1")
    grpc = served.json("status")["targets"][0]["endpoints"]["grpc"]
    with ModelService(grpc) as service:
        service.handle_reload_config(ServingConfig(), timeout_s=20)

    done = served.run("status")
    served.ok("up")

    assert done.returncode == 6
    assert "hint:  deployctl up local" in done.stderr
    assert ask(served.rest(), "drift") == 3.0
    assert served.run("status").returncode == 0
