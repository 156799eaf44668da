"""evac credit: what customers are owed after an outage, from windows to bookings of the billing system."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evac.cli import console
from evac.cli.console import emit, progress, say, screen
from evac.cli.options import (
    FILE,
    Length,
    Named,
    file_option,
    now_ms,
    output_option,
    quiet_option,
    time_zone_option,
    who_option,
)
from evac.cli.target import Where, where_options
from evac.model.errors import EstateError

if TYPE_CHECKING:
    from evac.app.credit.case import Case
    from evac.app.credit.deliveries import Change
    from evac.credit.formulas import Money
    from evac.credit.ledger import Tranche
    from evac.credit.windows import Correction

case_argument = click.argument("case", type=Named("CASE", file_okay=False))
_why = click.option("--reason", default="", help="Reason, recorded in the journal of the case.")
_TRANCHE = click.Choice(["paying", "free"])
_SYSTEM = click.Choice(["csv", "stripe", "lago", "killbill", "openmeter", "chargebee"])


@click.group()
def credit() -> None:
    """Work out what customers are owed after an outage, and hand it to billing."""


def _who(given: str | None) -> str:
    from evac.app.runs import who_am_i

    return given or who_am_i()


def _case(folder: Path) -> Case:
    from evac.app.credit.case import Case

    return Case(folder)


def _show(
    document: dict[str, Any], output: str, sheet: Callable[[Any], Any], target: Path | None = None
) -> None:
    from evac.views.credit_view import document_json
    from evac.views.sheet import sheet_text

    if output == "json":
        emit(document_json(document), target)
    else:
        page = screen()
        emit(sheet_text(sheet(document), page.width, page.colour and target is None), target)


class Moment(click.ParamType[int]):
    """A moment with its time zone, as milliseconds since 1970."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail(f"'{value[:40]}' is not a time; use a value like 2022-10-15T15:33:00+09:00", param, ctx)
        return round(at.timestamp() * 1_000)


