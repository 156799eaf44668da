"""The page Notices, its routes and its figures: what is open, who is told, and how it stands, in words."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import orjson
import pytest
from playwright.sync_api import Browser

from evac.engine.clock import SystemClock
from evac.engine.plans.journal import PlanJournal
from evac.engine.plans.library import key_of
from evac.notices.rule import tell
from evac.notices.values import UPDATE, Channel, Concern, Known, News, State
from evac.office.notices.overview import Ledger, new_messages
from evac.office.office import Office
from evac.store.opening import open_store
from evac.store.port import MemoryStore, Put, Store
from tests.web.rooms import play, primed

CHANNELS = {
    "desk": Channel("desk", "webhook", "env:A", "env:B", least="info"),
    "plans": Channel("plans", "apprise", "env:C", kinds=frozenset({"plan"})),
}
LOST = Concern("site/north", "site", "critical", "north is lost: no votes", "see the Now page")
WORSE = Concern("plan/worse/north", "plan", "warning", "the plan for the loss of north is 31 % worse")


async def told(store: Store) -> None:
    """Two messages: one was delivered to the desk, the other waits everywhere, once after a failure."""
    clock = SystemClock()
    lease = await store.acquire("notices", "south/7/ab", 600_000)
    ledger = await Ledger.open(store, lease, clock, CHANNELS)
    state = State()
    for concerns in ((LOST,), (LOST, WORSE)):
        known = Known({"site": concerns[:1], "plan": concerns[1:]})
        memory, drafts = tell(state.memory, known, clock.now_ms())
        state = State(memory)
        names = iter([f"evac_{'7' * 30}{len(concerns)}" for _ in drafts])
        await ledger.keep(state, new_messages(drafts, names.__next__))
    await ledger.delivered("desk", ledger.boxes["desk"].waiting[0])
    await ledger.failed("desk", ledger.boxes["desk"].waiting[0], "it answers 503", 0, True)


def test_what_is_told_stands_in_the_api_and_on_the_page() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        empty = await client.get("/notices")
        assert "No one is notified: there is no alerts file." in empty.text
        assert (await client.get("/v1/notices/channels")).json() == {"by": "", "channels": [], "concerns": []}
        await told(office.store)
        await primed(office)
        rows: dict[str, Any] = (await client.get("/v1/notices/told")).json()
        assert [(row["state"], row["words"]) for row in rows["items"]] == [
            ("begins", LOST.words),
            ("begins", WORSE.words),
        ]
        assert [(w["channel"], w["state"], w["tries"]) for w in rows["items"][0]["deliveries"]] == [
            ("desk", "delivered", 1)
        ]
        assert [(w["channel"], w["state"], w["problem"]) for w in rows["items"][1]["deliveries"]] == [
            ("desk", "waits", "it answers 503"),
            ("plans", "waits", ""),
        ]
        more = (await client.get("/v1/notices/told", params={"limit": 1})).json()
        assert more["next"] == str(more["items"][0]["number"])
        rest = (await client.get("/v1/notices/told", params={"after": more["next"]})).json()
        assert [row["words"] for row in rest["items"]] == [WORSE.words]
        seen = (await client.get("/v1/notices/channels")).json()
        assert seen["by"] == "south"
        assert [(one["name"], one["waiting"], one["sent"]) for one in seen["channels"]] == [
            ("desk", 1, 1),
            ("plans", 1, 0),
        ]
        assert "env:" not in str(seen), "where an address stands is nobody's business here"
        tag = (await client.get("/v1/notices/channels")).headers["etag"]
        again = await client.get("/v1/notices/channels", headers={"if-none-match": tag})
        assert again.status_code == 304
        page = (await client.get("/notices")).text
        assert "desk: notifications do not get through." in page
        assert "fails</span> it answers 503; 1 message waiting, retrying in" in page
        assert 'desk <span class="state ok">delivered</span>' in page
        assert 'desk <span class="state error">waits</span> after 1 try: it answers 503' in page
        assert "Sent by the controller of south." in page
        figures = (await client.get("/metrics")).text
        assert 'evac_notices_waiting{channel="desk"} 1.0' in figures
        assert 'evac_notices_delivered_total{channel="desk"} 1.0' in figures
        assert 'evac_notices_failing{channel="desk"} 1.0' in figures
        assert 'evac_notices_open{kind="site"} 1.0' in figures
        assert "evac_notices_telling 1.0" in figures

    play(story, MemoryStore())


def test_an_update_for_users_stands_as_they_get_it() -> None:
    text = "Since 14:02 UTC Talk is not available.\n\nMessages <b>wait</b>."

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        clock = SystemClock()
        lease = await office.store.acquire("notices", "south/7/ab", 600_000)
        users = {"users": Channel("users", "webhook", "env:A", "env:B", kinds=frozenset({UPDATE}))}
        ledger = await Ledger.open(office.store, lease, clock, users)
        titled = News(UPDATE, "info", text, title="Talk not available")
        news = (titled, News(UPDATE, "info", "It works again."))
        memory, drafts = tell(State().memory, Known({}, news), clock.now_ms())
        names = iter([f"evac_{'7' * 30}{number}" for number, _ in enumerate(drafts)])
        await ledger.keep(State(memory), new_messages(drafts, names.__next__))
        await primed(office)
        page = (await client.get("/notices")).text
        told = text.replace("<b>", "&lt;b&gt;").replace("</b>", "&lt;/b&gt;")
        assert '<span class="state note">for users</span> <strong>Talk not available</strong></p>' in page
        assert f'<p class="said">{told}</p>' in page, "its paragraphs too"
        assert '<p class="said">It works again.</p>' in page
        assert "<strong></strong>" not in page

    play(story, MemoryStore())


def test_what_burns_comes_first_and_what_the_audit_found_is_folded_and_counted() -> None:
    found = tuple(Concern(f"finding/{n}", "finding", "error", f"EV100 web {n} is lost") for n in range(27))
    tools = (
        Concern("tool/vault", "tool", "critical", "vault no longer runs at any site"),
        Concern("tool/dns", "tool", "error", "dns runs at south only"),
    )

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        clock = SystemClock()
        lease = await office.store.acquire("notices", "south/7/ab", 600_000)
        ledger = await Ledger.open(office.store, lease, clock, CHANNELS)
        nothing, _ = tell(State().memory, Known({"finding": (), "tool": ()}), clock.now_ms())
        memory, drafts = tell(
            nothing, Known({"finding": found, "tool": tools, "site": (LOST,)}), clock.now_ms()
        )
        names = iter([f"evac_{n:032d}" for n in range(len(drafts))])
        await ledger.keep(State(memory), new_messages(drafts, names.__next__))
        await primed(office)
        page = (await client.get("/notices")).text
        assert (
            "2 alerts need attention now. Before the next loss: 27 audit errors, 1 tool at one site." in page
        )
        alerts = page.partition('id="channels"')[0]
        now, *folds = alerts[alerts.index('id="open"') :].split("<details")
        assert sum("EV100 web" in one for one in folds) == 1
        assert LOST.words in now
        assert "vault no longer runs" in now, "what is critical is never folded"
        assert "EV100 web" not in now
        assert all(" open" not in one[: one.index(">")] for one in folds)
        assert all(one.words in alerts for one in found), "each of them can be read"
        assert '<a href="/now#h-fix">Fix first</a>' in alerts

    play(story, MemoryStore())


def test_every_plan_that_lay_ready_can_be_read() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        assert (await client.get("/v1/drawer/journal")).json() == {"items": [], "total": 0, "next": None}
        lease = await office.store.acquire("leader", "north", 60_000)
        for plan in ("p1", "p2"):
            told = {"plan": plan, "estate": "e", "at_ms": 5, "took_ms": 1, "problem": ""}
            await office.store.transact((), (Put(key_of(("north",)), orjson.dumps(told)),))
            await PlanJournal(office.store, 0).chore(lease)
        found = (await client.get("/v1/drawer/journal", params={"limit": 1})).json()
        assert (found["total"], found["next"]) == (2, "1")
        rest = (await client.get("/v1/drawer/journal", params={"after": 1})).json()
        assert [(row["number"], row["scenario"], row["plan"]) for row in rest["items"]] == [
            (2, "north", "p2")
        ]

    play(story, MemoryStore())


@pytest.mark.enable_socket
def test_the_page_reads_well_in_a_browser(served: tuple[str, str], browser: Browser) -> None:
    from axe_playwright_python.sync_playwright import Axe

    address, url = served

    async def fill() -> None:
        store = open_store(url)
        await told(store)
        await store.close()

    with ThreadPoolExecutor(1) as apart:  # this thread has a loop of the browser
        apart.submit(asyncio.run, fill()).result()
    for width, scheme in ((390, "dark"), (1440, "light")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(f"{address}/notices")
        page.get_by_text("Sent by the controller of south.").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.close()
