"""evac doctor and evac driver test: who can do what now, and whether a script keeps its promises."""

import asyncio
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.agent.allowed import Allowed
from evac.app.doctor import _Asked, _router, examine_files
from evac.cli import console
from evac.cli.main import run
from evac.derive.domains import topology
from evac.drivers.capabilities import ReportsRole
from evac.model.estate import Endpoint, Estate
from evac.views.doctor_view import Ability, Diagnosis, diagnosis_text
from tests.contract.adapters.command import script
from tests.contract.ports import free_port
from tests.unit.engine import agents

pytestmark = pytest.mark.enable_socket

ESTATE = """\
evac: 1
name: acme
sites: {fra: {}, muc: {}, zrh: {role: witness}}
services:
  shop: {tier: 0, sites: [fra]}
  login: {tier: 0, sites: [fra]}
stores:
  orders: {engine: postgresql, members: [{at: fra, mode: primary}, {at: muc, mode: async}]}
  carts: {engine: redis, members: [{at: fra, mode: primary}]}
  files:
    {engine: s3, members: [{at: fra, mode: primary}], backups: [{at: muc, age: 1 h, restore: 100 Mbit/s}]}
endpoints:
  orders-muc: {for: orders, at: muc, driver: postgres, settings: {host: 127.0.0.1, port: PORT}}
  shop-fra: {for: shop, at: fra, driver: http, settings: {url: "URL/good"}}
  shop-muc: {for: shop, at: muc, driver: http, settings: {url: "URL/bad", observe_url: "URL/bad"}}
  close-fra:
    for: fra
    at: fra
    driver: command
    settings: {fence: network, argv: [DO], observe_argv: [LOOK], undo_argv: [UNDO]}
"""


class Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500 if self.path == "/bad" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    closed = tmp_path / "closed"
    text = ESTATE.replace("URL", f"http://127.0.0.1:{server.server_port}").replace("PORT", str(free_port()))
    for name, line in (("DO", f"touch {closed}"), ("LOOK", f"test -e {closed}"), ("UNDO", f"rm -f {closed}")):
        text = text.replace(f"[{name}]", f"[{script(tmp_path, name.lower(), line)}]")
    (tmp_path / "estate.yaml").write_text(text)
    yield tmp_path / "estate.yaml"
    server.shutdown()
    thread.join()
    server.server_close()


