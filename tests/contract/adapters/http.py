"""A receiver of signed webhooks that has one effect a key, for the suites."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.drivers.capabilities import (
    AnswersProbe,
    Fences,
    Follows,
    HealthReport,
    Promotes,
    ReportsHealth,
    ReportsRole,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.http import DRIVER
from evac.drivers.http.driver import HttpDriver
from evac.drivers.port import Action, Value, Verb
from tests.contract.capabilities.hostile import TcpWire, with_settings
from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Adapter, Asked, AskedHealth, AskedProbe, AskedRole
from tests.contract.ports import free_port

KEY = b"a key of the receiver, 32 bytes!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Company:
    """What speaks the whole contract: two copies of a store, units and traffic of a service."""

    def __init__(self) -> None:
        self.roles = {"pangyo": "primary", "anyang": "replica"}
        self.units = 1
        self.traffic = {"pangyo", "anyang"}
        self.before: dict[str, tuple[int, set[str]]] = {}
        self.highest = 0

    def state(self) -> object:
        return dict(self.roles), self.units, frozenset(self.traffic), self.highest

    def answer(self, asked: dict[str, Any], token: int) -> tuple[int, dict[str, Any]]:
        what, verb, site, given = asked["what"], asked["verb"], asked["site"], asked["parameters"]
        if what == "role":
            return 200, {"role": self.roles[site], "lag_ms": 0, "confirms": []}
        if what in ("execute", "undo"):
            if token < self.highest:
                return 409, {"why": "an older leader"}
            self.highest = token
        if what == "undo":
            if verb not in ("start", "scale", "stop", "shift", "drain", "ready"):
                return 422, {"why": f"{verb} is not rolled back"}
            if asked["step"] in self.before:
                units, traffic = self.before[asked["step"]]
                self.units, self.traffic = units, set(traffic)
            return 200, {"outcome": "done"}
        if verb in ("promote", "demote", "rejoin"):
            return self._store(what, verb, site)
        if verb == "verify":
            return 200, {"outcome": "done" if self.units > 1 else "absent"}
        return self._service(what, verb, given, asked["step"])

    def _store(self, what: str, verb: str, site: str) -> tuple[int, dict[str, Any]]:
        wanted = {"promote": "primary", "demote": "none", "rejoin": "replica"}[verb]
        if what == "observe":
            return 200, {"outcome": "done" if self.roles[site] == wanted else "absent"}
        others = [one for one, role in self.roles.items() if role == "primary" and one != site]
        if verb == "promote" and others:
            return 503, {"why": f"{others[0]} takes writes"}
        if verb == "rejoin" and not others:
            return 503, {"why": "nothing to follow is a primary"}
        if what == "execute":
            self.roles[site] = wanted
        return 200, {"outcome": "ready" if what == "check" else "done"}

    def _service(self, what: str, verb: str, given: dict[str, Any], step: str) -> tuple[int, dict[str, Any]]:
        units = self.units
        on = set(given.get("to", ())) | ({given["site"]} if verb == "ready" else set())
        off = set(given.get("away", ())) | ({given["site"]} if verb == "drain" else set())
        if verb in ("start", "scale", "stop"):
            units = 0 if verb == "stop" else max(given["replicas"], units if verb == "start" else 0)
        if not on | off <= {"pangyo", "anyang"}:
            return 422, {"why": "no such site"}
        traffic = (self.traffic | on) - off
        if what == "observe":
            done = (units, traffic) == (self.units, self.traffic)
            return 200, {"outcome": "done" if done else "absent"}
        if not traffic:
            return 422, {"why": "no site would be left with traffic"}
        if what == "execute":
            self.before.setdefault(step, (self.units, set(self.traffic)))
            self.units, self.traffic = units, traffic
        return (200, {"outcome": "ready"}) if what == "check" else (202, {})


class Receiver:
    """Another system. answers: (status, headers, body) to give instead of doing what is asked."""

    def __init__(self) -> None:
        self.done = False
        self.effects: dict[str, int] = {}
        self.highest = 0
        self.refused = 0
        self.silent = threading.Event()
        self.works = True
        self.company = Company()
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    async def silence(self) -> None:
        self.silent.set()

    async def speak(self) -> None:
        self.silent.clear()

    def close(self) -> None:
        self.silent.clear()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/seen-by-users":
            return self.answers.pop(0) if self.answers else (200 if self.works else 503, {}, b"{}")
        if not self._signed(headers, body):
            self.refused += 1
            return 401, {}, b""
        if self.answers and (method == "POST" or path == "/observe-as-told"):
            return self.answers.pop(0)
        if path == "/contract":
            status, said = self.company.answer(json.loads(body), int(headers["Evac-Token"]))
            return status, {}, json.dumps(said).encode()
        if method == "GET":
            return 200, {}, json.dumps({"outcome": "done" if self.done else "absent"}).encode()
        if int(headers["Evac-Token"]) < self.highest:
            return 409, {}, b'{"why":"an older leader"}'
        self.highest = int(headers["Evac-Token"])
        key = headers["Idempotency-Key"]
        if key not in self.effects:
            self.done = path == "/do"
        self.effects[key] = self.effects.get(key, 0) + 1
        return 200, {}, b'{"accepted":true,"note":"ok"}'

    def _signed(self, headers: Any, body: bytes) -> bool:
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        wanted = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
        fresh = abs(time.time() - int(headers["webhook-timestamp"] or 0)) < 300
        return fresh and headers["webhook-signature"] == "v1," + wanted

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                while receiver.silent.is_set():
                    time.sleep(0.02)
                status, headers, data = receiver.answer(self.command, self.path, self.headers, body)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    return

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        return Handler


def action(receiver: Receiver, **settings: Value) -> Action:
    given: dict[str, Value] = {
        "url": receiver.url + "/do",
        "undo_url": receiver.url + "/undo",
        "secret": "env:EVAC_TEST_HOOK",
        "observe_url": receiver.url + "/observe?pass=hush",
        **settings,
    }
    return Action("drain", "edge", "http", "pangyo", given, {"site": "pangyo"})


@contextmanager
def serving() -> Iterator[Receiver]:
    os.environ["EVAC_TEST_HOOK"] = SECRET
    made = Receiver()
    try:
        yield made
    finally:
        made.close()


def _wire(receiver: Receiver, turns: int = 4, **urls: str) -> TcpWire:
    host, _, port = receiver.url.removeprefix("http://").partition(":")
    told = {name: "http://{host}:{port}" + path for name, path in urls.items()}
    return TcpWire(host, int(port), "http", with_settings(**told), turns)


@contextmanager
def _fence(folder: Path, verb: Verb) -> Iterator[Case]:
    with serving() as receiver:

        async def state() -> object:
            return receiver.done, receiver.highest

        async def is_done() -> bool:
            return receiver.done

        fence = replace(action(receiver), verb=verb, parameters={"old": "pangyo", "proof": "power"})
        yield Case(
            HttpDriver(),
            fence,
            state,
            is_done,
            silence=receiver.silence,
            speak=receiver.speak,
            tokens=True,
            refusals=("http-refused",),
            undo="done",
            secrets=(SECRET, SECRET.removeprefix("whsec_"), "hush"),
            silent_codes=("http-no-answer",),
            wires=(_wire(receiver, url="/do", observe_url="/observe?pass=hush"),),
        )


def _as_users_ask(receiver: Receiver) -> Action:
    return Action("verify", "chat", "http", "anyang", {"url": receiver.url + "/seen-by-users"})


@contextmanager
def _verify(folder: Path, verb: Verb) -> Iterator[Case]:
    with serving() as receiver:
        receiver.works = False

        async def state() -> object:
            return receiver.done, receiver.effects, receiver.works

        async def is_done() -> bool:
            return receiver.works

        async def works() -> None:
            receiver.works = True

        yield Case(
            HttpDriver(),
            _as_users_ask(receiver),
            state,
            is_done,
            works,
            receiver.silence,
            receiver.speak,
        )


def _by_contract(receiver: Receiver, verb: Verb, **parameters: Value) -> Action:
    settings: dict[str, Value] = {
        "url": receiver.url + "/contract",
        "secret": "env:EVAC_TEST_HOOK",
        "does": tuple(one for verbs in (STORE, SERVICE) for one in verbs),
        "host": "10.0.0.1",
    }
    return Action(verb, "carts", "http", "pangyo" if verb == "demote" else "anyang", settings, parameters)


STORE: tuple[Verb, ...] = ("promote", "demote", "rejoin")
SERVICE: tuple[Verb, ...] = ("start", "scale", "stop", "shift", "drain", "ready", "verify")
GIVEN: dict[Verb, dict[str, Value]] = {
    "promote": {"candidate": "anyang"},
    "rejoin": {"primary_host": "10.0.0.1"},
    "start": {"replicas": 3},
    "scale": {"replicas": 3},
    "shift": {"to": ("anyang",), "away": ("pangyo",)},
    "drain": {"site": "pangyo"},
    "ready": {"site": "anyang"},
}


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    """By the contract of `does`. It reads every answer in one way: hostile and silent systems are tried with
    one verb.
    """
    with serving() as receiver:
        company, wanted = receiver.company, _by_contract(receiver, verb, **GIVEN.get(verb, {}))
        if verb == "rejoin":
            company.roles = dict.fromkeys(company.roles, "none")
        elif verb in ("ready", "shift", "drain"):
            company.traffic = {"pangyo"}

        async def state() -> object:
            return company.state()

        async def is_done() -> bool:
            at = company.roles[wanted.at]
            match verb:
                case "promote" | "rejoin" | "demote":
                    return at == {"promote": "primary", "rejoin": "replica", "demote": "none"}[verb]
                case "start" | "scale" | "stop":
                    return company.units == (0 if verb == "stop" else 3)
                case _:
                    return ("anyang" in company.traffic) and (
                        verb == "ready" or "pangyo" not in company.traffic
                    )

        async def prepare() -> None:
            if verb == "promote":
                company.roles["pangyo"] = "none"
            elif verb == "rejoin":
                company.roles["pangyo"] = "primary"
            elif verb == "drain":
                company.traffic = {"pangyo", "anyang"}

        is_one = verb == "start"
        yield Case(
            HttpDriver(),
            wanted,
            state,
            is_done,
            prepare,
            silence=receiver.silence if is_one else None,
            speak=receiver.speak,
            tokens=True,
            refusals=("http-refused",),
            undo="refused" if verb in STORE else "done",
            undo_is_theirs=True,
            secrets=(SECRET,),
            silent_codes=("http-no-answer",),
            wires=(_wire(receiver, 2, url="/contract"),) if is_one else (),
        )


@contextmanager
def _roles(folder: Path) -> Iterator[AskedRole]:
    with serving() as receiver:
        replica = _by_contract(receiver, "verify")
        yield AskedRole(
            HttpDriver(),
            replace(replica, at="pangyo"),
            receiver.silence,
            receiver.speak,
            (SECRET,),
            (_wire(receiver, url="/contract"),),
            replica=replica,
        )


@contextmanager
def _probe(folder: Path) -> Iterator[Asked]:
    with serving() as receiver:
        alive = _as_users_ask(receiver)
        yield AskedProbe(
            HttpDriver(),
            alive,
            receiver.silence,
            receiver.speak,
            wires=(_wire(receiver, url="/seen-by-users"),),
            gone=replace(alive, settings={"url": f"http://127.0.0.1:{free_port()}/"}),
        )


@contextmanager
def _health(folder: Path) -> Iterator[Asked]:
    with serving() as receiver:

        async def fails() -> None:
            receiver.works = False

        yield AskedHealth(
            HttpDriver(),
            _as_users_ask(receiver),
            receiver.silence,
            receiver.speak,
            wires=(_wire(receiver, url="/seen-by-users"),),
            fails=fails,
            seen=HealthReport(5, 0),
            failed=HealthReport(5, 5),
        )


ADAPTER = Adapter(
    DRIVER,
    acts={Fences: _fence, Verifies: _verify}
    | dict.fromkeys((Promotes, Follows, RunsUnits, RoutesTraffic), _acts),
    asks={AnswersProbe: _probe, ReportsHealth: _health, ReportsRole: _roles},
    marks=(pytest.mark.enable_socket,),
)
