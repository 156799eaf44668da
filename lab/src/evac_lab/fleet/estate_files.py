"""A made-up fleet as an estate: the files by which evac plans and drives it, in the format of any company.

Two sites: the fleet's own, which can go dark, and a small one beside it that keeps what a dark site needs
before anything. Figures are the fleet's own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from evac.model.errors import InvalidInput
from evac_lab.fleet import circuits
from evac_lab.fleet.addresses import CIRCUITS_ADDRESS, address_of
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.ground import Domain, Ground, Kind

MARK: Final = "# A simulated fleet as an estate: written by `evac lab fleet`.\n"
REFUGE: Final = "anyang"
_REFUGE_ELSE: Final = "refuge"
_POLICY: Final = "mode: advise\n"
MARGIN: Final = "8 %"
"""What stays free: a server that starts again and again draws its inrush each time, and nobody sends it."""
_POOL: Final = {"cpu": "4000 cores", "memory": "16 TiB", "disk": "400 TiB"}


@dataclass(frozen=True, slots=True)
class Reach:
    """How the controllers are reached. password: a reference; pin: of the certificate, "" without TLS;
    authority: the certificate of who signed it.
    """

    port: int
    user: str
    password: str
    pin: str = ""
    authority: Path | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an endpoint with the driver redfish."""
        found = {"user": self.user, "password": self.password, "port": str(self.port)}
        return {**found, "scheme": "https", "pin": self.pin} if self.pin else {**found, "scheme": "http"}


def check_folder(folder: Path) -> None:
    """Raises `InvalidInput` unless the folder is ours to write."""
    file = folder / "estate.yaml"
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not file.is_file() or not file.read_text(encoding="utf-8").startswith(MARK):
        raise InvalidInput("fleet-folder", f"{folder} holds something else", "name an empty folder: -o DIR")


