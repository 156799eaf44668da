"""Access through the API of a war room, for commands that use a controller's server.

Server-sent events are read until they end; after a broken connection they resume after the last number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import orjson

from evac.app import runs
from evac.app.access_log import JOURNALS
from evac.app.incidents import PaperForm, PaperKind, check_note
from evac.app.published import facts_from
from evac.control.port import (
    RELEASED,
    Document,
    Held,
    PlanGiven,
    QuarantineForm,
    StatusAbout,
    StatusFiles,
    Taken,
)
from evac.control.server_calls import Cut, Later, Server, ServerCalls, shown, strange
from evac.engine.plans.library import digest_of
from evac.engine.runs.requests import Request
from evac.incident.records import CONTENT, Note, Notice
from evac.model.backup import BackupEvent, BackupFacts
from evac.model.errors import EvacError, Unavailable
from evac.model.observation import Observation
from evac.model.records import dataclass
from evac.office.reckoning import WhatIf
from evac.office.status_summary import NOTICES_SHOWN, plan_line
from evac.run.envelope import to_data
from evac.run.values import ENDED
from evac.store.anchors import Anchor
from evac.views.decisions import Decision
from evac.views.documents import DryRun, Mismatch, RunDocument, read
from evac.views.sheet import Sheet, sheet_of
from evac.views.status_document import PlanLine, RunLine, StatusDocument, hold_line
from evac.watch.verdict import silent_sites

MEDIA: Final = "text/event-stream"
SILENCE_S: Final = 45.0
"""A war room sends a keep-alive every 15 s."""
AGAIN_S: Final = 1.0
AGAIN_MOST_S: Final = 15.0
CUTS_MOST: Final = 8
"""Consecutive broken connections without a message in between, after which an error is raised."""
MESSAGE_MOST: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """number: of the journal; 0 if the message has none."""

    number: int
    name: str
    data: Any


async def messages(calls: ServerCalls, path: str, after: int = 0) -> AsyncIterator[Message]:
    """Every message of a stream with a greater number, each once; ends after `end`. Raises EvacError, also if
    reconnecting fails.
    """
    last, cuts = after, 0
    while True:
        try:
            async for message in _connection(calls, path, last):
                cuts = 0
                if message.number and message.number <= last:
                    continue
                last = max(last, message.number)
                yield message
                if message.name == "end":
                    return
        except Later as later:
            if cuts >= CUTS_MOST:
                raise later.error from later
        except EvacError as error:
            if cuts >= CUTS_MOST or not (isinstance(error, Cut) or error.code == "server-unreachable"):
                raise
        cuts += 1
        await asyncio.sleep(min(AGAIN_MOST_S, AGAIN_S * cuts))


async def _connection(calls: ServerCalls, path: str, last: int) -> AsyncIterator[Message]:
    headers = {"Accept": MEDIA, "Cache-Control": "no-store"}
    if last:
        headers["Last-Event-ID"] = str(last)
    async with AsyncExitStack() as held:
        response = await _begun(calls, path, headers, held)
        parser = Parser()
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    part = await response.content.readany()
            except TimeoutError as error:
                raise Cut(
                    "server-timeout", f"the stream was silent for {SILENCE_S:g} s", "try again"
                ) from error
            if not part:
                return
            for message in parser.feed(part):
                yield message


async def _begun(
    calls: ServerCalls, path: str, headers: dict[str, str], held: AsyncExitStack
) -> aiohttp.ClientResponse:
    """The stream, once its head arrived within the usual time limit. Raises EvacError."""
    head_s = calls.server.timeout_s
    try:
        async with asyncio.timeout(head_s):
            response = await held.enter_async_context(calls.asked("GET", path, None, b"", headers))
    except TimeoutError as error:
        raise Cut("server-timeout", f"the stream did not begin in {head_s:g} s", "try again") from error
    if response.content_type != MEDIA:
        raise strange("expected a stream of events")
    return response


class Parser:
    """Parses bytes into messages (HTML Living Standard, 9.2.6). Raises EvacError for anything no war room
    sends.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}
        self._held = 0

    def feed(self, part: bytes) -> list[Message]:
        lines = (self._rest + part).split(b"\n")
        self._rest = lines.pop()
        found = [message for line in lines if (message := self._line(line.removesuffix(b"\r"))) is not None]
        if self._held + len(self._rest) > MESSAGE_MOST:
            raise strange("the message has no end")
        return found

    def _line(self, line: bytes) -> Message | None:
        if not line:
            return self._done()
        if line.startswith(b":"):
            return None
        name, _, value = line.decode("utf-8", "replace").partition(":")
        self._fields.setdefault(name, []).append(value.removeprefix(" "))
        self._held += len(line)
        return None

    def _done(self) -> Message | None:
        fields, self._fields, self._held = self._fields, {}, 0
        if "data" not in fields:
            return None
        number = fields.get("id", ["0"])[-1]
        if not (number.isascii() and number.isdigit()) or len(number) > 16:
            raise strange("the message has no number")
        try:
            data = orjson.loads("\n".join(fields["data"]))
        except orjson.JSONDecodeError as error:
            raise strange("the message is not JSON") from error
        return Message(int(number), fields.get("event", ["message"])[-1], data)


