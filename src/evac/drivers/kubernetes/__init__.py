"""One workload of one Kubernetes cluster."""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from evac.drivers.capabilities import RunsUnits, Verifies
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
        shlex.join([*kubectl, "rollout", "status", what]) + " ends without an error",
    )


DRIVER = DriverSpec(
    "kubernetes",
    "scales one workload of one cluster, and waits until its pods are ready",
    (RunsUnits, Verifies),
    (
        Setting("kubeconfig", "secret", "a reference to the whole file", needed=_ALL),
        Setting("context", "text", "another context of the file", "the file's own"),
        Setting("namespace", "text", "where the object is; a class has none", "the context's"),
        Setting(
            "kind",
            "text",
            "of the object",
            needed=_ALL,
            choices=("Deployment", "StatefulSet", "ReplicaSet", "ResourceQuota", "PriorityClass"),
        ),
        Setting("name", "text", "the object", needed=_ALL),
        Setting("reconciler", "text", "of Argo CD or Flux: `KIND/NAMESPACE/NAME`, paused meanwhile", "none"),
        Setting("reconciler_kubeconfig", "secret", "a reference to the file of its cluster", "`kubeconfig`"),
    ),
    "evac.drivers.kubernetes.driver:KubernetesDriver",
    extra="k8s",
    by_hand=MappingProxyType({"scale": _scaled_by_hand}),
)
