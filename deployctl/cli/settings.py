"""Commands about settings: init, config, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployctl.cli.options import Output, OutputOption, session
from deployctl.cli.render import style, write, write_json, write_table
from deployctl.domain.secret import masked
from deployctl.errors import DependencyError, StorageError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment

config_app = typer.Typer(help="Show the settings that apply.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command()(init)
    app.add_typer(config_app, name="config")
    app.command()(doctor)


def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Where to put the settings file.")] = Path(),
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a settings file, a repository and a database.

    What is there already is kept.
    """
    from deployctl.cli.options import Session
    from deployctl.config.load import FILE_NAME
    from deployctl.config.template import TEMPLATE
    from deployctl.lineage import migrate

    flags = session(context).flags
    file = directory / FILE_NAME
    made: list[str] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            with file.open("x", encoding="utf-8") as stream:
                stream.write(TEMPLATE)
            made.append(_from_here(file))
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    with Session(file, flags).open() as deployment:
        base_path = deployment.settings.model_base_path
        if not base_path.exists():
            _make(base_path)
            made.append(_from_here(base_path))
        rule = _lifecycle_rule(deployment)
        if migrate.upgrade(deployment.lineage_url, now=deployment.context.clock.now()).changed:
            made.append(masked(deployment.settings.lineage.url))
    if output is Output.JSON:
        write_json("init", {"file": file, "made": made})
    else:
        for thing in made:
            write(thing if output is Output.NAME else f"made {thing}")
        if not made and output is Output.TABLE:
            write(f"{file} is there already; nothing was changed")
        if rule is not None and output is Output.TABLE:
            write("the bucket's lifecycle should have this rule: aws s3api put-bucket-lifecycle-configuration")
            write(rule)


def _from_here(path: Path) -> str:
    """Returns `path` as short as it can be typed from the working directory."""
    here = Path.cwd()
    absolute = here / path
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _lifecycle_rule(deployment: Deployment) -> str | None:
    """Returns the rule by which a bucket clears away what killed publishers left, None for other repositories."""
    if deployment.settings.repository_scheme != "s3":
        return None
    from deployctl.repository.s3_policy import lifecycle

    return lifecycle(deployment.settings.repository_location)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {directory}: {error.strerror}") from error


@config_app.command("show")
def config_show(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show every setting with its value; passwords in URLs are not shown."""
    from deployctl.config.load import value_of

    loaded = session(context).load()
    values = {key: _shown(value_of(loaded.settings, key)) for key in loaded.origins}
    if output is Output.JSON:
        rows = [{"key": key, "value": value, "origin": loaded.origins[key]} for key, value in values.items()]
        write_json("config", {"file": loaded.file, "settings": rows})
    elif output is Output.NAME:
        for key in values:
            write(key)
    else:
        header = ("KEY", "VALUE", "ORIGIN") if origin else ("KEY", "VALUE")
        write_table(header, [(key, _text(value), loaded.origins[key])[: len(header)] for key, value in values.items()])


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return [masked(each) for each in value]
    return masked(str(value)) if isinstance(value, str) else value


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def doctor(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Check what the configured targets depend on.

    One line for each thing: ok, or what is wrong and the command that mends it. Exit 10 if something is wrong.
    """
    from deployctl.doctor import examine

    with session(context).open() as deployment:
        findings = examine(deployment)
    if output is Output.JSON:
        rows = [
            {"subject": each.subject, "ok": each.problem is None, "detail": each.detail, "problem": each.problem}
            | {"hint": each.hint}
            for each in findings
        ]
        write_json("doctor", {"healthy": all(each.problem is None for each in findings), "checks": rows})
    elif output is Output.NAME:
        for each in findings:
            if each.problem is not None:
                write(each.subject)
    else:
        _write_findings(findings)
    wrong = [each for each in findings if each.problem is not None]
    if wrong:
        raise DependencyError(f"{len(wrong)} of {len(findings)} checks failed: {', '.join(e.subject for e in wrong)}")


def _write_findings(findings: Any) -> None:
    import sys

    width = max(len(each.subject) for each in findings)
    for each in findings:
        if each.problem is None:
            write(f"{style('ok', 'green', sys.stdout)}       {each.subject:<{width}}  {each.detail}")
        else:
            mend = f"   mend: {each.hint}" if each.hint else ""
            write(f"{style('problem', 'red', sys.stdout)}  {each.subject:<{width}}  {each.problem}{mend}")
