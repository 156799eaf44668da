"""Writes docs/reference/cli/ from the program itself, so that the pages cannot drift from it.

One page for each command, with a section for each subcommand, and an index in the groups of `evac --help`.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from evac.cli.program import GROUPS, cli, summary

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli"
OPENING = """# Command line

`make docs-pages` writes these pages from the program's own help. Commands write data to standard
output and messages to standard error. See also [exit codes](../exit-codes.md).

`evac --help` lists the commands; `evac COMMAND --help` shows one of them.
"""


def pages() -> Mapping[str, str]:
    """File name -> text of every page."""
    root = click.Context(cli, info_name="evac")
    made = {"index.md": _index()}
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        sections = _sections(command, click.Context(command, info_name=name, parent=root), 1)
        made[f"{name}.md"] = "\n".join(sections)
    return made


def _index() -> str:
    parts = [OPENING]
    for title, names in GROUPS.items():
        rows = [f"| [`evac {name}`]({name}.md) | {summary(name)} |" for name in names]
        parts.append(f"## {title}\n\n| command | what it does |\n|---|---|\n" + "\n".join(rows) + "\n")
    listed = "\n".join(name for names in GROUPS.values() for name in names)
    parts.append("```{toctree}\n:hidden:\n\n" + listed + "\n```\n")
    return "\n".join(parts)


def _sections(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    formatter = click.HelpFormatter(width=100)
    command.format_help(context, formatter)
    yield f"{'#' * level} {context.command_path}\n\n```text\n{formatter.getvalue().rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in sorted(command.list_commands(context)):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _sections(child, click.Context(child, info_name=name, parent=context), 2)


def main() -> int:
    """Write the pages; with ``--check`` only say whether they are fresh."""
    made = pages()
    if "--check" not in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        for path in FOLDER.glob("*.md"):
            if path.name not in made:
                path.unlink()
        for name, text in made.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return 0
    if {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")} == made:
        return 0
    print("docs/reference/cli is stale; run: make docs-pages", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
