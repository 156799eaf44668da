"""What a repository of restic shows without its password: names of files, and its sealed configuration.

To use the password, restic derives a key from it, which takes half a second in each call. Names are digests
of what a file contains, and no one rewrites the configuration, so both say whether an earlier answer is still
right.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

import aiohttp

from evac.drivers.backups import Stopwatch, document, in_time, number, objects, unreadable, word
from evac.drivers.object_store import Asked, bucket_of
from evac.drivers.parameters import text
from evac.drivers.port import Action
from evac.drivers.programs import given
from evac.drivers.repository_server import CONNECT_S, refuse_silent_server
from evac.model.errors import ActionError, Permanent, Retryable
from evac.net import secrets

Shelf = Literal["data", "snapshots", "locks"]
LISTED_BYTES: Final = 64 << 20
CONFIG_BYTES: Final = 65_536
SHOWN_S: Final = 30.0
"""How long to wait for what restic would also say."""
_PORTS: Final = {"http": 80, "https": 443}
NAME: Final = re.compile(r"[0-9a-f]{64}")
_LIST: Final = {"Accept": "application/vnd.x.restic.rest.v2"}


def where_of(action: Action) -> str:
    """The repository as restic names it. Raises `Permanent` if its URL is not valid or contains a user."""
    where = text(action.settings, "repository")
    if where.startswith("rest:"):
        _server_of(where)
    return where


def _server_of(where: str) -> tuple[SplitResult, int]:
    """The URL of a rest-server, and its port. Raises `Permanent` if it is not valid or contains a user."""
    try:
        url = urlsplit(where.removeprefix("rest:"))
        if "@" in url.netloc:
            raise Permanent(
                "secret-in-clear", "the repository URL contains a user", "write user and user_password"
            )
        port = url.port
    except ValueError as error:  # its text may be a secret
        raise _wrong_url() from error
    if port == 0:
        raise _wrong_url()
    return url, port or _PORTS.get(url.scheme, 0)


def _wrong_url() -> Permanent:
    words = "the host or the port in the repository URL is not valid"
    return Permanent("setting-wrong", words, "write rest:http://HOST:PORT/NAME/")


def is_proxied(action: Action) -> bool:
    """Whether restic uses a proxy: then only restic can ask the repository. Raises `Permanent`."""
    return any(name.lower().endswith("_proxy") for name in given(action.settings)[0])


async def refuse_silent(action: Action, watch: Stopwatch) -> None:
    """Raise `Retryable` if the server of a repository takes no connections: restic would try again for a
    quarter of an hour. Through a proxy, only restic can tell.
    """
    where = where_of(action)
    if not where.startswith("rest:") or is_proxied(action):
        return
    url, port = _server_of(where)
    if not port or not url.hostname:
        return
    await refuse_silent_server("restic", url.hostname, port, watch, _wrong_url())


async def packs_of(action: Action, watch: Stopwatch) -> dict[str, int]:
    """Name and size of every pack. Raises `Permanent` for a repository whose packs cannot be listed here."""
    found = await _sizes(action, "data", watch)
    if found is None:
        words = "evac cannot count how many bytes a check of this kind of repository reads"
        raise Permanent("backup-uncounted", words, "use a rest-server or a bucket")
    return found


async def names_of(action: Action, shelf: Shelf, watch: Stopwatch) -> frozenset[str] | None:
    """Names of the files of one kind; None if that cannot be determined without the password."""
    if not _shows(action):
        return None
    try:
        found = await _sizes(action, shelf, at_most(watch))
    except (ActionError, OSError):
        return None
    return None if found is None else frozenset(found)


async def sealed_config(action: Action, watch: Stopwatch) -> str:
    """Digest of the configuration as it is stored; empty if it cannot be read without the password. It is
    written once, under a random number, so equal ones are of one repository.
    """
    where, watch = where_of(action), at_most(watch)
    if not _shows(action):
        return ""
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


def at_most(watch: Stopwatch) -> Stopwatch:
    """The time for a question that restic can also answer: not the rest of a job that takes hours."""
    return Stopwatch(min(watch.left_s, SHOWN_S))


def _shows(action: Action) -> bool:
    """Whether the repository can be asked without restic."""
    return where_of(action).startswith(("/", "local:")) or not is_proxied(action)


def session_for(action: Action, watch: Stopwatch) -> aiohttp.ClientSession:
    """A session with the credentials for a rest-server."""
    user = text(action.settings, "user", "")
    auth = None
    if user:
        auth = aiohttp.BasicAuth(user, secrets.resolve(text(action.settings, "user_password")).reveal())
    timeout = aiohttp.ClientTimeout(total=max(watch.left_s, 0.1), sock_connect=CONNECT_S)
    return aiohttp.ClientSession(auth=auth, timeout=timeout)


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
