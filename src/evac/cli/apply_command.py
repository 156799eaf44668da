"""evac apply: what a plan would do now, or carry it out. evac approve: agree to a run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac.cli import exits
from evac.cli.options import estate_argument, output_option, plan_argument, quiet_option
from evac.cli.output import emit, say, screen
from evac.cli.run_command import code_of, follow, now_ms, request, run_argument
from evac.cli.run_options import log_file, reason_option, store_option, who_option, with_store
from evac.model.errors import InvalidInput
from evac.model.run_policy import Envelope

if TYPE_CHECKING:
    from evac.app.applying import DryRun, Loaded
    from evac.engine.sightings import Loss
    from evac.run.view import RunView
    from evac.store.port import Store


@click.command()
@plan_argument
@estate_argument
@click.option("--execute", is_flag=True, help="Do it. Without this nothing is changed.")
@click.option("--reason", default="", help="Why; needed with --execute.")
@click.option("--incident", help="The incident it belongs to; one run an incident and plan.")
@click.option("--confirm", multiple=True, metavar="SITE", help="Name each site that is left.")
@click.option("--policy", type=click.Path(path_type=Path, dir_okay=False), help="Policy file.")
@click.option("--detach", is_flag=True, help="Do not follow the run.")
@store_option
@output_option("text", "json")
@quiet_option
def apply(
    plan: Path, estate: Path, execute: bool, reason: str, incident: str | None, confirm: tuple[str, ...],
    policy: Path | None, detach: bool, store: str | None, output: str, quiet: bool,
) -> int:  # fmt: skip
    """Say what a plan would do now, asking every system; with --execute, carry it out.

    PLAN is a file, or the digest of a plan that a controller has ready: sha256: and 12 letters or more.

    The run waits for approval first: evac approve RUN.
    """
    if not execute:
        return _dry(plan, estate, policy, store, output)
    if not reason:
        raise InvalidInput("reason-missing", "carrying a plan out says why", "add --reason WHY")
    run = _propose(plan, estate, policy, store, reason, incident, confirm, quiet)
    say(f"{run} is made\nnext: evac approve {run} --reason WHY", quiet)
    return exits.PAUSED if detach else follow(store, run, quiet)


def _dry(plan: Path, estate: Path, policy: Path | None, url: str | None, output: str) -> int:
    from evac.actions.registry import Drivers
    from evac.app import applying, runs
    from evac.report.dry_run import dry_run_document, dry_run_text
    from evac.store.opening import check_store, open_store

    if url:
        check_store(url)

    async def work() -> tuple[Loaded, DryRun]:
        drivers = Drivers()
        store = open_store(url or runs.default_store()) if applying.is_digest(plan) else None
        try:
            loaded = await applying.load(plan, estate, policy, drivers, now_ms(), store)
            return loaded, await applying.dry_run(loaded, drivers)
        finally:
            await drivers.close()
            if store is not None:
                await store.close()

    loaded, found = asyncio.run(work())
    rows = [(s.id, s.words, s.problems, s.manual, s.gate) for s in found.steps]
    if output == "json":
        document = dry_run_document(loaded.digest, rows, found.needs_approval)
        emit(json.dumps(document, indent=2, ensure_ascii=False) + "\n", None)
    else:
        page = screen()
        title = loaded.plan.scenario.title
        emit(dry_run_text(title, rows, found.needs_approval, str(plan), page.width, page.colour), None)
    return exits.REFUSED if any(step.problems for step in found.steps) else exits.DONE


def _propose(
    plan: Path, estate: Path, policy: Path | None, url: str | None, reason: str, incident: str | None,
    confirm: tuple[str, ...], quiet: bool,
) -> str:  # fmt: skip
    from evac.actions.registry import Drivers
    from evac.app import applying, runs
    from evac.store.opening import open_store

    store_url = url or runs.default_store()

    async def work() -> str:
        drivers, store = Drivers(), open_store(store_url)
        try:
            loaded = await applying.load(plan, estate, policy, drivers, now_ms(), store)
            name = incident or f"{loaded.plan.scenario.kind}-{now_ms()}"
            proposal = runs.proposal_of(loaded.data, name, reason, confirm)
            _confirmed(proposal.leaving, confirm)
            leader = await applying.ensure_controller(store, store_url, estate.absolute(), policy, log_file())
            say(f"{leader} leads", quiet)
            return await runs.propose(store, proposal, now_ms())
        finally:
            await drivers.close()
            await store.close()

    return asyncio.run(work())


def _confirmed(leaving: tuple[str, ...], confirm: tuple[str, ...]) -> None:
    """Raises InvalidInput unless every site that is left was named by a person."""
    missing = [site for site in leaving if site not in confirm]
    for site in list(missing):
        if sys.stdin.isatty() and click.prompt(f"type {site} to leave it", err=True) == site:
            missing.remove(site)
    if missing:
        words = " ".join(f"--confirm {site}" for site in missing)
        raise InvalidInput("not-confirmed", f"{', '.join(missing)} was not confirmed", f"say so: {words}")


@click.command()
@run_argument
@reason_option
@who_option
@click.option("--ticket", default="", help="Ticket of the incident.")
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Your private key, to sign with."
)
@click.option("--step", default="", help="Open the gate of one step instead.")
@click.option("--confirm", multiple=True, metavar="SITE", help="Type each site where more than one is left.")
@store_option
@quiet_option
def approve(
    run: str,
    reason: str,
    who: str | None,
    ticket: str,
    key: Path | None,
    step: str,
    confirm: tuple[str, ...],
    store: str | None,
    quiet: bool,
) -> int:
    """Agree to a run: to its sites, its stores, the most that may be lost and shed. Shows them first."""
    from evac.app import runs
    from evac.engine.signatures import Approval, read_key, sign

    async def look(opened: Store) -> tuple[RunView, tuple[Loss, ...]]:
        view = await runs.view_of(opened, run)
        return view, await runs.losses_of(opened, view, now_ms())

    view, losses = with_store(store, look)
    needed, name = covering(view.spec.envelope, losses), who or runs.who_am_i()
    if not step:
        say(
            f"approving {run}: leaves {', '.join(needed.sites) or 'no site'}; promotes "
            f"{', '.join(needed.stores) or 'no store'}; may lose at most {needed.most_lost_ms / 1000:g} s "
            f"of writes; sheds services of {needed.most_shed:,} people",
            quiet,
        )
        _confirmed(view.untyped, confirm)
    for loss in losses:
        if not step or step == f"promote:{loss.store}":
            say(f"{loss.store} at {loss.candidate} may lose {loss.words}", quiet)
    signature = ""
    if key is not None and not step:
        signature = sign(Approval(run, view.plans[-1], needed, name, reason, ticket), read_key(key))
    return request(
        store, run, "approve", name, reason, quiet, step=step, ticket=ticket, signature=signature,
        envelope=None if step else needed, typed=tuple(sorted({*confirm, *view.untyped})),
    )  # fmt: skip


def covering(needed: Envelope, losses: Sequence[Loss]) -> Envelope:
    """What is agreed to: what the plan needs, and the most that may be lost as it is shown now."""
    shown = [loss.most_ms for loss in losses if loss.most_ms is not None]
    return replace(needed, most_lost_ms=max(needed.most_lost_ms, *shown, 0))


@click.command(name="key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def new_key(file: Path) -> None:
    """Make a private key for approvals in FILE, and print the public key for the policy."""
    from evac.engine.signatures import new_key as make

    try:
        public = make(file)
    except FileExistsError as error:
        raise InvalidInput("key-exists", f"{file} is there already", "name another file") from error
    emit(public, None)
    say(f"the private key is in {file}; only you can read it\nnext: add it to approvers in policy.yaml")


__all__ = ["apply", "approve", "code_of", "new_key"]