def asked(estate: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run([*words, "--output", "json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_who_does_what_and_what_is_broken(estate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(estate, capsys, "doctor", str(estate))
    assert (code, found["well"], found["endpoints"]) == (console.FINDINGS, False, 4)
    subjects = {one["id"]: one for one in found["subjects"]}
    verdicts = {name: one["verdict"] for name, one in subjects.items()}
    assert verdicts == {
        "carts": "nobody",
        "orders": "by hand",
        "files": "by hand",
        "shop": "by hand",
        "login": "by hand",
    }
    assert found["subjects"][0]["id"] == "carts", "the worst first"
    orders = {one["what"]: one for one in subjects["orders"]["abilities"]}
    promote = orders["promote at muc"]
    assert (promote["verdict"], promote["endpoint"], promote["code"]) == (
        "by hand",
        "orders-muc",
        "postgres-unreachable",
    )
    assert orders["fence fra if it is lost"]["verdict"] == "automatic"
    assert orders["fence fra if it is lost"]["endpoint"] == "close-fra"
    assert "no endpoint" in orders["step down at fra"]["why"]
    shop = {one["what"]: one for one in subjects["shop"]["abilities"]}
    assert shop["verify at fra"]["verdict"] == "automatic"
    assert not any("zrh" in what for what in shop), "a witness runs nothing"
    assert "lists no backup" in subjects["carts"]["abilities"][0]["why"]
    assert "a backup must be restored" in subjects["files"]["abilities"][0]["why"]


def test_the_page_of_text_says_the_same_with_the_next_step(
    estate: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", str(estate)]) == console.FINDINGS
    text = " ".join(capsys.readouterr().out.split())
    assert "carts store nobody - - 1" in text
    assert "Endpoints that cannot do their job" in text
    assert "next: add a copy or a backup" in text
    assert "4 endpoints checked; nothing was changed." in text


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("carts", "orders")),
            st.sampled_from(("promote at muc", "step down at fra", "verify at fra")),
            st.sampled_from(("by hand", "nobody")),
            st.sampled_from(("", "db-muc", "db-fra")),
            st.sampled_from(("it does not answer", "it refuses")),
            st.sampled_from(("", "check the network", "check the password")),
        ),
        unique_by=lambda row: row[:2],
    )
)
def test_each_hint_is_in_its_section_once_below_all_that_it_is_for(rows: list[tuple[str, ...]]) -> None:
    abilities = tuple(
        Ability(subject, "store", what, verdict, end, "code" if end else "", why, hint)  # type: ignore[arg-type]
        for subject, what, verdict, end, why, hint in rows
    )
    text = diagnosis_text(Diagnosis("acme", 0, abilities, 4), 400, colour=False)
    sections = [[line.strip() for line in one.splitlines()] for one in text.split("\n\n")]
    for section in sections:
        hints = [line for line in section if line.startswith("next: ")]
        assert len(hints) == len(set(hints))
    for one in abilities:
        title = "Endpoints" if one.is_broken else "Nobody" if one.verdict == "nobody" else "By hand"
        section = next(found for found in sections if found[0].startswith(title))
        about = [
            number
            for number, line in enumerate(section)
            if one.why in line and one.subject in line and one.what in line and (one.code in line)
        ]
        assert about, (one, section)
        below = [next((line for line in section[at:] if line.startswith("next: ")), "") for at in about]
        assert (f"next: {one.next}" if one.next else "") in below


def test_an_estate_in_which_everything_can_be_done_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nstores:\n"
        "  o: {engine: e, automatic: true, members: [{at: fra, mode: primary}, {at: muc, mode: sync}]}\n"
    )
    code, found = asked(tmp_path, capsys, "doctor", str(tmp_path))
    assert (code, found["well"]) == (console.DONE, True)
    assert found["subjects"][0]["verdict"] == "automatic"


