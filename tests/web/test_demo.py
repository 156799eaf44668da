"""`evac serve --demo` from start to end: pages that say what it is, a fire, an approval, and nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import pytest_socket
from playwright.sync_api import Browser, Page

from evac.app.demo import room as demo_room
from evac.cli.main import run as evac
from tests.web.keyboard import fill_in, press, sat_down, tab_to
from tests.web.rooms import PATIENCE_S, until, unwrapped

pytestmark = pytest.mark.slow
CUT_OFF = """[...document.querySelectorAll('.card .flush')]
    .filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"""
PLAY = "from evac.app.demo.room import serve_demo; serve_demo(0, lambda w: print(w, flush=True), 60)"


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    pytest_socket.enable_socket()
    yield
    pytest_socket.disable_socket(allow_unix_socket=True)


def test_a_company_burns_is_looked_at_approved_and_gone(tmp_path: Path, browser: Browser) -> None:
    """Every decision is made by keyboard alone, in windows of both widths, with scripts or not."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    said = tmp_path / "said"
    with said.open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-c", PLAY],
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
    try:
        found = until(lambda: re.search(r"open (http://[^/]+)/now", said.read_text()), "it says its address")
        with httpx2.Client(base_url=found[1], timeout=PATIENCE_S) as client:
            looked_at(client, browser, said)
    finally:
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        code = demo.wait(60)
    assert code == 0
    told = said.read_text()
    assert "Traceback" not in told
    numbers = [int(one) for one in re.findall(r"^Step (\d) of 5\.", told, re.M)]
    assert numbers == [*sorted(numbers[:-1]), 4], "it falls only when the incident is reopened"
    assert "evac init . in a folder" in told
    assert [path.name for path in tmp_path.iterdir()] == ["said"]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{found[1]}/healthz")


def test_nothing_is_left_of_one_that_is_killed(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PLAY],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
    ) as demo:
        try:
            assert demo.stdout is not None
            found = next(filter(None, (re.search(r"open (http://[^/]+)/now", line) for line in demo.stdout)))
        finally:
            demo.kill()
    until(lambda: not list(tmp_path.iterdir()), "its folder is gone")
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{found[1]}/healthz")


def looked_at(client: httpx2.Client, browser: Browser, said: Path) -> None:
    """The fire on all pages, until the run has ended."""
    room = str(client.base_url).rstrip("/")
    (run,) = until(
        lambda: [row["run"] for row in client.get("/v1/runs").json()["items"]], "its plan is applied"
    )
    until(lambda: client.get(f"/v1/runs/{run}").json()["waits_for"], "a step waits for a person")
    guided(client, said, "Step 2 of 5.", "the room looks once a second, and sees it")
    judged = client.get("/backups").text
    for words in (
        "4 data sets: 2 miss their policy",
        "Missed: proof",
        ">Met<",
        "Waived: people sign in again",
    ):
        assert words in judged, words
    for path in ("/now", "/plans", "/what-if", f"/runs/{run}", "/incidents", "/incidents/pangyo-fire"):
        text = client.get(path).text
        assert "This is a demonstration" in text, path
        assert "Step 2 of 5." in text, path
        assert ' style="' not in text
        assert "internal error" not in text, path
    assert "promote:sessions" in client.get(f"/runs/{run}").text
    assert "<rect" in client.get(f"/runs/{run}").text
    told = client.get("/v1/incidents/pangyo-fire").json()
    assert told["incident"]["commander"] == "Demo commander"
    assert told["incident"]["begun_by"].startswith("watch#")
    alerted(client, said)
    wide = sat_down(browser, 1440, "dark", scripts=True)
    laid_out(wide, room, run)
    press(wide, "Review and approve")
    assert wide.inner_text("#o-approve") == "If you approve"
    fill_in(wide, {"reason": "they wait", "who": "kim"}, "Approve")
    # Back where one was; a leader that takes its time has been asked.
    assert re.search(r"/now\?done=(approved|asked)$", wide.url), wide.inner_text("main")
    until(
        lambda: client.get(f"/v1/runs/{run}").json()["state"] == "succeeded_with_exceptions",
        "the run ends, and mail stays down",
    )
    assert "taxi" not in client.get("/v1/incidents/pangyo-fire").json()["incident"]["still_down"]
    assert "There are no cases yet. Resolve an incident" in client.get("/credits").text
    guided(client, said, "Step 3 of 5.", "the next step is to publish")
    assert client.get("/v1/status").json()["incidents"] == []
    narrow = sat_down(browser, 390, "light", scripts=False)
    narrow.goto(f"{room}/incidents/pangyo-fire")
    press(narrow, "Write a status update")
    assert narrow.is_checked("input[value=monitoring]"), "the run has ended, and most is back"
    fill_in(narrow, {"who": "kim"}, "Publish update")
    assert client.get("/v1/status").json()["state"] == "major outage"
    guided(client, said, "Step 4 of 5. Down until pangyo returns: mail", "it says what stays down")
    narrow.goto(f"{room}/now")
    press(narrow, "Review and resolve")
    fill_in(
        narrow, {"text": "all but mail is back", "value": "pangyo-fire", "who": "kim"}, "Resolve incident"
    )
    credited(client)
    guided(client, said, "Step 5 of 5.", "the last step")
    assert "<code>evac init .</code>" in unwrapped(client.get("/now").text)
    assert "<b>Mail</b>: major outage since" in client.get("/status").text
    wide.goto(f"{room}/incidents/pangyo-fire")
    press(wide, "Reopen incident")
    fill_in(wide, {"text": "mail is still down", "who": "kim"}, "Reopen incident")
    guided(client, said, "Step 4 of 5.", "it is open again")
    wide.keyboard.press("Shift+?")
    wide.wait_for_url(f"{room}/keys")
    tab_to(wide, "Skip to the summary")


