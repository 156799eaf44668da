"""Break-glass in the room: one thing of one run, as often as was signed, seen by everybody."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from evac.app import incidents
from evac.app.access import digest_of
from evac.app.controlling import check_request
from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import of_event
from evac.engine.runs import requests
from evac.engine.runs.signatures import Approval, issue, new_key, read_key, sign
from evac.model.access import AccessRules, Grant, Person, Token
from evac.model.errors import NotAllowed
from evac.model.run_policy import Approver, RunPolicy
from evac.office.office import Office
from evac.run.state import apply, replay
from evac.run.view import RunView
from evac.store.port import Delete, Entry, MemoryStore, Put
from evac.web.access.glass import GLASS_USED
from evac.web.access.people import SPENT_READS_MS, People
from evac.web.pages import run
from tests.web.burning import RUN, events_of, made, spec_of
from tests.web.logins import HTML
from tests.web.rooms import BASE, play, room_of
from tests.web.test_incidents import with_fire
from tests.web.test_run_page import burning

PATH = f"/v1/runs/{RUN}/requests"


class Signer:
    """People with keys, and credentials that they signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.public = {name: new_key(folder / f"{name}.pem") for name in ("kim", "olga")}
        people = {
            "kim": Person("kim", "approver", key=self.public["kim"]),
            "olga": Person("olga", "operator", key=self.public["olga"]),
        }
        self.access = People(AccessRules(people=people), SystemClock(), secure=False)
        self.now_ms = SystemClock().now_ms()

    def sign(self, who: str = "kim", verb: str = "pause", **more: Any) -> str:
        number = more.pop("id", "a" * 32)
        run = "" if "incident" in more else RUN
        grant = Grant(number, who, verb, run, "", self.now_ms, self.now_ms + 600_000, 1, "the provider burns")
        return issue(replace(grant, **more), read_key(self.folder / f"{who}.pem"))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def use_of(id: str, number: int, who: str = "kim") -> str:
    """Where the store records a use of a credential."""
    grant = Grant(id, who, "pause", RUN, "", 1, 2)
    return f"{GLASS_USED}{grant.credential}/{number:03d}"


def mark_of(id: str, number: int, who: str = "kim") -> str:
    """The same use in the marks of a run."""
    return Grant(id, who, "pause", RUN, "", 1, 2).use(number).mark


