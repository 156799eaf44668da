"""Readers of what others could have written, with what is mutated for each: orders, entries of the store,
bundles, answers of systems, what programs print, files and sources of imports.
"""

import asyncio
import base64
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import orjson

from evac.agent.acting import Acting, read_action, read_order
from evac.agent.allowed import Allowed
from evac.agent.config import AgentConfig
from evac.agent.fencing import Permits
from evac.agent.gate import Gate, Identity, Keys, NotBelieved
from evac.agent.memory import Anchors, TokenLedger
from evac.agent.units import Units
from evac.app.published import decode as decode_observed
from evac.drivers.backup_reader.driver import READERS
from evac.drivers.backups import BackupDriver, Tool, document
from evac.drivers.borg.driver import BorgDriver
from evac.drivers.capabilities import READ
from evac.drivers.haproxy import driver as haproxy
from evac.drivers.patroni import driver as patroni
from evac.drivers.pgbackrest.driver import PgbackrestDriver
from evac.drivers.port import Action
from evac.drivers.process import client
from evac.drivers.programs import Ended
from evac.drivers.redfish import system as redfish
from evac.drivers.registry import Drivers
from evac.drivers.restic.driver import ResticDriver
from evac.drivers.role_answer import role_from
from evac.engine.lead import votes, watch_journal
from evac.engine.plans import library
from evac.engine.runs import effects, live_actions, reading, requests
from evac.engine.runs.binding import decode_bound
from evac.engine.runs.open_runs import read_opened
from evac.engine.stores import datasets, sightings
from evac.estate.codecs.access import load_access
from evac.estate.codecs.bundle import Source, manifest_of, open_bundle, write_bundle
from evac.estate.codecs.credit_rules import load_rules
from evac.estate.codecs.credit_tables import load_claims
from evac.estate.codecs.notices import load_notices
from evac.estate.codecs.plan import decode as decode_plan
from evac.estate.codecs.plan import encode as encode_plan
from evac.estate.codecs.policy import load_policy
from evac.estate.format.problems import Problems
from evac.estate.importers import KINDS, Options
from evac.estate.importers.recipe import read_recipe
from evac.estate.importers.running import read_source
from evac.estate.loading import load
from evac.model.errors import EvacError
from evac.model.run_policy import RunPolicy
from evac.net.http_calls import Answer
from evac.net.secrets import Secret
from evac.notices.values import Channel, Message
from evac.office.notices import subscribers
from evac.store import anchors, generation
from evac.store.opening import Seal
from evac.store.port import Entry, MemoryStore, Put
from evac.web.subscribing import Desk

SEEDS: Final[Mapping[str, Any]] = orjson.loads(Path(__file__).with_name("fuzz_seeds.json").read_bytes())
"""What is mutated: entries, lists of copies, files, what programs and systems say, and sources of imports."""


@dataclass(frozen=True)
class Target:
    """seeds: what is mutated. read: takes hostile bytes. refusals: what it may raise, by its contract."""

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (EvacError,)


