"""What a person types to do by hand what a driver does, for runbooks on paper. Pure.

Only commands of the systems' own tools, with the settings of an endpoint filled in. Where no single command
does the same safely there is none, and the runbook says what has to be true instead. A secret is never
written: a reference to a file is, as the file.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from evac.model.estate import Endpoint, Setting


@dataclass(frozen=True, slots=True)
class ByHand:
    """do: the command; done_when: another one, with what it prints then. Empty where none is known."""

    do: str = ""
    done_when: str = ""


NOTHING: Final = ByHand()


def promote(endpoint: Endpoint) -> ByHand:
    """Make the copy that this endpoint reaches the primary."""
    make = _PROMOTE.get(endpoint.driver.partition("@")[0])
    return NOTHING if make is None else make(endpoint.settings)


def scale(endpoint: Endpoint, replicas: int) -> ByHand:
    """Have so many replicas of a service run."""
    if endpoint.driver.partition("@")[0] != "kubernetes" or "name" not in endpoint.settings:
        return NOTHING
    settings = endpoint.settings
    kind, name = str(settings.get("kind", "Deployment")).lower(), str(settings["name"])
    kubectl = ["kubectl", *_options(settings, {"kubeconfig": "--kubeconfig", "context": "--context"})]
    kubectl += _options(settings, {"namespace": "--namespace"})
    do = shlex.join([*kubectl, "scale", f"{kind}/{name}", f"--replicas={replicas}"])
    return ByHand(
        do, shlex.join([*kubectl, "rollout", "status", f"{kind}/{name}"]) + " ends without an error"
    )


def move_traffic(endpoint: Endpoint, to: str) -> ByHand:
    """Point the names of a service at a site."""
    settings, driver = endpoint.settings, endpoint.driver.partition("@")[0]
    found = [row for row in _records(settings.get("records")) if to in row[1]]
    if driver not in ("dns", "powerdns") or not found:
        return NOTHING
    zone, ttl = str(settings.get("zone", "")).strip("."), str(settings.get("ttl", 60))
    names = [(f"{name}.{zone}" if name != "@" else zone, places[to]) for name, places in found]
    if driver == "powerdns":
        lines = [
            shlex.join(["pdnsutil", "replace-rrset", zone, name.removesuffix(f".{zone}"), "A", ttl, address])
            for name, address in names
        ]
        return ByHand("\n".join(lines), _dig(names, ""))
    server = str(settings.get("server", ""))
    updates = "".join(
        f"update delete {name} A\\nupdate add {name} {ttl} A {address}\\n" for name, address in names
    )
    key = f"{settings.get('key_algorithm', 'hmac-sha256')}:{settings.get('key_name', '')}"
    secret = f'"{key}:$(cat {shlex.quote(_file(settings.get("key_secret")) or "KEYFILE")})"'
    script = f"server {server}\\nzone {zone}\\n{updates}send\\n"
    return ByHand(f"printf '{script}' | nsupdate -y {secret}", _dig(names, server))


def _dig(names: list[tuple[str, str]], server: str) -> str:
    name, address = names[0]
    return f"dig +short {f'@{server} ' if server else ''}{name} prints {address}"


def _records(value: Setting | None) -> list[tuple[str, dict[str, str]]]:
    """`NAME=SITE:ADDRESS,SITE:ADDRESS` -> (name, site -> address)."""
    rows = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
    found = []
    for row in rows:
        name, _, places = str(row).partition("=")
        found.append((name, dict(part.split(":", 1) for part in places.split(",") if ":" in part)))
    return found


def _options(settings: Mapping[str, Setting], names: Mapping[str, str]) -> list[str]:
    parts = []
    for name, option in names.items():
        if name in settings:
            parts += [option, _file(settings[name]) or str(settings[name])]
    return parts


def _file(value: Setting | None) -> str:
    """The path of a reference to a file; empty for any other."""
    return str(value).removeprefix("file:") if str(value).startswith("file:") else ""


def _postgres(settings: Mapping[str, Setting]) -> ByHand:
    psql = "psql " + shlex.quote(
        f"host={settings.get('host', '')} port={settings.get('port', 5432)} "
        f"user={settings.get('user', 'postgres')} dbname={settings.get('dbname', 'postgres')}"
    )
    return ByHand(f'{psql} -c "select pg_promote()"', f'{psql} -Atc "select pg_is_in_recovery()" prints f')


def _patroni(settings: Mapping[str, Setting]) -> ByHand:
    scope, name = shlex.quote(str(settings.get("scope", ""))), shlex.quote(str(settings.get("name", "")))
    patronictl = "patronictl -c /etc/patroni.yml"
    return ByHand(
        f"{patronictl} failover {scope} --candidate {name} --force",
        f"{patronictl} list {scope} shows {name} as Leader",
    )


def _redis(settings: Mapping[str, Setting]) -> ByHand:
    cli = shlex.join(
        ["redis-cli", "-h", str(settings.get("host", "")), "-p", str(settings.get("port", 6379))]
    )
    return ByHand(f"{cli} REPLICAOF NO ONE", f"{cli} ROLE begins with master")


_PROMOTE: Final[Mapping[str, Callable[[Mapping[str, Setting]], ByHand]]] = {
    "postgres": _postgres,
    "patroni": _patroni,
    "redis": _redis,
}
