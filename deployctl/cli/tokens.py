"""Commands about who may use the daemon's API: token create, token list, token revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from deployctl.cli import completion
from deployctl.cli.options import Output, OutputOption, ReasonOption, session
from deployctl.cli.render import short_time, write, write_json, write_table
from deployctl.domain.duration import parse_duration
from deployctl.errors import UsageError

token_app = typer.Typer(help="Say who may use the daemon's API, and end that.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the group to `app`."""
    app.add_typer(token_app, name="token")


@token_app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What records call its bearer, such as ci.")],
    role: Annotated[str, typer.Option(help="viewer, deployer or admin; each may do what the one before may.")],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", help="For this target only; repeatable. Default: all.", autocompletion=completion.targets
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="For this model only; repeatable. Default: all.", autocompletion=completion.models),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it opens anything, such as 90d. Default: for ever.")
    ] = None,
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token for the daemon's API and print it, once.

    Only its hash is kept. Give it to DEPLOYCTL_TOKEN, or to the header `Authorization: Bearer`.
    """
    from deployctl.documents.tokens import token_document
    from deployctl.domain.authority import Role
    from deployctl.domain.names import parse_model_name
    from deployctl.operations.tokens import Tokens

    if role not in set(Role):
        raise UsageError(f"--role {role!r} is neither 'viewer' nor 'deployer' nor 'admin'")
    with session(context).open() as deployment:
        now = deployment.context.clock.now()
        made = Tokens(deployment.lineage, deployment.context).create(
            name,
            Role(role),
            targets=frozenset(deployment.target_name(each) for each in target or ()),
            models=frozenset(map(parse_model_name, model or ())),
            expires_at=now + timedelta(seconds=parse_duration(expires)) if expires else None,
            reason=reason,
        )
    if output is Output.JSON:
        write_json("token", token_document(made.token) | {"token": made.secret})
    else:
        write(made.secret)


@token_app.command("list")
def list_tokens(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show the tokens that were not revoked, without what opens anything."""
    from deployctl.documents.tokens import token_document

    with session(context).open() as deployment:
        deployment.context.permit("token list")
        found = deployment.lineage.tokens()
        now = deployment.context.clock.now()
    if output is Output.JSON:
        write_json("tokens", {"tokens": [token_document(each) for each in found]})
    elif output is Output.NAME:
        for each in found:
            write(each.name)
    else:
        rows = [
            (
                each.id,
                each.name,
                each.role.value,
                ",".join(sorted(each.targets)) or "all",
                ",".join(sorted(each.models)) or "all",
                short_time(each.created_at),
                each.created_by,
                "-" if each.expires_at is None else short_time(each.expires_at) + ("" if each.in_force(now) else " !"),
            )
            for each in found
        ]
        write_table(("ID", "NAME", "ROLE", "TARGETS", "MODELS", "CREATED", "BY", "EXPIRES"), rows)


@token_app.command("revoke")
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="As token list shows it.")],
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a token open nothing from now on.

    Exit 9 if there is none of that name.
    """
    from deployctl.documents.tokens import token_document
    from deployctl.operations.tokens import Tokens

    with session(context).open() as deployment:
        found = Tokens(deployment.lineage, deployment.context).revoke(name, reason=reason)
    if output is Output.JSON:
        write_json("tokens", {"tokens": [token_document(each) for each in found]})
        return
    for each in found:
        write(each.name if output is Output.NAME else f"{each.name}  revoked   {each.id}")
