"""The cluster that the benchmark of the import makes is one that an API server could hold."""

from collections import Counter

from bench.bench_import import PODS_A_NODE, cluster
from tests.kubernetes_schema import check_object


def test_every_object_of_the_cluster_is_valid() -> None:
    made = list(cluster(3))
    for one in made:
        check_object(one)
    kinds = Counter(one["kind"] for one in made)
    assert (kinds["Node"], kinds["Pod"]) == (3, 3 * PODS_A_NODE)
