"""Driver for requests to restored data: a program starts the application on it, asks, and prints the answer.

It runs with its arguments, never through a shell, in the folder of the data, which is removed afterwards. It
must exit with 0. Whatever it leaves running in its process group is ended.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from evac.drivers.capabilities import AsksRestored, Reply
from evac.drivers.parameters import many, text, whole
from evac.drivers.port import Action
from evac.drivers.programs import environment, given, run_program
from evac.model.errors import Permanent, Retryable
from evac.net import secrets

SECONDS: Final = 300
SECONDS_MOST: Final = 86_400
ANSWER_SHOWN: Final = 200
TAIL_SHOWN: Final = 400


class BackupRequestDriver(AsksRestored):
    """Runs the program of the settings."""

    name = "backup_request"

    async def ask(self, action: Action, timeout_s: float, place: str) -> Reply:
        argv, expected = many(action.settings, "argv"), text(action.settings, "answer", "").strip()
        if not argv or not expected:
            missing = "answer" if argv else "argv"
            raise Permanent("setting-missing", f"{missing} is not set", f"set {missing} on the endpoint")
        if (found := shutil.which(argv[0])) is None:
            words = f"{argv[0]} does not exist, or evac has no permission to run it"
            raise Permanent("command-missing", words, "set argv to a program on the machine of evac")
        variables, hidden = given(action.settings)
        variables |= {"EVAC_PLACE": place, "EVAC_TARGET": action.target, "EVAC_SITE": action.at}
        limit_s = min(timeout_s, float(whole(action.settings, "seconds", SECONDS, SECONDS_MOST)))
        program = str(Path(found).absolute())  # a relative one would be looked for in the restored data
        ended = await run_program(
            (program, *argv[1:]),
            env=environment(variables),
            timeout_s=max(limit_s, 0.1),
            cwd=place,
            apart=True,
        )
        tail = " ".join(secrets.scrub(f"{ended.output}\n{ended.errors}", hidden).split())[-TAIL_SHOWN:]
        if ended.code is None:
            words = f"the request was not answered within {limit_s:.0f} s"
            raise Retryable("request-silent", words, "check the program, or allow it more seconds")
        if not ended.whole:
            raise Permanent(
                "request-failed", "the program of the request printed too much", "print the answer"
            )
        if ended.code != 0:
            words = f"the program of the request ended with {ended.code}: {tail}"
            raise Permanent("request-failed", words, "run it by hand on a restored copy")
        answer = secrets.scrub(ended.output, hidden)
        shown = " ".join(answer.split())[:ANSWER_SHOWN]
        return Reply(shown, expected, expected in answer)

    async def close(self) -> None:
        """Nothing to close: no connection outlives a call."""
