"""An API server that keeps to the published schema, for the suites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evac.drivers.capabilities import ReportsReplicas, RunsUnits, Verifies
from evac.drivers.kubernetes import DRIVER
from evac.drivers.port import Action, Value, Verb
from tests.contract.capabilities.hostile import TcpWire
from tests.contract.capabilities.story import Case, nothing
from tests.contract.capabilities.suites import Adapter, AskedReplicas

if TYPE_CHECKING:
    from tests.contract.drivers.kubernetes_server import ApiServer

BEARER = "bearer-of-the-cluster-account"
CHAT = "/apis/apps/v1/namespaces/chat/deployments/chat"
LIMIT = "/api/v1/namespaces/chat/resourcequotas/limit"


@contextmanager
def api_server() -> Iterator[ApiServer]:
    pytest.importorskip("lightkube", reason="the extra k8s is not installed")
    from tests.contract.drivers.kubernetes_server import ApiServer, deployment, quota

    made = ApiServer()
    made.put(CHAT, deployment("chat", 2))
    made.put(LIMIT, quota("limit", cpu="4", memory="8Gi"))
    try:
        yield made
    finally:
        made.close()
    assert made.problems == []


def kubeconfig_of(url: str, folder: Path) -> str:
    """A reference to a file for it."""
    path = folder / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: anyang\n"
        f"clusters: [{{name: anyang, cluster: {{server: '{url}'}}}}]\n"
        f"users: [{{name: evac, user: {{token: {BEARER}}}}}]\n"
        "contexts: [{name: anyang, context: {cluster: anyang, user: evac, namespace: chat}}]\n"
    )
    path.chmod(0o600)
    return f"file:{path}"


def action(kubeconfig: str, verb: Verb, kind: str, name: str, **parameters: Value) -> Action:
    settings = {"kubeconfig": kubeconfig, "kind": kind, "name": name, "namespace": "chat"}
    return Action(verb, name, "kubernetes", "anyang", settings, parameters)


def case_of(server: ApiServer, wanted: Action, path: str, done: object, folder: Path) -> Case:
    from evac.drivers.kubernetes.driver import KubernetesDriver

    async def state() -> object:
        return server.state()

    async def is_done() -> bool:
        found = server.objects.get(path, {})
        spec = found.get("spec", {})
        return (spec.get("replicas"), spec.get("hard"), found.get("value")) == done

    async def silence() -> None:
        server.silent.set()

    async def speak() -> None:
        server.silent.clear()

    def through(action: Action, host: str, port: int) -> Action:
        there = folder / f"through-{port}"
        there.mkdir(exist_ok=True)
        return replace(
            action, settings={**action.settings, "kubeconfig": kubeconfig_of(f"http://{host}:{port}", there)}
        )

    host, _, port = server.url.removeprefix("http://").partition(":")
    return Case(
        KubernetesDriver(),
        wanted,
        state,
        is_done,
        silence=silence,
        speak=speak,
        tokens=True,
        undo="done",
        secrets=(BEARER,),
        silent_codes=("kubernetes-no-answer",),
        wires=(TcpWire(host, int(port), "http", through, bounded=False),),
    )


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    with api_server() as server:
        chat = server.objects[CHAT]
        given: dict[str, dict[str, Value]] = {
            "start": {"replicas": 4},
            "scale": {"replicas": 6},
            "stop": {},
            "verify": {"expect": 2},
        }
        done = {"start": 4, "scale": 6, "stop": 0, "verify": 2}[verb]
        if verb == "verify":
            chat["status"]["readyReplicas"] = 1

        async def healthy() -> None:
            chat["status"]["readyReplicas"] = 2

        wanted = action(kubeconfig_of(server.url, folder), verb, "Deployment", "chat", **given[verb])
        made = case_of(server, wanted, CHAT, (done, None, None), folder)
        made.prepare = healthy if verb == "verify" else nothing
        yield made


@contextmanager
def _replicas(folder: Path) -> Iterator[AskedReplicas]:
    with api_server() as server:
        kubeconfig = kubeconfig_of(server.url, folder)
        asks = action(kubeconfig, "verify", "Deployment", "chat")
        case = case_of(server, asks, CHAT, None, folder)

        async def set_to(count: int) -> None:
            server.objects[CHAT]["spec"]["replicas"] = count

        yield AskedReplicas(
            case.driver,
            asks,
            case.silence,
            case.speak,
            case.secrets,
            case.wires,
            set_to=set_to,
            untold=action(kubeconfig, "verify", "ResourceQuota", "limit"),
        )


ADAPTER = Adapter(
    DRIVER,
    acts=dict.fromkeys((RunsUnits, Verifies), _acts),
    asks={ReportsReplicas: _replicas},
    marks=(pytest.mark.enable_socket,),
)
