"""Fleets and estates: writes a fleet as an estate, reads one from an estate's site, or generates one."""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from evac.model.errors import EvacError, InvalidInput
from evac.model.estate import Estate, ServerClass
from evac.model.records import dataclass
from evac_lab.fleet import resources
from evac_lab.fleet.fleet import Fleet
from evac_lab.fleet.ground import (
    CIRCUITS_ADDRESS,
    NOBODY,
    Domain,
    DomainKind,
    FleetGround,
    Kind,
    Policy,
    RackPlace,
    address_of,
    server_at,
)

MARK: Final = "# A simulated fleet as an estate: written by `evac lab fleet`.\n"
REFUGE: Final = "anyang"
_REFUGE_ELSE: Final = "refuge"
_POLICY: Final = "mode: advise\n"
MARGIN: Final = "8 %"
"""Reserved margin: a server that restarts repeatedly draws its inrush each time, without a request."""
_POOL: Final = {"cpu": "4000 cores", "memory": "16 TiB", "disk": "400 TiB"}


@dataclass(frozen=True, slots=True)
class Reach:
    """How to reach the controllers. password: a reference; pin: of the certificate, "" without TLS;
    authority: certificate of its signer.
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
    """Raises `InvalidInput` unless we may write the folder."""
    file = folder / "estate.yaml"
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not file.is_file() or not file.read_text(encoding="utf-8").startswith(MARK):
        raise InvalidInput(
            "fleet-folder", f"{folder} contains something else", "choose an empty folder: -o DIR"
        )


def write(folder: Path, fleet: Fleet, reach: Reach) -> None:
    """Writes the estate of a running fleet."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = fleet.ground
    files: Mapping[str, Any] = {
        "estate.yaml": document(ground, fleet.settings.speed),
        "services.yaml": {"services": services(ground, fleet.settings.speed)},
        "endpoints.yaml": {"endpoints": endpoints(fleet, reach)},
    }
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the C implementation is many times faster
    for name, content in files.items():
        text = yaml.dump(content, Dumper=dumper, sort_keys=False, width=110)
        (folder / name).write_text(MARK + text, encoding="utf-8")
    (folder / "servers.csv").write_text(servers_table(ground), encoding="utf-8")
    (folder / "replicas.csv").write_text(replicas_table(ground), encoding="utf-8")
    (folder / "racks.csv").write_text(racks_table(ground), encoding="utf-8")
    if reach.authority is not None:
        (folder / "ca.pem").write_bytes(reach.authority.read_bytes())
    if not (folder / "policy.yaml").exists():
        (folder / "policy.yaml").write_text(_POLICY, encoding="utf-8")


def refuge_of(ground: FleetGround) -> str:
    """Name of the other site."""
    return REFUGE if ground.site != REFUGE else _REFUGE_ELSE


def document(ground: FleetGround, speed: float) -> dict[str, Any]:
    """speed: divides every duration, so that evac sees the fleet as it is. Contains sites, halls, feeds,
    classes, boot servers, limits and tool roles.
    """
    refuge = refuge_of(ground)
    of = {kind: [one for one in ground.domains if one.kind == kind] for kind in ("site", "hall", "feed")}
    return {
        "evac": 1,
        "name": f"fleet-{ground.site}",
        "detection": "10 s",
        "approval": "1 min",
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
    # name, tier, people, replicas per thousand servers, cores, GiB, needs
    ("identity", 0, 1_000_000, 20, 8, 32, ()),
    ("storage-gateway", 0, 1_000_000, 60, 8, 32, ("identity",)),
    ("messages", 0, 2_000_000, 400, 16, 64, ("identity", "storage-gateway")),
    ("payments", 1, 500_000, 100, 16, 64, ("identity", "storage-gateway")),
    ("maps", 1, 400_000, 200, 16, 64, ("identity",)),
    ("search", 2, 300_000, 300, 16, 64, ("storage-gateway",)),
    ("advertising", 3, 0, 300, 8, 32, ("search",)),
)


