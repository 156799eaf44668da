"""evac run: look at runs, and say what shall become of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from evac.cli import exits
from evac.cli.options import Length, output_option, quiet_option
from evac.cli.output import emit, say, screen
from evac.cli.quarantine_command import quarantine
from evac.cli.run_options import log_file, reason_option, store_option, who_option, with_store

if TYPE_CHECKING:
    from evac.report.run_report import RunShown
    from evac.run.view import RunView
    from evac.store.port import Store

run_argument = click.argument("run", metavar="RUN")
step_argument = click.argument("step")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@click.group()
def run() -> None:
    """Runs: what is being carried out, what waits for a person, what was done."""


run.add_command(quarantine)


@run.command(name="list")
@store_option
@output_option("text", "json")
def list_command(store: str | None, output: str) -> None:
    """All runs, oldest first."""
    import json

    from evac.app import runs
    from evac.report.run_report import list_text

    rows = with_store(store, runs.list_runs)
    if output == "json":
        emit(json.dumps({"schema_version": 1, "runs": rows}, indent=2) + "\n", None)
        return
    shown = screen()
    emit(list_text(rows, shown.width, shown.colour), None)


@run.command()
@run_argument
@store_option
@output_option("text", "json")
def show(run: str, store: str | None, output: str) -> int:
    """Where a run stands, step by step; the exit code says it too."""
    from evac.report.run_report import run_json, run_text

    view, shown = with_store(store, lambda opened: _look(opened, run))
    if output == "json":
        emit(run_json(shown), None)
    else:
        page = screen()
        emit(run_text(shown, page.width, page.colour), None)
    return code_of(view)


async def _look(store: Store, run: str) -> tuple[RunView, RunShown]:
    from evac.app import runs

    view = await runs.view_of(store, run)
    return view, await shown_of(store, view)


async def shown_of(store: Store, view: RunView) -> RunShown:
    """A run with who leads and what may be lost, as of now."""
    from evac.app import runs
    from evac.report.run_report import LossShown, RunShown

    losses = await runs.losses_of(store, view, now_ms())
    told = tuple(LossShown(one.store, one.most_ms, one.basis, one.words) for one in losses)
    return RunShown(view, await runs.leader_of(store), now_ms(), told)


def code_of(view: RunView) -> int:
    """The exit code that says how a run stands."""
    undone = not view.undo_broken
    return exits.run_exit_code(view.phase, undone, bool(view.doubtful))


@run.command()
@run_argument
@store_option
@quiet_option
def watch(run: str, store: str | None, quiet: bool) -> int:
    """Follow a run until it ends. Ctrl-C detaches; the run goes on."""
    return follow(store, run, quiet)


def follow(store: str | None, run: str, quiet: bool) -> int:
    """Shows each change, and says at the end how it went. Ctrl-C detaches and says that the run goes on."""
    from evac.app import runs
    from evac.cli.run_screen import Teller

    async def work(opened: Store) -> RunView | None:
        last: RunView | None = None
        teller = Teller(quiet)
        try:
            async for view in runs.follow(opened, run):
                last = view
                teller.show(await shown_of(opened, view))
                if view.phase in ("awaiting_approval", "paused") or view.held or view.doubtful:
                    break
        finally:
            teller.close()
        return last

    try:
        view = with_store(store, work)
    except KeyboardInterrupt:
        say(f"\ndetached; the run goes on\nnext: evac run watch {run}")
        return exits.INTERRUPTED
    assert view is not None
    from evac.report.run_report import run_text

    page, last = screen(), view
    shown = with_store(store, lambda opened: shown_of(opened, last))
    emit(run_text(shown, page.width, page.colour), None)
    return code_of(view)


@run.command()
@run_argument
@store_option
@output_option("jsonl", "text")
def events(run: str, store: str | None, output: str) -> None:
    """The journal of a run, one event a line."""
    from evac.app import runs
    from evac.report.run_report import event_lines, moment

    found = with_store(store, lambda opened: runs.events_of(opened, run))
    if output == "jsonl":
        emit("".join(event_lines(enumerate(found, 1))), None)
        return
    for number, event in enumerate(found, 1):
        emit(f"{number:6} {moment(event.at_ms)} {event.kind:18} {event.step}", None)


@run.command()
@run_argument
@store_option
@click.option(
    "--estate", type=click.Path(), help="Also ask the agents of this estate for the heads they kept."
)
@output_option("text", "json")
def verify(run: str, store: str | None, estate: str | None, output: str) -> int:
    """Prove that nothing is missing, changed or cut off in a journal."""
    import json

    from evac.app import runs
    from evac.app.anchoring import heads_of

    async def work(opened: Store) -> runs.Proof:
        found = await runs.resolve(opened, run)
        return await runs.verify(opened, found, await heads_of(estate, found) if estate else [])

    proof = with_store(store, work)
    if output == "json":
        row = {"schema_version": 1, "run": run, "segments": proof.segments, "records": proof.records,
               "anchors": proof.anchors, "problems": list(proof.problems)}  # fmt: skip
        emit(json.dumps(row, indent=2) + "\n", None)
    elif proof.problems:
        emit("\n".join(f"- {words}" for words in proof.problems) + "\n", None)
    else:
        kept = (
            f"and agrees with {proof.anchors} heads kept elsewhere"
            if proof.anchors
            else ("; no head kept elsewhere was asked for: add --estate ESTATE")
        )
        emit(f"the journal is whole: {proof.records} events in {proof.segments} segments {kept}\n", None)
    return exits.FAILED if proof.problems else exits.DONE


Work = Callable[..., Any]
Option = Callable[[Work], Work]


def request(
    store: str | None, run: str, verb: Any, who: str | None, reason: str, quiet: bool, **more: Any
) -> int:
    """Writes a request, waits until the leader took it, and says what the journal made of it."""
    from evac.app import runs
    from evac.engine.requests import Request

    asked = Request(runs.new_id(now_ms()), verb, who or runs.who_am_i(), reason, at_ms=now_ms(), **more)

    async def work(opened: Store) -> tuple[bool, str]:
        found = await runs.resolve(opened, run)
        await runs.ask(opened, found, asked)
        if not await runs.settled(opened, found, asked.id):
            return False, ""
        for event in reversed(await runs.events_of(opened, found)):
            if event.kind == "request_refused" and event.data.get("request") == asked.id:
                return True, str(event.data.get("why", "refused"))
        return True, await runs.answered(opened, asked.id)

    taken, refused = with_store(store, work)
    if refused:
        say(f"error: {refused} [request-refused]\nnext: evac run show {run}")
        return exits.REFUSED
    if not taken:
        say(f"no leader took it yet; it stands and is taken when one leads\nnext: evac run show {run}")
        return exits.PAUSED
    say(f"{verb}: done\nnext: evac run show {run}", quiet)
    return exits.DONE


def asking(*more: Option) -> Option:
    """What every command has that asks something of a run: which run, why, who, in which store; `more` stand
    between the run and the reason.
    """
    options: tuple[Option, ...] = (run_argument, *more, reason_option, who_option, store_option, quiet_option)

    def wrapped(command: Work) -> Work:
        for option in reversed(options):
            command = option(command)
        return command

    return wrapped


def _add(verb: str, words: str, *more: Option) -> None:
    """A command that only asks."""

    @run.command(name=verb, help=words)
    @asking(*more)
    def ask(run: str, store: str | None, who: str | None, reason: str, quiet: bool, **asked: str) -> int:
        return request(store, run, verb, who, reason, quiet, **asked)


_add("resume", "Go on after a pause.")
_add("cancel", "Begin nothing more, and end when what is under way has ended; nothing is taken back.")
_add("retry", "Try a failed step again.", step_argument)
_add("skip", "Leave a step out; what waits for it goes on.", step_argument)
_add(
    "undo",
    "Take one step back, or the whole run; a store that moved stays moved.",
    click.argument("step", default=""),
)


@run.command()
@asking(
    click.option(
        "--for", "length", type=Length(), default=0, help="How long, like 10m. [default: as policy allows]"
    ),
    click.option(
        "--then", type=click.Choice(["resume", "cancel", "stay"]), default="stay", show_default=True
    ),
)
def pause(
    run: str, reason: str, who: str | None, length: int, then: str, store: str | None, quiet: bool
) -> int:
    """Nothing new begins; what is under way ends."""
    return request(store, run, "pause", who, reason, quiet, for_ms=length, then=then)


@run.command()
@asking(
    step_argument,
    click.option("--seen", "seen", multiple=True, metavar="KEY=VALUE", help="What was seen; repeat it."),
)
def attest(
    run: str, step: str, reason: str, who: str | None, seen: tuple[str, ...], store: str | None, quiet: bool
) -> int:
    """Vouch by name that a step is done: a fence that only a person can see, work done by hand.

    Of a promotion in doubt, also after its run has ended, say where the primary is: --seen primary=SITE.
    """
    pairs = dict(part.partition("=")[::2] for part in seen)
    return request(store, run, "attest", who, reason, quiet, step=step, evidence=pairs)


@run.command()
@asking(click.argument("limit"), click.argument("value"))
def limit(
    run: str, limit: str, value: str, reason: str, who: str | None, store: str | None, quiet: bool
) -> int:
    """Change a limit of a run: LIMIT like power:pangyo/a, VALUE like 90%, 450kW or 200.

    Percent are of what the estate says. What is on stays on: below what is held nothing new starts.
    """
    return request(store, run, "limit", who, reason, quiet, limit=limit, value=value)


@run.command()
@click.argument("plan", type=click.Path(dir_okay=False))
@click.argument("estate", type=click.Path())
@click.option("--incident", required=True, help="The incident whose journal was lost.")
@reason_option
@click.option("--confirm", metavar="SITE", multiple=True, help="Names of the sites that the plan leaves.")
@click.option(
    "--generation", type=click.IntRange(0, 4_000), default=0, help="Of a new store: above the old one's."
)
@store_option
@quiet_option
def adopt(
    plan: str, estate: str, incident: str, reason: str, confirm: tuple[str, ...], generation: int,
    store: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Where a journal was lost: look at the world, and begin a run from what it shows as done."""
    from pathlib import Path

    from evac.app.adopting import adopt as adopted

    made, done = adopted(
        Path(plan), Path(estate), store, incident, reason, confirm, now_ms(), log_file(), generation
    )
    say(
        f"{made} is made; {len(done)} steps are done already, as the world shows"
        + "".join(f"\n  {step}" for step in done)
        + f"\nnext: evac approve {made} --reason WHY",
        quiet,
    )
    return exits.DONE
