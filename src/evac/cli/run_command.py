"""evac run: show and control runs.

evac run quarantine: the list of servers for on-site staff.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evac.cli import completion, console
from evac.cli.console import emit, say, screen
from evac.cli.options import (
    ESTATE,
    FILE,
    PLAN,
    Length,
    log_file,
    now_ms,
    output_option,
    places_option,
    quiet_option,
    reason_option,
    store_option,
    who_option,
)
from evac.cli.proof_command import verify
from evac.cli.target import Where, where_options
from evac.model.records import dataclass
from evac.model.step_id import boot_step
from evac.run.values import ENDED

if TYPE_CHECKING:
    from evac.control.port import Control
    from evac.engine.runs.requests import Request
    from evac.views.documents import RunDocument


@click.command()
@click.argument("run", metavar="RUN", shell_complete=completion.runs)
@where_options
@output_option("text", "csv", "json", "html")
@click.option("--to", type=FILE, help="Write to a file instead of the screen.")
def quarantine(run: str, where: Where, output: str, to: Path | None) -> None:
    """List servers that did not come up: hall, rack, position, serial number, reason, and what to do.

    Sorted in walking order; html prints on A4. Servers that came up degraded are listed separately.
    """
    from evac.views import quarantine as lists

    if output in ("csv", "html"):
        emit(where.do(lambda control: control.quarantine(run, "csv" if output == "csv" else "html")), to)
        return
    told = where.do(lambda control: control.quarantine(run, "json"))
    if output == "json":
        emit(told, to)
    else:
        shown = screen()
        emit(lists.quarantine_text(lists.quarantine_read(told), shown.width, shown.colour and to is None), to)


run_argument = click.argument("run", metavar="RUN", shell_complete=completion.runs)
steps_argument = click.argument("steps", metavar="[STEP]...", nargs=-1)
rack_option = click.option(
    "--rack",
    "racks",
    multiple=True,
    metavar="RACK",
    help="Every server of this rack on the hands-on list.",
)
hall_option = click.option(
    "--hall", "halls", multiple=True, metavar="HALL", help="Every server of this hall on the hands-on list."
)
key_option = click.option(
    "--key",
    type=FILE,
    help="Private key to sign with; its owner must be in the policy or the access file.",
)
REFUSED_SHOWN = 10


@click.group()
def run() -> None:
    """Show and control runs."""


run.add_command(quarantine)


@run.command(name="list")
@where_options
@output_option("text", "json")
def list_command(where: Where, output: str) -> None:
    """List all runs, oldest first."""
    import json

    from evac.views.status_document import list_text

    rows = where.do(lambda control: control.runs())
    if output == "json":
        listed = [row.row for row in rows]
        emit(json.dumps({"schema_version": 1, "runs": listed}, indent=2) + "\n", None)
        return
    shown = screen()
    emit(list_text(rows, shown.width, shown.colour), None)


@run.command()
@run_argument
@where_options
@output_option("text", "json")
def show(run: str, where: Where, output: str) -> int:
    """Show a run, step by step; the exit code reflects its state."""
    from evac.views.documents import document_json
    from evac.views.run_report import SHOWN

    document = where.do(lambda control: control.run(run, None if output == "json" else SHOWN))
    if output == "json":
        emit(document_json(document), None)
    else:
        _page(document)
    return code_of(document)


def _page(document: RunDocument) -> None:
    from evac.views.run_report import run_text

    page = screen()
    emit(run_text(document, page.width, page.colour), None)


def code_of(document: RunDocument) -> int:
    """The exit code for the state of a run. An open run that waits for a person says so, even while other
    steps of it continue, and so does one that no leader could take over.
    """
    undone, in_doubt = not document.undo_failed, bool(document.in_doubt)
    code = console.run_exit_code(document.state, undone, in_doubt, bool(document.held_by))
    asks = document.state not in ENDED and (document.waits or document.not_taken_over)
    return console.PAUSED if code == console.DONE and asks else code


@run.command()
@run_argument
@click.argument("step", default="")
@where_options
@output_option("text", "json")
def decision(run: str, step: str, where: Where, output: str) -> None:
    """Show the decision needed on a STEP, or on the whole run.

    What it does, the worst-case loss and how it is known, who is waiting for it, and the consequences of
    approving, skipping, waiting and so on.
    """
    from evac.views.decisions import decision_text
    from evac.views.documents import document_json

    asked = where.do(lambda control: control.decision(run, step))
    shown = screen()
    emit(document_json(asked) if output == "json" else decision_text(asked, shown.width, shown.colour), None)


@run.command()
@run_argument
@where_options
@quiet_option
def watch(run: str, where: Where, quiet: bool) -> int:
    """Follow a run until it ends or waits for a person.

    Starts the controller of an embedded store again if it ended or was killed.

    On a terminal: progress, the time left, what is waiting, with the command to type, running steps and the
    last events. Keys: q detaches, s shows the steps. The run continues.
    """
    return follow(where, run, quiet)


class _Detached(Exception):
    """A person stopped watching."""


def follow(where: Where, run: str, quiet: bool) -> int:
    """Show each change, and the result at the end. Ctrl-C detaches and says that the run continues."""
    from evac.cli.run_screen import Teller, keys
    from evac.views.run_report import SHOWN

    async def work(control: Control) -> RunDocument:
        teller, watching = Teller(quiet), asyncio.current_task()
        left = False

        def pressed(key: str) -> None:
            nonlocal left
            if key == "s":
                teller.switch()
            elif key == "q" and watching is not None:
                left = True
                watching.cancel()

        try:
            with keys(pressed):
                async with aclosing(control.follow(run, teller.most)) as documents:
                    async for seen in documents:
                        teller.show(seen)
                        if _waits(seen):
                            break
        except asyncio.CancelledError:
            if left:
                raise _Detached from None
            raise
        finally:
            teller.close()
        return await control.run(run, SHOWN)

    try:
        document = where.do(work)
    except (KeyboardInterrupt, _Detached):
        say(f"\ndetached; the run continues\nnext: evac run watch {run}")
        return console.INTERRUPTED
    _page(document)
    return code_of(document)


def _waits(document: RunDocument) -> bool:
    """Whether only a person can continue it."""
    held = document.held_by or document.in_doubt or document.not_taken_over
    if held or document.state in ("awaiting_approval", "paused"):
        return True
    kinds, counts = [one.kind for one in document.waits], document.counts
    by_hand = kinds.count("by_hand") + kinds.count("by_hand_later")
    busy = counts.get("running", 0) + counts.get("undoing", 0) + counts.get("unknown", 0)
    gates = kinds.count("gate")
    return by_hand + gates > 0 and by_hand == busy and counts.get("ready", 0) == gates


@run.command()
@run_argument
@click.option("--follow", "goes_on", is_flag=True, help="Keep printing new events until the run ends.")
@where_options
@output_option("jsonl", "text")
def events(run: str, goes_on: bool, where: Where, output: str) -> int:
    """Print the journal of a run, one event per line."""
    from evac.views.run_report import event_line

    async def work(control: Control) -> None:
        async with aclosing(control.events(run, goes_on)) as rows:
            async for row in rows:
                emit(event_line(row, output), None)

    try:
        where.do(work)
    except KeyboardInterrupt:
        if not goes_on:
            raise
        say(f"\ndetached; the run continues\nnext: evac run events {run} --follow")
        return console.INTERRUPTED
    return console.DONE


run.add_command(verify)


Work = Callable[..., Any]
Option = Callable[[Work], Work]
Named = tuple[str, ...]


async def signed(control: Control, run: str, asked: Request, key: Path | None) -> Request:
    """The request, signed by its person for the current state of the run and its step."""
    from dataclasses import replace

    from evac.engine.runs.proving import Act, sign_act
    from evac.engine.runs.signatures import read_key

    if key is None:
        return asked
    document = await control.run(run, None if asked.step else 1)
    asked = replace(asked, who=await control.name(asked.who))
    attempt = next((row.attempts for row in document.steps if row.id == asked.step), 0)
    act = Act(document.run, asked, attempt, document.bound_digest, now_ms())
    return replace(asked, signature=sign_act(act, read_key(key)))


@dataclass(frozen=True, slots=True)
class Asking:
    """What every command that requests something of a run is given."""

    run: str
    where: Where
    who: str | None
    reason: str
    quiet: bool
    key: Path | None


def request(asking: Asking, verb: Any, **more: Any) -> int:
    """Send a request, wait for the leader, and print the result."""
    from evac.engine.runs.requests import Request

    run = asking.run

    async def work(control: Control) -> Any:
        asked = Request("", verb, asking.who or "", asking.reason, **more)
        return await control.ask(run, await signed(control, run, asked, asking.key))

    answer = asking.where.do(work)
    if answer.refused:
        say(f"error: {answer.refused} [request-refused]\nnext: {answer.hint or f'evac run show {run}'}")
        return console.REFUSED
    if not answer.taken:
        say(
            f"no leader has accepted it yet; it will be accepted once there is one\nnext: evac run show {run}"
        )
        return console.PAUSED
    say(f"{verb}: done\nnext: evac run show {run}", asking.quiet)
    return console.DONE


def request_each(
    asking: Asking, verb: Any, steps: Named, racks: Named = (), halls: Named = (), **more: Any
) -> int:
    """Request the same for several steps, and for the servers in these racks and halls that on-site staff
    must handle; print each result.
    """
    from evac.engine.runs.requests import Request

    if not (steps or racks or halls):
        raise click.UsageError("give a STEP, or use --rack or --hall for every listed server there")
    run = asking.run

    async def work(control: Control) -> tuple[list[str], list[Any]]:
        found = list(dict.fromkeys((*steps, *await _on_the_list(control, run, racks, halls))))
        each = [Request("", verb, asking.who or "", asking.reason, step=step, **more) for step in found]
        return found, await control.ask_all(
            run, [await signed(control, run, one, asking.key) for one in each]
        )

    names, answers = asking.where.do(work)
    refused = [(name, one) for name, one in zip(names, answers, strict=True) if one.refused]
    for name, one in refused[:REFUSED_SHOWN]:
        say(f"error: {name}: {one.refused} [request-refused]" + (f"\n  {one.hint}" if one.hint else ""))
    if len(refused) > REFUSED_SHOWN:
        say(f"error: {len(refused) - REFUSED_SHOWN} more were refused [request-refused]")
    waiting = sum(1 for one in answers if not one.taken)
    if waiting:
        what = f"{waiting} of them yet; they will be" if len(names) > 1 else "it yet; it will be"
        say(f"no leader has accepted {what} accepted once there is one")
    done = len(names) - len(refused) - waiting
    if done:
        say(f"{verb}: done{f', {done} steps' if len(names) > 1 else ''}", asking.quiet)
    say(f"next: evac run show {run}", asking.quiet and not (refused or waiting))
    return console.REFUSED if refused else console.PAUSED if waiting else console.DONE


async def _on_the_list(control: Control, run: str, racks: Named, halls: Named) -> list[str]:
    """Boots of the servers there that did not come up. Raises InvalidInput for a place without any."""
    from evac.model.errors import InvalidInput
    from evac.views.quarantine import quarantine_read

    if not (racks or halls):
        return []
    down = quarantine_read(await control.quarantine(run, "json")).down
    found = [boot_step(one.server) for one in down if one.rack in racks or one.hall in halls]
    known = {one.rack for one in down} | {one.hall for one in down}
    if missing := [place for place in (*racks, *halls) if place not in known]:
        words = f"no server of {', '.join(missing)} is on the hands-on list"
        raise InvalidInput("nobody-listed", words, f"to list them: evac run quarantine {run}")
    return found


def asking(*more: Option) -> Option:
    """Decorate a command with `asking`, an Asking; `more` options come between the run and the reason."""
    always = (reason_option, who_option, key_option, where_options, quiet_option)
    options: tuple[Option, ...] = (run_argument, *more, *always)

    def wrapped(command: Work) -> Work:
        @functools.wraps(command)
        def asked(
            run: str, where: Where, who: str | None, reason: str, quiet: bool, key: Path | None, **named: Any
        ) -> Any:
            return command(Asking(run, where, who, reason, quiet, key), **named)

        made: Work = asked
        for option in reversed(options):
            made = option(made)
        return made

    return wrapped


def _add(verb: str, words: str, *more: Option) -> None:
    """Add a command that only sends a request."""

    @run.command(name=verb, help=words)
    @asking(*more)
    def ask(asking: Asking, **asked: str) -> int:
        return request(asking, verb, **asked)


_add("resume", "Resume after a pause.")
_add("cancel", "Start no new steps and end once running steps have finished; nothing is rolled back.")
_add(
    "undo",
    "Roll back one step, or the whole run; a store that moved stays where it is.",
    click.argument("step", default=""),
)


@run.command()
@asking(
    click.option(
        "--for", "length", type=Length(), default=0, help="How long, like 10m. [default: the policy's limit]"
    ),
    click.option(
        "--then", type=click.Choice(["resume", "cancel", "stay"]), default="stay", show_default=True
    ),
)
def pause(asking: Asking, length: int, then: str) -> int:
    """Pause a run: no new steps start; running steps finish."""
    return request(asking, "pause", for_ms=length, then=then)


@run.command()
@asking(steps_argument, rack_option, hall_option)
def retry(asking: Asking, steps: Named, racks: Named, halls: Named) -> int:
    """Retry failed steps: those named, or the servers of a rack or hall that did not come up."""
    return request_each(asking, "retry", steps, racks, halls)


@run.command()
@asking(steps_argument)
def skip(asking: Asking, steps: Named) -> int:
    """Skip steps; steps that wait for them continue."""
    return request_each(asking, "skip", steps)


@run.command()
@asking(
    steps_argument,
    rack_option,
    hall_option,
    click.option("--seen", "seen", multiple=True, metavar="KEY=VALUE", help="What you saw; repeatable."),
)
def attest(asking: Asking, steps: Named, racks: Named, halls: Named, seen: Named) -> int:
    """Confirm by name that steps are done: a fence only a person can see, work done by hand, servers
    of a
    rack that people booted.

    For a promotion with an unknown outcome, even after its run has ended, state where the primary is:
    --seen primary=SITE.
    """
    if wrong := [part for part in seen if not (part.partition("=")[0] and part.partition("=")[2])]:
        raise click.UsageError(f"write --seen as KEY=VALUE, not {', '.join(wrong)}")
    pairs = dict(part.partition("=")[::2] for part in seen)
    return request_each(asking, "attest", steps, racks, halls, evidence=pairs)


@run.command()
@asking(click.argument("limit"), click.argument("value"))
def limit(asking: Asking, limit: str, value: str) -> int:
    """Change a limit of a run: LIMIT like power:pangyo/a, VALUE like 90%, 450kW or 200.

    Percentages refer to the estate's value. Servers that are on stay on; nothing new starts above the limit.
    """
    return request(asking, "limit", limit=limit, value=value)


@run.command()
@click.argument("plan", type=PLAN, shell_complete=completion.plans)
@click.argument("estate", type=ESTATE)
@click.option("--incident", required=True, help="The incident whose journal was lost.")
@reason_option
@places_option("--confirm", "SITE", "Each site that the plan evacuates; repeatable.")
@places_option("--abandon", "SITE", "Treat a site as lost even though it answers.")
@click.option(
    "--generation",
    type=click.IntRange(0, 4_000),
    default=0,
    help="Generation of a new store. [default: higher than any epoch the store members have accepted]",
)
@who_option
@key_option
@store_option
@quiet_option
def adopt(
    plan: str,
    estate: str,
    incident: str,
    reason: str,
    confirm: tuple[str, ...],
    abandon: tuple[str, ...],
    generation: int,
    who: str | None,
    key: Path | None,
    store: str | None,
    quiet: bool,
) -> int:
    """Continue after a journal was lost: observe the real systems and create a run from what is already
    done. If someone promoted a store by hand, the rest is planned again from the current state."""
    from pathlib import Path

    from evac.app.applying import adopt as adopted
    from evac.views.words import plural

    console.remember({"--store": store}, server=False)
    made, done = adopted(
        Path(plan),
        Path(estate),
        store,
        incident,
        reason,
        confirm,
        now_ms(),
        log_file(),
        generation,
        abandon,
        key,
        who or "",
    )
    say(
        f"{made} was created; {plural(len(done), 'step is', 'steps are')} already done"
        + "".join(f"\n  {step}" for step in done)
        + f"\nnext: evac approve {made} --reason WHY",
        quiet,
    )
    return console.DONE
