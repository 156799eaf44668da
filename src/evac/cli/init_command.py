"""evac init: from a folder with a company's files to a recipe, an estate and the first audit.

Looks for sources, asks at most ten questions, each with a default and a flag, and none without a terminal.
Existing files are not overwritten.
"""

from __future__ import annotations

import re
import sys
from dataclasses import field
from pathlib import Path
from typing import Final

import click

from evac.app.fetching import fetch_live
from evac.cli import console
from evac.cli.console import say
from evac.cli.import_command import known_contexts, sites_of_contexts, tell_import
from evac.estate.format import quantities as q
from evac.estate.format.kinds import ID
from evac.estate.importers import import_recipe
from evac.estate.importers.discovery import Found, look_around
from evac.estate.importers.imported import SourceError, scalar_text
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.views.words import plural

RECIPE: Final = "estate.yaml"
QUESTIONS_MAX: Final = 10


@dataclass(slots=True)
class _Questions:
    """Asks and counts questions; after ten, uses the defaults."""

    can_ask: bool
    asked: int = 0

    def ask(self, words: str, given: str | None, default: str) -> str:
        if given is not None or not self.can_ask or self.asked >= QUESTIONS_MAX:
            return given if given is not None else default
        self.asked += 1
        answer: str = click.prompt(words, default=default, show_default=bool(default), err=True)
        return answer.strip()