def _orders(folder: Path) -> dict[str, Target]:
    secret, os.environ["EVAC_FUZZ_KEY"] = "env:EVAC_FUZZ_KEY", "k" * 32
    key, at = Secret("k" * 32, secret), client.Addressee("pangyo", "127.0.0.1:7070")
    allow = Allowed(hosts=("10.0.0.0/8",), secrets=("env:EVAC_FUZZ_KEY",), data=("/srv",))
    config = AgentConfig("pangyo", "127.0.0.1", 7070, folder, "env:EVAC_FUZZ_KEY", allow=allow)
    ledger = TokenLedger(folder / "token.json")
    permits = Permits((), folder / "permits.json", "boot", lambda: 1_000)
    acting = Acting(config, Units(config), permits, ledger, Drivers())
    own = Identity("pangyo", lambda: frozenset({at.address}))
    order = {
        "run": "r",
        "step": "s",
        "attempt": 1,
        "token": 5,
        "epoch": 1,
        "reason": "t",
        "timeout_ms": 50,
        "key": "k",
    }
    action = {
        "verb": "rejoin",
        "target": "db",
        "driver": "postgres",
        "at": "pangyo",
        "settings": {"host": "10.1.0.9", "port": 5432, "password": secret, "data": "/srv/x", "bin": "/b"},
        "parameters": {"primary_host": "10.2.0.9", "copies": ["10.2.0.9:5432"], "peers": ["a=b:1"]},
    }
    unit = {"what": "check", "verb": "start", "unit": "chat", "replicas": 1, "order": order}
    redis = {**action, "driver": "redis", "verb": "promote"}

    def headers(data: bytes) -> None:
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        names = (client.TIMESTAMP, client.NONCE, client.SITE, client.ADDRESS, client.SIGNATURE)
        gate = Gate(Keys(["env:EVAC_FUZZ_KEY"]), own, 30_000, lambda: 1_000_000, lambda: 0)
        gate.admit(gate.believe("POST", "/v1/act", b"{}", dict(zip(names, lines, strict=False))))

    def body(data: bytes, of_unit: bool) -> None:
        values = orjson.loads(data)
        if not isinstance(values, dict):
            return
        what = acting.unit if of_unit else acting.act
        asyncio.run(what({**values, "what": "check"}))

    def named(data: bytes) -> None:
        values = orjson.loads(data)
        if isinstance(values, dict):
            read_order(values)
            allow.refuse_other(read_action(values), "pangyo")

    def anchored(data: bytes) -> None:
        Anchors(folder / "anchors")._path(data.decode("utf-8", "replace"), 0)

    signature = client.order_signature(key, "POST", "/v1/act", b"{}", 1_000_000, "a" * 32, at)
    lines = "\n".join(("1000000", "a" * 32, at.site, at.address, signature)).encode()
    wrong = (EvacError, orjson.JSONDecodeError)
    return {
        "order-headers": Target([lines], headers, (NotBelieved, EvacError)),
        "order-unit": Target([orjson.dumps(unit)], lambda data: body(data, True), wrong),
        "order-action": Target(
            [orjson.dumps({"what": "check", "action": one, "order": order}) for one in (action, redis)],
            named,
            wrong,
        ),
        "order-stream": Target([b"run-1", b"watch"], anchored),
    }


def _entries() -> dict[str, Target]:
    policy, seal = RunPolicy(), Seal((Secret("s" * 32, "env:S"),))
    asked = requests.Request("1", "approve", "kim", "because", "start:web:base:1", 5)
    epoch = datasets.Epoch("db", 3, "pangyo", "anyang", synchronous=("a",))
    notice = watch_journal.Notice("leader", 5, "pangyo", "words", {"code": "x"})
    opened = {"incident": "i", "plan": "p", "ends": {}, "approvals": 1, "leaving": ["a"], "mark": 0}
    vote = {"opinion": "up", "evidence": {"user": "up"}, "since_ms": 1, "at_ms": 2, "number": 3, "reason": ""}
    sighting = {
        "primary": "a",
        "history": "h",
        "position": 1,
        "at_ms": 2,
        "copies": [["b", 1, 2, 3]],
        "kept": [0, 0],
    }
    standing = {"member": "a", "candidate": "b", "primary": "c", "at_ms": 1, "changes": 2}
    ready = {"at_ms": 1, "plan": "p", "estate": "e", "took_ms": 2, "problem": "", "people": 3}
    segment = anchors.encode("watch", 1, 1, 1, "", [watch_journal.encode(notice)])

    def entry(key: str, read: Callable[[Entry], object]) -> Callable[[bytes], object]:
        return lambda data: read(Entry(key, data, 1))

    def packed(data: bytes) -> None:
        effects.decode(zlib.compress(data))

    loose = (EvacError, ValueError, KeyError, TypeError)
    plain: Mapping[str, tuple[bytes, Callable[[bytes], object]]] = {
        "request": (requests.encode(asked), lambda data: requests.decode("request/r/1", data)),
        "epoch": (datasets.encode(epoch), entry("epoch/db", lambda one: datasets.decode("db", one))),
        "notice": (watch_journal.encode(notice), watch_journal.decode),
        "effects": (orjson.dumps(SEEDS["entries"]["moved"]), packed),
        "effects-packed": (zlib.compress(orjson.dumps(SEEDS["entries"]["moved"])), effects.decode),
        "vote": (orjson.dumps(vote), entry("votes/a/b", votes.decode)),
        "sighting": (orjson.dumps(sighting), lambda data: sightings.decode_sighting("db", data)),
        "standing": (orjson.dumps(standing), lambda data: live_actions.decode_standing("db", data)),
        "ready-plan": (orjson.dumps(ready), entry("drawer/a+b", library.decode)),
        "bound": (orjson.dumps(SEEDS["entries"]["bound"]), decode_bound),
        "event": (b'["run_created",1,"",0,{"plan":"p"}]', reading.decode),
        "segment": (segment, lambda data: anchors.decode("watch", 1, data)),
        "generation": (b'{"number":1,"opener":"x","at_ms":1}', entry("generation", generation.decode)),
        "newer": (b'{"number":1,"opener":"x","by":"y","at_ms":1}', entry("newer", generation.decode_newer)),
        "observed": (orjson.dumps(SEEDS["entries"]["seen"]), decode_observed),
        # Reasons in the words of today: others would be refused before anything else is read.
        "plan": (encode_plan(decode_plan(orjson.dumps(SEEDS["plan"]), own=True)), decode_plan),
        "sealed": (seal.close("k", b"value"), lambda data: seal.open("k", data)),
    }
    found = {f"entry-{name}": Target([seed], read) for name, (seed, read) in plain.items()}
    read = lambda data: read_opened("r", data, policy)  # noqa: E731
    return {**found, "entry-open-run": Target([orjson.dumps(opened)], read, loose)}


