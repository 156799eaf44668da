"""A small API server for tests: answers as recorded of a real one, each checked against the published schema.

It keeps objects, merges patches (RFC 7386), refuses a stale resourceVersion, and plays the controllers: pods
become ready a moment after a spec was changed. For the schema see `tests.kubernetes_schema`.
"""

from __future__ import annotations

import copy
import http.server
import json
import threading
import time
from typing import Any

from tests.kubernetes_schema import check_object

READY_S = 0.3


def merge(values: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386."""
    merged = dict(values)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def deployment(name: str, replicas: int) -> dict[str, Any]:
    """As recorded of an API server of version 1.31, without what nobody here reads."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": "chat",
            "uid": "3f0e",
            "resourceVersion": "1001",
            "generation": 1,
            "creationTimestamp": "2026-11-02T03:04:05Z",
            "labels": labels,
            "annotations": {"team": "chat"},
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "chat", "image": "registry.test/chat:7"}]},
            },
        },
        "status": {
            "observedGeneration": 1,
            "replicas": replicas,
            "readyReplicas": replicas,
            "availableReplicas": replicas,
        },
    }


def quota(name: str, **hard: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": name, "namespace": "chat", "uid": "77aa", "resourceVersion": "1002"},
        "spec": {"hard": hard},
        "status": {"hard": hard, "used": {"cpu": "3"}},
    }


def application(name: str) -> dict[str, Any]:
    """Of Argo CD, as it keeps a workload by itself."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": name, "namespace": "argocd", "uid": "a1", "resourceVersion": "1003"},
        "spec": {
            "project": "default",
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["ApplyOutOfSyncOnly=true"],
            },
        },
    }


def kustomization(name: str) -> dict[str, Any]:
    """Of Flux."""
    return {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": name, "namespace": "flux-system", "uid": "f1", "resourceVersion": "1004"},
        "spec": {"interval": "10m", "path": "./chat", "prune": True},
    }


class ApiServer:
    """Runs in a thread. paused: how long answers are held back; ready: pods become ready at all."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.failures: list[tuple[str, int]] = []
        self.silent = threading.Event()
        self.ready = True
        self.changes = 0
        self.before_patch: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self._guard = threading.Lock()
        self._version = 2_000
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self._closing = threading.Event()

    def close(self) -> None:
        self._closing.set()
        self.silent.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, path: str, values: dict[str, Any]) -> None:
        check_object(values)
        self.objects[path] = values

    def state(self) -> str:
        """What is wanted of every object, as text: status comes by itself."""
        with self._guard:
            found = {path: {**one, "status": None} for path, one in self.objects.items()}
            return json.dumps(found, sort_keys=True)

    def settle(self, path: str) -> None:
        """What controllers do a moment after a change."""
        time.sleep(READY_S)
        with self._guard:
            found = self.objects.get(path)
            if found is None or found["kind"] != "Deployment" or not self.ready:
                return
            count = found["spec"]["replicas"]
            found["status"] = {"observedGeneration": found["metadata"]["generation"], "replicas": count}
            if count:
                found["status"] |= {"readyReplicas": count, "availableReplicas": count}

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        with self._guard:
            for index, (verb, code) in enumerate(self.failures):
                if verb == method:
                    self.failures.pop(index)
                    return code, self._status(code, "InternalError", "as the test asked for")
            if method == "POST":
                return self._create(path, body)
            if path not in self.objects:
                return 404, self._status(404, "NotFound", f"{path} not found")
            if method == "GET":
                return 200, self.objects[path]
            if method == "DELETE":
                self.changes += 1
                return 200, self._deleted(self.objects.pop(path))
            return self._patch(path, body)

    def _patch(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.before_patch:
            self._write(path, self.before_patch.pop(0))
        version = body.get("metadata", {}).get("resourceVersion")
        if version not in (None, self.objects[path]["metadata"]["resourceVersion"]):
            return 409, self._status(409, "Conflict", "the object has been modified")
        self._write(path, body)
        threading.Thread(target=self.settle, args=(path,), daemon=True).start()
        return 200, self.objects[path]

    def _write(self, path: str, body: dict[str, Any]) -> None:
        before = self.objects[path]
        after = merge(copy.deepcopy(before), body)
        self._version += 1
        after["metadata"]["resourceVersion"] = str(self._version)
        if after.get("spec") != before.get("spec") and "generation" in after["metadata"]:
            after["metadata"]["generation"] += 1
        self.changes += 1
        self.objects[path] = after

    def _create(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._version += 1
        made = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
        self.changes += 1
        self.objects[f"{path}/{body['metadata']['name']}"] = made
        return 201, made

    def _status(self, code: int, reason: str, message: str) -> dict[str, Any]:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }

    def _deleted(self, found: dict[str, Any]) -> dict[str, Any]:
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                while server.silent.is_set():
                    time.sleep(0.02)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                code, values = server.answer(self.command, self.path.partition("?")[0], body)
                try:
                    check_object(values)
                except AssertionError as error:
                    server.problems.append(str(error))
                data = json.dumps(values).encode()
                try:
                    self.send_response(code)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    return

            do_PATCH = do_POST = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        return Handler
