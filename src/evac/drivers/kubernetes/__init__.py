"""One workload of one Kubernetes cluster."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import ReportsReplicas, RunsUnits, Verifies
from evac.drivers.port import Value
from evac.drivers.spec import NOTHING, ByHand, DriverSpec, Need, Setting, options

_ALL: tuple[Need, ...] = ("service",)


def _scaled_by_hand(settings: Mapping[str, Value], parameters: Mapping[str, Value]) -> ByHand:
    if "name" not in settings:
        return NOTHING
    what = f"{str(settings.get('kind', 'Deployment')).lower()}/{settings['name']}"
    names = {"kubeconfig": "--kubeconfig", "context": "--context", "namespace": "--namespace"}
    kubectl = ["kubectl", *options(settings, names)]
    return ByHand(
        shlex.join([*kubectl, "scale", what, f"--replicas={parameters['replicas']}"]),
        shlex.join([*kubectl, "rollout", "status", what]) + " exits without an error",
    )


DRIVER = DriverSpec(
    "kubernetes",
    "scales one workload in one cluster, and waits until its pods are ready",
    (RunsUnits, ReportsReplicas, Verifies),
    (
        Setting("kubeconfig", "secret", "a reference to the whole kubeconfig", needed=_ALL),
        Setting("context", "text", "context in the kubeconfig", "its current context"),
        Setting("namespace", "text", "namespace of the object; a class has none", "the context's"),
        Setting(
            "kind",
            "text",
            "name of the object",
            needed=_ALL,
            choices=("Deployment", "StatefulSet", "ReplicaSet", "ResourceQuota", "PriorityClass"),
        ),
        Setting("name", "text", "the object", needed=_ALL),
        Setting(
            "reconciler",
            "text",
            "Argo CD or Flux object to pause while the step runs: `KIND/NAMESPACE/NAME`",
            "none",
        ),
        Setting(
            "reconciler_kubeconfig",
            "secret",
            "a reference to the kubeconfig of the reconciler's cluster",
            "`kubeconfig`",
        ),
    ),
    "evac.drivers.kubernetes.driver:KubernetesDriver",
    extra="k8s",
    by_hand=MappingProxyType({"scale": _scaled_by_hand}),
)
