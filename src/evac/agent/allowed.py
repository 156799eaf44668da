"""What an order may name at an agent: hosts, secrets, programs, folders, sockets, repositories and queries.

An order brings the settings and parameters of a driver. What they reach is looked up in the agent's own file,
so that the key of an agent opens what its file lists, and not every file and address that its user can reach.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args
from urllib.parse import urlsplit

from evac.drivers.port import Action, Value
from evac.drivers.process.client import address
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import Names
from evac.model.errors import Permanent

_PREFIXES: Final = ("old_", "primary_", "candidate_")
"""Of parameters that name another member as settings name this one."""
_PEERS: Final = frozenset({"peers", "copies"})
_REFERENCES: Final = ("env:", "file:")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HARMLESS: Final = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|REGION|DEFAULT_REGION)|B2_ACCOUNT_(ID|KEY)"
    r"|AZURE_ACCOUNT_(NAME|KEY)|RESTIC_REST_(USERNAME|PASSWORD)|BORG_PASSPHRASE|ETCDCTL_(USER|PASSWORD)"
    r"|PGBACKREST_REPO[0-9]+_(CIPHER_PASS|S3_KEY|S3_KEY_SECRET|S3_TOKEN|AZURE_KEY)|LANG|LC_ALL|TZ"
)
"""Variables that choose no program, library, file or host. Others can: `LD_PRELOAD`, `BORG_RSH`."""
_CONNINFO: Final = frozenset({"host", "hostaddr", "port", "user", "dbname", "application_name"})
"""What `source` may say besides a host without reaching a file or another server."""
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Allowed:
    """The table `[allow]` of an agent's file. What is not listed is refused."""

    hosts: tuple[str, ...] = ()
    """`HOST`, `HOST:PORT` or a network such as `10.1.0.0/24`, of systems that drivers reach."""
    secrets: tuple[str, ...] = ()
    """References that drivers resolve here."""
    bin: tuple[str, ...] = ()
    """Programs, and folders of programs, that drivers run."""
    data: tuple[str, ...] = ()
    """Folders in which, or below which, drivers read and write."""
    sockets: tuple[str, ...] = ()
    """Local sockets that drivers speak to."""
    env: tuple[str, ...] = ()
    """Names of variables that programs are given, beside those that only name an account or its key."""
    repositories: tuple[str, ...] = ()
    """Repositories of backups, as orders write them; one in a folder counts as that folder does."""
    facts: tuple[str, ...] = ()
    """Queries that a restored server is asked, as orders write them: `name=SELECT ...`."""

    def refuse_other(self, action: Action, site: str) -> None:
        """Raises `Permanent` for the first thing that the action names and that is not listed."""
        for names, where, named in _named(action):
            if not self._has(names, named):
                table = "data" if names == "repository" and named.startswith("/") else _TABLES[names]
                raise Permanent(
                    "order-not-allowed",
                    f"the agent of {site} does not allow orders of {action.driver} to "
                    f"use {named[:200]} ({where})",
                    f"to allow it, add it to {table} under [allow] in the agent's file",
                )

    def _has(self, names: Names, named: str) -> bool:
        if "\0" in named:  # nothing that the file lists has one, and no path can be looked up with it
            return False
        if names == "host":
            return _lists_host(self.hosts, named)
        if names == "secret":
            return named in self.secrets
        if names == "query":
            return named in self.facts
        if names == "repository" and not named.startswith("/"):
            return named in self.repositories
        if names == "variable":
            return bool(_HARMLESS.fullmatch(named)) or named in self.env
        if names == "socket":
            return _real(named) in map(_real, self.sockets)
        if names == "program":
            # A bare name is looked for on the PATH of the agent, so it is listed as such.
            parent = _real(str(Path(named).parent)) if named.startswith("/") else ""
            listed = [one if "/" not in one else _real(one) for one in self.bin]
            return (_real(named) if "/" in named else named) in listed or parent in listed
        path = _real(named.removeprefix("file:"))
        return named.removeprefix("file:").startswith("/") and any(
            path == top or path.startswith(top.rstrip("/") + "/") for top in map(_real, self.data)
        )

    @property
    def problems(self) -> Iterable[str]:
        """One sentence for each entry that cannot mean anything."""
        for one in self.hosts:
            if "/" in one:
                try:
                    ipaddress.ip_network(one)
                except ValueError:
                    yield f"hosts of [allow]: {one!r} is not a network"
        for one in self.secrets:
            if not one.startswith(_REFERENCES):
                yield "secrets of [allow] must be references: env:NAME or file:/path"
        for one in self.env:
            if not _VARIABLE.fullmatch(one):
                yield f"env of [allow]: {one!r} is not the name of a variable"
        for one in (*self.data, *self.sockets):
            if not one.startswith("/"):
                yield f"[allow]: {one!r} is not an absolute path"


