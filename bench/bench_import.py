"""`python -m bench import`: how fast clusters are imported, and what broken sources do to the readers.

--nodes N,...: sizes, 20 pods a node (50,500; FULL=1: 5000 too); --count N --seed N: broken sources of all
kinds (20,000; FULL=1: 1,000,000). Each size is imported by a process of its own, so that its memory is its
own. A running cluster is asked without the bound of 5 requests a second, which is waiting and no work: what
it would wait is printed. CPU seconds are those of the import alone, and growth is how they grow from the size
before: 1.0x is linear. Exit status 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.figures import peak_mib
from bench.hostile_sources import outcomes

PODS_A_NODE: Final = 20
SECONDS_MAX: Final = 30.0
MIB_MAX: Final = 1_536
_TARGET_NODES: Final = 5_000


def cluster(nodes: int) -> Iterator[dict[str, Any]]:
    """Objects of a cluster over three zones, 10 pods a Deployment."""
    for node in range(nodes):
        labels = {"topology.kubernetes.io/zone": f"zone-{node % 3}"}
        size = {"cpu": "32", "memory": "131072Mi"}
        yield _object("v1", "Node", f"node-{node}", "", {}, {"allocatable": size}, labels)
    pods = nodes * PODS_A_NODE
    requests = {"requests": {"cpu": "250m", "memory": "512Mi"}}
    spec = {"containers": [{"name": "a", "image": "example/app", "resources": requests}]}
    for number in range(0, pods, 10):
        name, namespace = f"app-{number // 10}", f"team-{number // 200}"
        template = {"metadata": {"labels": {"app": name}}, "spec": spec}
        selector = {"matchLabels": {"app": name}}
        wanted = {"replicas": 10, "selector": selector, "template": template}
        yield _object("apps/v1", "Deployment", name, namespace, wanted)
        owner = ("Deployment", name)
        yield _object(
            "apps/v1", "ReplicaSet", f"{name}-5c6b7d8f9", namespace, wanted, {"replicas": 10}, owner=owner
        )
    for number in range(pods):
        name, namespace = f"app-{number // 10}", f"team-{number // 200}"
        owner = ("ReplicaSet", f"{name}-5c6b7d8f9")
        placed = {**spec, "nodeName": f"node-{number % nodes}"}
        pod, state = f"{name}-5c6b7d8f9-{number:05d}", {"phase": "Running"}
        yield _object("v1", "Pod", pod, namespace, placed, state, {"app": name}, owner)


def _object(
    version: str,
    kind: str,
    name: str,
    namespace: str,
    spec: object,
    status: object = None,
    labels: object = None,
    owner: tuple[str, str] | None = None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels or {}}
    if namespace:
        metadata["namespace"] = namespace
    if owner is not None:
        what = {"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "uid": f"{owner[0]}-{owner[1]}"}
        metadata["ownerReferences"] = [{**what, "controller": True}]
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec, "status": status or {}}


def measure(how: str, source: str, out: str) -> dict[str, float]:
    """Import once, in this process: seconds, and MiB at the most."""
    from evac.app.fetching import clusters, fetch_live
    from evac.estate.importers import Live, Options, RecipeSource, import_estate, import_live
    from evac.model.diagnostic import Place

    began, began_cpu = time.perf_counter(), time.process_time()
    if how == "dump":
        found = import_estate("kubernetes", Path(source), Path(out))
    else:
        clusters.REQUESTS_PER_SECOND = 1_000_000  # type: ignore[misc]
        live = Live(context="bench", kubeconfig=Path(source))
        one = RecipeSource("bench", "kubernetes", Path(), Options(), {}, None, None, Place("bench"), live)
        found = import_live("kubernetes", [one], Path(out), fetch_live)
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
    return {**took, "mib": peak_mib(), "servers": found.servers}


def _apart(how: str, source: Path, out: Path) -> dict[str, float]:
    argv = [sys.executable, "-m", "bench.bench_import", how, str(source), str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _size(nodes: int, before: tuple[int, dict[str, float]] | None) -> tuple[bool, dict[str, float]]:
    """One size, dumped and running; whether the targets are met, and CPU seconds by way. before: those of the
    size before.
    """
    from evac.app.fetching.clusters import REQUESTS_PER_SECOND
    from tests.unit.app.api_server import kubeconfig, serving

    objects = list(cluster(nodes))
    with TemporaryDirectory() as name:
        folder = Path(name)
        dump = folder / "cluster.json"
        dump.write_text(json.dumps({"kind": "List", "items": objects}))
        found = [("dump", _apart("dump", dump, folder / "a"), 0)]
        # To check each answer against the schema would take the time that is measured.
        with serving(objects, is_checked=False) as api:
            config = kubeconfig(folder / "config", {"bench": ({"server": api.url}, {"token": "t"})})
            found.append(("running", _apart("live", config, folder / "b"), len(api.asked)))
        met = (folder / "a" / "servers.csv").read_bytes() == (folder / "b" / "servers.csv").read_bytes()
    for how, figures, requests in found:
        words = f"{figures['seconds']:7.2f} s {figures['cpu_seconds']:7.2f} s CPU {figures['mib']:6.0f} MiB"
        if before is not None:
            words += f", growth {figures['cpu_seconds'] / before[1][how] * before[0] / nodes:.2f}x"
        if requests:
            words += f", {requests} requests: waits {requests / REQUESTS_PER_SECOND:.0f} s"
        print(f"{nodes:>6,} nodes {how:<8}{words}", flush=True)
        met = met and (
            nodes > _TARGET_NODES or (figures["seconds"] <= SECONDS_MAX and figures["mib"] <= MIB_MAX)
        )
    return met, {how: figures["cpu_seconds"] for how, figures, _ in found}


def main(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    full = bool(os.environ.get("FULL"))
    parser = argparse.ArgumentParser(prog="python -m bench import", description="Figures of the import.")
    parser.add_argument("--nodes", default="50,500,5000" if full else "50,500")
    parser.add_argument("--count", type=int, default=1_000_000 if full else 20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    met, before = True, None
    for nodes in (int(text) for text in given.nodes.split(",") if text):
        is_met, took = _size(nodes, before)
        met, before = met and is_met, (nodes, took)
    found = outcomes(given.seed, given.count)
    read, refused = found.read.total(), found.refused.total()
    print(f"{given.count:,} broken sources, seed {given.seed}: {read:,} read, {refused:,} refused,", end=" ")
    print(f"{len(found.wrong):,} wrong, the slowest {found.slowest_s:.2f} s")
    for line in found.wrong[:20]:
        print(f"  {line}")
    return 0 if met and not found.wrong else 1


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:4])))
