"""evac access: the access file of the war room, and tokens for programs."""

from __future__ import annotations

from pathlib import Path

import click

from evac.cli import exits
from evac.cli.options import Length, output_option, quiet_option
from evac.cli.output import emit, say
from evac.cli.run_command import now_ms
from evac.model.access import ROLES


@click.group()
def access() -> None:
    """Who may do what in the war room."""


@access.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="What it may do.")
@click.option("--of", "person", default="", metavar="PERSON", help="The person it acts for.")
@click.option(
    "--for", "length", type=Length(), default=0, help="How long it is good, like 90d. [default: no end]"
)
@quiet_option
def token(name: str, role: str, person: str, length: int, quiet: bool) -> None:
    """Make a new token called NAME: print it once, and the line for the access file.

    The token goes to stdout, the line to stderr. Only its hash is kept, in that line.
    """
    from evac.app.access import new_token
    from evac.estate.kinds import ID
    from evac.model.errors import InvalidInput

    for one in (name, *([person] if person else [])):
        if not ID.fullmatch(one):
            raise InvalidInput("id-invalid", f"'{one[:60]}' is no name", "use letters, digits and . _ - : @")
    made = new_token(name, role, person, now_ms() + length if length else 0)  # type: ignore[arg-type]
    emit(made.text, None)
    say(f"put this under tokens: in access.yaml\n  {made.line}")
    say("next: evac access check access.yaml", quiet)


@access.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@output_option("text", "json")
def check(file: Path, output: str) -> int:
    """Read an access file: every problem with file, line and column, else who may do what."""
    import json

    from evac.estate.access_file import load_access

    rules = load_access(file)
    if output == "json":
        people = {one.name: one.role for one in rules.people.values()}
        tokens = {one.name: {"role": one.role, "of": one.of} for one in rules.tokens.values()}
        issuer = rules.provider.issuer if rules.provider else ""
        told = {"schema_version": 1, "people": people, "tokens": tokens, "issuer": issuer}
        emit(json.dumps(told, indent=2, ensure_ascii=False) + "\n", None)
        return exits.DONE
    lines = [f"{one.name}: {one.role}" for one in rules.people.values()]
    lines += [
        f"token {one.name}: {one.role}" + (f", acts for {one.of}" if one.of else "")
        for one in rules.tokens.values()
    ]
    if rules.provider is not None:
        roles = ", ".join(f"{value} -> {role}" for value, role in rules.provider.roles.items())
        lines.append(f"{rules.provider.issuer}: {roles or 'nobody but the people above'}")
    emit("\n".join(lines) + "\n", None)
    return exits.DONE
