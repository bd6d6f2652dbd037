"""A server that someone else runs is told by gRPC, and by the file that it starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.model_server import ModelServerProcess, ModelServers, free_port
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = pytest.mark.tensorflow

Driven = Callable[..., Workspace]


@pytest.fixture
def driven(tmp_path: Path) -> Driven:
    """Makes workspaces that drive a server at these ports; `external` are lines of the table of that name."""

    def make(rest_port: int, grpc_port: int, external: str = "") -> Workspace:
        target = (
            f'[targets.local]\nruntime = "external"\nrest_port = {rest_port}\ngrpc_port = {grpc_port}\ngates = []\n'
        )
        workspace = Workspace.make(tmp_path / "work", targets=f"{target}[targets.local.external]\n{external}")
        workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
        return workspace

    return make


def serving(servers: ModelServers, *flags: str) -> ModelServerProcess:
    """A server of nobody's, without models."""
    return servers.start("--allow_version_labels_for_unavailable_models=true", *flags)


def empty_config(tmp_path: Path) -> Path:
    """The file of a server that serves nothing yet."""
    file = tmp_path / "config" / "models.config"
    file.parent.mkdir()
    file.write_text("model_config_list {}\n")
    return file


def test_promotes_and_rolls_back_and_the_server_comes_back_with_what_was_live(
    driven: Driven, model_servers: ModelServers, tmp_path: Path
) -> None:
    file = empty_config(tmp_path)
    server = serving(model_servers, f"--model_config_file={file}")
    workspace = driven(server.rest_port, server.grpc_port, f'config_file = "{file}"\n')

    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")
    assert ask(server.rest_url, "half") == 4.0
    assert workspace.json("predict", "half", "--instances", "[2.0]")["predictions"] == [4.0]
    workspace.ok("rollback", "half")
    assert ask(server.rest_url, "half") == 3.0

    server.stop()
    workspace.fails(10, "promote", "half@2")
    assert "unreachable" in workspace.run("status").stdout
    again = serving(model_servers, f"--model_config_file={file}")
    assert ask(again.rest_url, "half") == 3.0


def test_without_a_file_the_record_is_told_again_after_a_restart(
    driven: Driven, model_servers: ModelServers, tmp_path: Path
) -> None:
    flag = f"--model_config_file={empty_config(tmp_path)}"
    server = serving(model_servers, flag)
    workspace = driven(server.rest_port, server.grpc_port)
    workspace.ok("promote", "half@1")
    server.stop()
    again = serving(model_servers, flag)
    moved = (
        "--set",
        f"targets.local.rest_port={again.rest_port}",
        "--set",
        f"targets.local.grpc_port={again.grpc_port}",
    )

    workspace.ok(*moved, "up")

    assert ask(again.rest_url, "half") == 3.0


def test_what_only_its_owner_can_do_is_refused_in_words(driven: Driven) -> None:
    workspace = driven(free_port(), free_port())

    for words, action in ((["down"], "stop"), (["restart"], "restart"), (["logs"], "read the log of")):
        said = workspace.fails(10, *words, hint="deployctl status local")
        assert f"cannot {action} the server of local, which someone else runs" in said
    assert "must start it" in workspace.fails(10, "up", "--timeout", "1s")
    assert "therefore no image" in workspace.fails(2, "upgrade", "--image", "other:1")


def test_a_server_behind_tls_is_told_with_the_certificates_of_the_settings(
    driven: Driven, model_servers: ModelServers, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    texts = {"server_key": "key.pem", "server_cert": "cert.pem", "custom_ca": "ca.pem"}
    quoted = {name: (certificates / file).read_text().replace("\n", "\\n") for name, file in texts.items()}
    (tmp_path / "ssl.config").write_text(
        "".join(f'{name}: "{text}"\n' for name, text in quoted.items()) + "client_verify: true\n"
    )
    flags = (f"--model_config_file={empty_config(tmp_path)}", f"--ssl_config_file={tmp_path / 'ssl.config'}")
    server = serving(model_servers, *flags)
    keys = "".join(
        f'{name} = "{certificates / file}"\n'
        for name, file in (("tls_ca_file", "ca.pem"), ("tls_cert_file", "cert.pem"), ("tls_key_file", "key.pem"))
    )
    workspace = driven(server.rest_port, server.grpc_port, f"tls = true\n{keys}")

    workspace.ok("promote", "half@1")

    assert ask(server.rest_url, "half") == 3.0
    workspace.fails(10, "--set", "targets.local.external.tls=false", "promote", "half@2")
    assert ask(server.rest_url, "half") == 3.0