_TABLES: Final[dict[Names, str]] = {
    "host": "hosts",
    "secret": "secrets",
    "program": "bin",
    "folder": "data",
    "socket": "sockets",
    "variable": "env",
    "repository": "repositories",
    "query": "facts",
}
assert set(_TABLES) == set(get_args(Names)) - {""}


def _named(action: Action) -> Iterable[tuple[Names, str, str]]:
    """What an action reaches: what it is, which key names it, and how it is written. Raises `Permanent` for a
    key that the driver does not declare: no one knows what it would reach.
    """
    spec = DRIVERS.get(action.driver)
    declared = {} if spec is None else {one.key: one for one in spec.all_settings}
    for key, value in action.settings.items():
        if key not in declared:
            raise Permanent("setting-unknown", f"{action.driver} has no setting {key[:64]}")
        yield from _parts(declared[key].names, f"setting {key}", value, action.settings.get("port", ""))
    for key, value in action.parameters.items():
        prefix = next((one for one in _PREFIXES if key.startswith(one)), "")
        setting = declared.get(key.removeprefix(prefix))
        names: Names = "host" if key in _PEERS else "" if setting is None else setting.names
        yield from _parts(names, f"parameter {key}", value, action.parameters.get(f"{prefix}port", ""))


def _parts(names: Names, where: str, value: Value, port: Value) -> Iterable[tuple[Names, str, str]]:
    """Hosts may be written with commas. A reference of a secret counts wherever it is."""
    entries = [str(one) for one in (value if isinstance(value, tuple) else (value,))]
    if names == "program" and entries:
        yield names, where, entries.pop(0)
    for entry in filter(None, entries):
        if names == "host":
            parts = _hosts_of(entry) if len(entry.split()) > 1 else entry.split(",")
            for part in filter(None, map(str.strip, parts)):
                yield names, where, _address(part, port)
        elif names in ("folder", "socket", "secret", "repository", "query"):
            yield names, where, entry
        elif names == "variable":
            name, _, value = entry.partition("=")
            yield names, where, name
            if value.startswith(_REFERENCES):
                yield "secret", where, value
        else:
            found = (one for one in (entry, entry.partition("=")[2]) if one.startswith(_REFERENCES))
            yield from (("secret", where, one) for one in found)


def _hosts_of(conninfo: str) -> list[str]:
    """Hosts of `host=HOST user=NAME`; all of it where it names anything else, which no file lists."""
    settings = [one.partition("=") for one in conninfo.split()]
    if any(key not in _CONNINFO or not value for key, _, value in settings):
        return [conninfo]
    return [value for key, _, value in settings if key in ("host", "hostaddr")] or [conninfo]


def _address(entry: str, port: Value) -> str:
    """`HOST:PORT`, or `HOST` where none is said, of a URL, `NAME=HOST:PORT`, `HOST:PORT` or a host."""
    if "://" in entry:
        parts = urlsplit(entry)
        if parts.query and parts.scheme not in _PORTS:  # as of PostgreSQL, whose query may name another host
            return entry
        try:
            return address(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))
        except ValueError:  # a port that is none
            return entry
    entry = entry.rpartition("=")[2].lower()
    host, _, own = entry.rpartition(":")
    if _PORT.fullmatch(own) and (host.startswith("[") or ":" not in host):
        return address(host.strip("[]"), int(own))
    host = entry.strip("[]")
    return address(host, int(str(port))) if _PORT.fullmatch(str(port)) else host


def _lists_host(hosts: Iterable[str], named: str) -> bool:
    host = named.rpartition(":")[0].strip("[]") if named.startswith("[") or named.count(":") == 1 else named
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        number = None
    for one in hosts:
        if "/" in one:
            if number is not None and number in ipaddress.ip_network(one):
                return True
        elif one.lower() in (host, named):
            return True
    return False


def _real(path: str) -> str:
    """Without links and dots, whether it is there or not."""
    return os.path.realpath(path) if path else ""
