"""Small fleets for tests, with a clock that goes when it is told to."""

from __future__ import annotations

import base64

import numpy as np
import orjson

from evac_lab.fleet.connections import Controller
from evac_lab.fleet.fleet import Fleet, FleetClock, Settings
from evac_lab.fleet.ground import Domain, FleetGround, Kind, PowerGrid, RackPlace, Shares
from evac_lab.fleet.machines import Machines
from evac_lab.fleet.resources import Answer, Request

USER, PASSWORD = "evac", "right-password"
KIND = Kind("plain", 400, 300_000, 700, 20_000, 60_000)
HOUR = 3_600_000


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def ground(
    servers: int = 4,
    *,
    feed_watts: int | None = None,
    feed_inrush: int | None = None,
    rack_watts: int | None = None,
    hall_watts: int | None = None,
    racks: int = 1,
    kind: Kind = KIND,
) -> FleetGround:
    """So many servers in each rack; every rack hangs on the feeds a and b."""
    count = servers * racks
    places = tuple(RackPlace(f"s/h/r{row}", "s/h", ("s/h/a", "s/h/b")) for row in range(racks))
    domains = (
        Domain("s", "site"),
        Domain("s/h", "hall", hall_watts),
        Domain("s/h/a", "feed", feed_watts, feed_inrush),
        Domain("s/h/b", "feed", feed_watts, feed_inrush),
        *(Domain(place.id, "rack", rack_watts) for place in places),
    )
    return FleetGround(
        site="s",
        name=np.array([f"n{row:02d}" for row in range(count)], "S8"),
        serial=np.array([f"SN{row}" for row in range(count)], "S8"),
        position=np.array([str(row + 1) for row in range(count)], "S3"),
        rack=np.repeat(np.arange(racks, dtype=np.int32), servers),
        kind=np.zeros(count, np.int32),
        boot_server=np.zeros(count, np.int32),
        watts=np.full(count, kind.watts, np.int64),
        racks=places,
        kinds=(kind,),
        boot_servers=("boot-1",),
        domains=domains,
    )


def machines(of: FleetGround, *, closed: bool = True, spread: float = 0.0, bmc_boot_ms: int = 0) -> Machines:
    fault = np.zeros(len(of), np.uint8)
    return Machines(of, PowerGrid(of, closed), fault, 1, spread, bmc_boot_ms)


class Client:
    """Calls the controllers of a fleet without a network, as one user."""

    def __init__(
        self, of: FleetGround | None = None, settings: Settings | None = None, **shares: float
    ) -> None:
        self.hand = Hand()
        clock = FleetClock(1.0, self.hand)
        named = {name.replace("_", "-"): share for name, share in shares.items()}
        chosen = settings or Settings(spread=0.0)
        self.fleet = Fleet(of or ground(), Shares(named), chosen, USER, PASSWORD, clock)
        self.controller = Controller(self.fleet)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        server: int = 0,
        password: str | None = PASSWORD,
        user: str = USER,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if password is not None:
            word = base64.b64encode(f"{user}:{password}".encode()).decode()
            sent["authorization"] = f"Basic {word}"
        content = b"" if body is None else orjson.dumps(body)
        found = self.controller.answer(server, Request(method, path, "", sent, content))
        assert found is not None
        return found

    def get(self, path: str, server: int = 0) -> dict[str, object]:
        answer = self.ask("GET", path, server=server)
        assert answer.status == 200
        return json_of(answer)

    def reset(self, kind: str, server: int = 0) -> Answer:
        path = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"
        return self.ask("POST", path, {"ResetType": kind}, server=server)

    def system(self, server: int = 0) -> dict[str, object]:
        return self.get("/redfish/v1/Systems/1", server)


def json_of(answer: Answer) -> dict[str, object]:
    body = answer.body
    found = orjson.loads(body) if isinstance(body, bytes) else body
    assert isinstance(found, dict)
    return found


def message_of(answer: Answer) -> str:
    """The key of the first message of an error."""
    error = json_of(answer)["error"]
    assert isinstance(error, dict)
    return str(error["@Message.ExtendedInfo"][0]["MessageId"]).rpartition(".")[2]