def services(ground: FleetGround, speed: float) -> dict[str, Any]:
    """A few services with tiers and needs, so that the order of boots matters; they run at home only."""
    refuge = refuge_of(ground)
    found: dict[str, Any] = {name: _service(0, 0, {refuge: 2}, 2, 4, (), speed) for name in _IN_REFUGE}
    for name, tier, people, permille, cores, memory, needs in _SERVICES:
        count = _replicas(ground, permille)
        found[name] = _service(tier, people, count, cores, memory, needs, speed) | {
            "eligible_sites": [ground.site]
        }
    return found


def _replicas(ground: FleetGround, permille: int) -> int:
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
        "demand": {"cpu": f"{cores} cores", "memory": f"{memory} GiB", "disk": "20 GiB", "accelerators": 0},
        "replicas": replicas,
        "share": "75 %",
        "start": _seconds(10_000, speed),
        "verify": _seconds(5_000, speed),
        "needs": [{"service": one, "needed_to": "start"} for one in needs],
        "traffic": {"kind": "none"},
    }


def replicas_table(ground: FleetGround) -> str:
    """CSV: every service spread evenly over the servers with capacity for another replica."""
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
            circuit = resources.circuit_path(fleet, domain.id)
            settings = {**reach.settings, "address": CIRCUITS_ADDRESS, "circuit": circuit, "label": domain.id}
            found[id] = _endpoint(domain.id, ground.site, settings)
    return found


def _endpoint(subject: str, at: str, settings: Mapping[str, str]) -> dict[str, Any]:
    return {"for": subject, "at": at, "driver": "redfish", "settings": dict(settings)}


def servers_table(ground: FleetGround) -> str:
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


def racks_table(ground: FleetGround) -> str:
    """CSV."""
    watts = {one.id: one.power_watts for one in ground.domains if one.kind == "rack"}
    rows = [
        f"{place.id},{place.hall},{'+'.join(place.feeds)},{watts.get(place.id) or ''}"
        for place in ground.racks
    ]
    return "\n".join(("rack,hall,feeds,power_budget_watts", *rows, ""))


_WATTS: Final = 400
_BOOT_MS: Final = 300_000
"""Value for facts that the estate lacks."""
_NO_RACK: Final = "no-rack"
_NO_CLASS: Final = Kind("unknown", _WATTS, _BOOT_MS, 0, 0)


