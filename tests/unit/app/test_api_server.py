"""The API server of these tests serves nothing that a real one would not."""

from __future__ import annotations

import copy
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.app.api_server import serving
from tests.unit.app.test_clusters import recorded

pytestmark = pytest.mark.enable_socket


def ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_lists_are_of_their_kind_and_say_how_much_is_left() -> None:
    with serving(recorded("fra")) as api:
        pods = ask(f"{api.url}/api/v1/pods?limit=2")
        clusters = ask(f"{api.url}/apis/postgresql.cnpg.io/v1/clusters?limit=2")
    assert (pods["kind"], pods["apiVersion"]) == ("PodList", "v1")
    assert pods["metadata"]["remainingItemCount"] == 11
    assert not any("kind" in one or "apiVersion" in one for one in pods["items"])
    assert (clusters["kind"], clusters["metadata"]) == ("ClusterList", {"resourceVersion": "418"})
    assert [one["kind"] for one in clusters["items"]] == ["Cluster"]


def change(of: str, how: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    objects = copy.deepcopy(recorded("fra"))
    how(next(one for one in objects if one["kind"] == of))
    return objects


@pytest.mark.parametrize(
    ("kind", "how", "words"),
    [
        ("Pod", lambda one: one["spec"].update(nodename="a"), "Pod.spec.nodename is not in the published"),
        ("Pod", lambda one: one["spec"].update(nodeName=3), "Pod.spec.nodeName is a int, not a str"),
        ("Deployment", lambda one: one["spec"].pop("selector"), "Deployment.spec lacks selector"),
        (
            "Service",
            lambda one: one["spec"]["ports"][0].update(port="80"),
            "port is a str, not an int",
        ),
        ("Service", lambda one: one.update(kind="Servise"), "v1 has no kind Servise"),
        ("Cluster", lambda one: one["metadata"].pop("name"), "Cluster has no name"),
        ("Pod", lambda one: one.pop("apiVersion"), "Pod has no apiVersion"),
    ],
)
def test_an_object_that_no_server_has_is_not_served(
    kind: str, how: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(AssertionError, match=words), serving(change(kind, how)):
        pass


def test_an_answer_that_no_server_gives_fails_the_test() -> None:
    with serving(recorded("fra")) as api:
        api.objects[0]["kindd"] = "Node"
        ask(f"{api.url}/api/v1/nodes?limit=5")
        (wrong,) = api.wrong
        api.wrong.clear()
    assert "kindd is not in the published schema" in wrong
