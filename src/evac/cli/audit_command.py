"""evac audit."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final

import click

from evac import __version__
from evac import audit as audits
from evac import estate as estates
from evac.app.planner.kernels import audit_s, kernels
from evac.audit import AuditReport, Finding
from evac.cli import console, options
from evac.cli.console import emit, emit_pdf, pdf_possible, progress, reporter, say, screen, write_whole
from evac.cli.target import Where, situation_of, where_options
from evac.estate.codecs.suppressions import encode_baseline, read_baseline, read_suppressions
from evac.model.backup import NOTHING_SEEN
from evac.model.diagnostic import SEVERITIES
from evac.model.digest import estate_digest
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.views.audit_view import audit_context, audit_json, audit_text
from evac.views.html_report import html_report
from evac.views.json_out import in_format, of_findings
from evac.views.words import plural

READ_SHARE: Final = 0.4
"""Share of an audit's time spent on reading the estate."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Findings that count, and what was omitted and why."""

    counted: tuple[Finding, ...]
    left_out: tuple[str, ...]


@click.command()
@options.estate_argument
@options.places_option("--lose", "DOMAIN", "Try only this loss; repeatable. Default: every fault domain.")
@click.option("--pairs", is_flag=True, help="Also try pairs of domains above racks.")
@click.option(
    "--baseline", type=click.Path(path_type=Path), help="Count only findings that are not in this file."
)
@click.option(
    "--write-baseline",
    "new_baseline",
    type=options.FILE,
    help="Accept today's findings and write them to this file.",
)
@click.option(
    "--suppressions",
    type=click.Path(path_type=Path),
    help="YAML list of accepted findings: rule, subject, reason, until.",
)
@click.option(
    "--all", "whole", is_flag=True, help="List every loss and every finding, not only the most severe."
)
@where_options
@options.as_of_option
@options.fail_on_option("error")
@options.output_option("text", "json", "sarif", "junit", "github", "markdown", "html", "pdf")
@options.file_option
@options.quiet_option
def audit(
    estate: Path,
    lose: tuple[str, ...],
    pairs: bool,
    baseline: Path | None,
    new_baseline: Path | None,
    suppressions: Path | None,
    whole: bool,
    where: Where,
    as_of: date | None,
    fail_on: str,
    output: str,
    target: Path | None,
    quiet: bool,
) -> int:
    """Show what each possible loss would take down, and what to fix.

    Tries every site, hall, feed, rack and shared risk in turn. Exit 3: there is a finding at or above
    --fail-on.
    """
    if output == "pdf":
        pdf_possible(output, target)
    with progress("auditing", quiet) as told:
        told(0.0, "reading the estate")
        situation = situation_of(estates.load(estate, as_of), estate, where, False, quiet)
        loaded = situation.estate
        if not (loaded.services or loaded.stores or loaded.data_sets):
            raise InvalidInput(
                "nothing-to-audit",
                f"{estate} describes no service, store or data set, so no loss can be judged",
                "add services to it, or import them with evac import, then run evac audit again",
            )
        with kernels(audit_s(loaded, lose, pairs), reporter(told, quiet)):
            report = audits.audit(
                loaded,
                domains=lose or None,
                pairs=pairs,
                as_of=as_of,
                digest=estate_digest(loaded),
                backups=situation.backups,
                at_ms=options.now_ms() if situation.backups != NOTHING_SEEN else None,
                progress=lambda share, words: told(READ_SHARE + (1 - READ_SHARE) * share, words),
            )
    judged = _judge(report, baseline, suppressions)
    if new_baseline is not None:
        write_whole(new_baseline, encode_baseline(audits.baseline_of(report.findings)))
        say(f"{plural(len(report.findings), 'finding')} accepted in {new_baseline}", quiet)
    if output == "pdf":
        emit_pdf(_page(loaded, report, judged), target)
    else:
        emit(_render(loaded, report, judged, output, whole, estate), target)
    if fail_on == "never":
        return console.DONE
    level = next(severity for severity in SEVERITIES if severity == fail_on)
    return (
        console.FINDINGS if any(audits.at_least(f.severity, level) for f in judged.counted) else console.DONE
    )


def _judge(report: AuditReport, baseline: Path | None, suppressions: Path | None) -> Judged:
    findings, words = report.findings, []
    if suppressions is not None:
        findings, put_off = audits.apply_suppressions(findings, read_suppressions(suppressions), report.as_of)
        words.append(f"{plural(len(put_off), 'finding')} suppressed by {suppressions}")
    if baseline is not None:
        compared = audits.compare(findings, read_baseline(baseline))
        findings = compared.new
        mended = plural(len(compared.mended), "finding")
        words.append(f"{plural(len(compared.known), 'finding')} known in {baseline}; {mended} of it fixed")
    return Judged(findings, tuple(words))


def _render(
    estate: Estate, report: AuditReport, judged: Judged, output: str, whole: bool, where: Path
) -> str:
    alerts = of_findings(judged.counted)
    if output == "json":
        return audit_json(report, judged.counted)
    if (problems := in_format(output, alerts, "evac audit", f"Audit of {report.estate}")) is not None:
        return problems
    if output == "html":
        return _page(estate, report, judged)
    shown = screen()
    return audit_text(report, judged.counted, judged.left_out, str(where), shown.width, shown.colour, whole)


def _page(estate: Estate, report: AuditReport, judged: Judged) -> str:
    errors = plural(sum(1 for f in judged.counted if f.severity == "error"), "error")
    losses = plural(len(report.rows), "possible loss", "possible losses")
    return html_report(
        estate,
        title=f"Audit of {report.estate}",
        lead=f"{losses} tried, {errors} to fix.",
        footer=f"evac {__version__}; as of {report.as_of or 'an unstated date'}; estate {report.digest}",
        audit=audit_context(report, judged.counted),
    )
