"""evac apply: rehearse a plan or execute it. evac approve: approve a run. evac hold: stop before the next
effect. evac site: clear marks of sites.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac.cli import console, options
from evac.cli.console import emit, say, screen
from evac.cli.run_command import Asking, follow, key_option, request, run_argument
from evac.cli.target import Where, where_options
from evac.model.errors import InvalidInput, NotAllowed
from evac.model.run_policy import Envelope
from evac.run.data_loss import time_lost

if TYPE_CHECKING:
    from evac.control.port import Control, PlanGiven
    from evac.views.documents import LossRow, RunDocument


@click.command()
@click.option("--release", "lift", is_flag=True, help="End the hold.")
@click.option("--reason", default="", help="Reason, recorded in the journal of every run.")
@options.who_option
@key_option
@where_options
@options.quiet_option
def hold(lift: bool, reason: str, who: str | None, key: Path | None, where: Where, quiet: bool) -> int:
    """Stop every run at every site before its next effect; --release lets them continue."""
    if lift:
        ended = where.do(lambda control: control.release(who or "", reason, key))
        say("released: runs continue" if ended else "there was no hold", quiet)
        return console.DONE
    if not reason:
        raise InvalidInput("reason-missing", "a hold needs a reason", "evac hold --reason WHY")
    found = where.do(lambda control: control.hold(who or "", reason))
    words = "nothing new starts anywhere"
    if found.already:
        words = f"already on hold by {found.who} ({found.reason}); {words}"
    say(f"held: {words}\nnext: evac hold --release", quiet)
    return console.DONE


@click.command()
@options.plan_argument
@click.argument("estate", type=options.ESTATE, required=False)
@click.option("--execute", is_flag=True, help="Create the run. Without this, nothing changes.")
@click.option("--reason", default="", help="Reason; required with --execute.")
@click.option("--incident", help="The incident of the run; one run for each incident and plan.")
@options.places_option("--confirm", "SITE", "Each site that the plan evacuates; repeatable.")
@options.places_option("--abandon", "SITE", "Treat a site as lost even though it answers.")
@click.option("--policy", type=options.FILE, help="Policy file.")
@click.option("--detach", is_flag=True, help="Do not follow the run.")
@options.who_option
@key_option
@where_options
@options.output_option("text", "json")
@options.quiet_option
def apply(
    plan: Path,
    estate: Path | None,
    execute: bool,
    reason: str,
    incident: str | None,
    confirm: tuple[str, ...],
    abandon: tuple[str, ...],
    policy: Path | None,
    detach: bool,
    who: str | None,
    key: Path | None,
    where: Where,
    output: str,
    quiet: bool,
) -> int:
    """Ask every system whether a plan would work now; with --execute, create a run.

    PLAN is a file, or the digest of a standby plan (sha256:... and at least the first
    twelve characters of it). ESTATE and --policy are read on this machine; with a server they are rejected,
    because it has its own.

    Exit 10: a step would not work now, or the checker does not accept the plan, so it will not be executed.

    A new run waits for approval: evac approve RUN.
    """
    if estate is None and not where.server:
        raise click.UsageError("give the ESTATE that the plan was made from, or use --server")
    where.refuse(ESTATE=estate, _policy=policy)
    if not execute:
        return _dry(plan, estate, policy, where, output)
    if not reason:
        raise InvalidInput("reason-missing", "executing a plan needs a reason", "add --reason WHY")
    given = _given(plan, estate, policy, where)
    run = _propose(given, where, reason, incident, confirm, abandon, who, key, quiet)
    say(f"{run} was created\nnext: evac approve {run} --reason WHY", quiet)
    return console.PAUSED if detach else follow(where, run, quiet)


def _given(plan: Path, estate: Path | None, policy: Path | None, where: Where) -> PlanGiven:
    """The plan in a file, or the stored one with that digest."""
    from evac.app.applying import is_digest
    from evac.control.port import PlanGiven
    from evac.engine.plans.library import digest_of
    from evac.estate.codecs import plan as plan_codec

    if is_digest(plan):
        data = where.do(lambda control: control.plan(str(plan)))
        return PlanGiven(data, digest_of(data), estate, policy)
    _, digest = plan_codec.read(plan)
    return PlanGiven(plan.read_bytes(), digest, estate, policy)


def _dry(plan: Path, estate: Path | None, policy: Path | None, where: Where, output: str) -> int:
    from evac.views.documents import document_json, dry_run_text

    given = _given(plan, estate, policy, where)
    document = where.do(lambda control: control.rehearse(given))
    if output == "json":
        emit(document_json(document), None)
    else:
        page = screen()
        emit(dry_run_text(document, str(plan), page.width, page.colour), None)
    return console.DONE if document.ready else console.REFUSED


def _abandoned(error: NotAllowed, sites: tuple[str, ...]) -> tuple[str, ...]:
    """Live sites that are left as lost anyway, once a person has typed that. Raises the error otherwise."""
    words = f"abandon {' '.join(sites)}"
    if click.prompt(f"{error.message}\ntype '{words}' to treat it as lost anyway", err=True) != words:
        raise error
    return sites


def _propose(
    plan: PlanGiven,
    where: Where,
    reason: str,
    incident: str | None,
    confirm: tuple[str, ...],
    abandon: tuple[str, ...],
    who: str | None,
    key: Path | None,
    quiet: bool,
) -> str:
    from evac.app import runs
    from evac.estate.codecs import plan as plan_codec

    scenario = plan_codec.decode(plan.data, plan.digest).scenario
    name = incident or f"{scenario.kind}-{options.now_ms()}"
    proposal = runs.proposal_of(plan.data, name, reason, confirm)
    leaving = proposal.leaving or proposal.unnamed()
    _refuse_others((*confirm, *abandon), leaving)
    typed = _confirmed(leaving, confirm)

    async def ready(control: Control) -> str:
        return await control.ready(plan)

    def propose(abandoned: tuple[str, ...]) -> str:
        return where.do(lambda control: control.propose(plan, name, reason, typed, abandoned, key, who or ""))

    say(f"{where.do(ready)} leads", quiet)
    try:
        return propose(abandon)
    except NotAllowed as error:
        if error.code != "site-answers" or abandon or not sys.stdin.isatty():
            raise
        return propose(_abandoned(error, tuple(leaving)))


def _confirmed(leaving: Sequence[str], confirm: tuple[str, ...]) -> tuple[str, ...]:
    """The sites that a person named, in the command or just now. Raises InvalidInput unless these are all the
    sites being left.
    """
    missing = [site for site in leaving if site not in confirm]
    for site in list(missing):
        if sys.stdin.isatty() and click.prompt(f"type {site} to confirm it", err=True) == site:
            missing.remove(site)
    if missing:
        words = " ".join(f"--confirm {site}" for site in missing)
        raise InvalidInput("not-confirmed", f"not confirmed: {', '.join(missing)}", f"confirm: {words}")
    return tuple(dict.fromkeys((*confirm, *leaving)))


@click.command()
@run_argument
@options.reason_option
@options.who_option
@click.option("--ticket", default="", help="Ticket of the incident.")
@click.option("--key", type=options.FILE, help="Your private key, to sign with.")
@click.option("--step", default="", help="Approve one step instead of the run.")
@options.places_option("--confirm", "SITE", "Each site, if the run evacuates more than one.")
@where_options
@options.quiet_option
def approve(
    run: str,
    reason: str,
    who: str | None,
    ticket: str,
    key: Path | None,
    step: str,
    confirm: tuple[str, ...],
    where: Where,
    quiet: bool,
) -> int:
    """Approve a run, or one step of it. First shows what it does, what may be lost, and who is waiting."""
    from evac.engine.runs.signatures import Approval, read_key, sign
    from evac.views.decisions import decision_text
    from evac.views.situation_view import site_words

    async def look(control: Control) -> tuple[RunDocument, str]:
        return await control.run(run, 1), await control.name(who or "") if key is not None else who or ""

    document, name = where.do(look)
    losses, to_type = document.most_lost, document.to_type
    needed = covering(document.envelope, losses)
    if not step:
        say(
            f"approving {run}: evacuates {', '.join(needed.sites) or 'no site'}; promotes "
            f"{', '.join(needed.stores) or 'no store'}; may lose at most "
            f"{time_lost(needed.most_lost_ms)} of writes; sheds services of {needed.most_shed:,} people",
            quiet,
        )
        for site in document.seen:
            say(f"seen when the run was created: {site_words(site)}", quiet)
        _refuse_others(confirm, {*needed.sites, *to_type})
        _confirmed(to_type, confirm)
    if step:
        asked = where.do(lambda control: control.decision(run, step))
        say(decision_text(asked, screen().width, False).rstrip(), quiet)
    for loss in () if step else losses:
        say(f"worst-case loss if {loss.candidate} takes over: {loss.sentence}", quiet)
    signature = ""
    if key is not None and not step:
        bound = document.bound_digest
        signed = Approval(document.run, document.plan_digest, needed, name, reason, ticket, bound)
        signature = sign(signed, read_key(key))
    code = request(
        Asking(run, where, name, reason, quiet, key if step else None),
        "approve",
        step=step,
        ticket=ticket,
        signature=signature,
        envelope=None if step else needed,
        typed=tuple(sorted({*confirm, *to_type})),
    )
    if code == console.DONE and not step:
        after, _ = where.do(look)
        if after.state == "awaiting_approval":
            say(f"not started yet: {'; '.join(after.waits_for)}", quiet)
    return code


def _refuse_others(confirm: tuple[str, ...], leaving: Collection[str]) -> None:
    """Raise InvalidInput for a typed site that is not being left, which means that another run was
    intended.
    """
    others = [site for site in dict.fromkeys(confirm) if site not in leaving]
    if others and leaving:
        raise InvalidInput(
            "not-left",
            f"{', '.join(others)} was confirmed, but this plan is not for it",
            f"it is for: {', '.join(sorted(leaving))}",
        )


def covering(needed: Envelope, losses: Sequence[LossRow]) -> Envelope:
    """What is approved: what the plan needs, and the maximum loss as shown now."""
    shown = [loss.milliseconds for loss in losses if loss.milliseconds is not None]
    return replace(needed, most_lost_ms=max(needed.most_lost_ms, *shown, 0))


@click.command(name="key")
@click.argument("file", type=options.FILE)
def new_key(file: Path) -> None:
    """Create a private key for approvals in FILE, and print the public key for the policy."""
    from evac.engine.runs.signatures import new_key as make

    try:
        public = make(file)
    except FileExistsError as error:
        raise InvalidInput("key-exists", f"{file} already exists", "choose another file") from error
    emit(public, None)
    say(f"the private key is in {file}; only you can read it\nnext: add it to approvers in policy.yaml")


@click.group()
def site() -> None:
    """Clear a site's lost or evacuated mark."""


@site.command()
@click.argument("domain", metavar="SITE")
@options.reason_option
@options.who_option
@key_option
@where_options
@options.quiet_option
def clear(domain: str, reason: str, who: str | None, key: Path | None, where: Where, quiet: bool) -> int:
    """Clear the lost or evacuated mark of a SITE, or of a domain below one, after a drill or a false alarm.

    Plans use it again from then on. Services do not move; use evac plan --failback for that. Rejected while
    an open run evacuates the site.
    """
    where.do(lambda control: control.clear_site(domain, who or "", reason, key))
    say(f"{domain} is active again\nnext: evac status", quiet)
    return console.DONE
