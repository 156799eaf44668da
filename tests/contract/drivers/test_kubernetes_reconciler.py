"""Argo CD and Flux are paused while evac has changed a workload that they keep, and go on afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightkube", reason="the extra k8s is not installed")

from evac.drivers.kubernetes.driver import KubernetesDriver
from evac.drivers.port import Action, Value
from evac.model.errors import Permanent
from tests.contract.adapters.kubernetes import CHAT, action, api_server, case_of, kubeconfig_of
from tests.contract.capabilities.story import assert_keeps_contract, order
from tests.contract.drivers.kubernetes_server import ApiServer, application, deployment, kustomization
from tests.contract.ports import free_port

pytestmark = [pytest.mark.enable_socket]
ARGO = "/apis/argoproj.io/v1alpha1/namespaces/argocd/applications/chat"
FLUX = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/chat"
ALERTS = "/apis/apps/v1/namespaces/chat/deployments/alerts"
DRIVER = KubernetesDriver()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as made:
        made.put(ARGO, application("chat"))
        made.put(FLUX, kustomization("chat"))
        made.put(ALERTS, deployment("alerts", 1))
        yield made


@pytest.fixture
def kubeconfig(tmp_path: Path, server: ApiServer) -> str:
    return kubeconfig_of(server.url, tmp_path)


def scale(kubeconfig: str, replicas: int, name: str = "chat", **settings: Value) -> Action:
    made = action(kubeconfig, "scale", "Deployment", name, replicas=replicas)
    return replace(made, settings={**made.settings, "reconciler": "Application/argocd/chat", **settings})


def done(wanted: Action, step: str) -> Any:
    return asyncio.run(DRIVER.execute(wanted, order(key=f"run-1/{step}")))


def automated(server: ApiServer) -> Any:
    return server.objects[ARGO]["spec"]["syncPolicy"].get("automated")


def test_argo_cd_is_paused_until_the_pods_are_as_before(server: ApiServer, kubeconfig: str) -> None:
    before = automated(server)
    assert done(scale(kubeconfig, 6), "one")["reconciler"] == "paused"
    assert automated(server) is None
    assert server.objects[ARGO]["spec"]["syncPolicy"]["syncOptions"] == ["ApplyOutOfSyncOnly=true"]
    assert done(scale(kubeconfig, 8), "two")["reconciler"] == "paused"
    undone = asyncio.run(DRIVER.undo(scale(kubeconfig, 8), order(key="run-1/two")))
    assert (undone["replicas"], undone["reconciler"], automated(server)) == (6, "paused", None)
    assert done(scale(kubeconfig, 2), "three")["reconciler"] == "resumed"
    assert automated(server) == before
    assert "evac-paused" not in server.objects[ARGO]["metadata"]["annotations"]


def test_the_contract_is_kept_with_flux(server: ApiServer, kubeconfig: str, tmp_path: Path) -> None:
    wanted = scale(kubeconfig, 6, reconciler="Kustomization/flux-system/chat")
    case = case_of(server, wanted, CHAT, (6, None, None), tmp_path)

    async def it_is_suspended(case: Any) -> None:
        assert server.objects[FLUX]["spec"]["suspend"] is True

    assert_keeps_contract(replace(case, wires=(), silence=None), it_is_suspended)
    assert "suspend" not in server.objects[FLUX]["spec"], "undone"


def test_it_goes_on_once_no_workload_needs_the_pause(server: ApiServer, kubeconfig: str) -> None:
    done(scale(kubeconfig, 6), "chat")
    done(scale(kubeconfig, 3, "alerts"), "alerts")
    undone = asyncio.run(DRIVER.undo(scale(kubeconfig, 6), order(key="run-1/chat")))
    assert (undone["reconciler"], automated(server)) == ("paused for other workloads", None)
    asyncio.run(DRIVER.undo(scale(kubeconfig, 3, "alerts"), order(key="run-1/alerts")))
    assert automated(server) == {"prune": True, "selfHeal": True}


def test_what_somebody_else_paused_stays_paused(server: ApiServer, kubeconfig: str) -> None:
    del server.objects[ARGO]["spec"]["syncPolicy"]["automated"]
    assert done(scale(kubeconfig, 6), "one")["reconciler"] == "paused by someone else"
    asyncio.run(DRIVER.undo(scale(kubeconfig, 6), order(key="run-1/one")))
    assert automated(server) is None
    assert server.objects[CHAT]["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("reconciler", "words"),
    [
        ("Application/argocd/nobody", "no such Application: nobody"),
        ("Deployment/chat/chat", "is not valid"),
        ("Application/chat", "is not valid"),
    ],
)
def test_a_reconciler_that_is_wrong_is_said_before_anything_changes(
    server: ApiServer, kubeconfig: str, reconciler: str, words: str
) -> None:
    wanted = scale(kubeconfig, 6, reconciler=reconciler)
    assert words in asyncio.run(DRIVER.check(wanted, order())).problems[0]
    with pytest.raises(Permanent, match=words):
        done(wanted, "one")
    assert server.changes == 0


def test_an_older_leader_pauses_nothing(server: ApiServer, kubeconfig: str) -> None:
    server.objects[ARGO]["metadata"]["annotations"] = {"evac-fencing-token": "9"}
    with pytest.raises(Permanent, match="older leader"):
        done(scale(kubeconfig, 6), "one")
    assert server.changes == 0


def test_a_reconciler_that_is_gone_holds_nothing_up(
    server: ApiServer, kubeconfig: str, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    gone = kubeconfig_of(f"http://127.0.0.1:{free_port()}", hub)
    wanted = scale(kubeconfig, 6, reconciler_kubeconfig=gone)
    assert asyncio.run(DRIVER.check(wanted, order())).ready
    found = done(wanted, "one")
    assert found["replicas"] == 6
    assert "not reached, but may be paused" in found["reconciler"]