def test_a_script_is_tried_done_and_undone(estate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = estate.parent / "closed"
    words = ("driver", "test", str(estate), "close-fra")
    code, found = asked(estate, capsys, *words)
    assert (code, [one["what"] for one in found["tried"]]) == (console.DONE, ["Fences"])
    assert not closed.exists(), "nothing is changed without --act"
    code, found = asked(estate, capsys, *words, "--act", "fence")
    assert (code, found["passed"], len(found["tried"])) == (console.DONE, True, 10), found
    assert not closed.exists()


@pytest.mark.parametrize(
    ("script_name", "line", "broken"),
    [
        ("do", "true", "the result is observed as done"),
        ("undo", "true", "after the undo, the action is observed as not done"),
        ("do", "exit 64", "it answers without an error"),
        ("look", "exit 9", "Fences"),
    ],
)
def test_a_script_that_breaks_a_promise_is_named(
    estate: Path, capsys: pytest.CaptureFixture[str], script_name: str, line: str, broken: str
) -> None:
    script(estate.parent, script_name, line)
    code, found = asked(estate, capsys, "driver", "test", str(estate), "close-fra", "--act", "fence")
    assert code == console.FINDINGS
    assert broken in [one["what"] for one in found["tried"] if not one["passed"]], found
    if script_name != "undo":
        assert not (estate.parent / "closed").exists(), "what was done is undone whatever happens"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone",), "the estate has no endpoint gone"),
        (("orders-muc", "--act", "promote"), "no verb promote that can be done and undone"),
        (("close-fra", "--set", "a=b"), "--set needs --act"),
        (("close-fra", "--act", "fence", "--set", "a"), "use the form --set"),
    ],
)
def test_mistakes_are_named(
    estate: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert run(["driver", "test", str(estate), *words]) == console.USAGE
    assert said in capsys.readouterr().err
    assert os.environ.get("EVAC_STORE") is None


@pytest.mark.parametrize(("answer", "verdict"), [("copies", "automatic"), ("nothing", "by hand")])
def test_a_backup_with_a_place_is_restored_by_evac_while_its_tool_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, verdict: str
) -> None:
    listed = """echo '{"repository": "shed", "copies": []}'""" if answer == "copies" else "exit 1"
    program = script(tmp_path, "list", listed)
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nstores:\n"
        "  o: {engine: e, members: [{at: fra, mode: primary}], "
        "backups: [{at: muc, age: 1 h, restore: 100 Mbit/s, endpoint: o-kept}]}\n"
        "endpoints:\n  o-kept: {for: o, at: muc, driver: backup_command, settings: "
        f"{{list_argv: [{program}], restore_argv: [{program}], place: {tmp_path}/place}}}}\n"
    )
    _, found = asked(tmp_path, capsys, "doctor", str(tmp_path))
    (ability,) = found["subjects"][0]["abilities"]
    assert (ability["what"], ability["verdict"]) == ("restore its backup at muc", verdict)
    assert ability["endpoint"] == "o-kept"


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("drivers", "bins", "code"),
    [
        ((), (), "driver-not-allowed"),
        (("backup_command",), (), "order-not-allowed"),
        (("backup_command",), ("list",), ""),
    ],
)
def test_a_restore_that_the_agent_would_refuse_is_found_before_the_fire(
    tmp_path: Path, drivers: tuple[str, ...], bins: tuple[str, ...], code: str
) -> None:
    program = script(tmp_path, "list", """echo '{"repository": "shed", "copies": []}'""")
    allow = Allowed(bin=tuple(str(tmp_path / name) for name in bins), data=(str(tmp_path),))
    made = agents.config(tmp_path, site="muc", drivers=drivers, allow=allow)
    agent = f"{{agent: 'http://127.0.0.1:{made.port}', secret: '{agents.REFERENCE}', unit: u}}"
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nservices: {s: {replicas: {muc: 1}}}\nstores:\n"
        "  o: {engine: e, members: [{at: fra, mode: primary}], "
        "backups: [{at: muc, age: 1 h, restore: 100 Mbit/s, endpoint: o-kept}]}\n"
        f"endpoints:\n  unit: {{for: s, at: muc, driver: process, settings: {agent}}}\n"
        "  o-kept: {for: o, at: muc, driver: backup_command, settings: "
        f"{{list_argv: [{program}], restore_argv: [{program}], place: {tmp_path}/place}}}}\n"
    )

    async def story() -> Diagnosis:
        async with agents.running(made):
            return await examine_files(tmp_path / "estate.yaml", None, 0)

    found = asyncio.run(story())
    (ability,) = (one for one in found.abilities if one.what == "restore its backup at muc")
    assert (ability.verdict, ability.code) == ("by hand" if code else "automatic", code)


def test_a_backup_that_no_program_restores_is_work_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = script(tmp_path, "list", """echo '{"repository": "shed", "copies": []}'""")
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nstores:\n"
        "  o: {engine: e, members: [{at: fra, mode: primary}], "
        "backups: [{at: muc, age: 1 h, restore: 100 Mbit/s, endpoint: o-kept}]}\n"
        "endpoints:\n  o-kept: {for: o, at: muc, driver: backup_command, settings: "
        f"{{list_argv: [{program}], place: {tmp_path}/place}}}}\n"
    )
    _, found = asked(tmp_path, capsys, "doctor", str(tmp_path))
    assert found["subjects"][0]["verdict"] == "by hand"


