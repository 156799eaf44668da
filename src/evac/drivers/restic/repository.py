"""What a repository of restic shows without its password: names of files, and its sealed configuration.

To use the password, restic derives a key from it, which takes half a second in each call. Names are digests
of what a file contains, and no one rewrites the configuration, so both say whether an earlier answer is still
right.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp

from evac.drivers.backups import Stopwatch, document, in_time, number, objects, unreadable, word
from evac.drivers.object_store import Asked, bucket_of
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.drivers.programs import given
from evac.model.errors import ActionError, Permanent, Retryable
from evac.net import secrets

Shelf = Literal["data", "snapshots", "locks"]
LISTED_BYTES: Final = 64 << 20
CONFIG_BYTES: Final = 65_536
CONNECT_S: Final = 10.0
_PORTS: Final = {"http": 80, "https": 443}
NAME: Final = re.compile(r"[0-9a-f]{64}")
_LIST: Final = {"Accept": "application/vnd.x.restic.rest.v2"}


def where_of(action: Action) -> str:
    """The repository as restic names it. Raises `Permanent` if a user is written in it."""
    where = text(action.settings, "repository")
    if "@" in urlsplit(where.removeprefix("rest:")).netloc and where.startswith("rest:"):
        raise Permanent(
            "secret-in-clear", "the repository URL contains a user", "write user and user_password"
        )
    return where


async def refuse_silent(action: Action, watch: Stopwatch) -> None:
    """Raise `Retryable` if the server of a repository takes no connections: restic would try again for a
    quarter of an hour. Through a proxy, only restic can tell.
    """
    where = where_of(action)
    url = urlsplit(where.removeprefix("rest:"))
    is_proxied = any(name.lower().endswith("_proxy") for name in given(action.settings)[0])
    if not where.startswith("rest:") or url.scheme not in _PORTS or not url.hostname or is_proxied:
        return
    try:
        port = url.port or _PORTS[url.scheme]
        async with asyncio.timeout(min(CONNECT_S, max(watch.left_s, 0.1))):
            _, writer = await asyncio.open_connection(url.hostname, port)
        writer.transport.abort()
    except (OSError, ValueError) as error:  # also a timeout
        words = f"restic: the repository does not answer at {url.hostname}:{port}"
        raise Retryable("backup-silent", words, "start its server") from error


async def packs_of(action: Action, watch: Stopwatch) -> dict[str, int]:
    """Name and size of every pack. Raises `Permanent` for a repository whose packs cannot be listed here."""
    found = await _sizes(action, "data", watch)
    if found is None:
        words = "evac cannot count how many bytes a check of this kind of repository reads"
        raise Permanent("backup-uncounted", words, "use a rest-server or a bucket")
    return found


async def names_of(action: Action, shelf: Shelf, watch: Stopwatch) -> frozenset[str] | None:
    """Names of the files of one kind; None if that cannot be determined without the password."""
    try:
        found = await _sizes(action, shelf, watch)
    except (ActionError, OSError):
        return None
    return None if found is None else frozenset(found)


async def sealed_config(action: Action, watch: Stopwatch) -> str:
    """Digest of the configuration as it is stored; empty if it cannot be read without the password. It is
    written once, under a random number, so equal ones are of one repository.
    """
    where = where_of(action)
    try:
        if where.startswith(("/", "local:")):
            path = Path(where.removeprefix("local:"), "config")
            body: bytes = await in_time(lambda: _begin_of(path), watch, "reading the configuration")
        elif where.startswith("rest:"):
            async with (
                session_for(action, watch) as session,
                session.get(_url(where, "config"), allow_redirects=False) as answer,
            ):
                body = await answer.content.read(CONFIG_BYTES) if answer.status == 200 else b""
        else:
            return ""
    except (ActionError, aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return ""
    return hashlib.sha256(body).hexdigest() if body else ""


def session_for(action: Action, watch: Stopwatch) -> aiohttp.ClientSession:
    """A session with the credentials for a rest-server."""
    user = text(action.settings, "user", "")
    auth = None
    if user:
        auth = aiohttp.BasicAuth(user, secrets.resolve(text(action.settings, "user_password")).reveal())
    return aiohttp.ClientSession(auth=auth, timeout=aiohttp.ClientTimeout(total=max(watch.left_s, 0.1)))


async def _sizes(action: Action, shelf: Shelf, watch: Stopwatch) -> dict[str, int] | None:
    """Name and size of the files of one kind; None for a kind of repository that is not known here. Raises
    `ActionError`, OSError.
    """
    where = where_of(action)
    if where.startswith(("/", "local:")):
        folder = Path(where.removeprefix("local:"), shelf)
        found: dict[str, int] = await in_time(lambda: _files(folder), watch, "listing the repository")
        return found
    if where.startswith("s3:"):
        bucket = bucket_of(where, given(action.settings)[0])
        sizes = await in_time(lambda: Asked(bucket, {}).sizes(f"{shelf}/"), watch, "listing the bucket")
        names = {key.rpartition("/")[2]: int(size) for key, size in sizes.items()}
        return {name: size for name, size in names.items() if NAME.fullmatch(name)}
    return await _served(action, where, shelf, watch) if where.startswith("rest:") else None


async def _served(action: Action, where: str, shelf: Shelf, watch: Stopwatch) -> dict[str, int]:
    try:
        async with (
            session_for(action, watch) as session,
            session.get(_url(where, f"{shelf}/"), headers=_LIST, allow_redirects=False) as answer,
        ):
            body = await answer.content.read(LISTED_BYTES + 1)
            while len(body) <= LISTED_BYTES and (more := await answer.content.read(LISTED_BYTES)):
                body += more
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Retryable("backup-silent", f"the rest-server did not list its {shelf}") from error
    if answer.status != 200 or len(body) > LISTED_BYTES:
        raise unreadable("the rest-server", f"status {answer.status}")
    listed = objects(document(body.decode("utf-8", "replace"), "the rest-server"), "the rest-server")
    names = {word(one.get("name"), "the rest-server"): number(one.get("size"), "it") for one in listed}
    return {name: size for name, size in names.items() if NAME.fullmatch(name)}


def _url(where: str, what: str) -> str:
    return f"{where.removeprefix('rest:').rstrip('/')}/{what}"


def _begin_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(CONFIG_BYTES)


def _files(folder: Path) -> dict[str, int]:
    """Files of a folder and of the folders in it, by their last names."""
    found: dict[str, int] = {}
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            found |= {one.name: one.stat().st_size for one in os.scandir(entry) if NAME.fullmatch(one.name)}
        elif NAME.fullmatch(entry.name):
            found[entry.name] = entry.stat().st_size
    return found
