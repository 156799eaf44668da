"""The driver of commands: runs a program of the company, with an argument list and never a shell.

What it means when the program ends (the numbers of sysexits.h):
    0                     done
    75                    not done, again later
    64 65 66 67 68 69 70 72 73 76 77 78, or it cannot be started   not done, and again does not help
    anything else, or its time was over                            it may have been done: observe first
`observe_argv` ends with 0 when it is done, with 1 when it is not; anything else is unclear. The program finds
its order in EVAC_ variables. What it writes is kept bounded, with every secret given to it hidden.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from evac.drivers import parameters
from evac.drivers.capabilities import Fences
from evac.drivers.command import DRIVER
from evac.drivers.port import Action, Checked, Evidence, Observed, Order, Value, Verb
from evac.drivers.programs import Ended, environment, given, run_program
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net import secrets
from evac.net.secrets import Secret

VERBS: Final[frozenset[Verb]] = frozenset(
    {"fence", "unfence", "boot", "start", "stop", "scale", "drain", "ready", "shift", "verify", "run"}
)
AGAIN_CODE: Final = 75
NOT_DONE_CODES: Final = frozenset({64, 65, 66, 67, 68, 69, 70, 72, 73, 76, 77, 78})
_SHOWN: Final = 800


class CommandDriver(Fences):
    """Runs `argv`, `observe_argv` and `undo_argv` of the settings."""

    name = "command"
    verbs = VERBS

    async def check(self, action: Action, order: Order) -> Checked:
        """Ready when the programs are there, and what observes it can tell whether it is done."""
        try:
            problems = [words for key in ("argv", "observe_argv") for words in _not_there(action, key)]
            _variables(action, order, "check")
            if problems or not parameters.many(action.settings, "observe_argv"):
                return Checked(tuple(problems))
            observed = await self._look(action, order)
        except ActionError as error:
            return Checked((error.message,))
        if observed.outcome == "unclear":
            return Checked(
                (f"observe_argv cannot tell: {observed.evidence.get('why', '')}",), observed.evidence
            )
        return Checked((), observed.evidence)

    async def execute(self, action: Action, order: Order) -> Evidence:
        return await _do(action, order, "argv", "execute")

    async def undo(self, action: Action, order: Order) -> Evidence:
        if not parameters.many(action.settings, "undo_argv"):
            raise Permanent("undo-unknown", "no undo_argv is given", "take it back by hand, then attest it")
        return await _do(action, order, "undo_argv", "undo")

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            return await self._look(action, order)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})

    async def close(self) -> None:
        """Nothing is kept open between calls."""

    async def _look(self, action: Action, order: Order) -> Observed:
        if not parameters.many(action.settings, "observe_argv"):
            return Observed("unclear", {"why": "no observe_argv is given"})
        ended, hidden = await _run(action, order, "observe_argv", "observe")
        evidence = _evidence(ended, hidden)
        if ended.code == 0:
            return Observed("done", evidence | parameters.proof_of(action))
        if ended.code == 1:
            return Observed("absent", evidence)
        return Observed("unclear", {**evidence, "why": _ending(ended)})


async def _do(action: Action, order: Order, key: str, what: str) -> Evidence:
    problems = _not_there(action, key)
    if problems:
        raise Permanent("command-missing", problems[0])
    if order.dry_run:
        return {"would_run": " ".join(parameters.many(action.settings, key))[:_SHOWN]}
    ended, hidden = await _run(action, order, key, what)
    evidence = _evidence(ended, hidden)
    if ended.code == 0:
        return evidence | parameters.proof_of(action)
    words = f"{Path(parameters.many(action.settings, key)[0]).name} {_ending(ended)}: {evidence['output']}"[
        :_SHOWN
    ]
    if ended.code == AGAIN_CODE:
        raise Retryable("command-again", words)
    if ended.code in NOT_DONE_CODES:
        raise Permanent("command-refused", words)
    raise OutcomeUnknown("command-unknown", words, "observe it first")


async def _run(action: Action, order: Order, key: str, what: str) -> tuple[Ended, tuple[Secret, ...]]:
    parameters.refuse_proof(action, DRIVER.proofs)
    variables, hidden = _variables(action, order, what)
    ended = await run_program(
        parameters.many(action.settings, key),
        env=environment(variables),
        timeout_s=order.timeout_s,
        cwd=parameters.text(action.settings, "cwd", ""),
    )
    return ended, hidden


def _not_there(action: Action, key: str) -> list[str]:
    argv = parameters.many(action.settings, key)
    if not argv:
        return [] if key == "observe_argv" else [f"{key} is not given"]
    if "/" in argv[0] and not argv[0].startswith("/"):
        return [f"{argv[0]} must be a full path, or a name on the PATH"]
    return [] if shutil.which(argv[0]) else [f"{argv[0]} is not there, or may not be run"]


def _variables(action: Action, order: Order, what: str) -> tuple[dict[str, str], tuple[Secret, ...]]:
    """The order in EVAC_ variables, and what `env` of the settings names (`NAME=value`, or a reference)."""
    variables = {
        "EVAC_WHAT": what,
        "EVAC_VERB": action.verb,
        "EVAC_TARGET": action.target,
        "EVAC_SITE": action.at,
        "EVAC_RUN": order.run,
        "EVAC_STEP": order.step,
        "EVAC_KEY": order.key,
        "EVAC_TOKEN": str(order.token),
        "EVAC_EPOCH": str(order.epoch),
        "EVAC_REASON": order.reason,
    }
    for key, value in action.parameters.items():
        name = re.sub(r"[^A-Z0-9_]", "_", key.upper())
        variables[f"EVAC_PARAMETER_{name}"] = _words(value)
    given_ones, hidden = given(action.settings)
    clean = {name: value.replace("\0", " ") for name, value in (given_ones | variables).items()}
    return clean, hidden


def _words(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _ending(ended: Ended) -> str:
    if ended.code is None:
        return "was stopped, its time was over"
    return f"ended with {ended.code}" if ended.code >= 0 else f"was ended by signal {-ended.code}"


def _evidence(ended: Ended, hidden: tuple[Secret, ...]) -> dict[str, str | int | bool]:
    """The end of the output, scrubbed before it is cut so that no half of a secret is left."""
    text = secrets.scrub(ended.output, hidden)
    if not ended.whole and hidden:
        # The first part may end in the middle of a secret.
        text = text[: -max(len(secret.reveal()) for secret in hidden)]
    code = -1_000 if ended.code is None else ended.code
    return {"exit_code": code, "output": text[-_SHOWN:].strip(), "output_whole": ended.whole}
