"""evac doctor and evac driver: whether the real systems can do what plans will ask of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac.cli import console
from evac.cli.console import emit, screen
from evac.cli.options import FILE, estate_argument, now_ms, output_option
from evac.model.errors import InvalidInput

if TYPE_CHECKING:
    from evac.views.doctor_view import Tried


@click.command()
@estate_argument
@click.option("--policy", type=FILE, help="Default: the one next to the estate.")
@output_option("text", "json")
def doctor(estate: Path, policy: Path | None, output: str) -> int:
    """Ask every endpoint whether it can do what plans will ask of it, and show who does what after a loss.

    Nothing is changed. For each service and store: automatic, by hand, or no one. Exit 3: an endpoint
    cannot do what it is for, or some work cannot be done at all. To check the BMCs of servers, use evac
    observe --power. To see what this machine needs for the lab, use evac lab doctor.
    """
    from evac.app.doctor import examine_files
    from evac.views.doctor_view import diagnosis_json, diagnosis_text
    from evac.views.json_out import document

    found = asyncio.run(examine_files(estate, policy, now_ms()))
    if output == "json":
        click.echo(document("evac-doctor", diagnosis_json(found)), nl=False)
    else:
        shown = screen()
        emit(diagnosis_text(found, shown.width, shown.colour), None)
    return console.DONE if found.is_well else console.FINDINGS


@click.group()
def driver() -> None:
    """Try drivers, and scripts that stand in for them, on real systems."""


@driver.command("test")
@estate_argument
@click.argument("endpoint")
@click.option(
    "--act",
    "verb",
    metavar="VERB",
    help="Also perform this action and undo it: start, scale, stop, shift, ...",
)
@click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help="Parameter of --act; repeatable.")
@output_option("text", "json")
def test_driver(estate: Path, endpoint: str, verb: str | None, given: tuple[str, ...], output: str) -> int:
    """Test the driver contract on one ENDPOINT of an estate.

    Without --act, nothing is changed: every capability of the driver is queried. With --act VERB, the
    action is checked, rehearsed, done, observed, done again and undone. It carries no leader's token, so
    systems that remember a leader refuse it. Exit 3: the driver broke the contract.
    """
    from evac.views.doctor_view import tried_json, tried_text
    from evac.views.json_out import document

    parameters = dict(one.partition("=")[::2] for one in given)
    if any(not key for key in parameters) or any("=" not in one for one in given):
        raise click.UsageError("use the form --set replicas=2")
    if parameters and verb is None:
        raise click.UsageError("--set needs --act")
    name, tried = asyncio.run(_tried(estate, endpoint, verb, parameters))
    if output == "json":
        click.echo(document("evac-driver-test", tried_json(endpoint, name, tried)), nl=False)
    else:
        shown = screen()
        emit(tried_text(endpoint, name, tried, shown.width, shown.colour), None)
    return console.DONE if tried and all(one.passed for one in tried) else console.FINDINGS


async def _tried(
    path: Path, name: str, verb: str | None, parameters: dict[str, str]
) -> tuple[str, tuple[Tried, ...]]:
    from evac import estate as estates
    from evac.app.controlling import hands_of
    from evac.app.doctor import done_and_undone, given_action, questions
    from evac.drivers.registry import Drivers

    loaded = estates.load(path)
    endpoint = next((one for one in loaded.endpoints if one.id == name), None)
    if endpoint is None:
        known = ", ".join(one.id for one in loaded.endpoints[:20]) or "none"
        raise InvalidInput("endpoint-unknown", f"the estate has no endpoint {name}", f"endpoints: {known}")
    action = None if verb is None else given_action(endpoint, verb, parameters)
    drivers = Drivers(hands_of(loaded))
    try:
        tried = await questions(loaded, endpoint, drivers)
        if action is not None and all(one.passed for one in tried):
            tried += await done_and_undone(action, drivers)
        return endpoint.driver, tuple(tried)
    finally:
        await drivers.close()
