"""Driver for commands: runs a company's own program with an argument list, never through a shell.

Exit codes (the numbers of sysexits.h):
0                     done
75                    not done, retry later
64 65 66 67 68 69 70 72 73 76 77 78, or it cannot be started   not done, and a retry does not help
anything else, or a timeout                                    it may have been done: observe first
`observe_argv` exits with 0 if it is done, with 1 if it is not; anything else is unclear. `check_argv` exits
as above, and runs before `argv` unless it is already done. `role_argv` prints a JSON object. A program gets
its order in EVAC_ variables. Its output is limited, with all secrets given to it hidden.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson

from evac.drivers import parameters
from evac.drivers.capabilities import (
    Fences,
    Follows,
    Promotes,
    ReportsRole,
    RoleReport,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.command import DRIVER
from evac.drivers.port import BY_SCRIPT, Action, Checked, Evidence, Observed, Order, Value
from evac.drivers.programs import Ended, environment, given, run_program
from evac.drivers.role_answer import role_from
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from evac.net import secrets
from evac.net.secrets import Secret

AGAIN_CODE: Final = 75
NOT_DONE_CODES: Final = frozenset({64, 65, 66, 67, 68, 69, 70, 72, 73, 76, 77, 78})
_SHOWN: Final = 800


class CommandDriver(ReportsRole, Promotes, Follows, Fences, RunsUnits, RoutesTraffic, Verifies):
    """Runs the programs in the settings."""

    name = "command"
    verbs = BY_SCRIPT

    async def check(self, action: Action, order: Order) -> Checked:
        """Ready if the programs exist, observation can tell whether the action is done, and the check raises
        no objection.
        """
        end_s = asyncio.get_running_loop().time() + order.timeout_s
        observed = Observed("absent")
        try:
            keys = ("argv", "observe_argv", "check_argv")
            problems = [words for key in keys for words in _not_there(action, key)]
            _variables(action, order, "check")
            if problems:
                return Checked(tuple(problems))
            if parameters.many(action.settings, "observe_argv"):
                observed = await self._look(action, order)
                if observed.outcome == "unclear":
                    why = observed.evidence.get("why", "")
                    return Checked((f"observe_argv cannot tell: {why}",), observed.evidence)
            if observed.outcome != "done":
                await _must_be_possible(action, _until(order, end_s))
        except ActionError as error:
            return Checked((error.message,), observed.evidence)
        return Checked((), observed.evidence)

    async def execute(self, action: Action, order: Order) -> Evidence:
        end_s = asyncio.get_running_loop().time() + order.timeout_s
        if parameters.many(action.settings, "check_argv") and not order.dry_run:
            observed = await self.observe(action, order)
            if observed.outcome == "done":
                return {**observed.evidence, "already": True}
            await _must_be_possible(action, _until(order, end_s))
        return await _do(action, _until(order, end_s), "argv", "execute")

    async def undo(self, action: Action, order: Order) -> Evidence:
        if not parameters.many(action.settings, "undo_argv"):
            raise Permanent("undo-unknown", "undo_argv is not set", "undo it by hand, then attest it")
        return await _do(action, order, "undo_argv", "undo")

    async def observe(self, action: Action, order: Order) -> Observed:
        try:
            return await self._look(action, order)
        except ActionError as error:
            return Observed("unclear", {"why": error.message[:200]})

    async def report_role(self, action: Action, timeout_s: float) -> RoleReport:
        problems = _not_there(action, "role_argv")
        if problems:
            raise Permanent("command-missing", problems[0])
        order = Order("role", "role", 1, 0, 0, "role", timeout_s, "role")
        ended, hidden = await _run(action, order, "role_argv", "role")
        if ended.code != 0:
            name = Path(parameters.many(action.settings, "role_argv")[0]).name
            said = _evidence(ended, hidden)["output"]
            raise Retryable("command-again", f"{name} {_ending(ended)}: {said}"[:_SHOWN], after_ms=1_000)
        return _role(ended.output)

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""

    async def _look(self, action: Action, order: Order) -> Observed:
        if not parameters.many(action.settings, "observe_argv"):
            return Observed("unclear", {"why": "observe_argv is not set"})
        ended, hidden = await _run(action, order, "observe_argv", "observe")
        evidence = _evidence(ended, hidden)
        if ended.code == 0:
            return Observed("done", evidence | parameters.proof_of(action))
        if ended.code == 1:
            return Observed("absent", evidence)
        said = f": {evidence['output']}" if evidence["output"] else ""
        return Observed("unclear", {**evidence, "why": f"{_ending(ended)}{said}"[:200]})


def _role(text: str) -> RoleReport:
    """The output of `role_argv`. Raises `Retryable` for anything but a JSON object with the documented
    keys.
    """
    try:
        return role_from(orjson.loads(text))
    except ValueError as error:
        message = f"role_argv printed something that is not a role: {str(error)[:100]}"
        raise Retryable("command-unreadable", message, "print JSON like {role: primary}", 1_000) from error


def _until(order: Order, end_s: float) -> Order:
    """The order with its remaining time."""
    left_s = end_s - asyncio.get_running_loop().time()
    return replace(order, timeout_s=max(0.05, min(order.timeout_s, left_s)))


async def _must_be_possible(action: Action, order: Order) -> None:
    """Raise `Permanent` or `Retryable` with the objection of `check_argv`, when nothing was done yet."""
    if not parameters.many(action.settings, "check_argv"):
        return
    ended, hidden = await _run(action, order, "check_argv", "check")
    if ended.code == 0:
        return
    said = str(_evidence(ended, hidden)["output"]).strip()
    words = said or f"check_argv {_ending(ended)}"
    if ended.code in NOT_DONE_CODES:
        raise Permanent("command-refused", words)
    raise Retryable("command-again", words, after_ms=1_000)


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
        return [] if key in ("observe_argv", "check_argv") else [f"{key} is not set"]
    if "/" in argv[0] and not argv[0].startswith("/"):
        return [f"{argv[0]} must be an absolute path, or a name on the PATH"]
    return [] if shutil.which(argv[0]) else [f"{argv[0]} does not exist, or evac has no permission to run it"]


def _variables(action: Action, order: Order, what: str) -> tuple[dict[str, str], tuple[Secret, ...]]:
    """The order in EVAC_ variables, and variables from the setting `env` (`NAME=value`, or a reference)."""
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
    for key in ("host", "port", "name"):
        if key in action.settings:
            variables[f"EVAC_{key.upper()}"] = _words(action.settings[key])
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
        return "timed out and was stopped"
    return f"ended with {ended.code}" if ended.code >= 0 else f"was ended by signal {-ended.code}"


def _evidence(ended: Ended, hidden: tuple[Secret, ...]) -> dict[str, str | int | bool]:
    """The end of the output, with secrets removed before it is cut, so that no partial secret is left."""
    text = secrets.scrub(ended.output, hidden)
    if not ended.whole and hidden:
        # The first part may be cut within a secret.
        text = text[: -max(len(secret.reveal()) for secret in hidden)]
    code = -1_000 if ended.code is None else ended.code
    return {"exit_code": code, "output": text[-_SHOWN:].strip(), "output_whole": ended.whole}