class Amount(click.ParamType["Money"]):
    """An amount with its currency."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Money:
        from evac.estate.codecs.credit_rules import read_money
        from evac.estate.format.quantities import QuantityError

        try:
            found = read_money(value)
        except QuantityError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)
        if not found.minor:
            self.fail("nothing is granted; to refuse a claim, use --refuse", param, ctx)
        return found


@credit.command()
@click.option(
    "-o", "--out", "target", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder."
)
@click.option("--accounts", type=click.IntRange(1_000, 47_000_000), help="How many. [default: 470,000]")
@quiet_option
def example(target: Path, accounts: int | None, quiet: bool) -> None:
    """Write an example: windows, rules and a sample of accounts of October 2022."""
    from evac.app.credit import case

    case.write(target, accounts or case.SAMPLE)
    say(f"next: evac credit windows october --import {target / 'windows.csv'}", quiet)


@credit.command()
@case_argument
@click.option("--import", "source", type=FILE, help="Add the windows of a CSV or JSON file.")
@click.option("--incident", default="", help="Import the downtime of each service from an incident.")
@click.option("--correct", metavar="WINDOW", default="", help="Correct this window, with --from or --to.")
@click.option("--remove", metavar="WINDOW", default="", help="Remove this window.")
@click.option("--from", "from_ms", type=Moment(), help="New start.")
@click.option("--to", "to_ms", type=Moment(), help="New end.")
@_why
@who_option
@where_options
@time_zone_option
@output_option("text", "json")
@quiet_option
def windows(
    case: Path,
    source: Path | None,
    incident: str,
    correct: str,
    remove: str,
    from_ms: int | None,
    to_ms: int | None,
    reason: str,
    who: str | None,
    where: Where,
    output: str,
    quiet: bool,
) -> None:
    """Show, import or correct outage windows. CASE is the folder of one outage.

    A correction needs --reason and creates a new version; earlier versions are kept.
    """
    from evac.app.credit.showing import case_document
    from evac.credit.windows import Correction
    from evac.views.credit_view import windows_sheet

    asked = [name for name in (source, incident, correct, remove) if name]
    if len(asked) > 1:
        raise click.UsageError("give one of --import, --incident, --correct and --remove")
    if (from_ms is not None or to_ms is not None) and not correct:
        raise click.UsageError("--from and --to need --correct")
    chosen = _case(case)
    if source is not None or incident:
        _add_windows(chosen, source, incident, _who(who), where, quiet)
    elif correct or remove:
        change = Correction(correct or remove, _who(who), reason, now_ms(), from_ms, to_ms, bool(remove))
        _correct(chosen, change, quiet)
    _show(case_document(chosen), output, windows_sheet)


def _add_windows(case: Case, source: Path | None, incident: str, who: str, where: Where, quiet: bool) -> None:
    from evac.app.credit.showing import windows_of_incident
    from evac.estate.codecs.credit_tables import load_windows
    from evac.views.words import plural

    if source is not None:
        found = load_windows(source)
    else:
        summary = where.do(lambda control: control.paper(incident, "summary", "json"))
        found = windows_of_incident(json.loads(str(summary)))
    new = case.add_windows(found, now_ms(), who)
    say(f"{plural(new, 'new window')}; {len(found) - new:,} already known", quiet)


def _correct(case: Case, change: Correction, quiet: bool) -> None:
    with case.changing():
        made = case.windows().corrected(change)
        case.record("correction", change.at_ms, change.who, change.to_data())
    say(f"windows are at version {made.version}; amounts change when you compute again", quiet)


@credit.command()
@case_argument
@click.option("--import", "source", type=FILE, help="Add the claims of a CSV or JSON file.")
@click.option("--accept", metavar="CLAIM", default="", help="Grant --amount for this claim.")
@click.option("--amount", type=Amount(), help="Amount granted, like '70000 KRW'.")
@click.option("--refuse", metavar="CLAIM", default="", help="Refuse this claim.")
@_why
@who_option
@time_zone_option
@output_option("text", "json")
@quiet_option
def claims(
    case: Path,
    source: Path | None,
    accept: str,
    amount: Money | None,
    refuse: str,
    reason: str,
    who: str | None,
    output: str,
    quiet: bool,
) -> None:
    """Show, import or decide claims. The file has id, account, service, loss, received; no names.

    Losses within a band are paid by band; a person decides the others. A decision needs --reason, and counts
    from the next ledger on, which two people must approve again.
    """
    from evac.app.credit.showing import case_document
    from evac.credit.ledger import Decision
    from evac.estate.codecs.credit_tables import load_claims
    from evac.views.credit_view import claims_sheet

    if sum(map(bool, (source, accept, refuse))) > 1:
        raise click.UsageError("give one of --import, --accept and --refuse")
    if (amount is None) == bool(accept):
        raise click.UsageError("--accept needs --amount, and only --accept takes it")
    chosen = _case(case)
    if source is not None:
        found = load_claims(source)
        new = chosen.add_claims(found, now_ms(), _who(who))
        known = len(found) - new
        say(f"{new:,} new {'claim' if new == 1 else 'claims'}; {known:,} already known", quiet)
    elif accept or refuse:
        granted, currency = (0, "") if amount is None else (amount.minor, amount.currency)
        decision = Decision(accept or refuse, _who(who), reason, now_ms(), granted)
        chosen.decide(decision, currency)
        say("recorded; it takes effect when you compute again", quiet)
    _show(case_document(chosen), output, claims_sheet)


@credit.command()
@click.argument("rules", default="")
@click.option("--print", "printed", is_flag=True, help="Print a rule set that ships with evac, to copy from.")
@output_option("text", "json")
@quiet_option
def check(rules: str, printed: bool, output: str, quiet: bool) -> int:
    """Check a rule file: list every problem with its line. Without RULES, list the sets that ship with evac.

    RULES is a YAML file or the name of such a set. Exit 2: there is an error.
    """
    from evac.app.credit import case
    from evac.views.credit_view import check_json

    if not rules:
        emit("\n".join(case.shipped_names()), None)
        say("next: evac credit check NAME --print", quiet)
        return console.DONE
    if printed:
        emit(case.shipped_text(rules), None)
        return console.DONE
    made, problems = case.check(rules)
    if output == "json":
        name, digest, count = ("", "", 0) if made is None else (made.id, made.digest, len(made.rules))
        emit(check_json(name, digest, count, problems), None)
        return console.DONE if made is not None else console.USAGE
    if made is None:
        raise EstateError(problems, "rules")
    for row in problems:
        emit(f"{row.place}: {row.severity}: {row.message} [{row.code}]", None)
    emit(
        f"{made.id}: {len(made.rules)} {'rule' if len(made.rules) == 1 else 'rules'}, digest {made.digest}",
        None,
    )
    say(f"next: evac credit compute {made.id} --rules {shlex.quote(rules)} --accounts FILE", quiet)
    return console.DONE


@credit.command()
@click.argument("table")
@click.option("-o", "--out", "target", required=True, type=FILE, help="Parquet file to write.")
@click.option("--host", required=True, help="Host of the PostgreSQL server.")
@click.option("--port", type=click.IntRange(1, 65_535), default=5_432, show_default=True)
@click.option("--database", required=True, help="Name of the database.")
@click.option("--user", required=True, help="A user who may read the table.")
@click.option("--password", required=True, metavar="REFERENCE", help="Password: env:NAME or file:/path.")
@quiet_option
def accounts(
    table: str, target: Path, host: str, port: int, database: str, user: str, password: str, quiet: bool
) -> None:
    """Read accounts from a table or view in PostgreSQL: only the columns that credits need.

    Rows are read through a cursor in a read-only transaction, so the table can be of any size.
    """
    from evac.app.credit import intake

    count = intake.fetch(intake.Database(host, port, database, user, password), table, target)
    say(f"{target}: {count:,} {'row' if count == 1 else 'rows'} of {table}", quiet)
    say(f"next: evac credit compute CASE --rules RULES --accounts {target}", quiet)


@credit.command()
@case_argument
@click.argument("rules")
@click.option(
    "--dialect",
    type=click.Choice(["bigquery", "duckdb", "postgres", "redshift", "snowflake", "spark", "trino"]),
    required=True,
    help="Database that will run the query.",
)
@click.option("--table", default="accounts", show_default=True, help="Where the accounts are.")
@file_option
def sql(case: Path, rules: str, dialect: str, table: str, target: Path | None) -> None:
    """Print the rules and windows of a case as one SELECT, for a warehouse that holds the accounts.

    It returns one row per ledger line, with identical amounts. It needs the extra warehouse.
    """
    from evac.app.credit import computing
    from evac.app.credit.case import load

    text = computing.statement(load(rules), _case(case).windows().now, dialect, table)  # type: ignore[arg-type]
    emit(text + "\n", target)


@credit.command()
@case_argument
@click.option("--rules", required=True, help="Rule file, or the name of a rule set that ships with evac.")
@click.option(
    "--accounts",
    "accounts",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Parquet or CSV file, or a folder of them; repeatable.",
)
@click.option("--partitions", type=click.IntRange(1, 9_999), help="Number of parts. [default: by size]")
@who_option
@output_option("text", "json")
@quiet_option
def compute(
    case: Path,
    rules: str,
    accounts: tuple[Path, ...],
    partitions: int | None,
    who: str | None,
    output: str,
    quiet: bool,
) -> None:
    """Compute the ledger: every line twice, with two engines that must agree.

    If interrupted, run the same command again to continue. This command pays nothing.
    """
    from evac.app.credit import computing
    from evac.app.credit.case import load
    from evac.app.credit.showing import case_document
    from evac.views.credit_view import case_sheet

    chosen, rule_set = _case(case), load(rules)
    with progress("credits", quiet) as shown:
        shown(0.0, "reading accounts")
        computing.settle(
            chosen,
            rule_set,
            accounts,
            _who(who),
            now_ms(),
            partitions or 0,
            lambda done, of: shown(done / of, f"part {done} of {of}"),
            rules,
        )
    _show(case_document(chosen), output, case_sheet)


@credit.command()
@click.argument("cases", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--rules", default="", help="Other rules: a file, or the name of a set. [default: the same]")
@click.option("--earlier", type=Length(), default=0, help="Assume that each outage began this much earlier.")
@click.option("--later", type=Length(), default=0, help="Assume that each outage ended this much later.")
@output_option("text", "json")
@file_option
def simulate(
    cases: tuple[Path, ...], rules: str, earlier: int, later: int, output: str, target: Path | None
) -> None:
    """Show what other rules or longer outages would cost, for one case or for several past ones.

    Nothing is recorded. To use the result, compute a ledger.
    """
    from evac.app.credit import case, computing
    from evac.views.credit_view import simulation_sheet

    chosen = case.load(rules) if rules else None
    found = computing.simulate([_case(case) for case in cases], chosen, earlier, later)
    _show(found, output, simulation_sheet, target)


@credit.command()
@case_argument
@time_zone_option
@output_option("text", "json")
@file_option
def show(case: Path, output: str, target: Path | None) -> None:
    """Show windows, totals, largest lines, approvals and tranches of a case."""
    from evac.app.credit.showing import case_document
    from evac.views.credit_view import case_sheet

    _show(case_document(_case(case)), output, case_sheet, target)


@credit.command()
@case_argument
@time_zone_option
@output_option("text", "markdown", "json")
@file_option
def statement(case: Path, output: str, target: Path | None) -> None:
    """Write a statement for a regulator: who may get what, on what basis, and by when users must be informed.

    The three sentences in facts of the JSON are those that evac incident report asks for: damages_claimants,
    damages_basis, damages_procedure.
    """
    from evac.app.credit.showing import statement_document
    from evac.views.credit_view import statement_sheet
    from evac.views.sheet import sheet_markdown

    found = statement_document(_case(case))
    if output == "markdown":
        emit(sheet_markdown(statement_sheet(found)), target)
    else:
        _show(found, output, statement_sheet, target)


@credit.command()
@case_argument
@_why
@click.option("--key", type=FILE, help="Your private key, to sign with.")
@click.option("--policy", type=FILE, help="Policy file that lists who may approve.")
@who_option
@quiet_option
def approve(
    case: Path, reason: str, key: Path | None, policy: Path | None, who: str | None, quiet: bool
) -> int:
    """Approve the totals of the last ledger. Two people must; any changed line needs new approvals."""
    from evac.app.credit import deliveries
    from evac.app.credit.showing import next_command
    from evac.credit.ledger import APPROVALS
    from evac.estate.codecs.policy import load_policy

    chosen = _case(case)
    with chosen.changing():
        listed = None if policy is None else load_policy(policy)
        found = deliveries.approve(chosen, _who(who), reason, key, listed, now_ms())
    more = APPROVALS - len(found)
    if more > 0:
        say(f"approved; {more} more {'person' if more == 1 else 'people'} must approve", quiet)
        return console.PAUSED
    say(f"approved by {' and '.join(row['who'] for row in found)}\nnext: {next_command(chosen)}", quiet)
    return console.DONE


@credit.command()
@case_argument
@click.argument("tranche", type=_TRANCHE)
@click.option(
    "--close", "change", flag_value="closed", help="Close the tranche: nothing more is released in it."
)
@click.option(
    "--reopen", "change", flag_value="reopened", help="Reopen the tranche for amounts owed since then."
)
@_why
@who_option
@quiet_option
def tranche(
    case: Path, tranche: Tranche, change: Change | None, reason: str, who: str | None, quiet: bool
) -> None:
    """Release the credits of a tranche: the next delivery contains only what no earlier one did.

    The free tranche is released after the paying one is closed. Needs --reason.
    """
    from evac.app.credit import deliveries
    from evac.app.credit.showing import next_command
    from evac.credit.formulas import money_words

    chosen = _case(case)
    with chosen.changing():
        if change is not None:
            deliveries.open_or_close(chosen, tranche, change, _who(who), reason, now_ms())
            say(f"the {tranche} tranche is {change}\nnext: {next_command(chosen)}", quiet)
            return
        digest = chosen.ledger()["rules"]["digest"]
        made = deliveries.release(chosen, digest, tranche, _who(who), reason, now_ms())
    amounts = ", ".join(money_words(value, name) for name, value in made.amounts.items()) or "no money"
    say(f"{made.name}: {made.lines:,} {'line' if made.lines == 1 else 'lines'}, {amounts}", quiet)
    for name, value in made.overpaid.items():
        say(f"overpaid earlier and not reclaimed: {money_words(value, name)}", quiet)
    say(f"next: {next_command(chosen)}", quiet)


@credit.command()
@case_argument
@click.argument("delivery")
@click.option(
    "--to",
    "system",
    type=_SYSTEM,
    default="csv",
    show_default=True,
    help="Billing system that receives the requests.",
)
@click.option(
    "-o", "--out", "target", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder."
)
@output_option("text", "json")
@quiet_option
def export(case: Path, delivery: str, system: str, target: Path, output: str, quiet: bool) -> None:
    """Write a delivery as request files for a billing system. evac sends nothing itself.

    Each request has an idempotency key. Stripe, OpenMeter and Chargebee honour it; Lago and Kill Bill
    do not.
    """
    from evac.app.credit import deliveries
    from evac.app.credit.showing import rules_of
    from evac.views.credit_view import document_json

    chosen = _case(case)
    found = deliveries.export(chosen, rules_of(chosen, delivery), delivery, system, target)
    if output == "json":
        emit(document_json({"kind": "evac-credit-export", "schema_version": 1, **found}), None)
    count, left_out = found["lines"], found["left_out"]
    say(f"{count:,} {'line' if count == 1 else 'lines'} in {target / found['files'][0]}", quiet)
    if left_out:
        words = f"{left_out:,} {'line is' if left_out == 1 else 'lines are'} not for {system}"
        say(f"{words}: see {target / found['files'][1]}", quiet)
    listed = "" if system == "csv" else f" --from {system}"
    say(f"next: evac credit reconcile {case} {delivery} FILE{listed}", quiet)


@credit.command()
@case_argument
@click.argument("delivery")
@click.argument("booked", type=FILE)
@click.option(
    "--from",
    "system",
    type=_SYSTEM,
    default="csv",
    show_default=True,
    help="Billing system that BOOKED comes from.",
)
@output_option("text", "json")
@quiet_option
def reconcile(case: Path, delivery: str, booked: Path, system: str, output: str, quiet: bool) -> int:
    """Compare a delivery with what the billing system booked, to the smallest unit.

    BOOKED is a CSV file with the columns key, amount (minor units) and currency, or what the API of a
    billing system lists, as JSON. Exit 3: they differ.
    """
    from dataclasses import asdict

    from evac.app.credit import deliveries
    from evac.app.credit.showing import next_command, rules_of
    from evac.views.credit_view import document_json, reconciled_text

    chosen = _case(case)
    found = deliveries.reconcile(chosen, rules_of(chosen, delivery), delivery, booked, system)
    rows = [asdict(row) for row in found.wrong]
    counts = {"same": found.same, "left_out": found.left_out, "different": found.different}
    if output == "json":
        document = {"kind": "evac-credit-reconciliation", "schema_version": 1, "delivery": delivery}
        emit(document_json({**document, **counts, "mismatches": rows}), None)
    else:
        emit(reconciled_text({**counts, "mismatches": rows}, system), None)
    name = delivery.rpartition("-")[0]
    then = f"evac credit tranche {case} {name} --close --reason WHY"
    if name in deliveries.closed(chosen):
        then = next_command(chosen)
    say(f"next: {then}", quiet or bool(rows))
    return console.FINDINGS if rows else console.DONE


@credit.command()
@case_argument
@click.argument("account")
@click.option("--language", type=click.Choice(["en", "ko"]), default="en", show_default=True)
@click.option("--templates", type=FILE, help="YAML file with your own wording, by language and name.")
@output_option("text", "json")
def explain(case: Path, account: str, language: str, templates: Path | None, output: str) -> None:
    """Explain one account's credits in the customer's language, with the calculation."""
    from evac.app.credit import showing
    from evac.views.credit_view import explanation_json, explanation_text

    texts = showing.templates_of(templates)
    document, found = showing.explain(_case(case), account, language, texts)  # type: ignore[arg-type]
    if output == "json":
        emit(explanation_json(account, document["ledger"], language, found), None)
    else:
        emit(explanation_text(found), None)
