"""A running Kubernetes cluster as files for its importer: every list of its API server, page by page.

Read-only: uses only `list`, and reads no Secret. At most 5 requests a second. A page is written before the
next one is requested, so memory does not grow with the cluster. A list whose pages expired (410) is
restarted; a busy server (429, 503) is retried. Kinds that the account may not list are reported, and the
others are read.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from evac.app.fetching.kubeconfig import ClusterAccess, read_access, usual_files
from evac.app.fetching.servers import body_of, patience_s
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Live
from evac.estate.importers.kubernetes.objects import inside, text_in
from evac.estate.importers.kubernetes.source import KINDS_OF_GROUPS, REFUSAL
from evac.model.diagnostic import Place
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.net.tls import check_encrypted, client_context, is_plain, trouble_of

REQUESTS_PER_SECOND: Final = 5
PAGE_SIZE: Final = 500
PAGE_BYTES_MAX: Final = 32 * 2**20
PAGES_MAX: Final = 100_000
RESTARTS_MAX: Final = 5
TRIES_MAX: Final = 8
TIMEOUT_S: Final = 60.0
_BUILT_IN: Final = {
    "apps": "v1",
    "batch": "v1",
    "autoscaling": "v2",
    "policy": "v1",
    "scheduling.k8s.io": "v1",
    "networking.k8s.io": "v1",
}
"""Groups of every cluster and their version, for accounts that may not query what the server has."""
_NOT_KEPT: Final = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Pace:
    """Rate limit of the requests."""

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class _Resource:
    """One kind that can be listed."""

    path: str
    """Path of its version, such as /apis/apps/v1."""
    version: str
    plural: str
    kind: str
    is_namespaced: bool

    @property
    def title(self) -> str:
        """Name as in `kubectl` and roles: deployments.apps."""
        group = self.version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural


class _Refused(Exception):
    """The server responds, but refuses the request."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _TooLarge(Exception):
    """The response exceeds the size limit of a page."""


def fetch_cluster(
    live: Live, namespaces: Sequence[str], into: Path, problems: Problems, pace: Pace | None = None
) -> Path:
    """Write a folder in `into` with a file for each kind that the account may list.

    Namespaces: only these, all if empty. Raises InvalidInput if the cluster cannot be read at all.
    """
    files = (live.kubeconfig,) if live.kubeconfig is not None else usual_files(os.environ)
    access = read_access(files, live.context, live.plugins)
    if access.token is not None:
        check_encrypted(access.server)
    name = re.sub(r"[^A-Za-z0-9-]+", "-", access.context).strip("-")[:80] or "cluster"
    folder = into / name
    folder.mkdir()
    if not access.is_verified:
        hint = "set the certificate authority of the cluster in the kubeconfig"
        message = f"{access.server} is not verified: insecure-skip-tls-verify"
        problems.add("import-unverified", message, Place(access.context), hint)
    elif is_plain(access.server):
        hint = "use an https:// address in the kubeconfig"
        message = f"{access.server} is not encrypted, so nothing shows that it is the server"
        problems.add("import-unverified", message, Place(access.context), hint)
    server = _ApiServer(access, pace or Pace())
    try:
        _read_all(server, namespaces, folder, name, problems)
    finally:
        server.close()
    return folder


def _read_all(
    server: _ApiServer, namespaces: Sequence[str], folder: Path, name: str, problems: Problems
) -> None:
    place = Place(server.access.context)
    resources = _resources(server, place, problems)
    asked, refused = 0, 0
    missing: dict[str, list[str]] = {}
    for resource in resources:
        for namespace in (namespaces if resource.is_namespaced else ()) or ("",):
            target = folder / ".".join(part for part in (name, namespace, resource.title, "json") if part)
            asked += 1
            try:
                _write_list(server, resource, namespace, target)
            except _Refused as error:
                target.unlink()
                if error.status == 404:
                    continue
                if error.status != 403:
                    raise _failed(server, error) from error
                refused += 1
                missing.setdefault(namespace, []).append(resource.title)
    if refused and refused == asked:
        message = f"the account of {server.access.context} has no permission to list anything"
        hint = (
            "give it permission to list, for example with the role view; with --namespace "
            "NAME, only in that namespace"
        )
        raise InvalidInput("import-cluster", message, hint)
    if missing:
        group, kind = REFUSAL
        titles = sorted({title for found in missing.values() for title in found})
        mark = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": name}, "refused": titles}
        (folder / f"{name}.refused.json").write_text(json.dumps(mark), encoding="utf-8")
    for namespace, titles in missing.items():
        where = f" in {namespace}" if namespace else ""
        message = f"the account may not list {', '.join(titles)}{where}, so they are missing"
        role = f"kubectl create clusterrole evac-import --verb=list --resource={','.join(titles)}"
        hint = f"allow it: {role}; then bind that role to the account"
        problems.add("import-forbidden", message, place, hint)


