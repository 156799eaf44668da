"""Opens the store that a URL names: `memory:`, `sqlite:PATH`, `etcd:http://a:2379,http://b:2379`."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from evac.model.errors import StoreError
from evac.store.memory import MemoryStore
from evac.store.port import Store

FORMS: Final = "memory:  |  sqlite:PATH  |  etcd:http://HOST:2379,http://HOST:2379"
ETCD_OPTIONS: Final = frozenset({"user", "password", "ca", "cert", "key", "prefix"})


def open_store(url: str) -> Store:
    """The store, ready for use; close it when done. Raises `StoreError`, for a file also `Corrupt` and
    `Unavailable`; etcd is asked only at the first call.

    etcd takes options after `?`: user, password (`env:NAME` or `file:PATH`), ca, cert and key (files),
    prefix. Name the member of one's own site first: it is preferred.
    """
    kind, _, rest = url.partition(":")
    if kind == "memory" and not rest:
        return MemoryStore()
    if kind == "sqlite" and rest:
        return _open_sqlite(Path(rest))
    if kind == "etcd" and rest:
        return _open_etcd(rest)
    raise _no_store(url)


def check_store(url: str) -> None:
    """Raises `StoreError` where a URL cannot name a store; opens nothing and makes no file."""
    kind, _, rest = url.partition(":")
    if kind == "sqlite" and rest:
        _check_folder(Path(rest))
    elif kind == "etcd" and rest:
        _read_etcd(rest)
    elif url != "memory:":
        raise _no_store(url)


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
                f"{_without_secrets(endpoint)!r} is no address of an etcd member",
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
    return endpoints, options


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
