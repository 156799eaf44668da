"""Shell completion: sites and other domains of the estate on the command line, runs, plans.

Reads only `estate.yaml` and its neighbours, never tables or services, so it responds at once for any size.
Anything unreadable or unreachable completes to nothing: completion never shows an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from evac.control.port import Control

SECTIONS: Final = ("sites", "halls", "feeds", "groups")
"""Keys of an estate whose entries are domains named by a path."""
_HAS_ONE: Final = re.compile(rf"^(?:{'|'.join(SECTIONS)}):", re.MULTILINE)
LARGEST: Final = 4_000_000
"""Maximum size of a file; a larger one is skipped."""
PATIENCE_S: Final = 2.0
"""Time limit for a store or a server."""
PLAN_DIGITS: Final = 19
"""`sha256:` and twelve digits, which identify a plan."""


def sites(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Sites of the estate."""
    return _starting(_names(context, ("sites",)), incomplete)


def domains(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Sites and groups; halls and feeds of a site once its name is typed."""
    every = _names(context, SECTIONS)
    deep = incomplete.count("/")
    return _starting([name for name in every if name.count("/") <= deep], incomplete) or _starting(
        every, incomplete
    )


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs of the store or server, newest first."""
    found = _asked(context, lambda control: control.runs()) or ()
    rows = [(row.run, f"{row.state}: {row.scenario}") for row in reversed(found)]
    return [CompletionItem(run, help=words) for run, words in rows if run.startswith(incomplete)]


def plans(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Standby plans if a digest is being typed, else files."""
    if parameter.type.name == "path" and not incomplete.startswith("sha"):
        return [CompletionItem(incomplete, type="file")]
    rows = [row for row in _asked(context, lambda control: control.plans()) or () if row.plan]
    named = [(row.plan[:PLAN_DIGITS], row.scenario) for row in rows]
    return [CompletionItem(plan, help=words) for plan, words in named if plan.startswith(incomplete)]


def _starting(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names(context: click.Context, sections: tuple[str, ...]) -> list[str]:
    estate = context.params.get("estate") or _argument(context, "estate")
    if estate is None:
        return []
    found: dict[str, None] = {}
    for values in _documents(Path(estate)):
        for section in sections:
            named = values.get(section)
            if isinstance(named, dict):
                found |= dict.fromkeys(str(name) for name in named)
    return sorted(found)


def _argument(context: click.Context, name: str) -> str | None:
    """An argument of the line; click assigns arguments only once no option waits for its value."""
    names = [one.name for one in context.command.params if isinstance(one, click.Argument)]
    at = names.index(name) if name in names else len(context.args)
    return context.args[at] if at < len(context.args) else None


def _documents(estate: Path) -> Iterable[dict[str, Any]]:
    import yaml

    files = sorted(estate.glob("*.y*ml")) if estate.is_dir() else [estate]
    for file in files:
        try:
            source = file.read_text(encoding="utf-8") if file.stat().st_size <= LARGEST else ""
            values = yaml.load(source, yaml.CSafeLoader) if _HAS_ONE.search(source) else None
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(values, dict):
            yield values


def _asked(context: click.Context, question: Any) -> Any:
    """The response of a store or server; None if there is none."""
    import asyncio
    import os

    from evac.cli.target import Where
    from evac.model.errors import EvacError

    given = context.params
    server = "" if given.get("store") else given.get("server") or os.environ.get("EVAC_SERVER", "")
    where = Where(
        given.get("store"),
        server,
        given.get("token_file"),
        given.get("token_command") or "",
        given.get("client_cert"),
        given.get("client_key"),
        given.get("ca"),
    )

    async def ask(control: Control) -> Any:
        return await asyncio.wait_for(question(control), PATIENCE_S)

    try:
        return where.do(ask)
    except (EvacError, OSError, TimeoutError):
        return None