def _bundles(folder: Path) -> dict[str, Target]:
    made, hostile = folder / "seed.bundle", folder / "hostile.bundle"
    values: dict[str, Any] = {
        "made_at_ms": 1,
        "evac": "0",
        "estate_file": "",
        "policy": "",
        "estate": {"name": "n", "digest": "d"},
        "generation": {"number": 1, "opener": "o"},
        "plans": [],
        "journals": [],
        "epochs": [{"store": "s", "epoch": 1, "holder": "h"}],
        "open_runs": ["r"],
        "wheels": [],
        "left_out": [{"what": "w", "why": "y"}],
        "references": [{"reference": "env:A", "for": ["x"], "sealed": False}],
        "sealed": None,
    }
    write_bundle(made, values, [Source("START.txt", b"start"), Source("estate/estate.yaml", b"evac: 1\n")])

    def whole(data: bytes) -> None:
        hostile.write_bytes(data)
        with open_bundle(hostile) as found:
            manifest_of(found)
            found.problems()

    def manifest(data: bytes) -> None:
        told = orjson.loads(data)
        if isinstance(told, dict):
            write_bundle(hostile, told, [Source("START.txt", b"start")])
            with open_bundle(hostile) as found:
                manifest_of(found)

    wrong = (EvacError, orjson.JSONDecodeError)
    return {
        "bundle": Target([made.read_bytes()], whole),
        "bundle-manifest": Target([orjson.dumps(values)], manifest, wrong),
    }


_DATES: Final = (b"Wed, 21 Oct 2026 07:28:00 GMT", b"Fri, 31 Dec 9999 23:59:60 -0000", b"120")


def _answers() -> dict[str, Target]:
    """What backup tools and other systems say."""

    def reader(tool: str) -> Callable[[bytes], object]:
        return lambda data: READERS[tool](document(data.decode("utf-8", "replace"), tool))

    lists = {
        f"backup-{tool}": Target([orjson.dumps(rows)], reader(tool)) for tool, rows in SEEDS["lists"].items()
    }
    role = {"role": "primary", "lag_ms": 1, "confirms": ["a"], "position": 5, "history": "h"}
    later = lambda data: Answer(503, {"retry-after": data.decode("latin-1")}, data).after_ms(1e9)  # noqa: E731
    return {
        **lists,
        "role": Target([orjson.dumps(role)], lambda data: role_from(orjson.loads(data)), (ValueError,)),
        "retry-after": Target(_DATES, later),
    }


_BACKUPS: Final[tuple[type[BackupDriver], ...]] = (BorgDriver, ResticDriver, PgbackrestDriver)


def _encoded(value: Any) -> str:
    """As etcd's JSON has it."""
    return base64.b64encode(_bytes(value)).decode()


