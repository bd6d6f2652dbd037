"""Operations that go on without the terminal: --no-wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

from deployctl.cli.options import NO_WAIT, Output, session
from deployctl.cli.render import write, write_json
from deployctl.errors import NotFoundError, StorageError, TimedOutError

# The operation checks its words, and with gates loads the version in another server, before it is journalled.
_BEGIN_TIMEOUT_S = 600.0


def begin(context: typer.Context, output: Output) -> None:
    """Runs the command line of this process in the background and shows the operation's id.

    A command that ends before its operation begins ends this one alike, with its words.
    """
    from deployctl.bootstrap import OPERATION_VARIABLE
    from deployctl.serving.child import start
    from deployctl.system import new_operation

    with session(context).open(without_database=True) as deployment:
        place, journal = deployment.settings.state_path / "operations", deployment.context.journal
        operation = new_operation(deployment.context.clock.now())
        log = place / f"{operation}.log"
        words = [word for word in sys.argv[1:] if word != NO_WAIT]
        try:
            place.mkdir(parents=True, exist_ok=True)
            child = start(
                [sys.executable, "-m", "deployctl.cli", *words],
                log=log,
                directory=Path.cwd(),
                environment={**os.environ, OPERATION_VARIABLE: operation},
            )
        except OSError as error:
            raise StorageError(f"cannot begin in the background: {error.strerror}", hint=f"ls -ld {place}") from error

        def begun() -> bool | None:
            try:
                journal.operation(operation)
            except NotFoundError:
                return None if child.poll() is None else False
            return True

        journalled = deployment.context.deadline(_BEGIN_TIMEOUT_S).poll(begun)
    if journalled is None:
        raise TimedOutError(f"operation {operation} had not begun after {_BEGIN_TIMEOUT_S:g} s", hint=f"cat {log}")
    if not journalled:
        sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
        log.unlink(missing_ok=True)
        raise typer.Exit(_wait(child))
    if output is Output.JSON:
        write_json("begun", {"id": operation, "log": log})
    else:
        write(operation)
    if output is Output.TABLE:
        print(f"begun; deployctl op wait {operation}", file=sys.stderr)


def _wait(child: subprocess.Popen[bytes]) -> int:
    code = child.wait(timeout=10)
    return code if code >= 0 else 128 - code
