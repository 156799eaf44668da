"""The life of a fleet's process: its folder, its password, its pid file, and one fleet a folder."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evac.model.errors import InvalidInput
from evac_lab import proc_table
from evac_lab.fleet import estate_files, tls
from evac_lab.fleet.addresses import CIRCUITS_ADDRESS, SERVERS_MOST, address_of
from evac_lab.fleet.estate_files import Reach
from evac_lab.fleet.faults import Shares
from evac_lab.fleet.fleet import Fleet, Settings
from evac_lab.fleet.ground import Ground
from evac_lab.fleet.serving import ADMIN_HOST, FleetFailed, Ports, serve
from evac_lab.fleet.tls import Certificates

STATE_FILE: Final = "fleet.json"
PASSWORD_FILE: Final = "bmc-password"
USER: Final = "evac"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a fleet shall be. out: where its estate is written; password: a reference, "" makes
    one; longest_s: it ends by itself.
    """

    folder: Path
    ports: Ports
    shares: Shares
    settings: Settings
    tls: bool = False
    user: str = USER
    password: str = ""
    out: Path | None = None
    longest_s: float | None = None


def check_size(servers: int) -> None:
    if not 1 <= servers <= SERVERS_MOST:
        raise InvalidInput("fleet-size", f"{servers} servers have no room", f"1 to {SERVERS_MOST}")


def run(ground: Ground, wish: Wish, told: Callable[[Mapping[str, Any]], None]) -> None:
    """Serves until SIGTERM or SIGINT. told: what is there, once it listens. Raises `FleetFailed`."""
    check_size(len(ground))
    if wish.out is not None:
        estate_files.check_folder(wish.out)
    with _only_one(wish.folder):
        reference, password = _password(wish)
        made = _certificates(wish)
        fleet = Fleet(ground, wish.shares, wish.settings, wish.user, password)

        def ready(ports: Ports) -> None:
            signed = (made.pin, made.authority) if made else ("", None)
            reach = Reach(ports.controllers, wish.user, reference, *signed)
            if wish.out is not None:
                estate_files.write(wish.out, fleet, reach)
            about = description(fleet, ports, reach, wish)
            _write(wish.folder / STATE_FILE, about)
            told(about)

        serve(
            fleet,
            wish.ports,
            made.context() if made else None,
            {"fleet": ground.site, "servers": len(ground)},
            ready,
            wish.longest_s,
        )


def description(fleet: Fleet, ports: Ports, reach: Reach, wish: Wish) -> dict[str, Any]:
    """What a client must know, and the pid."""
    return {
        "pid": os.getpid(),
        "started": proc_table.started(os.getpid()),
        "servers": len(fleet.ground),
        "site": fleet.ground.site,
        "scheme": "https" if reach.pin else "http",
        "port": ports.controllers,
        "first": address_of(0),
        "last": address_of(len(fleet.ground) - 1),
        "circuits": CIRCUITS_ADDRESS,
        "admin": f"http://{ADMIN_HOST}:{ports.admin}",
        "user": reach.user,
        "password": reach.password,
        "pin": reach.pin,
        "ca": str(reach.authority or ""),
        "estate": str(wish.out) if wish.out else "",
        "seed": wish.settings.seed,
        "speed": wish.settings.speed,
    }


def _password(wish: Wish) -> tuple[str, str]:
    """(reference, password). A new one lies in the folder, for its owner alone."""
    from evac.net.secrets import resolve

    if wish.password:
        return wish.password, resolve(wish.password).reveal()
    file = (wish.folder / PASSWORD_FILE).absolute()
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(15), encoding="utf-8")
    return f"file:{file}", file.read_text(encoding="utf-8").strip()


def _certificates(wish: Wish) -> Certificates | None:
    return tls.make(wish.folder) if wish.tls else None


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One fleet a folder; a file that a killed fleet left behind counts for nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / STATE_FILE
    if (found := read_state(folder)) is not None:
        raise FleetFailed(
            "fleet-runs", f"a fleet runs here already, pid {found['pid']}", "end it, or name another --folder"
        )
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if json.loads(file.read_text(encoding="utf-8")).get("pid") == os.getpid():
                file.unlink()


def read_state(folder: Path) -> dict[str, Any] | None:
    """What the fleet of a folder said when it began, if it still runs."""
    try:
        found: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if proc_table.same(int(found.get("pid", 0)), int(found.get("started", 0))) else None


def _write(file: Path, content: Mapping[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    new.replace(file)
