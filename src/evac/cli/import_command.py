"""evac import."""

from __future__ import annotations

from pathlib import Path

import click

from evac.cli import exits
from evac.cli.options import output_option, quiet_option
from evac.cli.output import say
from evac.estate.importers import KINDS, ImportResult, import_estate
from evac.views.json_out import alert_rows, document, plain
from evac.views.problems import of_diagnostics
from evac.views.words import listed, plural


@click.command("import")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), required=True, help="Folder of the estate."
)
@click.option(
    "--overlay", type=click.Path(path_type=Path), help="What the source does not know; kept as it is."
)
@output_option("text", "json")
@quiet_option
def import_(kind: str, source: Path, target: Path, overlay: Path | None, output: str, quiet: bool) -> int:
    """Make an estate out of SOURCE: compose, csv (a host list), kubernetes (manifests) or wikimedia.

    What the source does not know comes from overlay.yaml in the folder, which is written once and then
    yours. Importing again keeps it and shows what changed. Ends with 2 where the folder as it is then, with
    all else that lies in it, is no estate that check accepts.
    """
    found = import_estate(kind, source, target, overlay=overlay)
    if output == "json":
        body = {
            "files": found.files,
            "services": found.services,
            "servers": found.servers,
            "unknown": found.unknown,
            "diagnostics": alert_rows(of_diagnostics(found.diagnostics)),
            "diff": found.diff,
        }
        click.echo(document("evac-import", plain(body)), nl=False)
    else:
        _tell(found, target, quiet)
    return exits.USAGE if any(d.severity == "error" for d in found.diagnostics) else exits.DONE


def _tell(found: ImportResult, target: Path, quiet: bool) -> None:
    for line in found.diff:
        click.echo(line)
    for alert in of_diagnostics(found.diagnostics):
        hidden = quiet and alert.severity != "error"
        say(f"{alert.place}: {alert.severity}: {alert.message} [{alert.rule}]", hidden)
        if alert.fix:
            say(f"    {alert.fix}", hidden)
    say(f"{plural(found.services, 'service')}, {plural(found.servers, 'server')} in {target}", quiet)
    for gap in found.unknown:
        names = f" ({listed(list(gap.names), 4)})" if gap.names else ""
        say(f"unknown: {gap.what}, {gap.count:,}{names}", quiet)
    if not found.diff and "overlay.yaml" not in found.files:
        say("nothing changed since the last import", quiet)
    errors = sum(d.severity == "error" for d in found.diagnostics)
    if errors:
        say(f"error: the folder has {plural(errors, 'error')}, named above [import-not-whole]")
        say(f"next: mend the lines named, then evac check {target}")
        return
    say(f"next: fill in {target / 'overlay.yaml'}, then evac audit {target}", quiet)
