"""The page Credits: cases, what they owe, what one customer gets, and the approval of two persons."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import pytest_socket
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

pytest.importorskip("duckdb")

from evac.cli.main import run
from evac.model.access import Role
from evac.office.office import Office
from evac.web.access.port import Actor, Loopback
from evac.web.pages.credits import answer_of, names_of
from tests.contract.ports import free_port
from tests.unit.credit.test_credit_command import ACCOUNTS, RULES, WINDOWS
from tests.web.conftest import until_ready
from tests.web.rooms import ESTATE, play, unwrapped
from tests.web.test_now_page import opened


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """One case with a ledger, and one with windows only."""
    for name, text in (("windows.csv", WINDOWS), ("accounts.csv", ACCOUNTS), ("rules.yaml", RULES)):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for case in ("cases/2022-10", "cases/2022-11"):
        assert run(["credit", "windows", case, "--import", "windows.csv"]) == 0
    command = ["credit", "compute", "cases/2022-10", "--rules", "rules.yaml", "--accounts", "accounts.csv"]
    assert run(command) == 0
    capsys.readouterr()
    return tmp_path / "cases"


def test_without_a_folder_the_page_says_how_to_name_one() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        found = await client.get("/credits")
        assert found.status_code == 200
        assert "start evac serve with --credits DIR" in found.text
        assert '<a href="/credits" aria-current="page">' in found.text
        assert (await client.get("/credits/2022-10")).status_code != 200

    play(story)


def test_cases_are_listed_with_what_they_owe_and_how_far_they_are(folder: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        text = (await client.get("/credits")).text
        assert "2 cases: 1 needs approval." in text
        assert text.count("Needs two approvals") == 1, "the other one has no ledger yet"
        assert text.index("2022-11") < text.index("2022-10")
        assert "3,255 KRW, 3 days, 6 goods for 4 accounts" in text
        assert "No ledger has been computed yet." in text
        (folder / "2022-11" / "journal.jsonl").write_text("{}\n")
        assert "1 case cannot be read." in (await client.get("/credits")).text

    play(story, credits=folder)


def test_a_case_shows_windows_totals_and_approvals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        first = await client.get("/credits/2022-10")
        assert "0 of 2 people have approved" in first.text
        for words in (
            "Outage windows",
            "Totals",
            "Largest lines",
            "1 h 29 min",
            "evac credit approve",
            "<dt>Basis</dt>",
        ):
            assert words in unwrapped(first.text)
        kept = await client.get("/credits/2022-10", headers={"If-None-Match": first.headers["etag"]})
        assert kept.status_code == 304
        approve = ["credit", "approve", str(folder / "2022-10"), "--who", "ada", "--reason", "<b>fine</b>"]
        assert run(approve) == 13
        text = (await client.get("/credits/2022-10")).text
        assert "1 of 2 people have approved" in text
        assert "&lt;b&gt;fine&lt;/b&gt;" in text

    play(story, credits=folder)
    capsys.readouterr()


def test_one_customer_is_explained_in_both_languages_quickly(folder: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        text = (await client.get("/credits/2022-10?account=kim")).text
        assert "You receive 1,009 KRW. Your fee of 50,000 KRW x 15 h / 744 h" in text
        assert "드립니다" in (await client.get("/credits/2022-10?account=kim&language=ko")).text
        unknown = (await client.get("/credits/2022-10?account=%3Cscript%3E")).text
        assert "This case has no rows for account &lt;script&gt;" in unknown
        begin = time.process_time()
        for _ in range(5):
            await client.get("/credits/2022-10?account=lee")
        assert (time.process_time() - begin) / 5 < 0.5

    play(story, credits=folder)


def test_two_persons_approve_the_totals_that_they_saw(folder: Path) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        form = (await client.get("/credits/2022-10/approve")).text
        assert "Type <strong>3255</strong> to confirm" in form
        ledger = re.search(r'name="ledger" value="(\w+)"', form)
        assert ledger is not None
        fields = {"ledger": ledger[1], "reason": "totals match", "typed": "3,255", "who": "ada"}

        async def approve(**changed: str) -> httpx2.Response:
            return await client.post("/credits/2022-10/approve", data=fields | changed)

        for changed, words in (
            ({"typed": "3254"}, "Type 3255 to confirm"),
            ({"ledger": "0" * 16}, "The totals have changed since this page was shown"),
            ({"reason": " "}, "An approval needs a person and a reason"),
            ({"reason": "BREAK-GLASS: mine"}, "A reason may not start with BREAK-GLASS"),
        ):
            refused = await approve(**changed)
            assert refused.status_code == 422
            assert words in refused.text
        first = await approve()
        assert (first.status_code, first.headers["location"]) == (303, "/credits/2022-10?done=credits-first")
        assert "One more person must approve" in (await client.get(first.headers["location"])).text
        again = await approve()
        assert "Ada has already approved this ledger" in again.text
        second = await approve(who="bob", reason="rules match the notice")
        assert second.headers["location"] == "/credits/2022-10?done=credits"
        text = (await client.get(second.headers["location"])).text
        assert "2 of 2 people have approved" in text
        assert "can be released" in text
        assert "/approve" not in text
        assert "Two people have approved" in (await client.get("/credits/2022-10/approve")).text

    play(story, credits=folder)


def test_only_an_approver_who_proved_the_name_counts_where_the_policy_lists_some(folder: Path) -> None:
    class SignedIn(Loopback):
        """ada signed in, as whichever role."""

        def __init__(self, role: Role) -> None:
            self._actor = Actor("ada", role, proof="password", acr="totp")

    async def viewer(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/credits/2022-10/approve")).status_code == 403
        assert (await client.post("/credits/2022-10/approve", data={})).status_code == 403

    async def approver(client: httpx2.AsyncClient, office: Office) -> None:
        form = (await client.get("/credits/2022-10/approve")).text
        ledger = re.search(r'name="ledger" value="(\w+)"', form)
        assert ledger is not None
        fields = {"ledger": ledger[1], "reason": "totals match", "typed": "3255", "who": "bob"}
        assert office.rules is not None
        office.rules = replace(office.rules, approvers=("bob",))
        refused = await client.post("/credits/2022-10/approve", data=fields)
        assert "Ada may not approve" in refused.text
        office.rules = replace(office.rules, approvers=("ada", "bob"))
        assert (await client.post("/credits/2022-10/approve", data=fields)).status_code == 303
        text = (await client.get("/credits/2022-10")).text
        assert "password (totp)" in text
        assert "<b>ada</b> approved" in text

    play(viewer, access=SignedIn("operator"), credits=folder)
    play(approver, access=SignedIn("approver"), credits=folder)


def test_a_claim_above_the_last_band_is_decided_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = "talk-business"
    times = "2022-10-15T15:33:00+09:00,2022-10-20T23:06:00+09:00"
    Path("windows.csv").write_text(f"id,service,from,to\nw,{shop},{times}\n")
    Path("accounts.csv").write_text(
        f"account,service,plan,fee,currency,cycle\ns1,{shop},free,0,KRW,2022-10\n"
    )
    received = "2022-10-21T10:00:00+09:00"
    Path("claims.csv").write_text(f"id,account,service,loss,received\nc 1,s1,{shop},900000 KRW,{received}\n")
    assert run(["credit", "windows", "cases/a", "--import", "windows.csv"]) == 0
    assert run(["credit", "claims", "cases/a", "--import", "claims.csv"]) == 0
    compute = ["credit", "compute", "cases/a", "--rules", "kakao-2022", "--accounts", "accounts.csv"]
    assert run(compute) == 0
    path = "/credits/a/claims/c%201"

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        waiting = (await client.get("/credits/a")).text
        assert waiting.count(f'href="{path}"') == 2, "in the queue and above the totals"
        assert "1 claim is above the last band" in waiting
        assert "have changed since" not in waiting
        assert 'placeholder="at most 900,000 KRW"' in (await client.get(path)).text
        fields = {"answer": "accept", "reason": "documents", "who": "ada"}
        for amount, words in (("", "is not an amount"), ("0 KRW", "Nothing is granted"), ("1 USD", "in KRW")):
            refused = await client.post(path, data=fields | {"amount": amount})
            assert refused.status_code == 422
            assert words in refused.text
        done = await client.post(path, data=fields | {"amount": "70,000 KRW"})
        assert done.headers["location"] == "/credits/a?done=claim"
        text = (await client.get("/credits/a")).text
        assert "Accepted by a person" in text or "accepted by a person" in text
        assert f'href="{path}"' not in text
        assert "claim is above the last band" not in text
        assert "Windows or claims have changed since: compute again." in text
        assert "evac credit compute" in unwrapped(text)
        assert (
            "is not waiting for a person"
            in (await client.get(path, headers={"accept": "application/json"})).text
        )

    play(story, credits=tmp_path / "cases")
    capsys.readouterr()


@pytest.mark.parametrize("case", ["..", "%2e%2e", "..%2f2022-10", "2022-12", "cases%2f2022-10"])
def test_only_folders_with_a_journal_are_cases(folder: Path, case: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        found = await client.get(f"/credits/{case}")
        assert "One customer" not in found.text

    play(story, credits=folder)


def test_what_is_no_case_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert names_of(tmp_path) == names_of(None) == names_of(tmp_path / "none") == []
    assert answer_of(tmp_path, []) == (
        "There are no cases yet. Resolve an incident, then start a case with its outages.",
        "note",
    )


@pytest.mark.browser
def test_the_pages_fit_and_axe_finds_nothing(browser: Browser, folder: Path, tmp_path: Path) -> None:
    pytest_socket.enable_socket()
    address = f"127.0.0.1:{free_port()}"
    folder = folder.rename(
        tmp_path / ("credits-of-a-company-with-a-long-name-" * 3)
    )  # the commands shown name it
    options = ["--store", f"sqlite:{tmp_path / 'room.sqlite'}", "--listen", address, "--credits", str(folder)]
    command = [sys.executable, "-m", "evac.web.serving", str(ESTATE), *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        until_ready(f"http://{address}/readyz", process)
        page = opened(browser, f"http://{address}/credits", 390)
        for path in ("/credits", "/credits/2022-10?account=kim", "/credits/2022-10/approve"):
            page.goto(f"http://{address}{path}")
            for width, scheme in ((390, "light"), (1440, "dark")):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                found = Axe().run(page, options={"resultTypes": ["violations"]})
                assert found.response["violations"] == []
        page.context.close()
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends with its parent
        process.wait(60)
        pytest_socket.disable_socket(allow_unix_socket=True)
