"""The list for the floor: who is on it, in which order, in every form."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from evac.run.state import replay
from evac.run.values import KEPT, Event, RunLimit, RunSpec, RunStep
from evac.views.quarantine import (
    Quarantine,
    csv_cell,
    quarantine_csv,
    quarantine_json,
    quarantine_of,
    quarantine_page,
    quarantine_text,
)


def place_of(step: str) -> dict[str, Any]:
    number = int(step.rpartition("s")[2])
    return {
        "network": f"here/hall-{1 + number // 6}",
        "rack": f"here/hall-{1 + number // 6}/r{number // 3}",
        "position": str(20 - number),
        "serial": f"SN{number}",
    }


def found() -> Quarantine:
    """s0 up, s1 dead, s2 loops and draws, s3 in doubt, s4 degraded, s5 not begun, s9 to s11 a silent rack."""
    steps = tuple(
        RunStep(f"boot:s{n}", "boot", f"s{n}", n, 100, (), (("power:x", 100, KEPT),), rack=f"r{n // 3}")
        for n in range(12)
    )
    spec = RunSpec("run-1", "dark", "p", steps, (RunLimit("power:x", "slots", 9_000),), approvals=0)
    events = [Event("run_created", 1, data={"plan": "p"}), Event("run_started", 1)]
    for n in (0, 1, 2, 3, 4, 9, 10, 11):
        events.append(Event("step_started", 2, f"boot:s{n}", 1))
    up: dict[str, Any] = {"state": "degraded", "why": "=a drive of RAID 1 is gone"}
    events.append(Event("step_succeeded", 3, "boot:s0", 1, {"evidence": {"state": "up"}}))
    events.append(Event("step_succeeded", 3, "boot:s4", 1, {"evidence": up}))
    for n, code in (
        (1, "bmc-wrong-serial"),
        (2, "server-boot-loop"),
        *((n, "bmc-silent") for n in (9, 10, 11)),
    ):
        data = {"code": code, "message": "", "again_ms": -1}
        events.append(Event("step_failed", 4, f"boot:s{n}", 1, data))
        events.append(Event("step_skipped", 5, f"boot:s{n}", 1, {"who": "evac", "reason": "floor"}))
    events.append(Event("step_unknown", 4, "boot:s3", 1, {"message": "silent", "code": "bmc-silent"}))
    events += [Event("step_observed", 10_005, "boot:s3", 1, {"outcome": "unclear"}) for _ in range(4)]
    return quarantine_of(replay(spec, events), place_of)


def test_everybody_who_is_not_up_is_on_it_as_one_walks() -> None:
    assert [one.server for one in found().down] == ["s2", "s1", "s3", "s11", "s10", "s9"]
    assert [one.server for one in found().degraded] == ["s4"]
    told = {one.server: one for one in found().down}
    assert (told["s2"].draws, told["s1"].draws, told["s3"].draws) == (True, False, True)
    assert told["s3"].code == "in-doubt"
    assert told["s9"].remedy.startswith("every server here is silent: check the rack's switch")
    assert told["s1"].remedy.startswith("compare the serial number")
    assert (told["s1"].hall, told["s1"].position, told["s1"].serial) == ("here/hall-1", "19", "SN1")


def test_text_names_place_reason_and_what_to_do() -> None:
    text = quarantine_text(found(), 160, False)
    assert text.startswith("run-1: 6 servers of 12 not up; 1 of 6 came up degraded\n")
    for words in ("here/hall-2", "SN9", "server-boot-loop", "attach a screen", "Came up degraded"):
        assert words in text


def test_csv_and_json_say_the_same_and_no_cell_is_a_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(quarantine_csv(found()))))
    told = json.loads(quarantine_json(found()))
    assert [row["server"] for row in rows if row["state"] == "down"] == [
        row["server"] for row in told["down"]
    ]
    assert told["down"][0]["may_draw_power"] is True
    assert rows[-1]["reason"] == "'=a drive of RAID 1 is gone"
    assert told["degraded"][0]["reason"] == "=a drive of RAID 1 is gone"
    assert (told["schema_version"], told["boots"]) == (1, 12)


@pytest.mark.parametrize("text", ["=1", " =1", "+1", "\u3000-1", "@a", "\uff1dA1", " \uff20a", "\ta", "\ra"])
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(text: str) -> None:
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(f"rack {text}") == f"rack {text}"


def test_the_page_has_a_box_for_each_and_nothing_is_markup() -> None:
    page = quarantine_page(found(), "2026-11-25T12:00:00Z")
    assert page.count('class="box"') == 7
    assert page.count("<h3>") == 3
    assert "may have power" in page
    assert page == quarantine_page(found(), "2026-11-25T12:00:00Z")
    assert "<script" not in page


def test_a_run_whose_servers_are_all_up_says_so() -> None:
    empty = Quarantine("run-1", 3, (), ())
    assert quarantine_text(empty, 80, False).startswith("run-1: 0 servers of 3 not up")
    assert "Every server came up." in quarantine_page(empty, "now")


@pytest.mark.parametrize("server", ["<b>", '"x"'])
def test_names_are_never_markup(server: str) -> None:
    one = found().down[0]
    other = Quarantine("run-1", 1, (type(one)(*("",) * 3, server, *("",) * 4, False, 1),), ())
    assert f"<{server}>" not in quarantine_page(other, "now")
    assert "<b>" not in quarantine_page(other, "now")
