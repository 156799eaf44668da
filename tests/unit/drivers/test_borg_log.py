"""Borg's log: no part of a secret is shown, wherever its text is cut and however its blanks are joined."""

from __future__ import annotations

import json

import pytest

from evac.drivers.backups import WORDS_MOST
from evac.drivers.borg.log import TRACEBACK_MOST, BorgLog
from evac.net.secrets import Secret

SECRET = "harbour  of  archives 12"


@pytest.mark.parametrize("level", ["ERROR", "WARNING"])
@pytest.mark.parametrize("most", [WORDS_MOST, TRACEBACK_MOST, 100])
def test_no_part_of_a_secret_is_shown(level: str, most: int) -> None:
    for before in range(most - len(SECRET) - 1, most + 1):
        words = f"{'x' * before}{SECRET} is wrong"
        log = BorgLog((Secret(SECRET),))
        for id_ in ("Exception", ""):
            said = {"type": "log_message", "levelname": level, "msgid": id_, "message": words}
            log.hear(json.dumps(said).encode())
        shown = "\n".join((log.cause, *log.unread))
        assert "xxx" in shown
        assert not any(part in shown for part in ("har", "of", "arch")), (before, shown[-40:])