def _resources(server: _ApiServer, place: Place, problems: Problems) -> list[_Resource]:
    """The kinds that the server has and the importer reads, core kinds first."""
    try:
        listed = server.get("/apis")
        groups = [group for group in inside(listed, "groups") or () if isinstance(group, dict)]
    except _Refused as error:
        if error.status != 403:
            raise _failed(server, error) from error
        message = "the account may not list resource kinds; databases run by operators are missing"
        problems.add("import-forbidden", message, place, "bind it to the role system:discovery")
        groups = [{"name": name, "versions": [{"version": one}]} for name, one in _BUILT_IN.items()]
    found = _kinds_in(server, "/api/v1", "v1", "")
    for group in groups:
        name = text_in(group, "name")
        wanted = set(KINDS_OF_GROUPS.get(name, ()))
        for stated in inside(group, "versions") or ():
            version = f"{name}/{text_in(stated, 'version')}"
            kinds = _kinds_in(server, f"/apis/{version}", version, name) if wanted else []
            found += [one for one in kinds if one.kind in wanted]
            wanted -= {one.kind for one in kinds}
    return found


def _kinds_in(server: _ApiServer, path: str, version: str, group: str) -> list[_Resource]:
    """The kinds of one version that the importer reads; their usual names if the server does not list
    them.
    """
    wanted = KINDS_OF_GROUPS[group]
    try:
        stated = inside(server.get(path), "resources")
    except _Refused as error:
        if error.status not in (403, 404):  # another answer says nothing of what there is
            raise _failed(server, error) from error
        cluster_wide = ("Node", "PersistentVolume", "PriorityClass")
        return [
            _Resource(path, version, _plural(kind), kind, kind not in cluster_wide)
            for kind in wanted
            if error.status == 403
        ]
    return [
        _Resource(path, version, text_in(one, "name"), text_in(one, "kind"), one.get("namespaced") is True)
        for one in (stated if isinstance(stated, list) else ())
        if text_in(one, "kind") in wanted
        and re.fullmatch(r"[a-z0-9]+", text_in(one, "name"))
        and "list" in (inside(one, "verbs") or ())
    ]


def _plural(kind: str) -> str:
    return f"{kind.lower()}es" if kind.endswith("s") else f"{kind.lower()}s"


def _write_list(server: _ApiServer, resource: _Resource, namespace: str, target: Path) -> None:
    """Write all objects of one kind, one a line. Raises _Refused, leaving the file incomplete."""
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    with target.open("w", encoding="utf-8") as handle:
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.version}
        handle.write(json.dumps(head)[:-1] + ', "items": [')
        start, sign = handle.tell(), "\n"
        for page in _pages(server, f"{resource.path}{scope}/{resource.plural}"):
            if page is None:
                handle.seek(start)
                handle.truncate()
                sign = "\n"
            for item in page or ():
                handle.write(sign + json.dumps(_kept(item)))
                sign = ",\n"
        handle.write("\n]}\n")


