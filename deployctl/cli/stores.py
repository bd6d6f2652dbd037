"""Commands about the store that a repository is in, and about others: gc, copy, s3 policy."""

from __future__ import annotations

from typing import Annotated

import typer

from deployctl.cli.copying import copy
from deployctl.cli.options import DryRunOption, Output, OutputOption, session
from deployctl.cli.render import write, write_json
from deployctl.errors import UsageError

s3_app = typer.Typer(help="What an S3-compatible store needs to know.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command()(gc)
    app.command()(copy)
    app.add_typer(s3_app, name="s3")


def gc(context: typer.Context, dry_run: DryRunOption = False, output: OutputOption = Output.TABLE) -> None:
    """Remove what killed publishers and interrupted fetches left.

    Staged exports whose publisher is gone; in an object store, claims to numbers and multipart uploads; in the
    cache, fetches that nobody went on with for a day. Versions are never touched.
    """
    with session(context).open() as deployment:
        deployment.context.permit("gc")
        found = deployment.repository.leftovers() if dry_run else deployment.repository.discard_leftovers()
    if output is Output.JSON:
        write_json("gc", {"dry_run": dry_run, "leftovers": list(found)})
        return
    for each in found:
        write(each if output is Output.NAME else f"{'would remove' if dry_run else 'removed'} {each}")
    if not found and output is Output.TABLE:
        write("nothing to remove")


@s3_app.command("policy")
def s3_policy(
    context: typer.Context,
    role: Annotated[
        str,
        typer.Option(
            help="publisher: may publish versions; retirer: may publish and retire them; server: may fetch them."
        ),
    ],
) -> None:
    """Print the least rights, as an IAM policy, of who publishes to the repository or who serves from it.

    A daemon whose inboxes have a retention is a retirer.
    """
    from deployctl.repository.s3_policy import Role, policy

    settings = session(context).load().settings
    if settings.repository_scheme != "s3":
        raise UsageError(
            f"the repository {settings.repository_location} is not in S3",
            hint="deployctl --set repository.model_base_path=s3://BUCKET/PREFIX s3 policy --role publisher",
        )
    if role not in set(Role):
        raise UsageError(f"--role {role!r} is neither 'publisher' nor 'retirer' nor 'server'")
    s3 = settings.repository.s3
    write(policy(settings.repository_location, Role(role), kms_key_id=s3.kms_key_id, tagged=bool(s3.tags)))
