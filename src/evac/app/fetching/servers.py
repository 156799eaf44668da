"""Responses of servers as a file for an importer.

Read-only, with limits on time, bytes and pages. A busy server (429, 503) is retried a few times. The token is
a reference (`env:NAME`, `file:/path`), resolved here and sent only to that server.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from evac.estate.format.problems import Problems
from evac.estate.importers.netbox import (
    FEEDS_REFUSED,
    LOCATIONS_REFUSED,
    MACHINES_REFUSED,
    PORTS_REFUSED,
    pruned,
)
from evac.estate.importers.prometheus import QUERIES, recorded
from evac.model.diagnostic import Place
from evac.model.errors import InvalidInput, Permanent
from evac.net.http_calls import check_url, retry_after_ms
from evac.net.secrets import is_one_word, resolve
from evac.net.tls import check_encrypted, is_plain

TIMEOUT_S: Final = 60.0
"""Time limit of one response, however slowly its bytes arrive."""
WHOLE_S: Final = 1_800.0
ANSWER_BYTES_MAX: Final = 64 * 2**20
RULES_MAX: Final = 20
PAGES_MAX: Final = 2_000
PAGE_SIZE: Final = 200
TRIES_MAX: Final = 5
WAIT_S_MAX: Final = 30.0


def is_server(source: str) -> bool:
    """Whether a source is the address of a server."""
    return source.startswith(("http://", "https://"))


def fetch(
    kind: str,
    url: str,
    into: Path,
    token: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
    problems: Problems | None = None,
) -> Path:
    """Query a server for what an importer of that kind reads, and write it to a file in the folder `into`.
    A server that others could impersonate becomes a problem.

    Raises InvalidInput if importers of that kind query no server, or the server does not respond as it
    should.
    """
    ask = _KINDS.get(kind)
    if ask is None:
        raise InvalidInput(
            "import-source-missing",
            f"{kind} cannot be imported from a server",
            f"use a file; evac can read from a server: {', '.join(sorted(_KINDS))}",
        )
    check_url(url)
    if token is not None:
        check_encrypted(url)
    elif is_plain(url) and problems is not None:
        message = f"{url} is not encrypted, so nothing shows that it is the server"
        problems.add("import-unverified", message, Place(kind), "use https://")
    server = _Server(url.rstrip("/"), "" if token is None else _token_of(token), sleep)
    target = into / f"{kind}.json"
    target.write_text(json.dumps(ask(server)), encoding="utf-8")
    return target


def _token_of(reference: str) -> str:
    """The token of a reference. Raises Permanent, never with its text."""
    text = resolve(reference).reveal().strip()
    if not is_one_word(text):
        words = f"what {reference} contains is no token: a token is one line of visible characters"
        raise Permanent("secret-unreadable", words, "name the file or variable that contains only the token")
    return text


class _Server:
    """A server, queried with GET only."""

    def __init__(self, url: str, token: str, sleep: Callable[[float], None]) -> None:
        self.url = url
        self.forbidden: set[str] = set()
        """Optional paths that this token may not read."""
        self._ends_s = time.monotonic() + WHOLE_S
        self._token = token
        self._sleep = sleep
        # A proxy would read a token that is sent in plain text to this machine.
        direct = (
            [urllib.request.ProxyHandler({})] if token and urllib.parse.urlsplit(url).scheme == "http" else []
        )
        self._opener = urllib.request.build_opener(_NoRedirects(), *direct)

    def get(self, path: str, scheme: str, *, optional: bool = False, **query: str) -> Any:
        """The JSON at a path; `scheme` precedes the token. None if it is `optional` and the server does not
        have it or does not let this token read it.
        """
        address = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"{scheme} {self._token}"
        for _ in range(TRIES_MAX):
            request = urllib.request.Request(address, headers=headers)
            try:
                left_s = min(TIMEOUT_S, self._ends_s - time.monotonic())
                with self._opener.open(request, timeout=max(left_s, 0.001)) as answer:
                    body = body_of(answer, ANSWER_BYTES_MAX, time.monotonic() + left_s)
            except urllib.error.HTTPError as error:
                error.close()
                if optional and error.code in (403, 404):
                    self.forbidden |= {path} if error.code == 403 else set()
                    return None
                if error.code not in (429, 503):
                    raise self._refused(error.code, error.headers.get("Location", "")) from error
                self._sleep(patience_s(error.headers.get("Retry-After", "")))
                continue
            except (OSError, http.client.HTTPException) as error:
                raise InvalidInput(
                    "import-server",
                    f"cannot reach {self.url}: {error}",
                    "check the address, and check the network",
                ) from error
            return self._parsed(body)
        raise InvalidInput(
            "import-server", f"{self.url} is too busy: {TRIES_MAX} tries", "import again later"
        )

    def _refused(self, status: int, moved_to: str) -> InvalidInput:
        if 300 <= status < 400:
            message = f"{self.url} returned status {status}: it redirects to {moved_to[:200] or 'nowhere'}"
            hint = "evac does not follow redirects: if you trust that server, use its address"
            return InvalidInput("import-server", message, hint)
        hints = {
            401: "pass a token: --token env:NAME or file:/path",
            403: "the token lacks permission to read this: request read access",
            404: "check that this is the address of the server, without a path",
        }
        hint = hints.get(status, "check the log of the server")
        return InvalidInput("import-server", f"{self.url} returned status {status}", hint)

    def _parsed(self, body: bytes) -> Any:
        if len(body) > ANSWER_BYTES_MAX:
            message = f"{self.url} returned more than {ANSWER_BYTES_MAX // 2**20} MiB"
            raise InvalidInput("import-server", message, "give a dump instead")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            hint = "check that this is the address of the server, without a path"
            raise InvalidInput("import-server", f"{self.url} did not return JSON", hint) from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the token is sent only to the named server."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def body_of(answer: http.client.HTTPResponse, most: int, ends_s: float) -> bytes:
    """Read a response, up to one byte more than the limit. Raises TimeoutError at the deadline, however
    slowly the server sends, and OSError if the response ends early.
    """
    parts: list[bytes] = []
    size = 0
    while size <= most and (part := answer.read1(min(2**16, most + 1 - size))):
        parts.append(part)
        size += len(part)
        if time.monotonic() > ends_s:
            raise TimeoutError("its response did not end in time")
    if size <= most and answer.length:
        raise OSError("its answer ended early")
    return b"".join(parts)


def patience_s(stated: str) -> float:
    """How long to wait for a busy server, from its `Retry-After`."""
    return min(retry_after_ms(stated, time.time()) / 1_000, WAIT_S_MAX) or 1.0


def _prometheus(server: _Server) -> Mapping[str, Any]:
    """Results of QUERIES; recording rules of the server may fill gaps of the raw series."""
    found = {name: server.get("/api/v1/query", "Bearer", query=query) for name, query in QUERIES.items()}
    missing = [key for key in ("cpu", "memory") if not _samples(found[key])]
    if not missing:
        return found
    try:
        rules = server.get("/api/v1/rules", "Bearer", type="record")
    except InvalidInput:  # a server may store series without supporting rules
        return found
    for key in missing:
        for query in recorded(rules, key)[:RULES_MAX]:
            answer = server.get("/api/v1/query", "Bearer", query=query)
            if _samples(answer):
                found[key] = answer
                break
    return found


def _samples(answer: Any) -> Any:
    data = answer.get("data") if isinstance(answer, dict) else None
    return data.get("result") if isinstance(data, dict) else None


def _netbox(server: _Server) -> Mapping[str, Any]:
    found: dict[str, Any] = {"devices": list(_pages(server, "/api/dcim/devices/"))}
    for key, (path, _) in _OPTIONAL.items():
        if server.get(path, "Token", optional=True, limit="1") is not None:
            found[key] = list(_pages(server, path))
    found |= {refused: True for path, refused in _OPTIONAL.values() if path in server.forbidden}
    return found if "virtual_machines" in found else {**found, MACHINES_REFUSED: True}


_OPTIONAL: Final[Mapping[str, tuple[str, str]]] = {
    "locations": ("/api/dcim/locations/", LOCATIONS_REFUSED),
    "power_feeds": ("/api/dcim/power-feeds/", FEEDS_REFUSED),
    "power_ports": ("/api/dcim/power-ports/", PORTS_REFUSED),
    "virtual_machines": ("/api/virtualization/virtual-machines/", MACHINES_REFUSED),
}
"""Key in the dump -> path of what a NetBox may not have, or a token may not read; the key if it may not."""


def _pages(server: _Server, path: str) -> Iterator[Any]:
    seen = 0
    for _ in range(PAGES_MAX):
        answer = server.get(path, "Token", limit=str(PAGE_SIZE), offset=str(seen))
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list):
            hint = "check that this is the address of NetBox, without a path"
            raise InvalidInput("import-server", f"{server.url} does not respond like NetBox", hint)
        for item in results:
            if isinstance(item, dict):
                yield pruned(item)
        seen += len(results)  # a server may return fewer than requested: MAX_PAGE_SIZE
        if not answer.get("next"):
            return
        if not results:
            message = f"{server.url} returned an empty page that is not the last: {seen:,} entries were read"
            raise InvalidInput("import-server", message, "import again; if it fails again, use a dump")
    raise InvalidInput("import-server", f"more than {PAGES_MAX:,} pages under {path}", "give a dump instead")


_KINDS: Final[Mapping[str, Callable[[_Server], Mapping[str, Any]]]] = {
    "netbox": _netbox,
    "prometheus": _prometheus,
}