def _pages(server: _ApiServer, path: str) -> Iterator[list[Any] | None]:
    """The items of each page; None if the list restarts. Raises _Refused."""
    size, token, restarts, seen = PAGE_SIZE, "", 0, set[bytes]()
    for _ in range(PAGES_MAX):
        query = {"limit": str(size)} | ({"continue": token} if token else {})
        try:
            found = server.get(f"{path}?{urlencode(query)}")
        except _TooLarge:
            if size == 1:
                message = f"one object under {path} has more than {PAGE_BYTES_MAX // 2**20} MiB"
                raise InvalidInput("import-cluster", message, "use a dump without it") from None
            size = max(1, size // 8)
            continue
        except _Refused as error:
            if error.status != 410 or not token:
                raise
            restarts += 1
            if restarts > RESTARTS_MAX:
                message = f"{path}: its pages expired {restarts} times before the last one was read"
                raise InvalidInput(
                    "import-cluster", message, "import again when the cluster is less busy"
                ) from error
            token = ""
            seen.clear()
            yield None
            continue
        items = inside(found, "items")
        yield [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        token = text_in(found, "metadata", "continue")
        if not token:
            return
        mark = hashlib.sha256(token.encode()).digest()
        if mark in seen:
            message = f"{path}: a page links to one that was already read"
            raise InvalidInput("import-cluster", message, "import again; if it fails again, use a dump")
        seen.add(mark)
    raise InvalidInput("import-cluster", f"{path} has more than {PAGES_MAX:,} pages", "give a dump instead")


def _kept(item: dict[str, Any]) -> dict[str, Any]:
    """An object without fields that only its writers need."""
    metadata = item.get("metadata")
    if not isinstance(metadata, dict):
        return item
    notes = metadata.get("annotations")
    kept = {key: value for key, value in metadata.items() if key != "managedFields"}
    if isinstance(notes, dict):
        kept["annotations"] = {key: value for key, value in notes.items() if key != _NOT_KEPT}
    return {**item, "metadata": kept}


def _failed(server: _ApiServer, error: _Refused) -> InvalidInput:
    address, context = server.access.server, server.access.context
    if error.status == 401:
        no_longer = "no longer accepts" if server.has_answered else "does not accept"
        message = f"{address} {no_longer} the credentials of context {context}"
        hint = f"log in again, then check: kubectl --context {context} get nodes"
        return InvalidInput("import-cluster", message, hint)
    return InvalidInput(
        "import-cluster",
        f"{address} returned status {error.status}: {error}",
        "check that this is the API server, and check its log",
    )


class _TlsConnection(http.client.HTTPConnection):
    """Checks the server's certificate against a name that may differ from that of its address."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self._context = context
        self._name = name

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, socket.socket)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._name)


class _ApiServer:
    """One API server, queried with GET only, over one persistent connection."""

    def __init__(self, access: ClusterAccess, pace: Pace) -> None:
        self.access = access
        self._pace = pace
        self._next_s = 0.0
        self._parts = urlsplit(access.server)
        self._line: http.client.HTTPConnection | None = None
        self.has_answered = False
        """Whether it has accepted the credentials before."""

    def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises _Refused, _TooLarge and InvalidInput."""
        for _ in range(TRIES_MAX):
            status, headers, body = self._ask(path)
            if status == 200:
                self.has_answered = True
                try:
                    return json.loads(body)
                except (ValueError, RecursionError):
                    raise _Refused(status, "the response is not JSON") from None
            if status not in (429, 503):
                raise _Refused(status, _words(body))
            self._pace.sleep(patience_s(headers.get("Retry-After", "")))
        message = f"{self.access.server} was busy {TRIES_MAX} times in a row"
        raise InvalidInput("import-cluster", message, "import again later")

    def _ask(self, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        for is_last in (False, True):
            self._wait()
            was_open = self._line is not None
            try:
                with self._opened() as line:
                    token = self.access.token
                    headers = {"Accept": "application/json", "User-Agent": "evac-import"}
                    headers |= {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
                    line.request("GET", self._parts.path + path, headers=headers)
                    answer = line.getresponse()
                    return answer.status, answer.headers, self._body(answer)
            except (OSError, http.client.HTTPException) as error:
                # A kept connection may have been closed in the meantime.
                if is_last or not was_open:
                    raise self._silent(error) from error
        raise AssertionError("unreachable")

    def _wait(self) -> None:
        left = self._next_s - self._pace.now_s()
        if left > 0:
            self._pace.sleep(left)
        self._next_s = self._pace.now_s() + 1 / REQUESTS_PER_SECOND

    @contextmanager
    def _opened(self) -> Iterator[http.client.HTTPConnection]:
        """The connection; closed if its use fails."""
        if self._line is None:
            self._line = self._connected()
        try:
            yield self._line
        except BaseException:
            self.close()
            raise

    def _connected(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        access = self.access
        with access.tls_files() as files:
            try:
                context = client_context(files)
                if not access.is_verified:
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            except InvalidInput:
                message = f"the certificates of context {access.context} cannot be used"
                hint = "they must be PEM, and the key without a password"
                raise InvalidInput("import-kubeconfig", message, hint) from None
        return _TlsConnection(host, port or 443, context, access.server_name or host)

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        """Read the body. Raises _TooLarge, and the errors of `body_of`."""
        body = body_of(answer, PAGE_BYTES_MAX, time.monotonic() + TIMEOUT_S)
        if len(body) > PAGE_BYTES_MAX:
            raise _TooLarge
        return body

    def _silent(self, error: BaseException) -> InvalidInput:
        trouble = trouble_of(error)
        words = trouble.words if trouble else f"cannot be reached: {str(error) or type(error).__name__}"
        hint = trouble.hint if trouble else "check the address in the kubeconfig, and check the network"
        return InvalidInput("import-cluster", f"{self.access.server}: {words}", hint)


def _words(body: bytes) -> str:
    """The server's message about a refusal, shortened."""
    try:
        said = text_in(json.loads(body), "message")
    except (ValueError, RecursionError):
        said = ""
    return shown(said) if said else "no reason given"