def _tools() -> dict[str, Target]:
    """What the programs and systems that drivers ask say."""
    settings = {"repository": "r", "paths": ("/srv/x",), "password": "env:EVAC_FUZZ_KEY", "stanza": "s"}

    def asked(make: type[BackupDriver]) -> Callable[[bytes], object]:
        async def ask(said: Mapping[str, Any]) -> None:
            async def run(_: Tool, *argv: str, **__: Any) -> Ended:
                told = next((said[one] for one in argv if one in said), "")
                text = told if isinstance(told, str) else orjson.dumps(told).decode()
                return Ended(0, text, True, "", text.encode("utf-8", "replace"))

            driver, action = make(), Action("restore", "db", make.name, "", settings)
            with mock.patch.object(Tool, "run", run):
                await driver.list_copies(action, 5)
                await driver.prove(action, 5, READ, 1, 1)
                await driver.take(action, 5)

        def read(data: bytes) -> None:
            said = orjson.loads(data)
            if isinstance(said, dict):
                asyncio.run(ask(said))

        return read

    def balancer(data: bytes) -> None:
        async def send(*_: Any) -> str:
            return data.decode("utf-8", "replace")

        with mock.patch.object(haproxy, "send", send):
            asyncio.run(haproxy.see(haproxy.Endpoint("", "h", 1), "web", 1))

    def cluster(data: bytes) -> None:
        dcs = patroni.Dcs({"etcd": ["http://127.0.0.1:1"], "scope": "s"}, 5)
        found = orjson.loads(data)
        if not isinstance(found, dict):
            return

        async def answer(*_: Any, **__: Any) -> Any:
            rows = [
                {"key": _encoded(key), "value": _encoded(value), "mod_revision": "5"}
                for key, value in (*found.items(), ("claim", b"5 1 promote"))
            ]
            parts = ({"response_range": {"kvs": some}} for some in (rows[:-1], rows[-1:]))
            return {"responses": list(parts)}

        with mock.patch.object(dcs, "_transact", answer):
            seen = asyncio.run(dcs.read())
        for name in seen.members:
            patroni.member_facts(seen, name)

    def system(data: bytes) -> None:
        found = orjson.loads(data)
        if isinstance(found, dict):
            redfish.read("/redfish/v1/Systems/1", found)
            redfish.links(found.get("Members"), 5)

    wrong = (EvacError, orjson.JSONDecodeError)
    return {
        **{
            f"tool-{make.name}": Target([_bytes(SEEDS["tools"][make.name])], asked(make), wrong)
            for make in _BACKUPS
        },
        "haproxy": Target([_bytes(SEEDS["haproxy"])], balancer),
        "patroni": Target([_bytes(SEEDS["patroni"])], cluster, wrong),
        "redfish": Target([_bytes(SEEDS["redfish"])], system, wrong),
    }


def _subscribers() -> dict[str, Target]:
    """What the store has of subscribers, and what anyone sends to the page where they subscribe."""
    os.environ["EVAC_FUZZ_KEY"] = "k" * 32
    channel = Channel("users", "mail", "env:X", "env:EVAC_FUZZ_KEY", sender="a@b.kr", join="https://b.kr/s")
    vault, day_ms, me = (
        subscribers.vault_of(channel),
        subscribers.DAY_MS,
        {"address": "k@b.kr", "language": "ko"},
    )
    keys = {
        "asked": subscribers.ASKED + vault.mailbox_of(me["address"]),
        "reader": subscribers.READER + vault.id_of(me["address"]),
        "mailed": subscribers.MAILED + "m",
    }
    message = Message("m", "update", "once", "info", "words", "", day_ms)
    link = vault.seal("confirm", {**me, "at_ms": 1, "until_ms": 2 * day_ms})

    async def walk(told: Mapping[str, Any]) -> None:
        store = MemoryStore()
        puts = [Put(keys[name], _bytes(value)) for name, value in told.items() if name in keys]
        await store.transact((), puts)
        mail = subscribers.Mail(channel, "", store, lambda: day_ms)
        with mock.patch.object(subscribers.Mail, "_connected", mock.MagicMock()):
            await mail.invite()
            await mail.send(message)
        await subscribers.ask(store, vault, "k+x@b.kr", "en", day_ms)
        await subscribers.confirm(store, vault, link, day_ms)
        await subscribers.exported(store, vault)
        await subscribers.remove(store, vault, vault.id_of(me["address"]))

    def entries(data: bytes) -> None:
        told = orjson.loads(data)
        if isinstance(told, dict):
            asyncio.run(walk(told))

    async def call(method: str, path: str, query: str, body: bytes) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(told: Mapping[str, Any]) -> None:
            if told.get("status", 200) == 500:
                raise ValueError("status 500")

        scope = {"type": "http", "method": method, "path": path, "headers": [], "client": ("10.0.0.1", 1)}
        desk = Desk(MemoryStore(), channel, "", lambda: day_ms)
        await desk.application()({**scope, "query_string": query.encode("utf-8", "replace")}, receive, send)

    def page(data: bytes) -> None:
        told = orjson.loads(data)
        if isinstance(told, dict):
            method, path, query, body = (_bytes(told.get(one)) for one in ("method", "path", "query", "body"))
            texts = (one.decode("utf-8", "replace") for one in (method, path, query))
            asyncio.run(call(*texts, body))

    at = {"at_ms": 1, "sealed": vault.seal("asked", me)}
    stored = {
        "asked": {**at, "mailed_ms": 0, "tries": 0, "next_ms": 0},
        "reader": {"sealed": vault.seal("reader", me), "since_ms": 1, "refused": 2},
        "mailed": {"at_ms": 1, "after": "", "again": ["x"]},
    }
    sent = [
        {"method": "POST", "path": "/s", "query": "language=ko", "body": "address=k%40b.kr&language=ko"},
        {"method": "POST", "path": "/s/confirm", "query": f"link={link}", "body": ""},
        {"method": "GET", "path": "/s/leave", "query": f"link={vault.leave_link('x')}", "body": ""},
    ]
    wrong = (EvacError, orjson.JSONDecodeError)
    return {
        "subscriber-entries": Target([orjson.dumps(stored)], entries, wrong),
        "subscriber-page": Target([orjson.dumps(one) for one in sent], page, wrong),
    }