PLACES = """\
evac: 1
name: acme
sites: {fra: {}, muc: {}}
stores: {o: {engine: e, members: [MEMBERS]BACKUP}}
"""
KEPT = ", backups: [{at: muc, age: 1 h, restore: 100 Mbit/s}]"
NO_PRIMARY = "it is not known which of its copies is primary, so no plan can promote another"


@pytest.mark.parametrize(
    ("members", "backup", "verdict", "why"),
    [
        ("{at: fra, mode: primary}", "", "nobody", "its only copy is at fra, and the estate lists no backup"),
        ("{at: fra, mode: primary}, {at: fra, mode: sync}", "", "nobody", "both copies are at fra, and the"),
        (
            "{at: fra, mode: primary}, {at: fra, mode: sync}, {at: fra, mode: async}, {at: muc, mode: none}",
            KEPT,
            "by hand",
            "all 3 copies are at fra, so a backup must be restored",
        ),
        ("{at: fra, mode: async}, {at: muc, mode: async}", "", "nobody", NO_PRIMARY),
        ("{at: fra, mode: sync}, {at: fra, mode: sync}", KEPT, "nobody", NO_PRIMARY),
    ],
)
def test_copies_are_counted_and_a_store_without_a_primary_cannot_be_promoted(
    tmp_path: Path, members: str, backup: str, verdict: str, why: str
) -> None:
    (tmp_path / "estate.yaml").write_text(PLACES.replace("MEMBERS", members).replace("BACKUP", backup))
    (ability,) = asyncio.run(examine_files(tmp_path / "estate.yaml", None, 0)).abilities
    assert (ability.verdict, ability.why[: len(why)]) == (verdict, why)
    assert (ability.next == "write mode: primary at the member that accepts writes") == (why == NO_PRIMARY)


def test_what_was_not_asked_is_not_known_to_work() -> None:
    end = Endpoint("e", "o", "fra", "noop", {})
    nothing_said = _Asked(topology(Estate("acme")), {"e": ()}, frozenset(), {})
    assert nothing_said.answer(end, ReportsRole).code == "not-asked"


def test_what_is_the_same_of_many_is_said_once_and_nobody_moves_traffic_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nservices:\n"
        "  shop: {tier: 0, sites: [fra], traffic: {kind: dns}}\n"
        "  batch: {tier: 0, sites: [fra], traffic: {kind: none}}\n"
    )
    run(["doctor", str(tmp_path)])
    said = capsys.readouterr().out
    assert "  batch, shop: start, verify: no endpoint in the estate can do it\n" in said
    assert "  shop: move traffic: no endpoint in the estate can do it\n" in said
    assert said.count("batch") == 2
    assert said.count("next: ") == 1


def test_nothing_is_said_that_the_estate_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a store is, and what another company does to bring its service back."""
    (tmp_path / "estate.yaml").write_text(
        "evac: 1\nname: acme\nsites: {fra: {}, muc: {}}\nservices:\n"
        "  payments: {external: true}\nstores:\n  orders: {engine: e}\n"
    )
    _, found = asked(tmp_path, capsys, "doctor", str(tmp_path))
    assert [row["id"] for row in found["subjects"]] == ["orders"]
    (ability,) = found["subjects"][0]["abilities"]
    assert (ability["verdict"], ability["why"]) == (
        "nobody",
        "the estate does not state where its data is",
    )


@given(st.sets(st.sampled_from(("fra", "muc", "ber", "zrh"))), st.sampled_from(("fra", "muc", "ber")))
def test_traffic_moves_to_a_site_if_some_endpoint_is_left_whichever_other_site_is_lost(
    at: set[str], site: str
) -> None:
    """zrh is an edge site, where load balancers are."""
    full = ["fra", "muc", "ber"]
    ends = {one: Endpoint(f"to-{one}", "shop", one, "haproxy") for one in at}
    left = [at - {lost} for lost in full if lost != site]
    found = _router(ends, site, full)
    assert (found is not None) == all(left)
    assert found is None or found in ends.values()
    assert site not in at or found == ends[site], "its own is asked first"