def write(folder: Path, fleet: Fleet, reach: Reach) -> None:
    """Writes the estate of a running fleet."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = fleet.ground
    files: Mapping[str, Any] = {
        "estate.yaml": document(ground, fleet.settings.speed),
        "services.yaml": {"services": services(ground, fleet.settings.speed)},
        "endpoints.yaml": {"endpoints": endpoints(fleet, reach)},
    }
    for name, content in files.items():
        text = yaml.dump(content, Dumper=_dumper(), sort_keys=False, width=110)
        (folder / name).write_text(MARK + text, encoding="utf-8")
    (folder / "servers.csv").write_text(servers_table(ground), encoding="utf-8")
    (folder / "replicas.csv").write_text(replicas_table(ground), encoding="utf-8")
    (folder / "racks.csv").write_text(racks_table(ground), encoding="utf-8")
    if reach.authority is not None:
        (folder / "ca.pem").write_bytes(reach.authority.read_bytes())
    if not (folder / "policy.yaml").exists():
        (folder / "policy.yaml").write_text(_POLICY, encoding="utf-8")


def _dumper() -> Any:
    """The one written in C where it is installed: many times as fast."""
    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def refuge_of(ground: Ground) -> str:
    """The name of the other site."""
    return REFUGE if ground.site != REFUGE else _REFUGE_ELSE


def document(ground: Ground, speed: float) -> dict[str, Any]:
    """Sites, halls, feeds, classes, boot servers, limits, and who fills the roles of tools.

    speed: what divides every duration, so that evac sees the fleet as it is.
    """
    refuge = refuge_of(ground)
    of = {kind: [one for one in ground.domains if one.kind == kind] for kind in ("site", "hall", "feed")}
    return {
        "evac": 1,
        "name": f"fleet-{ground.site}",
        "detection": "10 s",
        "approval": "0 s",
        "sites": {
            ground.site: {"people": "nobody; a simulation", **_budgets(of["site"][0])},
            refuge: {"people": "nobody; a simulation"},
        },
        "halls": {one.id: _budgets(one) for one in of["hall"]},
        "feeds": {one.id: {**_budgets(one), "close": _seconds(1_000, speed)} for one in of["feed"]},
        "classes": {kind.id: _class(kind, speed) for kind in ground.kinds},
        "boot_servers": {id: {"site": ground.site} for id in ground.boot_servers},
        "pools": {f"{refuge}-pool": {"site": refuge, **_POOL}},
        "limits": {"hands_at_once": 10, "power_margin": MARGIN},
        "tools": dict(_TOOLS),
    }


def _budgets(domain: Domain) -> dict[str, str]:
    found = {}
    if domain.power_watts is not None:
        found["power_budget"] = f"{domain.power_watts} W"
    if domain.inrush_watts is not None:
        found["inrush_budget"] = f"{domain.inrush_watts} W"
    return found


def _class(kind: Kind, speed: float) -> dict[str, Any]:
    return {
        "cpu": f"{kind.cpu_millicores // 1_000} cores",
        "memory": f"{kind.memory_gib} GiB",
        "disk": f"{kind.disk_gib} GiB",
        "accelerators": 0,
        "watts": f"{kind.watts} W",
        "boot": _seconds(kind.boot_ms, speed),
        "boot_odds": "98 %",
        "inrush": f"{kind.inrush_watts} W",
        "inrush_hold": _seconds(kind.inrush_ms, speed),
        "image_offset": _seconds(kind.image_offset_ms, speed),
        "power_on": kind.policy,
    }


def _seconds(ms: int, speed: float) -> str:
    divided = round(ms / speed)
    return f"{divided} ms" if divided % 1_000 else f"{divided // 1_000} s"


_TOOLS: Final = {"boot": "boot-control", "dhcp": "dhcp", "evac": "evac", "images": "images", "time": "time"}
_IN_REFUGE: Final = ("boot-control", "dhcp", "evac", "images", "time")
_SERVICES: Final = (
    # name, tier, people, replicas of a thousand servers, cores, GiB, what it needs
    ("identity", 0, 1_000_000, 20, 8, 32, ()),
    ("storage-gateway", 0, 1_000_000, 60, 8, 32, ("identity",)),
    ("messages", 0, 2_000_000, 400, 16, 64, ("identity", "storage-gateway")),
    ("payments", 1, 500_000, 100, 16, 64, ("identity", "storage-gateway")),
    ("maps", 1, 400_000, 200, 16, 64, ("identity",)),
    ("search", 2, 300_000, 300, 16, 64, ("storage-gateway",)),
    ("advertising", 3, 0, 300, 8, 32, ("search",)),
)


def services(ground: Ground, speed: float) -> dict[str, Any]:
    """A few services with tiers and needs, so that the order of the boots matters; they live at home only."""
    refuge = refuge_of(ground)
    found: dict[str, Any] = {name: _service(0, 0, {refuge: 2}, 2, 4, (), speed) for name in _IN_REFUGE}
    for name, tier, people, permille, cores, memory, needs in _SERVICES:
        count = _replicas(ground, permille)
        found[name] = _service(tier, people, count, cores, memory, needs, speed) | {
            "eligible_sites": [ground.site]
        }
    return found


def _replicas(ground: Ground, permille: int) -> int:
    return max(1, len(ground) * permille // 1_000)


def _service(
    tier: int,
    people: int,
    replicas: dict[str, int] | int,
    cores: int,
    memory: int,
    needs: tuple[str, ...],
    speed: float,
) -> dict[str, Any]:
    return {
        "owner": "lab",
        "tier": tier,
        "people": people,
        "rto": "4 h",
        "rpo": "0 s",
        "demand": {"cpu": f"{cores} cores", "memory": f"{memory} GiB", "disk": "20 GiB", "accelerators": 0},
        "replicas": replicas,
        "share": "75 %",
        "start": _seconds(10_000, speed),
        "verify": _seconds(5_000, speed),
        "needs": [{"service": one, "needed_to": "start"} for one in needs],
        "traffic": {"kind": "none"},
    }


def replicas_table(ground: Ground) -> str:
    """CSV: every service spread evenly over the servers that have room for another replica."""
    kinds = ground.kinds
    cores = np.array([kind.cpu_millicores // 1_000 for kind in kinds])[ground.kind]
    memory = np.array([kind.memory_gib for kind in kinds])[ground.kind]
    rows = ["service,target,count"]
    for name, _, _, permille, needed, gib, _ in _SERVICES:
        room = np.flatnonzero((cores >= needed) & (memory >= gib))
        count = min(_replicas(ground, permille), len(room))
        chosen = room[np.arange(count) * len(room) // max(1, count)]
        cores[chosen] -= needed
        memory[chosen] -= gib
        rows += [f"{name},{ground.name_of(server)},1" for server in chosen.tolist()]
    return "\n".join((*rows, ""))


def endpoints(fleet: Fleet, reach: Reach) -> dict[str, Any]:
    """One for the controllers of the site, and one for the circuit of each feed."""
    ground = fleet.ground
    found = {f"bmc-{ground.site}": _endpoint(ground.site, ground.site, reach.settings)}
    for domain in ground.domains:
        if domain.kind == "feed":
            id = f"circuit-{domain.id.replace('/', '-')}"
            circuit = circuits.circuit_path(fleet, domain.id)
            settings = {**reach.settings, "address": CIRCUITS_ADDRESS, "circuit": circuit, "label": domain.id}
            found[id] = _endpoint(domain.id, ground.site, settings)
    return found


def _endpoint(subject: str, at: str, settings: Mapping[str, str]) -> dict[str, Any]:
    return {"for": subject, "at": at, "driver": "redfish", "settings": dict(settings)}


def servers_table(ground: Ground) -> str:
    """CSV."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(
        ("server", "rack", "class", "state", "boot_server", "bmc", "bmc_address", "serial", "position")
    )
    racks, kinds = [place.id for place in ground.racks], [kind.id for kind in ground.kinds]
    boots = [*ground.boot_servers, ""]
    columns = zip(
        ground.name.tolist(),
        ground.rack.tolist(),
        ground.kind.tolist(),
        ground.boot_server.tolist(),
        ground.serial.tolist(),
        ground.position.tolist(),
        strict=True,
    )
    for row, (name, rack, kind, boot, serial, position) in enumerate(columns):
        rows.writerow(
            (
                name.decode(),
                racks[rack],
                kinds[kind],
                "serving",
                boots[boot],
                "yes",
                address_of(row),
                serial.decode(),
                position.decode(),
            )
        )
    return out.getvalue()


def racks_table(ground: Ground) -> str:
    """CSV."""
    watts = {one.id: one.power_watts for one in ground.domains if one.kind == "rack"}
    rows = [
        f"{place.id},{place.hall},{'+'.join(place.feeds)},{watts.get(place.id) or ''}"
        for place in ground.racks
    ]
    return "\n".join(("rack,hall,feeds,power_budget_watts", *rows, ""))