def _write(folder: Path, data: bytes) -> list[Path]:
    """Writes the files of a mutated source; none where the mutation took their names."""
    files, written = orjson.loads(data), []
    for name, value in files.items() if isinstance(files, dict) else ():
        if (
            name.isascii()
            and name.isprintable()
            and ".." not in name
            and len(name) < 100
            and name[:1].isalpha()
        ):
            path = folder / name
            if not path.is_dir() and all(not one.is_file() for one in path.parents):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_bytes(value))
                written.append(path)
    return written


def _sources(folder: Path) -> dict[str, Target]:
    """Files that estates are imported from: what is wrong with one is a problem that is reported."""

    def reader(kind: str, single: bool) -> Callable[[bytes], object]:
        def read(data: bytes) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as made:
                if files := _write(Path(made), data):
                    source = files[0] if single else Path(made)
                    read_source(kind, source, Problems(), Options(site="a"))

        return read

    missing = set(KINDS) - SEEDS["sources"].keys()
    if missing:
        raise ValueError(f"no source of {sorted(missing)}")
    return {
        f"import-{name}": Target(
            [orjson.dumps(files)],
            reader(name.removesuffix("-folder"), len(files) == 1),
            (EvacError, orjson.JSONDecodeError),
        )
        for name, files in SEEDS["sources"].items()
    }


_LOADERS: Final[Mapping[str, Callable[[Path], object]]] = {
    "estate.yaml": load,
    "policy.yaml": load_policy,
    "access.yaml": load_access,
    "notices.yaml": load_notices,
    "rules.yaml": load_rules,
    "claims.csv": load_claims,
    "recipe.yaml": lambda path: read_recipe(path, KINDS, Problems()),
}


def _files(folder: Path) -> dict[str, Target]:
    """Files of the operator's own, which somebody else may have written."""

    def reader(name: str, load: Callable[[Path], object]) -> Callable[[bytes], object]:
        def read(data: bytes) -> None:
            path = folder / "files" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            load(path)

        return read

    return {
        f"file-{name.partition('.')[0]}": Target([_bytes(SEEDS["files"][name])], reader(name, load))
        for name, load in _LOADERS.items()
    }


def _bytes(value: Any) -> bytes:
    """Bytes and text as they are, any other value as JSON."""
    if isinstance(value, bytes):
        return value
    return value.encode("utf-8", "replace") if isinstance(value, str) else orjson.dumps(value)


def targets(folder: Path) -> dict[str, Target]:
    """Every reader of what others could have written. folder: for files."""
    ours = {**_orders(folder), **_entries(), **_bundles(folder), **_files(folder)}
    return {**ours, **_answers(), **_tools(), **_subscribers(), **_sources(folder)}
