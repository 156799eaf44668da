"""One workload of one Kubernetes cluster."""

from evac.drivers.capabilities import RunsUnits, Verifies
from evac.drivers.spec import DriverSpec, Need, Setting

_ALL: tuple[Need, ...] = ("service",)

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
    ),
    "evac.drivers.kubernetes.driver:KubernetesDriver",
    extra="k8s",
)
