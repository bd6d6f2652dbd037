"""Writes the generated modules (`*_pb2.py` and `*_pb2.pyi`) of the .proto files beside this module.

    python -m deployctl.protos.generate           # writes them
    python -m deployctl.protos.generate --check   # exits 1 and names the files that differ

Needs grpcio-tools, whose protoc decides which protobuf runtime the modules accept: gencode 6.31.1 runs on
protobuf 6.31.1 and every later 6.x and 7.x, so that an older grpcio-tools is the more useful one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# protoc names a file by its path below the root, and that name is what must not clash with TensorFlow's.
_PROTOS = Path("deployctl", "protos")


def generate(destination: Path, root: Path = ROOT) -> list[Path]:
    """Runs protoc over every .proto file of `root` and returns the files written below `destination`.

    Raises:
        subprocess.CalledProcessError: protoc refuses a file; its message went to stderr.
    """
    sources = sorted((root / _PROTOS).glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={root}"]
    command += [f"--python_out={destination}", f"--pyi_out={destination}", *map(str, sources)]
    subprocess.run(command, check=True, timeout=120)
    folder = destination / _PROTOS
    return sorted(folder / f"{source.stem}_pb2{suffix}" for source in sources for suffix in (".py", ".pyi"))


def stale(root: Path = ROOT) -> list[str]:
    """Returns the names of the committed modules that differ from what protoc writes now."""
    with tempfile.TemporaryDirectory(prefix="deployctl-protos-") as folder:
        fresh = {path.name: path.read_bytes() for path in generate(Path(folder), root)}
    committed = {path.name: path.read_bytes() for path in (root / _PROTOS).glob("*_pb2.py*")}
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the modules and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployctl.protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, exit 1 when a module is out of date")
    if not parser.parse_args(arguments).check:
        generate(root, root)
        return 0
    names = stale(root)
    for name in names:
        sys.stderr.write(f"{name} is not what its .proto file generates; run python -m deployctl.protos.generate\n")
    return 1 if names else 0


if __name__ == "__main__":
    raise SystemExit(main())