def read(folder: Path, site: str) -> FleetGround:
    """The site as a fleet. Raises `InvalidInput` if it cannot be one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_read, folder, site).result()
    if isinstance(found, FleetGround):
        return found
    raise InvalidInput(*found)


def _read(folder: Path, site: str) -> FleetGround | tuple[str, str, str]:
    from evac.estate.loading import load

    try:
        return ground_of(load(folder), site)
    except EvacError as error:
        return error.code, error.message, error.hint


def ground_of(estate: Estate, site: str) -> FleetGround:
    """The servers of a site by address; if none is known, by name."""
    sites = [one.id for one in estate.sites]
    if site not in sites:
        raise InvalidInput("fleet-site", f"no such site: {site[:80]}", f"--site {' or '.join(sites[:9])}")
    fleet = estate.fleet
    rows = np.flatnonzero(fleet.site == sites.index(site))
    if not len(rows):
        raise InvalidInput("fleet-site", f"{site} has no servers", "choose another site")
    rows = rows[_order(fleet.bmc_address[rows], site)]
    # The racks of the site, and one for servers without a rack.
    found = [RackPlace(one.id, one.hall or "", one.feeds) for one in estate.racks if one.site == site]
    racks = (*found, RackPlace(f"{site}/{_NO_RACK}"))
    rack_ids = [rack.id for rack in racks]
    number = {id: row for row, id in enumerate(rack_ids)}
    rack = np.array(
        [number.get(_rack_id(estate, int(one)), len(racks) - 1) for one in fleet.rack[rows]], np.int32
    )
    kinds = (*(_kind(one) for one in estate.classes), _NO_CLASS)
    kind = np.where(fleet.server_class[rows] < 0, len(kinds) - 1, fleet.server_class[rows]).astype(np.int32)
    nominal = np.array([one.watts for one in kinds], np.int64)[kind]
    return FleetGround(
        site=site,
        name=fleet.name[rows],
        serial=fleet.serial[rows],
        position=fleet.position[rows],
        rack=rack,
        kind=kind,
        boot_server=fleet.boot_server[rows].astype(np.int32),
        watts=np.where(fleet.watts_known[rows], fleet.watts[rows], nominal),
        racks=racks,
        kinds=kinds,
        boot_servers=tuple(one.id for one in estate.boot_servers),
        domains=_estate_domains(estate, site, racks),
    )


def _order(addresses: np.ndarray, site: str) -> np.ndarray:
    """Positions of servers by number. Raises `InvalidInput` if an address cannot be served."""
    count = len(addresses)
    if not addresses.astype(bool).any():
        return np.arange(count)
    found = np.array([_number(bytes(one).decode(), count) for one in addresses])
    if (found == NOBODY).any() or len(set(found.tolist())) < count:
        wrong = bytes(
            addresses[int(np.flatnonzero(found == NOBODY)[0]) if (found == NOBODY).any() else 0]
        ).decode()
        raise InvalidInput(
            "fleet-addresses",
            f"the BMC addresses of {site} cannot be served: {wrong or 'one is missing'}",
            f"give its servers {address_of(0)} to {address_of(count - 1)}, or no addresses",
        )
    return np.argsort(found)


def _number(address: str, count: int) -> int:
    host = address.partition(":")[0]
    parts = host.split(".")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return NOBODY
    number = server_at(host, count)
    return number if number >= 0 else NOBODY


def _rack_id(estate: Estate, row: int) -> str:
    return estate.racks[row].id if row >= 0 else ""


def _kind(one: ServerClass) -> Kind:
    return Kind(
        one.id,
        one.watts or _WATTS,
        one.boot_ms or _BOOT_MS,
        one.inrush_watts or 0,
        one.inrush_ms,
        one.image_offset_ms,
        one.power_on or "dark",
    )


def _estate_domains(estate: Estate, site: str, racks: tuple[RackPlace, ...]) -> tuple[Domain, ...]:
    found = [Domain(one.id, "site", one.power_budget_watts) for one in estate.sites if one.id == site]
    found += [Domain(one.id, "hall", one.power_budget_watts) for one in estate.halls if one.site == site]
    found += [
        Domain(one.id, "feed", one.power_budget_watts, one.inrush_budget_watts)
        for one in estate.feeds
        if one.site == site
    ]
    budgets = {one.id: one.power_budget_watts for one in estate.racks}
    found += [Domain(rack.id, "rack", budgets.get(rack.id)) for rack in racks]
    known = {one.id for one in found}
    found += [Domain(id, "hall") for id in sorted({rack.hall for rack in racks} - known) if id]
    found += [Domain(id, "feed") for id in sorted({feed for rack in racks for feed in rack.feeds} - known)]
    return tuple(found)


PER_RACK: Final = 20
RACKS_PER_ROW: Final = 20
ROWS_PER_HALL: Final = 20
SERVERS_PER_BOOT_SERVER: Final = 2_000
_SPARE: Final = 1.1
_INRUSH_SHARE: Final = 8
_UNITS_PER_SERVER: Final = 2


def kinds(policy: Policy) -> tuple[Kind, ...]:
    """Three classes; each rack contains one."""
    return (
        Kind("general", 450, 300_000, 800, 20_000, 60_000, policy),
        Kind("storage", 600, 480_000, 1_200, 30_000, 90_000, policy, 24_000, 128, 96_000),
        Kind("web", 300, 240_000, 550, 20_000, 60_000, policy, 32_000, 128, 1_024),
    )


_KIND_BY_RACK: Final = (0, 0, 0, 2, 0, 1, 0, 2, 0, 0)
"""Of ten racks, seven are general, one is storage, two are web."""


def make_up(servers: int, site: str = "pangyo", policy: Policy = "dark") -> FleetGround:
    """A site with this many servers. The same number gives the same site."""
    number = np.arange(servers, dtype=np.int32)
    rack = (number // PER_RACK).astype(np.int32)
    rack_count = -(-servers // PER_RACK)
    classes = kinds(policy)
    kind = np.array(_KIND_BY_RACK, np.int32)[rack % len(_KIND_BY_RACK)]
    places = tuple(_place(site, row) for row in range(rack_count))
    watts = np.array([one.watts for one in classes], np.int64)[kind]
    boots = -(-servers // SERVERS_PER_BOOT_SERVER)
    return FleetGround(
        site=site,
        name=_names(places, servers, site),
        serial=np.array([f"SN{row:07d}" for row in range(servers)], "S9"),
        position=np.array([str(1 + _UNITS_PER_SERVER * (row % PER_RACK)) for row in range(servers)], "S3"),
        rack=rack,
        kind=kind,
        boot_server=(number // SERVERS_PER_BOOT_SERVER).astype(np.int32),
        watts=watts,
        racks=places,
        kinds=classes,
        boot_servers=tuple(f"{site}-boot-{row + 1}" for row in range(boots)),
        domains=tuple(_domains(site, places, kind, rack, classes)),
    )


def _place(site: str, rack: int) -> RackPlace:
    row, hall = rack // RACKS_PER_ROW, rack // (RACKS_PER_ROW * ROWS_PER_HALL)
    hall_id = f"{site}/hall-{hall + 1}"
    feeds = tuple(f"{hall_id}/feed-{row % ROWS_PER_HALL + 1:02d}{side}" for side in "ab")
    return RackPlace(f"{hall_id}/r{rack % (RACKS_PER_ROW * ROWS_PER_HALL) + 1:03d}", hall_id, feeds)


def _names(
    places: tuple[RackPlace, ...], servers: int, site: str
) -> np.ndarray[tuple[int], np.dtype[np.bytes_]]:
    short = [f"{site[:3]}-h{place.hall.rpartition('-')[2]}-{place.id.rpartition('/')[2]}" for place in places]
    return np.array([f"{short[row // PER_RACK]}-s{row % PER_RACK + 1:02d}" for row in range(servers)], "S24")


def _domains(
    site: str, places: tuple[RackPlace, ...], kind: np.ndarray, rack: np.ndarray, classes: tuple[Kind, ...]
) -> list[Domain]:
    """Site, halls, feeds and racks with budgets for their load plus a margin."""
    watts = np.bincount(rack, np.array([one.watts for one in classes])[kind], len(places)).astype(int)
    inrush = np.bincount(rack, np.array([one.inrush_watts for one in classes])[kind], len(places)).astype(int)
    load: dict[tuple[DomainKind, str], list[int]] = {}
    for row, place in enumerate(places):
        feeds: list[tuple[DomainKind, str]] = [("feed", feed) for feed in place.feeds]
        above: list[tuple[DomainKind, str]] = [
            ("site", site),
            ("hall", place.hall),
            ("rack", place.id),
            *feeds,
        ]
        for of in above:
            sums = load.setdefault(of, [0, 0])
            sums[0] += int(watts[row])
            sums[1] += int(inrush[row])
    least = 2 * max(one.inrush_watts for one in classes)
    return [
        Domain(
            id,
            of,
            _round(steady * _SPARE),
            _round(max(rush / _INRUSH_SHARE, least)) if of == "feed" else None,
        )
        for (of, id), (steady, rush) in sorted(load.items())
    ]


def _round(watts: float) -> int:
    """Rounds up to whole hundreds."""
    return -(-int(watts) // 100) * 100
