"""A Kubernetes API server over real HTTP that serves the objects of a dump: kinds, lists, pages, refusals.

All that it serves is checked against the published schema, but for answers that a test gives it to serve.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from tests.kubernetes_schema import check_object, is_published
from tests.web.certificates import Papers

PLURALS = {"PersistentVolumeClaim": "persistentvolumeclaims", "Ingress": "ingresses"}
CLUSTER_WIDE = frozenset({"Node", "PersistentVolume", "PriorityClass"})


@dataclass
class ApiServer:
    """What is served, and what is refused."""

    objects: list[dict[str, Any]]
    token: str = ""
    """Bearer token of the one account; without it everybody may ask."""
    forbidden: set[str] = field(default_factory=set)
    """Plurals of kinds that the account has no permission to list; `/apis` for the list of kinds."""
    busy: int = 0
    """Requests that are turned away with 429 first."""
    expired: int = 0
    """Pages after the first that are too old, with 410."""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Path -> an answer of its own."""
    asked: list[str] = field(default_factory=list)
    url: str = ""
    is_checked: bool = True
    """Whether what it serves is checked. That takes longer than to import it: a benchmark checks before."""
    wrong: list[str] = field(default_factory=list)
    """What was served that is not as the published schema has it."""

    def answer(self, path: str, authorization: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers."""
        self.asked.append(path)
        url = urlsplit(path)
        token = parse_qs(url.query).get("continue", [""])[0]
        for key in (f"{url.path}?continue={token}", url.path):
            if key in self.answers:
                return (*self.answers[key], {})
        found = self._served(url, authorization)
        if not self.is_checked:
            return found
        try:
            check_object(found[1])
        except AssertionError as error:
            self.wrong.append(f"{path}: {error}")
        return found

    def _served(self, url: SplitResult, authorization: str) -> tuple[int, Any, dict[str, str]]:
        if self.busy:
            self.busy -= 1
            return 429, _status(429, "TooManyRequests", "too many requests"), {"Retry-After": "7"}
        if self.token and authorization != f"Bearer {self.token}":
            return 401, _status(401, "Unauthorized", "Unauthorized"), {}
        parts = url.path.strip("/").split("/")
        if url.path == "/apis":
            return self._groups()
        if parts[0] == "api":
            return self._of_version("v1", parts[2:], url.query)
        return self._of_version("/".join(parts[1:3]), parts[3:], url.query)

    def _groups(self) -> tuple[int, Any, dict[str, str]]:
        if "/apis" in self.forbidden:
            return 403, _status(403, "Forbidden", "forbidden: cannot get path /apis"), {}
        groups = defaultdict(set)
        for item in self.objects:
            group, sign, version = item["apiVersion"].partition("/")
            if sign:
                groups[group].add(version)
        listed = []
        for name, versions in sorted(groups.items()):
            found = [{"groupVersion": f"{name}/{one}", "version": one} for one in sorted(versions)]
            listed.append({"name": name, "versions": found, "preferredVersion": found[-1]})
        return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}, {}

    def _of_version(self, version: str, rest: list[str], query: str) -> tuple[int, Any, dict[str, str]]:
        items = [item for item in self.objects if item["apiVersion"] == version]
        if not rest:
            if "/apis" in self.forbidden:
                return 403, _status(403, "Forbidden", "forbidden"), {}
            kinds = sorted({item["kind"] for item in items})
            listed = [_resource(plural(kind), kind, "list") for kind in kinds]
            listed.append(_resource("pods/log", "Pod", "get"))
            body = {"kind": "APIResourceList", "groupVersion": version, "resources": listed}
            # The oldest API leaves out its own version here, as servers do.
            return 200, body if version == "v1" else {**body, "apiVersion": "v1"}, {}
        name = rest[-1]
        if name in self.forbidden:
            return 403, _status(403, "Forbidden", f'{name} is forbidden: User "reader" cannot list it'), {}
        kinds = {item["kind"] for item in items if plural(item["kind"]) == name}
        items = [item for item in items if item["kind"] in kinds]
        if rest[0] == "namespaces":
            items = [item for item in items if item["metadata"].get("namespace") == rest[1]]
        if not kinds:
            return 404, _status(404, "NotFound", "the server could not find the requested resource"), {}
        return self._page(f"{kinds.pop()}List", version, items, parse_qs(query))

    def _page(
        self, kind: str, version: str, items: list[Any], query: dict[str, list[str]]
    ) -> tuple[int, Any, dict[str, str]]:
        token = query.get("continue", [""])[0]
        if token and self.expired:
            self.expired -= 1
            return 410, _status(410, "Expired", "The provided continue parameter is too old"), {}
        start = int(base64.b64decode(token)) if token else 0
        end = start + int(query["limit"][0])
        more = base64.b64encode(str(end).encode()).decode() if end < len(items) else ""
        page = items[start:end]
        if is_published(version):  # items of these lists have neither; those of custom resources have both
            page = [{key: one[key] for key in one if key not in ("kind", "apiVersion")} for one in page]
        metadata: dict[str, Any] = {"resourceVersion": "418"}
        if more:
            metadata |= {"continue": more, "remainingItemCount": len(items) - end}
        return 200, {"kind": kind, "apiVersion": version, "metadata": metadata, "items": page}, {}


def plural(kind: str) -> str:
    return PLURALS.get(kind, f"{kind.lower()}s")


def _resource(name: str, kind: str, verb: str) -> dict[str, Any]:
    return {
        "name": name,
        "singularName": kind.lower(),
        "kind": kind,
        "namespaced": kind not in CLUSTER_WIDE,
        "verbs": [verb],
    }


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


@contextmanager
def serving(
    objects: list[dict[str, Any]], papers: Papers | None = None, *, is_checked: bool = True
) -> Iterator[ApiServer]:
    """An API server that listens; with papers by TLS, and then it asks for a certificate of the client.

    Raises AssertionError if an object, or an answer, is not as the published schema has it, and is_checked.
    """
    for one in objects if is_checked else ():
        check_object(one)
    api = ApiServer(objects, is_checked=is_checked)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            status, body, headers = api.answer(self.path, self.headers.get("Authorization", ""))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: tests read what was asked."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if papers is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(papers.cert, papers.key)
        context.load_verify_locations(papers.authority)
        context.verify_mode = ssl.CERT_OPTIONAL
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    api.url = f"{'http' if papers is None else 'https'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not api.wrong, api.wrong


def kubeconfig(path: Path, contexts: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> Path:
    """Context -> its cluster and its user, as kubectl stores them."""
    names = list(contexts)
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": names[0],
                "clusters": [{"name": f"c-{n}", "cluster": cluster} for n, (cluster, _) in contexts.items()],
                "users": [{"name": f"u-{n}", "user": user} for n, (_, user) in contexts.items()],
                "contexts": [{"name": n, "context": {"cluster": f"c-{n}", "user": f"u-{n}"}} for n in names],
            }
        )
    )
    return path