def by(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def asking(verb: str = "pause", **more: Any) -> dict[str, Any]:
    return {"verb": verb, "reason": "people inside", **more}


async def standing(office: Office) -> list[requests.Request]:
    found = await office.store.list(requests.prefix_of(RUN))
    return [requests.decode(entry.key, entry.value) for entry in found]


def test_it_asks_one_thing_once_and_everybody_sees_it(
    signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        text = signer.sign()
        key = {"idempotency-key": "k-1"}
        told = asking(who="somebody else", reason="people\x07 inside")  # no note holds such a letter
        first = await client.post(PATH, json=told, headers=by(text) | key)
        assert (first.status_code, first.json()["who"]) == (202, "kim")
        again = await client.post(PATH, json=told, headers=by(text) | key)
        assert (again.status_code, again.json()["request"]) == (202, first.json()["request"])
        replayed = await client.post(PATH, json=asking(), headers=by(text))
        assert (replayed.status_code, replayed.json()["code"]) == (403, "glass-spent")
        (asked,) = await standing(office)
        assert asked.who == "kim"
        assert asked.reason == told["reason"]
        signed_for = 'BREAK-GLASS aaaaaaaa, use 1 of 1: signed for "the provider burns"'
        assert asked.full_reason == f"{signed_for}; {asked.reason}"
        (note,) = await incidents.notes_of(office.store, "fire-1")
        assert note.text.startswith("BREAK-GLASS aaaaaaaa, use 1 of 1: kim asked for pause of fire-1-north")
        assert note.text.endswith("people  inside")
        assert any("use 1 of 1" in row.getMessage() for row in caplog.records)
        assert any("used up" in row.getMessage() for row in caplog.records)
        assert not any(text.rpartition(".")[2] in row.getMessage() for row in caplog.records)

    play(story, access=signer.access)


class _Interleaving(MemoryStore):
    """Lets every other request continue before it answers, as a store on the network does."""

    async def get(self, key: str) -> Entry | None:
        await asyncio.sleep(0)
        return await super().get(key)


@pytest.mark.parametrize("rooms", [1, 2])
def test_a_request_that_is_sent_twice_at_once_is_one_use(signer: Signer, rooms: int) -> None:
    """At one war room and at two, whose requests meet in the store; a second key is a second use."""

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        text = by(signer.sign(uses=2))
        other = People(signer.access.rules, SystemClock(), secure=False)
        transport = httpx2.ASGITransport(room_of(office, other))
        async with httpx2.AsyncClient(transport=transport, base_url=BASE) as second:
            at = (client, client) if rooms == 1 else (client, second)
            same = text | {"idempotency-key": "k-1"}
            told = await asyncio.gather(*(room.post(PATH, json=asking(), headers=same) for room in at))
            assert [one.status_code for one in told] == [202, 202]
            assert told[0].json()["request"] == told[1].json()["request"]
            assert [entry.key[-3:] for entry in await office.store.list(GLASS_USED)] == ["001"]
            assert len(await incidents.notes_of(office.store, "fire-1")) == 1
            for key, status in (("k-2", 202), ("k-3", 403)):
                more = await at[1].post(PATH, json=asking(), headers=text | {"idempotency-key": key})
                assert more.status_code == status, more.text
        assert sorted(one.glass.number for one in await standing(office) if one.glass) == [1, 2]

    play(story, _Interleaving(), access=signer.access)


@pytest.mark.parametrize("record", [b"", b"[1]", b"\xff", b'{"asked": 1}'])
def test_a_record_of_a_use_that_cannot_be_read_is_a_use_of_another_request(
    signer: Signer, record: bytes
) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        await office.store.transact((), (Put(use_of("a" * 32, 1), record),))
        headers = by(signer.sign(uses=2))
        for key, status in (("k-1", 202), ("k-2", 403)):
            told = await client.post(PATH, json=asking(), headers=headers | {"idempotency-key": key})
            assert told.status_code == status, told.text

    play(story, access=signer.access)


def test_one_that_is_used_up_reads_for_a_minute_and_then_nothing(signer: Signer) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        text = signer.sign()
        assert (await client.post(PATH, json=asking(), headers=by(text))).status_code == 202
        for since_ms, status in ((SPENT_READS_MS - 5_000, 200), (SPENT_READS_MS, 401)):
            key = use_of("a" * 32, 1)
            used = {"at_ms": SystemClock().now_ms() - since_ms}
            await office.store.transact((), (Put(key, orjson.dumps(used)),))
            read = await client.get(f"/v1/runs/{RUN}", headers=by(text))
            assert read.status_code == status, read.text
        assert read.json()["code"] == "glass-spent"

    play(story, access=signer.access)


def test_one_that_is_used_up_stays_so_though_its_record_is_deleted(signer: Signer) -> None:
    """In the room that saw it used, whoever made the use, and in every room by the journal of its run."""
    text = signer.sign()

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        key, used = use_of("a" * 32, 1), {"at_ms": SystemClock().now_ms() - SPENT_READS_MS}
        await office.store.transact((), (Put(key, orjson.dumps(used)),))
        for _ in range(2):
            assert (await client.get(f"/v1/runs/{RUN}", headers=by(text))).status_code == 401
            await office.store.transact((), (Delete(key),))
        fresh = by(signer.sign(id="b" * 32, uses=2))
        assert (await client.post(PATH, json=asking(), headers=fresh)).status_code == 202
        await office.store.transact((), (Delete(use_of("b" * 32, 1)),))
        again = await client.post(PATH, json=asking(), headers=fresh)
        assert again.status_code == 202
        (first, second) = await standing(office)
        assert first.glass is not None
        assert second.glass is not None
        assert {first.glass.number, second.glass.number} == {1, 2}, "the first use still counts"
        view = await office.register.view(RUN)
        view.marks.add(mark_of("c" * 32, 1))  # as its journal says
        told = await client.post(PATH, json=asking(), headers=by(signer.sign(id="c" * 32)))
        assert (told.status_code, told.json()["code"]) == (403, "glass-spent")

    play(story, access=signer.access)


def test_a_room_that_did_not_see_its_use_reads_of_it_in_the_journal_of_the_run(signer: Signer) -> None:
    """Though its record was deleted, or the store is silent: after a minute it reads nothing."""
    text, access = by(signer.sign(id="d" * 32, uses=2)), signer.access
    key = use_of("d" * 32, 2)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        view = await office.register.view(RUN)
        view.marks.add(mark_of("d" * 32, 1))
        assert (await client.get(f"/v1/runs/{RUN}", headers=text)).status_code == 200
        assert key not in access.used, "one use is left"
        view.marks.add(mark_of("d" * 32, 2))
        assert (await client.get(f"/v1/runs/{RUN}", headers=text)).status_code == 200
        access.used[key] -= SPENT_READS_MS
        read = await client.get(f"/v1/runs/{RUN}", headers=text)
        assert (read.status_code, read.json()["code"]) == (401, "glass-spent")

    play(story, access=access)


@pytest.mark.parametrize(
    ("grant", "body", "code"),
    [
        ({"verb": "resume"}, asking(), "glass-purpose"),
        ({"run": "fire-2-north"}, asking(), "glass-purpose"),
        ({"incident": "fire-2"}, asking(), "glass-purpose"),
        ({}, asking("approve"), "glass-purpose"),
        ({}, asking("cancel"), "glass-purpose"),
    ],
)
def test_it_asks_nothing_else(signer: Signer, grant: dict[str, str], body: dict[str, Any], code: str) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        headers = by(signer.sign(**grant))
        told = await client.post(PATH, json=body, headers=headers)
        assert (told.status_code, told.json()["code"]) == (403, code)
        hold = await client.post("/v1/hold", json={"reason": "x"}, headers=headers)
        assert (hold.status_code, hold.json()["code"]) == (403, "role")
        assert not await standing(office)
        assert not await office.store.list("glass/")  # what was refused is no use

    play(story, access=signer.access)


def test_one_for_an_incident_is_good_for_its_run_as_often_as_was_signed(signer: Signer) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        headers = by(signer.sign(incident="fire-1", uses=2))
        codes = [(await client.post(PATH, json=asking(), headers=headers)).status_code for _ in range(3)]
        assert codes == [202, 202, 403]
        stale = {"if-match": '"something-1"'}
        other = by(signer.sign(id="b" * 32)) | stale
        assert (await client.post(PATH, json=asking(), headers=other)).status_code == 412
        assert len(await office.store.list("glass/")) == 2

    play(story, access=signer.access)


def test_one_that_is_none_any_more_is_refused_and_logged(
    signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    past = {"from_ms": signer.now_ms - 900_000, "until_ms": signer.now_ms - 1}
    wrong = {
        "glass-expired": signer.sign(**past),
        "glass-signature": signer.sign()[:-8] + "AAAAAAAA",
        "role": signer.sign("olga", "approve"),
        "glass-unreadable": "evac-glass-1.x.y",
        "glass-too-long": signer.sign(uses=50),
    }

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        for code, text in wrong.items():
            told = await client.post(PATH, json=asking(), headers=by(text))
            assert (told.status_code, told.json()["code"]) == (401, code)
            assert any(f"[{code}]" in row.getMessage() for row in caplog.records)
        assert not await standing(office)
        for _ in range(10):
            told = await client.get("/now", headers=by("evac-glass-1.x.y"))
        assert told.status_code == 429
        good = await client.post(PATH, json=asking(), headers=by(signer.sign()))
        assert good.status_code == 202

    play(story, access=signer.access)


def test_on_the_pages_it_leads_to_its_form_and_ends_with_its_key(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "WAIT_S", 0)  # nobody leads here

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await with_fire(client, office)
        page = await client.get("/sign-in", headers=HTML)
        form = re.search(r'name="form" value="([^"]+)"', page.text)
        assert form is not None
        text = signer.sign(verb="pause")
        fields = {"form": form[1], "credential": text[:50] + "\n " + text[50:] + "\n"}
        done = await client.post("/sign-in/break-glass", data=fields, headers=HTML)
        assert (done.status_code, done.headers["location"]) == (303, f"/runs/{RUN}/ask?verb=pause")
        ask = await client.get(f"/runs/{RUN}/ask?verb=pause", headers=HTML)
        names = dict(re.findall(r'name="(csrf|key)" value="([^"]+)"', ask.text))
        other = await client.get(f"/runs/{RUN}/ask?verb=cancel", headers=HTML)
        assert "This needs the role operator; kim is viewer" in other.text
        sent = {"verb": "pause", "step": "", "reason": "people inside", "minutes": "5", **names}
        bare = await client.post(f"/runs/{RUN}/ask", data={**sent, "csrf": ""}, headers=HTML)
        assert bare.status_code == 403
        told = await client.post(f"/runs/{RUN}/ask", data=sent, headers=HTML)
        assert (told.status_code, told.headers["location"].partition("?")[0]) == (303, f"/runs/{RUN}")
        (asked,) = await standing(office)
        assert (asked.who, asked.for_ms) == ("kim", 300_000)
        assert "break-glass" in (await client.get("/who", headers=HTML)).text
        signer.access.rules = replace(signer.access.rules, people={"kim": Person("kim", "approver")})
        assert (await client.get("/now", headers=HTML)).status_code == 303

    play(story, access=signer.access)


def test_one_person_counts_once_by_whatever_way_she_approves(signer: Signer) -> None:
    """Password, token and break-glass act under one name, and a run counts names."""
    token = "evac_" + "k" * 43
    tokens = {"laptop": Token("laptop", "admin", digest_of(token), "kim")}
    signer.access = People(replace(signer.access.rules, tokens=tokens), SystemClock(), secure=False)
    login = asyncio.run(signer.access.sign_in("kim", "approver", "password", "127.0.0.1"))
    found = signer.access.book.find(login, signer.access.rules.sessions)
    assert found is not None
    cookie = {"cookie": f"evac_session={login}", "x-csrf-token": found.csrf}
    ways = (by(token), cookie, by(signer.sign(verb="approve")))

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office, approvals=2)
        for headers in ways:
            told = await client.post(PATH, json=asking("approve"), headers=headers)
            assert told.status_code == 202
        spec = replace(spec_of(made().digest), approvals=2)
        first = events_of(spec, signer.now_ms, 600_000, "")[0]
        view = replay(spec, [first])
        for asked in await standing(office):
            apply(view, requests.event_of(view, asked, signer.now_ms, requests.RequestTerms()))
        assert view.approvals.counted == 1
        lee = replace(asked, who="lee")
        apply(view, requests.event_of(view, lee, signer.now_ms, requests.RequestTerms()))
        assert view.approvals.counted == 2

    play(story, access=signer.access)


def test_a_policy_that_wants_signatures_gets_them_with_a_credential_too(signer: Signer) -> None:
    """A person signs the reason that she gives; what is told of the credential stands before it."""
    policy = RunPolicy(approvers=(Approver("kim", signer.public["kim"]),))
    view = RunView(spec_of(made().digest))
    needed = view.spec.envelope
    approval = Approval(RUN, view.plans[-1], needed, "kim", "people inside")
    signature = sign(approval, read_key(signer.folder / "kim.pem"))

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        await burning(office)
        for number, given in enumerate((signature, "")):
            headers = by(signer.sign(verb="approve", id=str(number) * 32))
            told = await client.post(PATH, json=asking("approve", signature=given), headers=headers)
            assert told.status_code == 202
        signed, bare = await standing(office)
        check_request(policy, view, signed)
        with pytest.raises(NotAllowed):
            check_request(policy, view, bare)
        event = requests.event_of(view, signed, signer.now_ms, requests.RequestTerms())
        assert event.data["reason"].startswith("BREAK-GLASS 00000000, use 1 of 1: ")
        assert event.data["reason"].endswith("; people inside")
        notice = of_event(RUN, event)
        assert notice is not None
        assert notice[0] == f"{RUN}: BREAK-GLASS 00000000, use 1 of 1: kim approved"

    play(story, access=signer.access)


def test_nobody_writes_a_reason_that_looks_like_it(signer: Signer) -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = await client.post("/v1/hold", json={"reason": " break-glass 1234: kim"})
        assert (told.status_code, told.json()["code"]) == (422, "reason-reserved")

    play(story)
