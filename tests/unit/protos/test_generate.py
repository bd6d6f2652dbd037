from __future__ import annotations

from pathlib import Path

import pytest

from deployctl.protos import generate


def test_the_committed_modules_are_what_the_proto_files_generate() -> None:
    pytest.importorskip("grpc_tools")
    assert generate.stale() == []


def test_check_names_the_modules_that_differ(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    protos = tmp_path / "deployctl" / "protos"
    protos.mkdir(parents=True)
    (protos / "one.proto").write_text('syntax = "proto3"; package deployctl.wire.one; message One { int32 a = 1; }\n')

    assert generate.main(["--check"], tmp_path) == 1
    assert "one_pb2.py is not what its .proto file generates" in capsys.readouterr().err
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    (protos / "one_pb2.pyi").write_text("")
    (protos / "gone_pb2.py").write_text("")
    assert generate.main(["--check"], tmp_path) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["gone_pb2.py", "one_pb2.pyi"]
