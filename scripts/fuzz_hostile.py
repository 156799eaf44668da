"""Feeds mutated orders, store entries, bundles, answers and sources to their readers, and counts what fails.

    python scripts/fuzz_hostile.py [--cases 1000000] [--seed 1] [--seconds 600] [--only TARGET]

A reader may refuse what it does not understand, by an error of evac. Anything else is a finding: another
exception, a case that takes longer than a second, or a reader that takes more than 256 MB. The same seed
gives the same cases. Mutations know JSON: values are exchanged for others of another kind or size, keys go,
bits flip.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from evac.agent.acting import Acting, read_action, read_order
from evac.agent.allowed import Allowed
from evac.agent.config import AgentConfig
from evac.agent.fencing import Permits
from evac.agent.gate import Gate, Identity, Keys, NotBelieved
from evac.agent.memory import Anchors, TokenLedger
from evac.agent.units import Units
from evac.app.observed_stores import decode as decode_observed
from evac.drivers.backup_reader.formats import READERS
from evac.drivers.backups import document
from evac.drivers.process import client
from evac.drivers.registry import Drivers
from evac.drivers.role_answer import role_from
from evac.engine.lead import verdict_answers, watch_journal
from evac.engine.plans import library
from evac.engine.runs import effects, live_actions, reading, requests
from evac.engine.runs.binding import decode_bound
from evac.engine.runs.open_runs import read_opened
from evac.engine.stores import datasets, sightings
from evac.estate.codecs.bundle import Source, manifest_of, open_bundle, write_bundle
from evac.estate.codecs.plan import decode as decode_plan
from evac.estate.format.problems import Problems
from evac.estate.importers import ansible, compose, netbox, prometheus, terraform
from evac.estate.importers.imported import Options
from evac.model.errors import EvacError
from evac.model.run_policy import RunPolicy
from evac.net.http_calls import Answer
from evac.net.secrets import Secret
from evac.store import anchors, generation
from evac.store.port import Entry
from evac.store.sealed import Seal

SLOW_S: Final = 1.0
GROWTH_MOST_KB: Final = 256 << 10
_HOSTILE: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    2**53,
    2**63,
    2**64 - 1,
    -(2**63),
    1.5,
    -1e308,
    "",
    "a" * 5_000,
    "\0",
    "../../etc/passwd",
    "file:/etc/shadow",
    "NaN",
    "9" * 5_000,
    "\u202e\ud7ff",
    [],
    [[]],
    {},
    {"": {}},
    [None] * 50,
    ["x", 1, None],
)


@dataclass(frozen=True)
class Target:
    """seeds: what is mutated. read: takes hostile bytes. refusals: what it may raise, by its contract."""

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (EvacError,)


def mutated(dice: random.Random, seed: bytes) -> bytes:
    """JSON is changed by its structure most of the time; all else, and the rest of the time, by its bytes."""
    if dice.random() < 0.7:
        try:
            value = orjson.loads(seed)
        except orjson.JSONDecodeError:
            pass
        else:
            for _ in range(dice.randint(1, 3)):
                value = _exchanged(dice, value)
            try:
                return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
            except (orjson.JSONEncodeError, TypeError, ValueError):
                pass
    data = bytearray(seed)
    for _ in range(dice.randint(1, 8)):
        at, way = dice.randrange(len(data) + 1), dice.randrange(4)
        if way == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif way == 1:
            data[at:at] = dice.choice((b"1e999", b"[" * 500, b'{"a":', b"\x00", b"\xff", b"9" * 400, b"\n"))
        elif way == 2:
            del data[at : at + dice.randint(1, 40)]
        else:
            data[at:at] = data[dice.randrange(len(data) + 1) :][:200]
    return bytes(data)


def _exchanged(dice: random.Random, value: Any) -> Any:
    """One value somewhere in it is another."""
    if isinstance(value, dict) and value and dice.random() < 0.9:
        key = dice.choice(list(value))
        rest = dict(value)
        if dice.random() < 0.1:
            del rest[key]
        elif dice.random() < 0.1:
            rest[str(dice.choice(_HOSTILE))[:200]] = rest.pop(key)
        else:
            rest[key] = _exchanged(dice, value[key])
        return rest
    if isinstance(value, list) and value and dice.random() < 0.9:
        at = dice.randrange(len(value))
        return [*value[:at], _exchanged(dice, value[at]), *value[at + 1 :]]
    return dice.choice(_HOSTILE)


def _orders(folder: Path) -> dict[str, Target]:
    os.environ["EVAC_FUZZ_KEY"] = "k" * 32
    key, at = Secret("k" * 32, "env:EVAC_FUZZ_KEY"), client.Addressee("pangyo", "127.0.0.1:7070")
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
        "settings": {"host": "10.1.0.9", "port": 5432, "password": "env:X", "data": "/srv/x", "bin": "/b"},
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


_MOVED: Final = {
    "run": "r",
    "scenario": "lose",
    "domains": ["pangyo"],
    "began_ms": 1,
    "ended_ms": 2,
    "phase": "succeeded",
    "placed": {"web": [["a", 1]]},
    "traffic": {"web": ["a"]},
    "servers": {"s": True},
    "roles": {"db": [["a", "primary"]]},
    "steps": {"web": ["start:web:base", 5]},
}
_SEEN: Final = {
    "at_ms": 1,
    "estate": "d",
    "members": [["db", "a", "primary"], ["db", "b", "replica", 5]],
    "changes": {"db": 1},
    "lost": [["a", "lost", 1, "r"]],
    "runs": ["r"],
    "rivals": [["db", ["a", "b"], 1]],
}
_BOUND: Final = {
    "version": 1,
    "run": "r",
    "incident": "i",
    "plan": "p",
    "envelope": {"sites": ["a"], "stores": [], "most_lost_ms": 0, "most_shed": 0},
    "approvals": 1,
    "monitor_ms": 0,
    "horizon_ms": 0,
    "labels": {},
    "patience": {},
    "pace": {"shares": [1000], "wait_ms": 0},
    "limits": [["l", "slots", 1, 0]],
    "steps": [["s", "start", "web", 0, 1, [], [], 0, "", False, False, "", "a", False, ""]],
    "actions": {"s": [["start", "web", "command", "a", 0, {}]]},
    "settings": [{"argv": ["x"]}],
}
"""What a run moved, what was observed and what a run is bound to, as the store holds them."""


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
        "effects": (orjson.dumps(_MOVED), packed),
        "effects-packed": (zlib.compress(orjson.dumps(_MOVED)), effects.decode),
        "vote": (orjson.dumps(vote), entry("votes/a/b", verdict_answers.decode)),
        "sighting": (orjson.dumps(sighting), lambda data: sightings.decode_sighting("db", data)),
        "standing": (orjson.dumps(standing), lambda data: live_actions.decode_standing("db", data)),
        "ready-plan": (orjson.dumps(ready), entry("drawer/a+b", library.decode)),
        "bound": (orjson.dumps(_BOUND), decode_bound),
        "event": (b'["run_created",1,"",0,{"plan":"p"}]', reading.decode),
        "segment": (segment, lambda data: anchors.decode("watch", 1, data)),
        "generation": (b'{"number":1,"opener":"x","at_ms":1}', entry("generation", generation.decode)),
        "newer": (b'{"number":1,"opener":"x","by":"y","at_ms":1}', entry("newer", generation.decode_newer)),
        "observed": (orjson.dumps(_SEEN), decode_observed),
        "plan": (b'{"schema_version":1,"steps":[]}', decode_plan),
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


_BACKUP: Final = {"kind": "Backup", "metadata": {"namespace": "shop", "name": "b"}}
_AT: Final = "2026-11-25T02:00:00Z"
_LISTS: Final[Mapping[str, Any]] = {
    "velero": [
        _BACKUP
        | {"apiVersion": "velero.io/v1", "spec": {"includedNamespaces": ["shop"]}}
        | {"status": {"phase": "Completed", "startTimestamp": _AT, "errors": 0}}
    ],
    "k8up": [
        {"kind": "Snapshot", "apiVersion": "k8up.io/v1", "metadata": {"name": "s"}}
        | {"spec": {"id": "a", "date": _AT, "paths": ["/data"], "repository": "s3:x"}}
    ],
    "cloudnativepg": [
        _BACKUP
        | {"apiVersion": "postgresql.cnpg.io/v1", "spec": {"cluster": {"name": "c"}}}
        | {"status": {"phase": "completed", "startedAt": _AT}}
    ],
    "wal-g": [{"backup_name": "b", "start_time": _AT, "finish_time": _AT, "uncompressed_size": 5}],
    "kopia": [{"id": "k", "source": {"path": "/d"}, "startTime": _AT, "stats": {"errorCount": 0}}],
}
_KUBERNETES: Final = ("velero", "k8up", "cloudnativepg")
_DATES: Final = (b"Wed, 21 Oct 2026 07:28:00 GMT", b"Fri, 31 Dec 9999 23:59:60 -0000", b"120")


def _answers() -> dict[str, Target]:
    """What backup tools and other systems say."""

    def reader(tool: str) -> Callable[[bytes], object]:
        return lambda data: READERS[tool](document(data.decode("utf-8", "replace"), tool))

    lists = {
        f"backup-{tool}": Target(
            [orjson.dumps({"items": rows} if tool in _KUBERNETES else rows)], reader(tool)
        )
        for tool, rows in _LISTS.items()
    }
    role = {"role": "primary", "lag_ms": 1, "confirms": ["a"], "position": 5, "history": "h"}
    later = lambda data: Answer(503, {"retry-after": data.decode("latin-1")}, data).after_ms(1e9)  # noqa: E731
    return {
        **lists,
        "role": Target([orjson.dumps(role)], lambda data: role_from(orjson.loads(data)), (ValueError,)),
        "retry-after": Target(_DATES, later),
    }


_SOURCES: Final[Mapping[str, tuple[str, Any]]] = {
    "netbox": ("n.json", {"results": [{"name": "s1", "device_type": {"model": "x"}, "site": {"slug": "a"}}]}),
    "terraform": (
        "t.json",
        {"values": {"root_module": {"resources": [{"type": "aws_instance", "name": "w", "values": {}}]}}},
    ),
    "ansible": ("a.yaml", {"all": {"children": {"web": {"hosts": {"w1": {"ansible_host": "10.0.0.1"}}}}}}),
    "prometheus": (
        "p.json",
        {"status": "success", "data": {"result": [{"metric": {"pod": "a-1-b"}, "value": [1, "0.5"]}]}},
    ),
    "compose": ("c.yaml", {"services": {"web": {"image": "x", "deploy": {"replicas": 2}}}}),
}
_IMPORTERS: Final = {
    "netbox": netbox.read,
    "terraform": terraform.read,
    "ansible": ansible.read,
    "prometheus": prometheus.read,
    "compose": compose.read,
}


def _sources(folder: Path) -> dict[str, Target]:
    """Files that estates are imported from: what is wrong with one is a problem that is reported."""

    def reader(name: str) -> Callable[[bytes], object]:
        def read(data: bytes) -> None:
            path = folder / _SOURCES[name][0]
            path.write_bytes(data)
            _IMPORTERS[name](path, Problems(), Options(site="a"))

        return read

    return {
        f"import-{name}": Target([orjson.dumps(seed)], reader(name)) for name, (_, seed) in _SOURCES.items()
    }


def targets(folder: Path) -> dict[str, Target]:
    """Every reader of what others could have written. folder: for files."""
    return {**_orders(folder), **_entries(), **_bundles(folder), **_answers(), **_sources(folder)}


def fuzz(name: str, target: Target, cases: int, seed: int, until_s: float) -> tuple[Counter[str], list[str]]:
    """(how many cases ended in which way, findings). until_s: on the monotonic clock."""
    dice, ends, findings = random.Random(f"{seed}/{name}"), Counter[str](), list[str]()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(cases):
        data, began = mutated(dice, dice.choice(target.seeds)), time.monotonic()
        if began > until_s:
            break
        try:
            target.read(data)
            ends["read"] += 1
        except target.refusals:
            ends["refused"] += 1
        except Exception as error:
            ends["finding"] += 1
            findings.append(
                f"{name} case {number}: {type(error).__name__}: {str(error)[:100]} {data[:160]!r}"
            )
        took_s = time.monotonic() - began
        if took_s > SLOW_S:
            findings.append(f"{name} case {number}: took {took_s:.1f} s: {data[:160]!r}")
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    if grown_kb > GROWTH_MOST_KB:
        findings.append(f"{name}: memory grew by {grown_kb >> 10} MB")
    return ends, findings


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=1_000_000, help="of all targets together")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--only", default="")
    asked = options.parse_args()
    failed, until_s, total = False, time.monotonic() + asked.seconds, 0
    with tempfile.TemporaryDirectory(prefix="evac-fuzz-") as folder:
        chosen = {name: one for name, one in targets(Path(folder)).items() if asked.only in name}
        for name, target in chosen.items():
            ends, findings = fuzz(name, target, asked.cases // len(chosen), asked.seed, until_s)
            total += sum(ends.values())
            failed |= bool(findings)
            print(f"{name:20} {dict(ends)}", flush=True)
            kinds = {one.partition(": ")[2][:40]: one for one in reversed(findings)}
            for finding in list(kinds.values())[:6]:
                print(f"  {finding}", flush=True)
    print(f"{total:,} cases")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
