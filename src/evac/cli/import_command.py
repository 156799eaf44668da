"""evac import: make an estate from one source, from contexts of running clusters, or from a recipe of
several.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from evac.app.fetching import contexts_in, fetch, fetch_live, is_server, usual_files
from evac.cli import console
from evac.cli.console import say
from evac.cli.options import (
    output_option,
    quiet_option,
)
from evac.estate.format.kinds import ID
from evac.estate.format.problems import Problems
from evac.estate.importers import (
    KINDS,
    ImportResult,
    Live,
    Options,
    RecipeSource,
    SourceError,
    import_estate,
    import_live,
    import_recipe,
)
from evac.model.diagnostic import Place
from evac.model.errors import InvalidInput
from evac.views.json_out import alert_rows, document, of_diagnostics, plain
from evac.views.small_texts import left_out_words, worth_words
from evac.views.words import listed, plural


@click.command("import")
@click.argument("kind", metavar="KIND|RECIPE", shell_complete=lambda *_: list(KINDS))
@click.argument("source", required=False)
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="Folder of the estate.")
@click.option(
    "--overlay",
    type=click.Path(path_type=Path),
    help="File with facts the source does not have; never changed.",
)
@click.option("--site", help="Site of everything in the source, if the source does not say.")
@click.option("--namespace", "namespaces", multiple=True, help="Kubernetes: only this namespace; repeatable.")
@click.option("--token", metavar="REF", help="For a server: where its token is, env:NAME or file:/path.")
@click.option(
    "--context",
    "contexts",
    multiple=True,
    metavar="[SITE=]NAME",
    help="Kubernetes: query the cluster of this kubectl context; repeatable, one site each.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="Kubernetes: the kubeconfig file. Default: the same as kubectl's.",
)
@click.option(
    "--exec",
    "plugins",
    multiple=True,
    metavar="PROGRAM",
    help="Kubernetes: allow the kubeconfig to run this program for credentials; repeatable.",
)
@click.option("--strict", is_flag=True, help="Reject the source if any object in it cannot be used.")
@click.option("--update", is_flag=True, help="Run a recipe again; fail if it has never been run.")
@output_option("text", "json")
@quiet_option
def import_(
    kind: str,
    source: str | None,
    target: Path | None,
    overlay: Path | None,
    site: str | None,
    namespaces: tuple[str, ...],
    token: str | None,
    contexts: tuple[str, ...],
    kubeconfig: Path | None,
    plugins: tuple[str, ...],
    strict: bool,
    update: bool,
    output: str,
    quiet: bool,
) -> int:
    """Import an estate from SOURCE, of the kind KIND, or from all sources of a RECIPE file.

    KIND is one of: ansible, backstage, catalogue, compose, csv, kubernetes, netbox, prometheus, terraform,
    wikimedia. SOURCE is a file or folder, or - for the standard input; for netbox and prometheus, also the
    address of a server. evac import kubernetes --context NAME queries a running cluster. Add facts that the
    source does not contain in overlay.yaml, which the first import creates. Importing again keeps it and
    shows what changed. Exit 2: evac check does not accept the folder after the import. Exit 19: part of the
    source cannot be used; it is named, and everything else is imported.
    """
    options = Options(site=site, namespaces=namespaces)
    if contexts and (kind != "kubernetes" or source is not None):
        raise click.UsageError("--context is for evac import kubernetes, without a source")
    if source is None and not contexts:
        if kind in KINDS or not Path(kind).is_file():
            raise InvalidInput(
                "import-source-missing",
                f"no such recipe: {kind}" if kind not in KINDS else f"{kind} needs a source",
                f"evac import KIND SOURCE -o DIR, or evac import RECIPE; kinds: {', '.join(KINDS)}",
            )
        if overlay is not None or site is not None or namespaces:
            raise click.UsageError("a recipe sets these itself: --overlay, --site, --namespace")
        with _errors_only(quiet):
            into, found = import_recipe(Path(kind), target, strict=strict, update=update, fetch=fetch_live)
    else:
        if target is None:
            raise click.UsageError("Missing option '-o' / '--out'.")
        if update:
            raise click.UsageError("--update is for recipes; importing a single source updates automatically")
        into = target
        with _errors_only(quiet), TemporaryDirectory() as folder:
            if contexts:
                clusters = _clusters(contexts, kubeconfig, plugins, options)
                found = import_live(kind, clusters, target, fetch_live, overlay=overlay, strict=strict)
            else:
                problems = Problems()
                path = _source(kind, source or "", Path(folder), token, problems)
                found = import_estate(
                    kind, path, target, overlay=overlay, options=options, strict=strict, problems=problems
                )
    _show_import(found, into, output, quiet)
    if any(d.severity == "error" for d in found.diagnostics):
        return console.USAGE
    return console.PARTIAL if found.partial else console.DONE


@contextmanager
def _errors_only(quiet: bool) -> Iterator[None]:
    """With --quiet, an import that fails shows why, and not what else is odd in its sources."""
    try:
        yield
    except SourceError as error:
        if quiet:
            error.diagnostics = tuple(one for one in error.diagnostics if one.severity == "error")
        raise


def _source(kind: str, source: str, folder: Path, token: str | None, problems: Problems) -> Path:
    """The file or folder that an importer reads: a server's responses, or standard input for -."""
    if is_server(source):
        return fetch(kind, source, folder, token, problems=problems)
    if source != "-":
        return Path(source)
    path = folder / "stdin"
    with path.open("wb") as handle:
        shutil.copyfileobj(sys.stdin.buffer, handle)
    return path