@dataclass(slots=True)
class _Answers:
    name: str
    sources: list[Found]
    clusters: dict[str, str]
    """kubectl context -> its site, empty if its zones are sites."""
    sites: dict[str, str] = field(default_factory=dict)
    """Source -> its site."""
    stated: list[str] = field(default_factory=list)
    """Lines of the overlay."""
    services: tuple[str, ...] = ()
    """Services that people named, if no source has any."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--name", help="Name of the estate. Default: the name of the folder.")
@click.option("--site", "sites", multiple=True, metavar="SOURCE=SITE", help="Site of a source; repeatable.")
@click.option(
    "--context",
    "contexts",
    multiple=True,
    metavar="[SITE=]NAME",
    help="Also query the cluster of this kubectl context; repeatable.",
)
@click.option("--at", "places", help="Sites, separated by commas, if there is no source.")
@click.option("--services", "named", help="Services, separated by commas, if there is no source.")
@click.option("--skip", multiple=True, metavar="SOURCE", help="Leave out a source; repeatable.")
@click.option("--detection", help="Time from a loss until it is detected. Default: 5 min.")
@click.option("--approval", help="Time from detection until a person has approved. Default: 5 min.")
@click.option("--most-important", help="Services of tier 0, separated by commas.")
@click.option("--yes", is_flag=True, help="Ask no questions; use the defaults.")
@click.option("--no-audit", is_flag=True, help="Stop after the import.")
@click.pass_context
def init(
    context: click.Context,
    folder: Path,
    name: str | None,
    sites: tuple[str, ...],
    contexts: tuple[str, ...],
    places: str | None,
    named: str | None,
    skip: tuple[str, ...],
    detection: str | None,
    approval: str | None,
    most_important: str | None,
    yes: bool,
    no_audit: bool,
) -> int:
    """Create an estate from the files in FOLDER, and audit it for the first time.

    Finds sources of every kind evac imports, and names the commands that produce more. Asks at most ten
    questions; without a terminal, or with --yes, it asks none. Writes a recipe, estate.yaml, which
    evac import estate.yaml --update runs again.
    """
    if (folder / RECIPE).exists():
        raise InvalidInput(
            "init-exists",
            f"{folder / RECIPE} already exists",
            f"run it again with: evac import {folder / RECIPE} --update",
        )
    clusters = sites_of_contexts(contexts)
    around = look_around(folder, [name for name in known_contexts() if name not in clusters])
    say(f"{plural(len(around.sources), 'source')} found in {folder.resolve().name}")
    for source in around.sources:
        say(f"  {source.name}: {source.kind}, {source.path}")
    for hint in around.hints:
        say(f"  not read yet - {hint}")
    questions = _Questions(can_ask=not yes and has_terminal())
    answers = _Answers(
        questions.ask("Name of the estate?", name, folder.resolve().name),
        [source for source in around.sources if source.name not in skip],
        clusters,
    )
    if answers.sources or answers.clusters:
        _ask_sites(answers, dict(_pair(text) for text in sites), questions)
    else:
        _ask_by_hand(answers, places, named, questions)
    _ask_times(answers, detection, approval, most_important, questions)
    return _finish(context, folder, answers, no_audit)


def has_terminal() -> bool:
    """Whether someone can answer."""
    return sys.stdin.isatty()


def _pair(typed: str) -> tuple[str, str]:
    source, sign, site = typed.partition("=")
    if not sign or not ID.fullmatch(site):
        raise click.UsageError(f"--site {typed}: use the form --site cluster=fra")
    return source, site


def _ask_sites(answers: _Answers, given: dict[str, str], questions: _Questions) -> None:
    unknown = sorted(given.keys() - {source.name for source in answers.sources})
    if unknown:
        listed = ", ".join(source.name for source in answers.sources)
        raise InvalidInput("init-source", f"no such source: {unknown[0]}", f"sources: {listed}")
    for source in answers.sources:
        site = given.get(source.name)
        if site is None and source.sign == "unplaced":
            words = f"{source.path} does not state its site. Which site is it? (empty: unknown)"
            site = questions.ask(words, None, "")
        if site and ID.fullmatch(site):
            answers.sites[source.name] = site
        elif site:
            say(f"'{site[:40]}' is not a valid site name; left unknown")


def _ask_by_hand(answers: _Answers, places: str | None, named: str | None, questions: _Questions) -> None:
    """Without any source, ask people for sites and services."""
    sites = _listed(questions.ask("Which sites do you have (separated by commas)?", places, ""))
    services = _listed(questions.ask("Which services do you have (separated by commas)?", named, ""))
    if not sites or not services:
        raise InvalidInput(
            "init-nothing",
            "no source was found here, and no site or service was given",
            "add a dump, a host list or a catalogue, or give them: --at fra,muc --services shop,login",
        )
    where = "[" + ", ".join(scalar_text(site) for site in sites) + "]"
    answers.services = services
    answers.stated += ["sites:", *(f"  {scalar_text(site)}: {{}}" for site in sites), "services:"]
    answers.stated += [f"  {scalar_text(name)}: {{sites: {where}}}" for name in services]


def _listed(typed: str) -> tuple[str, ...]:
    names = dict.fromkeys("-".join(part.split()) for part in typed.split(","))
    return tuple(name for name in names if ID.fullmatch(name))


def _ask_times(
    answers: _Answers,
    detection: str | None,
    approval: str | None,
    most_important: str | None,
    questions: _Questions,
) -> None:
    for key, words, given in (
        ("detection", "How long until a loss is detected?", detection),
        ("approval", "How long from detection until a person has approved a plan?", approval),
    ):
        text = questions.ask(words, given, "5 min")
        try:
            answers.stated.insert(0, f"{key}: {q.show(q.DURATION, q.parse(q.DURATION, text))}")
        except q.QuantityError as error:
            raise InvalidInput("init-duration", f"{key}: {error.message}", error.hint) from error
    top = _listed(
        questions.ask("Which services are most important (separated by commas)?", most_important, "")
    )
    if top and not answers.services:
        answers.stated += ["services:", *(f"  {scalar_text(name)}: {{tier: 0}}" for name in top)]
    elif top:
        answers.stated = [
            line.replace("{sites:", "{tier: 0, sites:") if line.strip().partition(":")[0] in top else line
            for line in answers.stated
        ]


def _finish(context: click.Context, folder: Path, answers: _Answers, no_audit: bool) -> int:
    """Write recipe and estate, and audit it. A recipe whose import fails is deleted again, and so is a folder
    made for it.
    """
    from evac.cli.audit_command import audit

    recipe, is_new = folder / RECIPE, not folder.exists()
    folder.mkdir(exist_ok=True)
    by_hand = folder / "services.yaml"
    if answers.services:
        lines = ["services:", *(f"  {scalar_text(name)}: {{}}" for name in answers.services)]
        by_hand.write_text("\n".join(lines) + "\n", encoding="utf-8")
        answers.sources = [Found("services", "catalogue", by_hand.name, "names")]
    recipe.write_text(_recipe_text(answers), encoding="utf-8")
    try:
        into, found = import_recipe(recipe, name=answers.name, stated=tuple(answers.stated), fetch=fetch_live)
    except BaseException as error:
        recipe.unlink()
        if answers.services:
            by_hand.unlink()
        if is_new:
            folder.rmdir()
        if isinstance(error, SourceError):
            error.hint = "fix these lines, or leave the source out with --skip NAME; then run evac init again"
        raise
    say(f"wrote {recipe}: edit it, then run evac import {recipe} --update")
    tell_import(found, into, False)
    if any(one.severity == "error" for one in found.diagnostics):
        return console.USAGE
    done = console.PARTIAL if found.partial else console.DONE
    if no_audit or not (found.services and _has_sites(into)):
        return done
    context.invoke(audit, estate=into, fail_on="never")
    return done


def _has_sites(into: Path) -> bool:
    from evac.estate import load

    return bool(load(into).sites)


def _recipe_text(answers: _Answers) -> str:
    lines = ["recipe: 1", "into: estate", "sources:"]
    for source in answers.sources:
        site = answers.sites.get(source.name)
        words = f"{{kind: {source.kind}, from: {scalar_text(source.path)}"
        words += f", site: {scalar_text(site)}}}" if site else "}"
        lines.append(f"  {scalar_text(source.name)}: {words}")
    taken = {source.name for source in answers.sources}
    for context, site in answers.clusters.items():
        name = site or re.sub(r"[^a-z0-9-]+", "-", context.lower()).strip("-") or "cluster"
        while name in taken:
            name += "-cluster"
        taken.add(name)
        words = f"{{kind: kubernetes, context: {scalar_text(context)}"
        words += f", site: {scalar_text(site)}}}" if site else "}"
        lines.append(f"  {scalar_text(name)}: {words}")
    return "\n".join(lines) + "\n"
