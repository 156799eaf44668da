"""What is free on the nodes of a cluster is known only if a dump shows everything that runs there."""

from pathlib import Path

import pytest

from tests.unit.estate.importing.test_kubernetes_dump import dumped, imported, pod, shop


def test_one_namespace_does_not_show_what_is_free(tmp_path: Path) -> None:
    """The nodes are full of another namespace's pods; only the one that is imported is seen."""
    estate, result, _ = imported(tmp_path, dumped(shop()), namespaces=("shop",))
    (problem,) = [one for one in result.diagnostics if one.code == "import-use-unknown"]
    assert "without what others use" in problem.hint
    assert all(pool.capacity == (None,) * 4 for pool in estate.pools)
    assert not estate.fleet.capacity_known.any()


@pytest.mark.parametrize("shown", ["system", "all but one node", "all", "no node", "openshift"])
def test_a_dump_without_all_pods_does_not_show_what_is_free(tmp_path: Path, shown: str) -> None:
    """A dump of one namespace, or of nodes alone, says nothing about what else runs there."""
    items = [one for one in shop() if shown != "no node" or one["kind"] != "Pod"]
    if shown == "system":
        items = [one for one in items if one["metadata"].get("namespace") != "kube-system"]
        items += [pod("on-cp-1", "ReplicaSet/web-6d4b75cb6d", "cp-1")]
    if shown == "all but one node":
        items = [one for one in items if one["kind"] != "Pod" or one["spec"]["nodeName"] != "cp-1"]
    if shown == "openshift":
        text = dumped(items).replace("kube-system", "openshift-network")
    else:
        text = dumped(items)
    estate, result, _ = imported(tmp_path, text)
    is_whole = shown in ("all", "openshift")
    assert ("import-use-unknown" in [one.code for one in result.diagnostics]) != is_whole
    assert estate.fleet.capacity_known[:, 0].any() == is_whole
    assert all((pool.capacity[0] is not None) == is_whole for pool in estate.pools)


def test_a_node_that_is_not_ready_needs_no_pod(tmp_path: Path) -> None:
    items = [one for one in shop() if one["metadata"]["name"] != "kube-proxy-n3"]
    _, result, _ = imported(tmp_path, dumped(items))
    assert "import-use-unknown" not in [one.code for one in result.diagnostics]