SCHEMA_VERSION: Final = 1
Shape = TypeVar("Shape")
PAGE: Final = 1_000
ROWS_MOST: Final = 1_000_000
PAUSE_S: Final = 0.3
PAUSE_A_PAGE_S: Final = 0.1
"""Pause between pages: a run of 100,000 steps is read again every ten seconds, within a war room's rate
limit.
"""
WAIT_S: Final = 15
"""Time limit of one wait for the leader's answer; two of them are as long as the wait with a store."""
WAITS: Final = 2
LONG_S: Final = 130.0
"""Time limit of calls that query real systems."""


def _read(shape: type[Shape], value: Mapping[str, Any], what: str) -> Shape:
    """The document that a server sent. Raises EvacError if it is not one."""
    try:
        return read(shape, value, what)
    except Mismatch as error:
        raise strange(f"{error} is missing or has the wrong type") from error


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


class ServerControl:
    """A client; must be closed."""

    def __init__(self, calls: ServerCalls) -> None:
        self._calls = calls

    async def close(self) -> None:
        await self._calls.close()

    async def name(self, who: str) -> str:
        """The name of the login on the server; without sign-in, the given name."""
        told = await self._read(_path("me"))
        return str(told["name"]) if told.get("named") else who or runs.who_am_i()

    async def runs(self) -> Sequence[RunLine]:
        rows = [_read(RunLine, row, "run") for row in await self._rows(_path("runs"))]
        return sorted(rows, key=lambda row: (row.created_ms, row.run))

    async def run(self, name: str, most: int | None = None) -> RunDocument:
        head = await self._read(_path("runs", name))
        _check_version(head)
        path = _path("runs", name, "steps")
        if most is None:
            rows = await self._rows(path)
        else:
            rows = _items(await self._read(path, {"order": "need", "limit": max(1, min(most, PAGE))}))
        return _read(RunDocument, head | {"steps": rows}, "run")

    async def decision(self, name: str, step: str) -> Decision:
        found = await self._read(_path("runs", name, "decision"), {"step": step})
        _check_version(found)
        return _read(Decision, found, "decision")

    async def follow(self, name: str, most: int | None = None) -> AsyncGenerator[RunDocument, None]:
        """The stream signals a change; the change itself is then read."""
        document = await self.run(name, most)
        yield document
        news = asyncio.Event()

        async def listen(after: int) -> None:
            try:
                async for _ in messages(self._calls, _path("runs", name, "stream"), after):
                    news.set()
            finally:
                news.set()

        listening = asyncio.create_task(listen(document.events), name="stream")
        try:
            while document.state not in ENDED and not listening.done():
                await news.wait()
                news.clear()
                await asyncio.sleep(max(PAUSE_S, PAUSE_A_PAGE_S * len(document.steps) / PAGE))
                seen, document = document.events, await self.run(name, most)
                if document.events != seen:
                    yield document
            if listening.done():
                listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def events(self, name: str, follow: bool = False) -> AsyncGenerator[Document, None]:
        last = 0
        async for row in self._paged(_path("runs", name, "events"), "0"):
            last = int(row["number"])
            yield _event(row)
        if not follow:
            return
        async for message in messages(self._calls, _path("runs", name, "stream"), last):
            if message.name == "event" and isinstance(message.data, dict):
                yield _event(message.data)

    async def ask(self, name: str, request: Request) -> Taken:
        body: dict[str, Any] = {
            "verb": request.verb,
            "who": request.who or runs.who_am_i(),
            "reason": request.reason,
            "step": request.step,
            "for_ms": request.for_ms,
            "then": request.then,
            "ticket": request.ticket,
            "signature": request.signature,
            "evidence": dict(request.evidence),
            "typed": list(request.typed),
            "limit": request.limit,
            "value": request.value,
        }
        if request.envelope is not None:
            body["envelope"] = to_data(request.envelope)
        told = await self._waited("POST", _path("runs", name, "requests"), body)
        said = (told["why"], told.get("hint", "")) if told["state"] == "refused" else ("", "")
        return Taken(told["state"] != "waiting", *(shown(one) for one in said))

    async def ask_all(self, name: str, asked: Sequence[Request]) -> list[Taken]:
        return [await self.ask(name, request) for request in asked]

    async def _waited(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send once, with one idempotency key, and wait as long as with a store."""
        key, told = self._calls.new_key(), {}
        for _ in range(WAITS):
            told = await self._change(method, path, body, key, {"wait_s": WAIT_S}, WAIT_S + 15.0)
            if told.get("state") != "waiting":
                break
        return told

    async def proof(self, name: str, heads: Sequence[Anchor]) -> Document:
        body = {"heads": [_head_of(name, head) for head in heads]}
        kind = "journals" if name in JOURNALS else "runs"
        found = await self._change("POST", _path(kind, name, "proof"), body)
        _read(runs.Proof, found, "proof")
        return found

    async def quarantine(self, name: str, form: QuarantineForm) -> str:
        return await self._text(_path("runs", name, "quarantine"), {"format": form})

    async def plan(self, named: str) -> bytes:
        data = (await self._calls.read(_path("plans", named))).body
        if not digest_of(data).startswith(named):
            raise strange("the plan does not match its digest")
        return data

    async def plans(self) -> Sequence[PlanLine]:
        return [_plan_line(row) for row in await self._rows(_path("plans"))]

    async def rehearse(self, plan: PlanGiven) -> DryRun:
        await self._hand_over(plan)
        found = await self._change("POST", _path("plans", plan.digest, "dry-run"), {}, timeout_s=LONG_S)
        _check_version(found)
        return _read(DryRun, found, "dry run")

    async def ready(self, plan: PlanGiven) -> str:
        """Whether the plan fits is checked when it is proposed."""
        leader = str((await self._read(_path("situation")))["leader"]["owner"])
        if not leader:
            raise Unavailable("no controller is leading; start one at each site: evac serve")
        await self._hand_over(plan)
        return leader

    async def _hand_over(self, plan: PlanGiven) -> None:
        """Upload the bytes under their digest, so that repeating it is harmless."""
        await self._calls.change("PUT", _path("plans", plan.digest), plan.data, timeout_s=LONG_S)

    async def propose(
        self,
        plan: PlanGiven,
        incident: str,
        reason: str,
        typed: tuple[str, ...],
        abandoned: tuple[str, ...] = (),
        key: Path | None = None,
        who: str = "",
    ) -> str:
        body = {
            "plan": plan.digest,
            "incident": incident,
            "reason": reason,
            "typed": list(typed),
            "abandoned": list(abandoned),
            "who": who or runs.who_am_i(),
        }
        told = await self._change("POST", _path("runs"), body, self._calls.new_key(), {"wait_s": 20}, LONG_S)
        if told["state"] == "refused":
            said = (shown(told.get(name, "")) for name in ("code", "why", "kind", "hint"))
            raise runs.refusal(runs.Refusal(*said))
        if told["state"] != "made":
            raise Unavailable("no controller is leading, so the plan was not accepted")
        return str(told["run"])

    async def backup_facts(self) -> BackupFacts:
        return _read(BackupFacts, await self._read(_path("backups", "facts")), "backups")

    async def backup_history(self, data_set: str, most: int) -> Sequence[BackupEvent]:
        found = await self._read(_path("backups", "history"), {"data_set": data_set, "limit": most})
        return [_read(BackupEvent, row, "event") for row in found["items"]]

    async def access_log(self, since_ms: int) -> Document:
        return dict(await self._read(_path("access-log"), {"since_ms": since_ms}))

    async def logins(self) -> Sequence[Document]:
        found = await self._read(_path("logins"))
        return [dict(row) for row in found["items"]]

    async def end_logins(self, name: str, login: str = "") -> int:
        params = {"name": name, "id": login}
        reply = await self._calls.change("DELETE", _path("logins"), key=self._calls.new_key(), params=params)
        return int(orjson.loads(reply.body)["ended"])

    async def facts(self, estate: Path | None, look: bool) -> Observation:
        found = facts_from(await self._read(_path("situation", "facts")))
        return replace(found, backups=await self.backup_facts())

    async def clear_site(self, domain: str, who: str, reason: str, key: Path | None = None) -> None:
        body = {"domain": domain, "reason": reason, "who": who or runs.who_am_i()}
        await self._change("POST", _path("sites", "clear"), body, self._calls.new_key())

    async def hold(self, who: str, reason: str) -> Held:
        body = {"reason": reason, "who": who or runs.who_am_i()}
        try:
            told = await self._change("POST", _path("hold"), body, self._calls.new_key())
            return Held(str(told["who"]), str(told["reason"]), False)
        except EvacError as error:
            if error.code != "store-conflict":
                raise
            found = await self._read(_path("hold"))
            return Held(str(found["who"]), str(found["reason"]), True)

    async def release(self, who: str, reason: str, key: Path | None = None) -> bool:
        params = {"reason": reason or RELEASED, "who": who or runs.who_am_i()}
        try:
            await self._calls.change("DELETE", _path("hold"), key=self._calls.new_key(), params=params)
        except EvacError as error:
            if error.code != "no-hold":
                raise
            return False
        return True

    async def status(self) -> StatusDocument:
        told = await self._read(_path("situation"))
        open_runs, hold = {row["run"] for row in told["open_runs"]}, told["hold"]
        notices = [
            Notice(one["number"], one["kind"], one["at_ms"], one["site"], one["words"])
            for one in told["notices"][-NOTICES_SHOWN:]
        ]
        return StatusDocument(
            SCHEMA_VERSION,
            told["quorum"]["store"],
            told["leader"]["owner"],
            None if hold is None else hold_line(hold),
            told.get("generation", 0),
            (told.get("newer") or {"generation": 0})["generation"],
            {one["id"]: one["mark"] for one in sorted(told["sites"], key=lambda x: x["id"]) if one["mark"]},
            tuple(row for row in await self.runs() if row.run in open_runs),
            tuple(map(_plan_line, told["drawer"])),
            tuple(notices),
            silent=silent_sites(
                (site["id"], vote["opinion"])
                for site in told["sites"]
                for vote in site.get("votes", ())
                if vote["fresh"]
            ),
        )

    async def what_if(self, domains: Sequence[str], estate: object) -> Document:
        body = {"domains": list(domains)}
        found = await self._change("POST", _path("what-if"), body, timeout_s=LONG_S)
        _read(WhatIf, found, "answer")
        return found

    async def incidents(self, form: PaperForm) -> str | Sheet:
        return await self._paper(_path("papers", "incidents"), form)

    async def paper(self, name: str, kind: PaperKind, form: PaperForm) -> str | Sheet:
        return await self._paper(_path("papers", "incidents", name, kind), form)

    async def _paper(self, path: str, form: PaperForm) -> str | Sheet:
        if form == "sheet":
            return sheet_of(await self._read(path, {"format": form}))
        return await self._text(path, {"format": form})

    async def note(self, note: Note, new: bool) -> str:
        who = note.who or runs.who_am_i()
        check_note(replace(note, id=self._calls.new_key(), who=who, at_ms=1))
        told = {name: value for name in CONTENT if (value := getattr(note, name))}
        body = {"kind": note.kind, "who": who, **told}
        path, key = _path("incidents", note.incident, "notes"), self._calls.new_key()
        try:
            found = await self._change("POST", path, body, key, {"new": new})
        except EvacError as error:
            if error.code == "incident-unknown":
                error.hint += "; or add --new"
            raise
        return f"note/{found['incident']}/{found['note']}"

    async def status_page(self, about: StatusAbout) -> StatusFiles:
        params = {name: value for name in ("title", "url", "languages") if (value := getattr(about, name))}
        found = await self._read(_path("status", "files"), params)
        return StatusFiles(
            {
                "status.json": str(found["document"]),
                "feed.xml": str(found["feed"]),
                **{str(name): str(text) for name, text in found.get("others", {}).items()},
                "index.html": str(found["page"]),
            },
            str(found["overall"]),
            int(found["components"]),
        )

    async def _read(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return (await self._calls.read(path, params)).document()

    async def _text(self, path: str, params: Mapping[str, Any]) -> str:
        try:
            return (await self._calls.read(path, params)).body.decode()
        except UnicodeDecodeError as error:
            raise strange("the document is not text") from error

    async def _change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        key: str = "",
        params: Mapping[str, Any] | None = None,
        timeout_s: float = 0.0,
    ) -> dict[str, Any]:
        data = orjson.dumps(body)
        return (await self._calls.change(method, path, data, key, params, timeout_s)).document()

    async def _rows(self, path: str) -> list[dict[str, Any]]:
        return [row async for row in self._paged(path, "")]

    async def _paged(self, path: str, after: str) -> AsyncIterator[dict[str, Any]]:
        """All rows of a list, page by page, up to a limit whatever the server says."""
        left, following = ROWS_MOST, after or None
        while True:
            params = {"limit": PAGE, **({"after": following} if following else {})}
            page = await self._read(path, params)
            for row in _items(page):
                left -= 1
                if left < 0:
                    raise strange("the list has no end")
                yield row
            told = page.get("next")
            if told is None:
                return
            if told == following or not page["items"]:
                raise strange("the pages of the list form a loop")
            following = str(told)


def _items(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = page.get("items")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise strange("expected a list")
    return rows


def _check_version(document: Mapping[str, Any]) -> None:
    if document.get("schema_version") != SCHEMA_VERSION:
        raise EvacError(
            "server-version",
            f"the server uses version {shown(document.get('schema_version'))} of this",
            "use the same evac version as the server",
        )


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"event": row["number"], "at": row["at"], "kind": row["kind"]}
    if row["step"]:
        found |= {"step": row["step"], "attempt": row["attempt"]}
    return found | {"data": row["data"]}


def _plan_line(row: Mapping[str, Any]) -> PlanLine:
    return plan_line(
        row["scenario"], row["lost"], row["plan"], row["estate"], row["at_ms"], row["took_ms"], row["problem"]
    )


@contextlib.asynccontextmanager
async def through_server(server: Server) -> AsyncIterator[ServerControl]:
    """Raise EvacError for any response without the expected form."""
    control = ServerControl(ServerCalls(server))
    try:
        yield control
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise strange(f"something is missing ({type(error).__name__})") from error
    finally:
        await control.close()


def _head_of(journal: str, head: Anchor) -> Document:
    """stream: of a chapter of that journal; older servers have none."""
    told: Document = {"segment": head.segment, "records": head.records, "hash": head.hash}
    return told if head.stream == journal else {**told, "stream": head.stream}
