"""Writes docs/reference/cli.md from the program itself, so that the page cannot drift from it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from evac.cli.program import cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
OPENING = """# Command line

This page is written from the program's own help by `make docs-pages`. Data goes to standard output,
words go to standard error. [Exit codes](exit-codes.md) have a page of their own.
"""


def page_text() -> str:
    """The whole page: one section for the program, one for each command, in alphabetical order."""
    root = click.Context(cli, info_name="evac")
    return "\n".join([OPENING, *_sections(cli, root)])


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield _section(command, context)
    if isinstance(command, click.Group):
        for name in sorted(command.list_commands(context)):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _sections(child, click.Context(child, info_name=name, parent=context))


def _section(command: click.Command, context: click.Context) -> str:
    formatter = click.HelpFormatter(width=100)
    command.format_help(context, formatter)
    return f"## {context.command_path}\n\n```text\n{formatter.getvalue().rstrip()}\n```\n"


def main() -> int:
    """Write the page; with ``--check`` only say whether it is fresh."""
    text = page_text()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/reference/cli.md is stale; run: make docs-pages", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