def _clusters(
    contexts: tuple[str, ...], kubeconfig: Path | None, plugins: tuple[str, ...], options: Options
) -> list[RecipeSource]:
    """The clusters of contexts as sources."""
    found = []
    for name, site in sites_of_contexts(contexts, kubeconfig).items():
        live = Live(context=name, kubeconfig=kubeconfig, plugins=plugins)
        named = replace(options, site=site or options.site)
        found.append(RecipeSource(name, "kubernetes", Path(), named, {}, None, None, Place(name), live))
    return found


def sites_of_contexts(typed: tuple[str, ...], kubeconfig: Path | None = None) -> dict[str, str]:
    """Context -> the site typed before it, empty if there is none. The kubeconfig identifies contexts whose
    own name contains a =.
    """
    known = known_contexts(kubeconfig) if typed else ()
    found: dict[str, str] = {}
    for one in typed:
        site, sign, name = ("", "", one) if one in known else one.partition("=")
        site, name = (site, name) if sign else ("", one)
        if site and not ID.fullmatch(site):
            raise click.UsageError(f"--context {one}: use the form --context east=prod-eu1")
        if name in found:
            raise click.UsageError(f"--context {name} is given twice")
        found[name] = site
    return found


def known_contexts(kubeconfig: Path | None = None) -> tuple[str, ...]:
    """The contexts of kubectl; none if it has none, or they are unreadable."""
    try:
        return contexts_in(usual_files(os.environ) if kubeconfig is None else (kubeconfig,))
    except InvalidInput:
        return ()


def _show_import(found: ImportResult, into: Path, output: str, quiet: bool) -> None:
    if output == "json":
        body = {
            "files": found.files,
            "services": found.services,
            "stores": found.stores,
            "servers": found.servers,
            "unknown": found.unknown,
            "worth": found.worth,
            "worth_left_out": found.worth_left_out,
            "diagnostics": alert_rows(of_diagnostics(found.diagnostics)),
            "diff": found.diff,
            "partial": found.partial,
        }
        click.echo(document("evac-import", plain(body)), nl=False)
    else:
        tell_import(found, into, quiet)


def tell_import(found: ImportResult, target: Path, quiet: bool) -> None:
    """Print what an import changed, problems of its sources, and what is still unknown."""
    for line in found.diff:
        click.echo(line)
    for alert in of_diagnostics(found.diagnostics):
        hidden = quiet and alert.severity != "error"
        say(f"{alert.place}: {alert.severity}: {alert.message} [{alert.rule}]", hidden)
        if alert.fix:
            say(f"    {alert.fix}", hidden)
    counted = ((found.services, "service"), (found.stores, "store"), (found.servers, "server"))
    say(f"{', '.join(plural(count, what) for count, what in counted)} in {target}", quiet)
    for gap in found.unknown:
        names = f" ({listed(list(gap.names), 4)})" if gap.names else ""
        say(f"unknown: {gap.what}, {gap.count:,}{names}", quiet)
    for number, one in enumerate(found.worth, 1):
        say(f"most worth adding {number}: {worth_words(one)}", quiet)
    if found.worth_left_out:
        say(left_out_words(found.worth_left_out), quiet)
    if not found.diff and "overlay.yaml" not in found.files:
        say("nothing has changed since the last import", quiet)
    errors = sum(d.severity == "error" for d in found.diagnostics)
    if errors:
        say(f"error: the folder has {plural(errors, 'error')}, named above [import-not-whole]")
        say(f"next: fix these lines, then run evac check {target}")
        return
    if found.partial:
        say("partial: what the source says in the places above cannot be used; the rest is imported", quiet)
    say(f"next: fill in {target / 'overlay.yaml'}, then evac audit {target}", quiet)