def alerted(client: httpx2.Client, said: Path) -> None:
    """The terminal is on call, and the page Alerts shows what it took."""
    until(lambda: "Alert to on-call (" in said.read_text(), "whoever is on call is alerted")
    until(lambda: client.get("/v1/notices/channels").json()["channels"][0]["sent"], "evac knows of it")
    until(lambda: "No one is notified" not in client.get("/notices").text, "the page knows its leader")


def guided(client: httpx2.Client, said: Path, step: str, why: str) -> None:
    """The page and the terminal come to the same step."""
    until(lambda: step in re.sub(r"<[^>]+>", "", client.get("/now").text), why)
    until(lambda: re.findall(r"(?m)^Step .*", said.read_text())[-1].startswith(step), why)


def laid_out(wide: Page, room: str, run: str) -> None:
    """One primary button a page, no column cut off, and only what waits for the approval says so."""
    for path in ("/now", "/plans", "/incidents/pangyo-fire", "/waiting", f"/runs/{run}"):
        for width in (390, 1440):
            wide.set_viewport_size({"width": width, "height": 900})
            wide.goto(f"{room}{path}")
            assert wide.locator(".btn.primary:visible").count() <= 1, f"one primary button on {path}"
            assert wide.evaluate(CUT_OFF) == [], path
    wide.goto(f"{room}/now")
    assert wide.locator("td", has_text="if approved").count() == 1, "only taxi waits for it"
    assert "will miss the RTO" in wide.inner_text("#impact"), "mail stays down"


def credited(client: httpx2.Client) -> None:
    """Once the incident is resolved, its customers: windows, totals, an explanation, and the approval."""
    until(lambda: "1 of 2 people have approved" in client.get("/credits").text, "the first person approves")
    text = client.get("/credits/pangyo-fire?account=c04001").text
    for words in ("pangyo-fire-talk-1", "Paying", "4,000 goods", "You receive 500 KRW"):
        assert words in text
    form = client.get("/credits/pangyo-fire/approve").text
    fields = dict(re.findall(r'name="(ledger)" value="(\w+)"', form))
    typed = re.findall(r"Type <strong>(\d+)</strong>", form)[0]
    done = client.post(
        "/credits/pangyo-fire/approve", data=fields | {"typed": typed, "reason": "as promised", "who": "kim"}
    )
    assert "2 of 2 people have approved" in client.get(done.headers["location"]).text


def test_people_sign_in_with_what_terminal_and_page_show(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-c", PLAY.replace("60)", "60, sign_in=True)")],
            stdout=out,
            stderr=out,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
    try:
        found = until(lambda: re.search(r"open (http://[^/]+)/now", said.read_text()), "it says its address")
        words = re.findall(r"(?m)^Sign in as kim .*", said.read_text())[-1]
        assert re.fullmatch(
            r"Sign in as kim \(incident commander\), password \w{12}, or as lee \(second approver\), "
            r"password \w{12}\.",
            words,
        )
        html = {"accept": "text/html", "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
        for name, password, code in (("lee", "wrong", 401), ("lee", words[-13:-1], 303)):
            with httpx2.Client(base_url=found[1], timeout=PATIENCE_S, headers=html) as client:
                assert client.get("/now").headers["location"].startswith("/sign-in")
                page = client.get("/sign-in").text
                assert words in page
                form = re.findall(r'name="form" value="([^"]+)"', page)[0]
                fields = {"form": form, "next": "/now", "name": name, "password": password}
                assert client.post("/sign-in", data=fields).status_code == code
                now = client.get("/now")
                assert ("Step " in now.text, words in now.text) == ((code == 303), False)
    finally:
        os.killpg(demo.pid, signal.SIGINT)
        code = demo.wait(60)
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["said"], "no password is left"


def test_sign_in_is_of_the_demo_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert evac(["serve", "x", "--site", "a", "--listen", "127.0.0.1:1", "--sign-in"]) == 2
    assert "--sign-in needs --demo" in capsys.readouterr().err


def test_it_needs_nothing_and_takes_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["serve"], ["serve", "x", "--site", "a", "--port", "1"]):
        assert evac(words) == 2
        assert "error" in capsys.readouterr().err.lower()
    others = {
        "ESTATE": ["x"],
        "--listen": ["--listen", "0.0.0.0:1"],
        "--bundle": ["--bundle", "x.bundle"],
        "--status-page": ["--status-page", "x"],
        "--store": ["--store", "memory:"],
    }
    for name, words in others.items():
        assert evac(["serve", "--demo", *words]) == 2
        assert f"remove {name}" in capsys.readouterr().err
    assert evac(["serve", "--demo", "x", "--site", "a"]) == 2
    assert "remove ESTATE, --site" in " ".join(capsys.readouterr().err.replace(" and ", ", ").split())


def test_what_guards_a_room_that_is_not_served_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert evac(["serve", "x", "--site", "a", "--access", "a.yaml", "--tls-key", "k.pem"]) == 2
    told = capsys.readouterr().err
    assert "--access" in told
    assert "--tls-key needs --listen" in told


def test_a_port_that_is_taken_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with demo_room.listening(0) as taken:
        assert evac(["serve", "--demo", "--port", str(taken.getsockname()[1])]) == 2
    assert "[port-taken]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
