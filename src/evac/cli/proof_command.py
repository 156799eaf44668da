"""evac run verify: verify a journal by its chain, and by heads that agents keep and controllers signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evac.cli import completion, console
from evac.cli.console import emit, say
from evac.cli.options import FILE, output_option
from evac.cli.target import Where, where_options

if TYPE_CHECKING:
    from evac.control.port import Control, Document


@click.command()
@click.argument("run", metavar="[RUN]", required=False, shell_complete=completion.runs)
@where_options
@click.option(
    "--estate", type=click.Path(), help="Also compare with the journal heads kept by this estate's agents."
)
@click.option(
    "--policy",
    type=FILE,
    help="With --estate: lists the keys of controllers. [default: policy.yaml in the folder of the estate]",
)
@output_option("text", "json")
def verify(run: str | None, where: Where, estate: str | None, policy: Path | None, output: str) -> int:
    """Verify that nothing is missing, changed or cut off in a journal.

    Exit code 18: complete, but not compared with the heads that agents keep, because --estate is missing;
    someone with access to the store could have rewritten it from the start. With --estate, heads that
    controllers signed are checked too, with the keys that the policy next to the estate lists as controllers;
    then 18 also means that no such head exists.

    Without RUN, verify the journals that belong to no run: probes (watch), alerts (notices), who did what
    (access, all months of it), standby plans (plans) and backups. You can also name one of these in place of
    RUN.
    """
    from evac.app.access_log import JOURNALS

    names = (run,) if run is not None else JOURNALS

    async def work(control: Control) -> list[Document]:
        generation = 0 if estate is None else (await control.status()).generation
        return [await _proof(control, name, estate, policy, generation) for name in names]

    proofs = where.do(work)
    if output == "json":
        rows = [{"stream": proof["stream"], **_counted(proof)} for proof in proofs]
        told = {"journals": rows} if run is None else {"run": run, **_counted(proofs[0])}
        emit(json.dumps({"schema_version": 1, **told}, indent=2) + "\n", None)
    else:
        for proof in proofs:
            name = "the journal is" if run is not None else f"{proof['stream']} is"
            lines = [f"- {'' if run else proof['stream'] + ': '}{words}" for words in proof["problems"]]
            emit("\n".join(lines or [f"{name} {_whole(proof, estate)}"]) + "\n", None)
        if silent := sorted({site for proof in proofs for site in proof.get("silent", ())}):
            say(f"warning: not compared with the agents of {', '.join(silent)}: they do not answer")
        if unsigned := [str(proof["stream"]) for proof in proofs if proof.get("unsigned")]:
            older = "it predates" if len(unsigned) == 1 else "they predate"
            words = f"either {older} signed heads, or someone deleted the signatures"
            say(
                f"warning: no controller listed in the policy signed a head of {', '.join(unsigned)}: {words}"
            )
    if any(proof["problems"] for proof in proofs):
        return console.FAILED
    compared = estate is not None and not any(proof.get("unsigned") for proof in proofs)
    return console.DONE if compared else console.NOT_COMPARED


async def _proof(
    control: Control, name: str, estate: str | None, policy: Path | None, generation: int
) -> Document:
    """By its chain; then, even if that is broken, by its heads that agents keep and controllers signed."""
    from evac.app.anchoring import controllers_of, heads_of
    from evac.engine.lead.signed_heads import proven
    from evac.store.anchors import Anchor

    alone = await control.proof(name, [])
    if estate is None:
        return alone
    stream, keys = str(alone["stream"]), controllers_of(estate, policy)
    heads, silent, signed, wrong = list[Anchor](), list[str](), list[Anchor](), list[str]()
    for part in alone.get("chapters") or (stream,):
        kept, quiet = await heads_of(estate, part, generation)
        told = [row for row in alone["signed"] if not alone.get("chapters") or row.get("stream") == part]
        by_controllers, problems = proven(told, part, keys, generation)
        heads, signed, wrong = [*heads, *kept], [*signed, *by_controllers], [*wrong, *problems]
        silent = sorted({*silent, *quiet})
    found = await control.proof(name, [*heads, *signed])
    return {
        **found,
        "problems": [*found["problems"], *wrong],
        "silent": silent,
        "signed": len(signed),
        "unsigned": bool(keys and alone["segments"] and not signed),
    }


def _counted(proof: Document) -> Document:
    counts = {key: proof[key] for key in ("segments", "records", "anchors")}
    counts["signed"] = proof["signed"] if isinstance(proof["signed"], int) else 0
    return {**counts, "problems": list(proof["problems"]), "silent": list(proof.get("silent", ()))}


def _whole(proof: Document, estate: str | None) -> str:
    """The message for a journal without problems."""
    counted = f"whole: {proof['records']} events in {proof['segments']} segments"
    if proof["anchors"]:
        signed = int(proof["signed"])
        by_agents = f"agrees with {proof['anchors'] - signed} heads kept elsewhere"
        return f"{counted} and {by_agents}" + (
            f" and with {signed} that controllers signed" if signed else ""
        )
    if estate is None:
        return f"{counted}; not compared with agents: add --estate ESTATE"
    return f"{counted}; no agent kept a head of it"
