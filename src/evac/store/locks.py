"""Finds what is not locked in a store by asking etcd itself, not by trusting its URL.

Each finding is something that anyone on the network, or with an etcd login, could exploit. Changes nothing in
etcd. The page *Secure the store* describes the locks and how to set them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from evac.model.errors import EvacError, InvalidInput, StoreError, Unavailable
from evac.model.records import dataclass
from evac.model.units import moment_words
from evac.net.etcd_gateway import GRPC_NOT_FOUND, Gateway, Refused, raw, text_key
from evac.net.secrets import is_open
from evac.net.tls import ends_ms
from evac.store.opening import etcd_members, store_kind

Lock = Literal[
    "unsealed",
    "key-open",
    "expired",
    "plain",
    "no-certificate",
    "no-user",
    "role-too-wide",
    "peers-plain",
    "members-plain",
    "not-checked",
]
CHECK_S: Final = 3.0
"""Timeout for all questions to etcd together."""
ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class OpenLock:
    """Something that is not locked. `words`: what anyone can do because of it; `cure`: how to fix it."""

    code: Lock
    words: str
    cure: str


async def open_locks(url: str) -> tuple[OpenLock, ...]:
    """What is not locked in the store named by a URL, most dangerous first; nothing if everything is.

    A file store has a seal and file permissions. Raises `StoreError` for an invalid URL.
    """
    if store_kind(url) != "etcd":
        return ()
    members, options = etcd_members(url)
    found = list(_of_the_url(members, options))
    try:
        found += await _of_etcd(members, options)
    except EvacError as error:
        words = f"cannot check how etcd is secured: {error.message}"
        found.append(OpenLock("not-checked", words, error.hint or "systemctl status etcd"))
    return tuple(found)


def _of_the_url(members: Sequence[str], options: Mapping[str, str]) -> Iterator[OpenLock]:
    if not options.get("seal"):
        yield OpenLock(
            "unsealed",
            "entries are not sealed: anyone who can write to etcd can make controllers run programs",
            "add seal=file:/path to the URL, then: evac store seal --trust-unsealed",
        )
    named = [options.get(name, "").removeprefix("file:") for name in ("key", "password")]
    for path in (*(one.removeprefix("file:") for one in options.get("seal", "").split(",")), *named):
        if path.startswith("/") and is_open(Path(path)):
            words = f"{path} can be read or written by everyone on this machine"
            yield OpenLock("key-open", words, f"run: chmod o-rw {path}; it was exposed, so create a new one")
    yield from _of_own_certificate(options.get("cert", ""))
    plain = [one for one in members if one.startswith("http:")]
    if plain:
        yield OpenLock(
            "plain",
            f"{plain[0]} is contacted without TLS: anyone in between can read and change what evac does",
            "start etcd with --cert-file and --key-file, and write https:// and ca=FILE",
        )


def _of_own_certificate(path: str) -> Iterator[OpenLock]:
    """etcd drops connections with an expired certificate without giving a reason."""
    with contextlib.suppress(InvalidInput):
        ends = ends_ms(Path(path)) if path else 0
        if ends and ends <= time.time() * 1_000:
            words = (
                f"the certificate {path} expired at {moment_words(ends // 1_000)}, "
                "so etcd does not let evac in"
            )
            yield OpenLock("expired", words, "create a new one from the same CA")


async def _of_etcd(members: Sequence[str], options: Mapping[str, str]) -> list[OpenLock]:
    found: list[OpenLock] = []
    deadline = time.monotonic() + CHECK_S
    tls = (options.get("ca", ""), options.get("cert", ""), options.get("key", ""))
    prefix = options.get("prefix", "evac") + "/"
    if members[0].startswith("https:") and await _lets_in(members, (tls[0], "", ""), prefix, deadline):
        found.append(
            OpenLock(
                "no-certificate",
                "etcd accepts clients without a certificate",
                "start etcd with --client-cert-auth and --trusted-ca-file",
            )
        )
    asked = not await _reads(members, tls, prefix, deadline)
    if not asked:
        found.append(
            OpenLock(
                "no-user",
                "etcd does not require a user: anyone who can connect can read and delete every key",
                "add a user and a role for the prefix, then: etcdctl auth enable",
            )
        )
    user = options.get("user", "") if asked else ""
    gateway = Gateway(members, user=user, password=options.get("password", ""), tls=tls)
    try:
        if user:
            found += await _of_the_role(gateway, user, prefix, deadline)
        elif asked:
            words = "etcd requires a user, but the URL of the store has none"
            found.append(OpenLock("not-checked", words, "add user=NAME and password=file:/path to the URL"))
            return found
        found += await _of_the_members(gateway, deadline)
    finally:
        await gateway.close()
    return found


async def _lets_in(members: Sequence[str], tls: tuple[str, str, str], prefix: str, deadline: float) -> bool:
    """Whether etcd responds at all to a client that presents these files."""
    gateway = Gateway(members, tls=tls)
    try:
        await gateway.ask(0, "/v3/kv/range", _first_key(prefix), deadline)
    except Refused:
        return True
    except (StoreError, Unavailable):
        return False
    finally:
        await gateway.close()
    return True


async def _reads(members: Sequence[str], tls: tuple[str, str, str], prefix: str, deadline: float) -> bool:
    """Whether a key can be read without a user. Raises `StoreError` if no member answers."""
    gateway = Gateway(members, tls=tls)
    try:
        await gateway.call("/v3/kv/range", _first_key(prefix), deadline)
    except Refused:
        return False
    finally:
        await gateway.close()
    return True


def _first_key(prefix: str) -> dict[str, Any]:
    return {"key": text_key(prefix), "keys_only": True, "limit": 1}


async def _of_the_role(gateway: Gateway, user: str, prefix: str, deadline: float) -> list[OpenLock]:
    """Checks that the URL's user may access evac's own keys and nothing else."""
    roles = (await gateway.call("/v3/auth/user/get", {"name": user}, deadline)).get("roles", [])
    cure = f"give {user} one role: etcdctl role grant-permission evac --prefix=true readwrite {prefix}"
    if ROOT in roles:
        words = f"the user {user} of etcd has the role root: it can change every key, user and member"
        return [OpenLock("role-too-wide", words, cure)]
    wide: list[str] = []
    for role in roles:
        try:
            answer = await gateway.call("/v3/auth/role/get", {"role": role}, deadline)
        except Refused as refused:
            if refused.grpc == GRPC_NOT_FOUND:
                continue
            raise
        wide += [_named(one) for one in answer.get("perm", []) if not _inside(one, prefix.encode())]
    if not wide:
        return []
    words = f"the user {user} of etcd can access more than {prefix}: {', '.join(wide[:3])}"
    return [OpenLock("role-too-wide", words, cure)]


def _inside(permission: Mapping[str, Any], prefix: bytes) -> bool:
    """Whether a permission covers only keys below the prefix. A range excludes its end."""
    first, end = raw(permission.get("key")), raw(permission.get("range_end"))
    after = prefix[:-1] + bytes([prefix[-1] + 1])
    if not end:
        return first.startswith(prefix)
    return prefix <= first and end != b"\0" and end <= after


def _named(permission: Mapping[str, Any]) -> str:
    first, end = raw(permission.get("key")), raw(permission.get("range_end"))
    name = first.rstrip(b"\0").decode("utf-8", "replace")
    if end == b"\0":
        return f"all keys from {name}" if name else "all keys"
    return f"{name}*" if end else name


async def _of_the_members(gateway: Gateway, deadline: float) -> list[OpenLock]:
    """What the members advertise: how they reach each other, and where clients connect."""
    rows = (await gateway.call("/v3/cluster/member/list", {}, deadline)).get("members", [])
    found: list[OpenLock] = []
    if plain := _plain(rows, "peerURLs"):
        words = f"etcd members talk to each other without TLS: {', '.join(plain[:3])}"
        cure = "give them https:// peer URLs, --peer-cert-file, --peer-key-file, --peer-client-cert-auth"
        found.append(OpenLock("peers-plain", words, cure))
    if plain := _plain(rows, "clientURLs"):
        words = f"etcd members also accept clients without TLS: {', '.join(plain[:3])}"
        found.append(OpenLock("members-plain", words, "remove http:// from --listen-client-urls"))
    return found


def _plain(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return [str(url) for row in rows for url in row.get(key, []) if str(url).startswith("http:")]
