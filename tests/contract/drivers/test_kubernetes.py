"""What is particular to the driver `kubernetes`: kinds of objects, races, errors of the API, kubeconfigs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("lightkube", reason="the extra k8s is not installed")

from evac.drivers.kubernetes.driver import KubernetesDriver
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from tests.contract.adapters.kubernetes import (
    BEARER,
    CHAT,
    LIMIT,
    action,
    api_server,
    case_of,
    kubeconfig_of,
)
from tests.contract.capabilities.story import assert_keeps_contract, order
from tests.contract.drivers.kubernetes_server import ApiServer, deployment
from tests.kubernetes_schema import check_object

pytestmark = [pytest.mark.enable_socket]
URGENT = "/apis/scheduling.k8s.io/v1/priorityclasses/urgent"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as made:
        yield made


@pytest.fixture
def kubeconfig(tmp_path: Path, server: ApiServer) -> str:
    return kubeconfig_of(server.url, tmp_path)


def test_the_contract_is_kept_for_a_quota(server: ApiServer, kubeconfig: str, tmp_path: Path) -> None:
    wanted = action(kubeconfig, "scale", "ResourceQuota", "limit", hard=("cpu=12",))
    done = (None, {"cpu": "12", "memory": "8Gi"}, None)
    assert_keeps_contract(replace(case_of(server, wanted, LIMIT, done, tmp_path), wires=()))


def test_the_contract_is_kept_for_a_priority_class_that_is_not_there_yet(
    server: ApiServer, kubeconfig: str, tmp_path: Path
) -> None:
    wanted = action(kubeconfig, "run", "PriorityClass", "urgent", value=100_000)
    done = (None, None, 100_000)
    assert_keeps_contract(replace(case_of(server, wanted, URGENT, done, tmp_path), wires=()))


def test_written_is_not_ready(server: ApiServer, kubeconfig: str) -> None:
    server.ready = False
    scale = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    with pytest.raises(OutcomeUnknown, match="not in the requested state"):
        asyncio.run(KubernetesDriver().execute(scale, order(timeout_s=8.0)))
    assert asyncio.run(KubernetesDriver().observe(scale, order())).outcome == "unclear"
    server.ready = True
    server.settle(CHAT)
    assert asyncio.run(KubernetesDriver().observe(scale, order())).outcome == "done"
    look = action(kubeconfig, "verify", "Deployment", "chat", expect=6)
    assert asyncio.run(KubernetesDriver().execute(look, order()))["ready"] == 6


@pytest.mark.parametrize(("asked", "ready", "outcome"), [(2, 2, "done"), (2, 1, "absent"), (0, 0, "absent")])
def test_a_plan_that_says_no_number_wants_all_pods_that_the_object_asks_for(
    server: ApiServer, kubeconfig: str, asked: int, ready: int, outcome: str
) -> None:
    chat = server.objects[CHAT]
    chat["spec"]["replicas"], chat["status"] = asked, {"replicas": ready, "readyReplicas": ready}
    look = action(kubeconfig, "verify", "Deployment", "chat")
    assert asyncio.run(KubernetesDriver().observe(look, order())).outcome == outcome


def test_what_somebody_else_changed_at_the_same_instant_is_seen(server: ApiServer, kubeconfig: str) -> None:
    scale = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    server.before_patch = [{"metadata": {"annotations": {"evac-fencing-token": "9"}}}]
    with pytest.raises(Permanent, match="older leader"):
        asyncio.run(KubernetesDriver().execute(scale, order(token=7)))
    assert server.objects[CHAT]["spec"]["replicas"] == 2
    server.before_patch = [{"spec": {"replicas": 3}}]
    asyncio.run(KubernetesDriver().execute(scale, order(token=9)))
    assert server.objects[CHAT]["spec"]["replicas"] == 6
    asyncio.run(KubernetesDriver().undo(scale, order(token=9)))
    assert server.objects[CHAT]["spec"]["replicas"] == 3


def test_an_object_that_never_rests_is_left_for_later(server: ApiServer, kubeconfig: str) -> None:
    server.before_patch = [{"metadata": {"labels": {"n": str(number)}}} for number in range(3)]
    scale = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    with pytest.raises(Retryable, match="changed by someone else"):
        asyncio.run(KubernetesDriver().execute(scale, order()))


def test_a_later_step_does_not_take_back_what_an_earlier_one_did(server: ApiServer, kubeconfig: str) -> None:
    first = action(kubeconfig, "scale", "Deployment", "chat", replicas=4)
    asyncio.run(KubernetesDriver().execute(first, order(key="run-1/one")))
    second = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    asyncio.run(KubernetesDriver().execute(second, order(key="run-1/two")))
    with pytest.raises(Permanent, match="another step has changed it since"):
        asyncio.run(KubernetesDriver().undo(first, order(key="run-1/one")))
    asyncio.run(KubernetesDriver().undo(second, order(key="run-1/two")))
    assert server.objects[CHAT]["spec"]["replicas"] == 4
    asyncio.run(KubernetesDriver().undo(first, order(key="run-1/one")))
    assert server.objects[CHAT]["spec"]["replicas"] == 2


@pytest.mark.parametrize("asked", [(4, 6), (6, 4), (6, 6)])
@pytest.mark.parametrize("undone", [(0, 1), (1, 0)])
def test_starts_are_undone_in_any_order_and_none_ends_what_another_needs(
    server: ApiServer, kubeconfig: str, asked: tuple[int, int], undone: tuple[int, int]
) -> None:
    starts = [action(kubeconfig, "start", "Deployment", "chat", replicas=count) for count in asked]
    orders = [order(key=f"run-1/{index}") for index in range(2)]
    for start, its in zip(starts, orders, strict=True):
        asyncio.run(KubernetesDriver().execute(start, its))
    for index, pods in zip(undone, (asked[undone[1]], 2), strict=True):
        for _ in range(2):
            asyncio.run(KubernetesDriver().undo(starts[index], orders[index]))
            assert server.objects[CHAT]["spec"]["replicas"] == pods


def test_a_start_is_not_undone_after_somebody_else_has_scaled(server: ApiServer, kubeconfig: str) -> None:
    starts = [action(kubeconfig, "start", "Deployment", "chat", replicas=count) for count in (4, 6)]
    for index, start in enumerate(starts):
        asyncio.run(KubernetesDriver().execute(start, order(key=f"run-1/{index}")))
    server.objects[CHAT]["spec"]["replicas"] = 9
    with pytest.raises(Permanent, match="another step has changed it since"):
        asyncio.run(KubernetesDriver().undo(starts[0], order(key="run-1/0")))
    assert server.objects[CHAT]["spec"]["replicas"] == 9


def test_the_record_of_steps_is_bounded_and_one_of_an_older_evac_is_read(
    server: ApiServer, kubeconfig: str
) -> None:
    notes = server.objects[CHAT]["metadata"].setdefault("annotations", {})
    notes["evac-before"] = '{"key": "run-0/old", "was": {"spec": {"replicas": 1}}}'
    old = action(kubeconfig, "scale", "Deployment", "chat", replicas=2)
    asyncio.run(KubernetesDriver().undo(old, order(key="run-0/old")))
    assert server.objects[CHAT]["spec"]["replicas"] == 1
    for number in range(20):
        scale = action(kubeconfig, "scale", "Deployment", "chat", replicas=2 + number % 2)
        asyncio.run(KubernetesDriver().execute(scale, order(key=f"run-1/{number}")))
    kept = json.loads(server.objects[CHAT]["metadata"]["annotations"]["evac-before"])
    assert [one["key"] for one in kept] == [f"run-1/{number}" for number in range(4, 20)]
    for odd in ("{", "7", "[7]", '[{"key": "run-1/1", "was": 7}]', '[{"key": "a", "was": {}, "start": "x"}]'):
        server.objects[CHAT]["metadata"]["annotations"]["evac-before"] = odd
        with pytest.raises(Permanent, match="has no record of its state"):
            asyncio.run(KubernetesDriver().undo(old, order(key="run-1/1")))


def test_amounts_that_mean_the_same_are_done(server: ApiServer, kubeconfig: str) -> None:
    same = action(kubeconfig, "scale", "ResourceQuota", "limit", hard=("cpu=4000m", "memory=8192Mi"))
    assert asyncio.run(KubernetesDriver().observe(same, order())).outcome == "done"


def test_a_priority_is_given_to_pods_and_taken_back(server: ApiServer, kubeconfig: str) -> None:
    give = action(kubeconfig, "run", "Deployment", "chat", priority_class="urgent")
    asyncio.run(KubernetesDriver().execute(give, order()))
    assert server.objects[CHAT]["spec"]["template"]["spec"]["priorityClassName"] == "urgent"
    asyncio.run(KubernetesDriver().undo(give, order()))
    assert "priorityClassName" not in server.objects[CHAT]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("method", "code", "error"),
    [
        ("GET", 500, Retryable),
        ("GET", 429, Retryable),
        ("GET", 403, Permanent),
        ("PATCH", 500, OutcomeUnknown),
        ("PATCH", 429, Retryable),
        ("PATCH", 403, Permanent),
        ("PATCH", 422, Permanent),
    ],
)
def test_what_an_error_of_the_server_means(
    server: ApiServer, kubeconfig: str, method: str, code: int, error: type[Exception]
) -> None:
    server.failures = [(method, code)]
    scale = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    with pytest.raises(error):
        asyncio.run(KubernetesDriver().execute(scale, order()))


def test_a_wrong_kubeconfig_is_said_without_its_words(tmp_path: Path, kubeconfig: str) -> None:
    path = tmp_path / "wrong"
    for text in (f"users: [{BEARER}", f"clusters: {BEARER}", "[]"):
        path.write_text(text)
        path.chmod(0o600)
        scale = action(f"file:{path}", "scale", "Deployment", "chat", replicas=6)
        checked = asyncio.run(KubernetesDriver().check(scale, order()))
        assert "is not a kubeconfig" in checked.problems[0]
        assert BEARER not in str(checked)
    nowhere = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    other = replace(nowhere, settings={**nowhere.settings, "context": "pangyo"})
    assert "has no context pangyo" in asyncio.run(KubernetesDriver().check(other, order())).problems[0]


def test_what_is_not_there_and_what_makes_no_sense(server: ApiServer, kubeconfig: str) -> None:
    gone = action(kubeconfig, "scale", "Deployment", "nobody", replicas=6)
    assert "there is no Deployment nobody" in asyncio.run(KubernetesDriver().check(gone, order())).problems[0]
    with pytest.raises(Permanent, match="there is no Deployment nobody"):
        asyncio.run(KubernetesDriver().execute(gone, order()))
    odd = action(kubeconfig, "start", "ResourceQuota", "limit")
    with pytest.raises(Permanent, match="cannot start a ResourceQuota"):
        asyncio.run(KubernetesDriver().execute(odd, order()))
    assert server.changes == 0


def test_a_cluster_that_is_gone_is_tried_again(server: ApiServer, kubeconfig: str) -> None:
    server.close()
    scale = action(kubeconfig, "scale", "Deployment", "chat", replicas=6)
    with pytest.raises(Retryable):
        asyncio.run(KubernetesDriver().execute(scale, order()))


def test_the_schema_of_the_tests_would_see_a_wrong_answer() -> None:
    wrong = deployment("chat", 2)
    wrong["spec"]["replicas"] = "two"
    with pytest.raises(AssertionError, match="replicas is a str"):
        check_object(wrong)
    unknown = deployment("chat", 2)
    unknown["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(AssertionError, match="imagee is not in the published schema"):
        check_object(unknown)
    short = deployment("chat", 2)
    del short["spec"]["selector"]
    with pytest.raises(AssertionError, match="lacks selector, which"):
        check_object(short)
