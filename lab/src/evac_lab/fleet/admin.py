"""The fleet's own interface on 127.0.0.1: what was counted, the breakers, the faults, the budgets.

Not part of Redfish, and open to everyone on the machine: it belongs to the lab.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import numpy as np
import numpy.typing as npt
import orjson

from evac.model.errors import EvacError, InvalidInput
from evac_lab.fleet import resources
from evac_lab.fleet.connections import HttpConnection
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.ground import FAULTS, INRUSH, NO_LIMIT, STEADY, address_of, code_of
from evac_lab.fleet.machines import OFF, ON
from evac_lab.fleet.resources import Answer, Json, Request

SERVERS_SHOWN: Final = 1_000
_POINTS: Final = 1_000
STATES: Final = ("all", "off", "booting", "up", "no-power", "faulty", "stalled")
_WATTS_MOST: Final = 10**12


class AdminDoor:
    """A `Door` on the loopback address alone."""

    def __init__(self, fleet: Fleet, about: Mapping[str, object]) -> None:
        self.fleet, self._about = fleet, dict(about)
        self._open: set[HttpConnection] = set()

    def enter(self, connection: HttpConnection, address: str) -> int | None:
        if len(self._open) >= 64:
            return None
        self._open.add(connection)
        return 0

    def leave(self, connection: HttpConnection) -> None:
        self._open.discard(connection)

    def begin(self, server: int) -> float | None:
        return 0.0

    def end(self, server: int, status: int) -> None:
        """Nothing is counted here."""

    def close(self) -> None:
        for connection in list(self._open):
            connection.drop()

    def answer(self, server: int, request: Request) -> Answer | None:
        path = unquote(request.path).strip("/")
        try:
            body = self._route(request, path)
        except EvacError as error:
            status = 404 if error.code == "fleet-domain" else 400
            return Answer(status, {"code": error.code, "message": error.message, "hint": error.hint})
        if body is None:
            words = {"code": "fleet-admin", "message": f"not found: {request.method} /{path[:80]}"}
            return Answer(404, {**words, "hint": "GET / lists everything"})
        return Answer(200, body)

    def _route(self, request: Request, path: str) -> Json | None:
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        if request.method in ("GET", "HEAD"):
            found = self._gets().get(path)
            return None if found is None else found(query)
        top, _, rest = path.partition("/")
        if request.method == "PUT" and top == "budget" and rest:
            return self._budget(rest, _body(request))
        if request.method != "POST":
            return None
        if path == "faults":
            return self._set_faults(_body(request))
        id, _, verb = rest.rpartition("/")
        if top == "feeds" and verb in ("open", "close"):
            return self._breaker(id, verb)
        if top == "boot-servers" and verb in ("kill", "revive"):
            return self._boot_server(id, verb)
        return None

    def _gets(self) -> dict[str, Callable[[dict[str, str]], Json]]:
        return {
            "": lambda _: {**self._about, "paths": _PATHS},
            "stats": lambda _: self.stats(),
            "servers": self.servers,
            "timeline": lambda _: self.timeline(),
            "power": lambda _: self.power(),
            "faults": lambda _: self._faults(),
        }

    def stats(self) -> Json:
        """All counters."""
        now = self.fleet.now()
        return {**_requests(self.fleet), "time_ms": now, **_servers(self.fleet), **_power(self.fleet)}

    def timeline(self) -> Json:
        """Number of servers up over fleet time; at most a thousand points, always including the last."""
        now = self.fleet.now()
        points = self.fleet.machines.timeline.points(_POINTS)
        return {"time_ms": now, "up": [{"at_ms": at, "servers": count} for at, count in points]}

    def servers(self, query: dict[str, str]) -> Json:
        """Servers in a state, or with a fault: at most a thousand, starting at number `from`."""
        now = self.fleet.now()
        state, fault = query.get("state", "all"), query.get("fault")
        if state not in STATES:
            raise InvalidInput("fleet-admin", f"{state[:40]} is not a state", f"one of {', '.join(STATES)}")
        mask = _in_state(self.fleet, state)
        if fault is not None:
            mask &= self.fleet.machines.fault == code_of(fault)
        first = query.get("from", "0")
        if not first.isascii() or not first.isdigit() or len(first) > 9:
            raise InvalidInput("fleet-admin", f"{first[:40]} is not a number", "from=1000")
        rows = np.flatnonzero(mask)
        rows = rows[rows >= int(first)]
        shown = [self._server(int(row), now) for row in rows[:SERVERS_SHOWN]]
        return {"count": int(mask.sum()), "more": len(rows) > SERVERS_SHOWN, "servers": shown}

    def _server(self, row: int, now: int) -> Json:
        machines, ground = self.fleet.machines, self.fleet.ground
        return {
            "number": row,
            "server": ground.name_of(row),
            "address": address_of(row),
            "serial": ground.serial_of(row),
            "rack": ground.racks[int(ground.rack[row])].id,
            "fault": FAULTS[machines.fault[row]],
            "power": "off" if machines.state[row] == OFF else "on",
            "progress": machines.progress(row, now),
            "up": bool(machines.up[row]),
            "resets": int(machines.resets[row]),
            "power_ons": int(machines.power_ons[row]),
            "requests": int(self.fleet.stats.requests[row]),
            "boots": int(machines.boots[row]),
        }

    def power(self) -> Json:
        """Every feed, hall and rack: load, peak, budget, breaker, and its circuit if it is a feed."""
        self.fleet.now()
        grid = self.fleet.grid
        circuit = {domain: row + 1 for row, domain in enumerate(resources.feeds(self.fleet))}
        found = [
            {
                "id": id,
                "kind": grid.kinds[row],
                "closed": grid.closed[row],
                "tripped": grid.tripped[row],
                "watts": grid.load[row][STEADY],
                "inrush_watts": grid.load[row][INRUSH],
                "peak_watts": grid.peak[row][STEADY],
                "peak_inrush_watts": grid.peak[row][INRUSH],
                "budget_watts": _known(grid.budget[row][STEADY]),
                "budget_inrush_watts": _known(grid.budget[row][INRUSH]),
                **({"circuit": f"/redfish/v1/{resources.FEEDERS}/{circuit[row]}"} if row in circuit else {}),
            }
            for row, id in enumerate(grid.ids)
        ]
        return {"domains": found}

    def _breaker(self, id: str, verb: str) -> Json:
        now = self.fleet.now()
        domain = self.fleet.grid.number(id)
        before = self.fleet.machines.trip_count
        lost = 0
        if verb == "open":
            lost = self.fleet.machines.open(domain, now)
        else:
            self.fleet.machines.close(domain, now)
        tripped = self.fleet.machines.trip_count - before
        return {"id": id, "closed": self.fleet.grid.closed[domain], "lost": lost, "trips": tripped}

    def _boot_server(self, id: str, verb: str) -> Json:
        number = self.fleet.boot_server(id)
        now, machines = self.fleet.now(), self.fleet.machines
        boots = (machines.kill_boot_server if verb == "kill" else machines.revive_boot_server)(number, now)
        return {"id": id, "down": machines.boot_server_down[number], "boots": boots}

    def _budget(self, id: str, body: Json) -> Json:
        domain = self.fleet.grid.number(id)
        watts = {name: _watts(body, name) for name in ("power_watts", "inrush_watts")}
        if unknown := set(body) - set(watts):
            raise InvalidInput(
                "fleet-admin", f"{min(unknown)[:40]} is not part of a budget", "power_watts, inrush_watts"
            )
        before = self.fleet.machines.trip_count
        self.fleet.machines.set_budget(domain, watts["power_watts"], watts["inrush_watts"], self.fleet.now())
        budget = self.fleet.grid.budget[domain]
        return {
            "id": id,
            "power_watts": _known(budget[STEADY]),
            "inrush_watts": _known(budget[INRUSH]),
            "trips": self.fleet.machines.trip_count - before,
        }

    def _faults(self) -> Json:
        counts = np.bincount(self.fleet.machines.fault, minlength=len(FAULTS))
        return {"faults": {fault: int(counts[code]) for code, fault in enumerate(FAULTS)}}

    def _set_faults(self, body: Json) -> Json:
        """{fault, servers: [names]} or {fault, rack|hall|feed: id} or {fault, share, seed}."""
        fault = body.get("fault")
        if not isinstance(fault, str):
            raise InvalidInput("fleet-faults", "the fault is missing", f"one of {', '.join(FAULTS)}")
        code_of(fault)
        servers = self._chosen(body)
        self.fleet.machines.set_faults(servers, fault, self.fleet.now())
        for server in servers.tolist():
            self.fleet.first_call.pop(server, None)
        return {"fault": fault, "servers": len(servers)}

    def _chosen(self, body: Json) -> npt.NDArray[np.int64]:
        ground = self.fleet.ground
        if isinstance(names := body.get("servers"), list) and all(isinstance(one, str) for one in names):
            wanted = np.array([one.encode() for one in names] or [b""])
            if unknown := set(wanted.tolist()) - set(ground.name[np.isin(ground.name, wanted)].tolist()):
                raise InvalidInput(
                    "fleet-faults", f"no such server: {min(unknown).decode()[:80]}", "GET /servers"
                )
            return np.flatnonzero(np.isin(ground.name, wanted))
        for kind in ("rack", "hall", "feed"):
            if isinstance(id := body.get(kind), str):
                return self.fleet.grid.servers_behind(self.fleet.grid.number(id))
        share, seed = body.get("share"), body.get("seed", 1)
        if not isinstance(share, int | float) or not 0 <= share <= 1 or not isinstance(seed, int) or seed < 0:
            raise InvalidInput(
                "fleet-faults",
                "the request does not say what has the fault",
                "servers, rack, hall, feed or share",
            )
        count = round(share * len(ground))
        return np.sort(np.random.default_rng(seed).permutation(len(ground))[:count])


_PATHS: Final = (
    "GET /stats",
    "GET /servers?state=&fault=&from=",
    "GET /timeline",
    "GET /power",
    "GET /faults",
    "POST /feeds/ID/open",
    "POST /feeds/ID/close",
    "PUT /budget/ID",
    "POST /faults",
    "POST /boot-servers/ID/kill",
    "POST /boot-servers/ID/revive",
)


def _requests(fleet: Fleet) -> Json:
    stats, resets, ons = fleet.stats, fleet.machines.resets, fleet.machines.power_ons
    return {
        "requests": {
            "all": stats.total,
            "circuits": stats.circuits,
            "nobody": stats.nobody,
            "servers_called": int((stats.requests > 0).sum()),
            "most_of_one": int(stats.requests.max(initial=0)),
            "most_at_once_to_one": int(stats.most_at_once.max(initial=0)),
            "statuses": {str(status): count for status, count in sorted(stats.statuses.items())},
            "unauthorized": stats.unauthorized,
        },
        "connections": {
            "open": stats.connections,
            "most": stats.connections_most,
            "all": stats.connections_in_all,
            "refused": stats.connections_refused,
        },
        "sessions": {
            "open": fleet.accounts.sessions_open,
            "opened": stats.sessions_opened,
            "closed": stats.sessions_closed,
            "expired": stats.sessions_expired,
            "refused": stats.sessions_refused,
            "most_of_one": stats.sessions_most,
        },
        "lockouts": stats.lockouts,
        "resets": {
            "all": int(resets.sum()),
            "max": int(resets.max(initial=0)),
            "more_than_one": int((resets > 1).sum()),
            "power_ons": int(ons.sum()),
            "power_ons_max": int(ons.max(initial=0)),
            "power_ons_more_than_one": int((ons > 1).sum()),
        },
    }


def _servers(fleet: Fleet) -> Json:
    machines = fleet.machines
    on, up = machines.state != OFF, machines.up
    powered = fleet.grid.rack_live[fleet.grid.rack_of]
    return {
        "servers": {
            "all": len(on),
            "on": int(on.sum()),
            "up": int(up.sum()),
            "booting": int((on & ~up).sum()),
            "no_power": int((~powered).sum()),
            "stalled": int((machines.stalled_at >= 0).sum()),
        }
    }


def _power(fleet: Fleet) -> Json:
    trips = [
        {
            "at_ms": one.at_ms,
            "domain": one.domain,
            "kind": one.kind,
            "account": one.account,
            "watts": one.watts,
            "budget_watts": one.budget_watts,
            "lost": one.lost,
        }
        for one in fleet.machines.trips
    ]
    return {"trips": {"count": fleet.machines.trip_count, "list": trips}, "samples": fleet.grid.samples}


def _in_state(fleet: Fleet, state: str) -> npt.NDArray[np.bool_]:
    machines = fleet.machines
    powered = fleet.grid.rack_live[fleet.grid.rack_of]
    masks = {
        "all": np.ones(len(fleet.ground), np.bool_),
        "off": machines.state == OFF,
        "up": machines.up.copy(),
        "booting": (machines.state == ON) & ~machines.up,
        "no-power": ~powered,
        "faulty": machines.fault > 0,
        "stalled": machines.stalled_at >= 0,
    }
    found: npt.NDArray[np.bool_] = masks[state]
    return found


def _known(watts: int) -> int | None:
    return None if watts == NO_LIMIT else watts


def _watts(body: Json, name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _WATTS_MOST:
        raise InvalidInput("fleet-admin", f"{name} is not a number of watts", "a whole number, 0 or more")
    return value


def _body(request: Request) -> dict[str, Any]:
    try:
        found = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidInput("fleet-admin", "the body is not JSON", "send an object") from error
    if not isinstance(found, dict):
        raise InvalidInput("fleet-admin", "the body is not an object", "send an object")
    return found
