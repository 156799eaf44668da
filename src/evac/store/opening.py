"""Opens the store that a URL names: `memory:`, `sqlite:PATH`, `etcd:https://a:2379,https://b:2379?...`.

An etcd on another machine is spoken to over TLS, and everything that evac writes there is sealed with a key
that etcd does not have (`evac.store.sealed`), unless the URL says `plain=allowed` or `unsealed=allowed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from evac.model.errors import StoreError
from evac.net.tls import is_here
from evac.store.memory import MemoryStore
from evac.store.port import Store
from evac.store.sealed import SealedStore, seal_of

FORMS: Final = "memory:  |  sqlite:PATH  |  etcd:https://HOST:2379,https://HOST:2379?OPTIONS"
ETCD_OPTIONS: Final = frozenset(
    {"user", "password", "ca", "cert", "key", "prefix", "seal", "plain", "unsealed"}
)
SEAL_MARK: Final = "?seal="
ALLOWED: Final = "allowed"
LOCK_HINT: Final = "see the page Secure the store"


def open_store(url: str) -> Store:
    """The store, ready for use; close it when done. Raises `StoreError`, for a file also `Corrupt` and
    `Unavailable`; etcd is asked only at the first call.

    etcd takes options after `?`: user, password (`env:NAME` or `file:PATH`), ca, cert and key (files),
    prefix. Name the member of one's own site first: it is preferred. seal: the key, or keys, that
    authenticate what is written (`sqlite:PATH?seal=REF` too); plain, unsealed: `allowed` to do without TLS or
    seal.
    """
    kind, _, rest = url.partition(":")
    if kind == "memory" and not rest:
        return MemoryStore()
    if kind == "sqlite" and rest:
        path, seal = _read_sqlite(rest)
        return _sealed(_open_sqlite(path), seal)
    if kind == "etcd" and rest:
        _, options = _read_etcd(rest)
        return _sealed(_open_etcd(rest), options.get("seal", ""))
    raise _no_store(url)


def open_unsealed(url: str) -> tuple[Store, str]:
    """The store as it is below its seal, and the references of the seal's keys: to seal it. Raises as
    `open_store`, and where the URL names no seal.
    """
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        path, seal = _read_sqlite(rest)
        if seal:
            return _open_sqlite(path), seal
    elif kind == "etcd" and rest and (seal := _read_etcd(rest)[1].get("seal", "")):
        return _open_etcd(rest), seal
    raise StoreError("store-seal", "the URL of the store names no seal", "add seal=file:/path to its options")


def _sealed(store: Store, references: str) -> Store:
    return SealedStore(store, seal_of(references)) if references else store


def _read_sqlite(rest: str) -> tuple[Path, str]:
    path, _, seal = rest.partition(SEAL_MARK)
    return Path(path), seal


def check_store(url: str) -> None:
    """Raises `StoreError` where a URL cannot name a store; opens nothing and makes no file."""
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        _check_folder(_read_sqlite(rest)[0])
    elif kind == "etcd" and rest:
        _read_etcd(rest)
    elif url != "memory:":
        raise _no_store(url)


def store_kind(url: str) -> str:
    """`memory`, `sqlite` or `etcd`. Raises `StoreError` where a URL cannot name a store."""
    check_store(url)
    return url.partition(":")[0]


def etcd_members(url: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Addresses and options of `etcd:...`, the own member first. Raises `StoreError`."""
    return _read_etcd(url.partition(":")[2])


def _no_store(url: str) -> StoreError:
    return StoreError("store-url", f"{_without_secrets(url)!r} names no store", f"write one of: {FORMS}")


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError("store-folder", f"there is no folder {path.parent}", f"mkdir -p {path.parent}")


def _open_sqlite(path: Path) -> Store:
    from evac.store.sqlite import SqliteStore

    _check_folder(path)
    return SqliteStore(path)


def _read_etcd(rest: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Members and options of what follows `etcd:`. Raises StoreError."""
    addresses, _, query = rest.partition("?")
    endpoints = tuple(address.strip().rstrip("/") for address in addresses.split(",") if address.strip())
    for endpoint in endpoints:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.username:
            raise StoreError(
                "store-url",
                f"{_without_secrets(endpoint)!r} is not the address of an etcd member",
                f"write one of: {FORMS}",
            )
    if not endpoints:
        raise StoreError("store-url", "etcd needs the address of a member", f"write one of: {FORMS}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(options) - ETCD_OPTIONS):
        raise StoreError(
            "store-url",
            f"etcd has no option {', '.join(unknown)}",
            f"the options are: {', '.join(sorted(ETCD_OPTIONS))}",
        )
    _check_locked(endpoints, options)
    return endpoints, options


def _check_locked(endpoints: Sequence[str], options: Mapping[str, str]) -> None:
    """Raises StoreError for members on other machines in the clear or unsealed, unless that is allowed."""
    for name in ("plain", "unsealed"):
        if options.get(name, ALLOWED) != ALLOWED:
            raise StoreError("store-url", f"{name} is allowed or left out", f"write {name}={ALLOWED}")
    others = [one for one in endpoints if not is_here(urlsplit(one).hostname or "")]
    if not others:
        return
    plain = [one for one in others if one.startswith("http:")]
    if plain and "plain" not in options:
        raise StoreError(
            "store-plain",
            f"{plain[0]} would be asked in the clear: anyone on the way could read and change what evac does",
            f"write https:// and ca=FILE, or plain={ALLOWED}; {LOCK_HINT}",
        )
    if not options.get("seal") and "unsealed" not in options:
        raise StoreError(
            "store-unsealed",
            "anyone who can write to this etcd could make controllers run programs",
            f"add seal=file:/path of a key, or unsealed={ALLOWED}; {LOCK_HINT}",
        )


def _open_etcd(rest: str) -> Store:
    from evac.store.etcd import EtcdStore

    endpoints, options = _read_etcd(rest)
    return EtcdStore(
        endpoints,
        user=options.get("user", ""),
        password=options.get("password", ""),
        ca=options.get("ca", ""),
        cert=options.get("cert", ""),
        key=options.get("key", ""),
        prefix=options.get("prefix", "evac"),
    )


def _without_secrets(url: str) -> str:
    """For messages: what stands before an @ may be a password."""
    return url if "@" not in url else f"...@{url.rpartition('@')[2]}"
