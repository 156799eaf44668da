"""What an order may name at an agent: hosts, secrets, programs, folders, sockets, repositories and queries.

An order contains a driver's settings and parameters. Everything they reach is checked against the agent's own
file, so the agent's key gives access only to what that file lists, not to every file and address that the
agent's user can reach.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, get_args
from urllib.parse import urlsplit

from evac.drivers.port import Action, Value
from evac.drivers.process.client import address
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import Names
from evac.model.errors import Permanent
from evac.model.records import dataclass

_PREFIXES: Final = ("old_", "primary_", "candidate_")
"""Prefixes of parameters that name another member with the keys that settings use for this one."""
_PEERS: Final = frozenset({"peers", "copies"})
_REFERENCES: Final = ("env:", "file:")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HARMLESS: Final = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|REGION|DEFAULT_REGION)|B2_ACCOUNT_(ID|KEY)"
    r"|AZURE_ACCOUNT_(NAME|KEY)|RESTIC_REST_(USERNAME|PASSWORD)|BORG_PASSPHRASE|ETCDCTL_(USER|PASSWORD)"
    r"|PGBACKREST_REPO[0-9]+_(CIPHER_PASS|S3_KEY|S3_KEY_SECRET|S3_TOKEN|AZURE_KEY)|LANG|LC_ALL|TZ"
)
"""Variables that select no program, library, file or host. Others can: `LD_PRELOAD`, `BORG_RSH`."""
_CONNINFO: Final = frozenset({"host", "hostaddr", "port", "user", "dbname", "application_name"})
"""Keys that `source` may contain, other than a host, that reach no file and no other server."""
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Allowed:
    """The table `[allow]` of an agent's file. Anything not listed is refused."""

    hosts: tuple[str, ...] = ()
    """Systems that drivers reach: `HOST`, `HOST:PORT` or a network such as `10.1.0.0/24`."""
    secrets: tuple[str, ...] = ()
    """Secret references that drivers resolve here."""
    bin: tuple[str, ...] = ()
    """Programs that drivers run, and folders of such programs."""
    data: tuple[str, ...] = ()
    """Folders that drivers read and write, including their subfolders."""
    sockets: tuple[str, ...] = ()
    """Local sockets that drivers connect to."""
    env: tuple[str, ...] = ()
    """Names of variables passed to programs, in addition to those that only name an account or its key."""
    repositories: tuple[str, ...] = ()
    """Backup repositories, as orders write them; a repository in a folder matches that folder."""
    facts: tuple[str, ...] = ()
    """Queries that may be run on a restored server, as orders write them: `name=SELECT ...`."""

    def refuse_other(self, action: Action, site: str) -> None:
        """Raise `Permanent` for the first thing that the action names and the table does not list."""
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
        if "\0" in named:  # no listed entry has one, and no path can contain it
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
            # A bare name is resolved through the agent's PATH, so it must be listed as a bare name.
            parent = _real(str(Path(named).parent)) if named.startswith("/") else ""
            listed = [one if "/" not in one else _real(one) for one in self.bin]
            return (_real(named) if "/" in named else named) in listed or parent in listed
        path = _real(named.removeprefix("file:"))
        return named.removeprefix("file:").startswith("/") and any(
            path == top or path.startswith(top.rstrip("/") + "/") for top in map(_real, self.data)
        )

    @property
    def problems(self) -> Iterable[str]:
        """Return one sentence for each invalid entry."""
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
    """List what an action reaches: its kind, the key that names it, and its text. Raises `Permanent` for a
    key that the driver does not declare, because what it reaches is unknown.
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
    """Split a value into its parts. Hosts may be separated by commas. Secret references count wherever they
    occur.
    """
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
    """Hosts of `host=HOST user=NAME`. If it contains any other key, all of it, which no file lists."""
    settings = [one.partition("=") for one in conninfo.split()]
    if any(key not in _CONNINFO or not value for key, _, value in settings):
        return [conninfo]
    return [value for key, _, value in settings if key in ("host", "hostaddr")] or [conninfo]


def _address(entry: str, port: Value) -> str:
    """`HOST:PORT`, or `HOST` without a port, of a URL, `NAME=HOST:PORT`, `HOST:PORT` or a host."""
    if "://" in entry:
        parts = urlsplit(entry)
        if parts.query and parts.scheme not in _PORTS:  # as for PostgreSQL, whose query may name another host
            return entry
        try:
            return address(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))
        except ValueError:  # an invalid port
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
    """Resolve links and dots, whether or not the path exists."""
    return os.path.realpath(path) if path else ""
