"""Where errors become words: in the process itself, with commands that fail in each way."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from deployctl.cli.app import BoundaryGroup
from deployctl.errors import DegradedError, DeployctlError, RestoredError, UsageError


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=BoundaryGroup, pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def fail() -> None:
        typer.echo("a result")
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [(DeployctlError("it failed"), 1), (RestoredError("it failed"), 5), (DegradedError("it failed"), 6)],
)
def test_an_error_of_ours_is_a_sentence_and_its_own_exit_code(error: DeployctlError, code: int) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])

    assert result.exit_code == code
    assert result.stderr == "error: it failed\n"
    assert result.stdout == "a result\n"


def test_an_interrupt_is_one_word_also_where_python_wraps_it() -> None:
    wrapped = RuntimeError("Error calling __set_name__ on 'Field' instance 'options' in 'Opening'")
    wrapped.__cause__ = KeyboardInterrupt()

    for error in (KeyboardInterrupt(), wrapped):
        result = CliRunner().invoke(failing(error), ["fail"])
        assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_bug_keeps_its_trace() -> None:
    result = CliRunner().invoke(failing(RuntimeError("a bug")), ["fail"])

    assert isinstance(result.exception, RuntimeError)


def test_the_hint_stands_below_the_error() -> None:
    result = CliRunner().invoke(failing(DeployctlError("it failed", hint="deployctl doctor")), ["fail"])

    assert result.stderr == "error: it failed\nhint:  deployctl doctor\n"


def test_wrong_words_without_a_hint_of_their_own_get_the_commands_help() -> None:
    result = CliRunner().invoke(failing(UsageError("'x' is wrong")), ["fail"])

    assert result.exit_code == 2
    assert result.stderr.endswith("hint:  deployctl fail --help\n")


def test_an_interrupt_is_130_without_a_trace() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])

    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    result = CliRunner().invoke(failing(BrokenPipeError()), ["fail"])

    assert result.exit_code == 0
    assert result.stderr == ""


def test_anything_else_is_a_bug_and_keeps_its_trace() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("bug")), ["fail"])

    assert isinstance(result.exception, ZeroDivisionError)
