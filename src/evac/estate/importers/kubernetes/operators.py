"""Databases run by operators: each object becomes a store.

One table lists the kinds: their engine, where they state the number of instances, the names under which
clients reach them, and the secrets with their addresses. Sources: the API references of the operators. All of
them promote a replica by themselves when a primary is lost, within one cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from evac.estate.format.document import LIST, Node
from evac.estate.importers.kubernetes.objects import Object
from evac.estate.importers.source_files import at, word
from evac.model.records import dataclass

if TYPE_CHECKING:
    from evac.estate.importers.kubernetes.source import Manifests

_NAME: Final = "app.kubernetes.io/name"
_INSTANCE: Final = "app.kubernetes.io/instance"
_COMPONENT: Final = "app.kubernetes.io/component"
_PART_OF: Final = "app.kubernetes.io/part-of"
_BY: Final = "app.kubernetes.io/managed-by"
_SHARED: Final = frozenset({"app", _NAME, _INSTANCE, _COMPONENT, _PART_OF, _BY})
"""Labels that pods of any program have."""
_NAME_MAX: Final = 253
"""Characters of a name in Kubernetes."""
_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of database object."""

    title: str
    """The operator's common name."""
    engine: str
    counts: tuple[tuple[str, ...], ...] = ()
    """Paths to numbers of instances, which are added up. `*` is every item of a list."""
    hosts: tuple[str, ...] = ("{name}",)
    """Names of Services through which clients reach it."""
    secrets: tuple[str, ...] = ()
    """Secrets with its address: `{name}` is the object's name, `*` anything."""
    labels: Mapping[str, str] = _NO_LABELS
    """Labels of its pods by which a Service may select them; one at least has the object's name."""


_CNPG: Final = Operator(
    "CloudNativePG",
    "postgresql",
    (("spec", "instances"),),
    ("{name}-rw", "{name}-ro", "{name}-r"),
    ("{name}-app", "{name}-superuser"),
    {"cnpg.io/cluster": "{name}", "postgresql": "{name}"},
)
_PERCONA_MYSQL: Final = ("{name}-haproxy", "{name}-haproxy-replicas", "{name}-pxc", "{name}-proxysql")
_REDIS: Final = ("{name}", "{name}-master", "{name}-replica", "{name}-leader", "{name}-follower")

_TABLE: Final[Mapping[tuple[str, str], Operator]] = {
    ("postgresql.cnpg.io", "Cluster"): _CNPG,
    ("acid.zalan.do", "postgresql"): Operator(
        "Zalando",
        "postgresql",
        (("spec", "numberOfInstances"),),
        ("{name}", "{name}-repl", "{name}-pooler", "{name}-pooler-repl"),
        ("*.{name}.credentials", "*.{name}.credentials.postgresql.acid.zalan.do"),
        {"cluster-name": "{name}", "application": "spilo"},
    ),
    ("postgres-operator.crunchydata.com", "PostgresCluster"): Operator(
        "Crunchy",
        "postgresql",
        (("spec", "instances", "*", "replicas"),),
        ("{name}-primary", "{name}-replicas", "{name}-ha", "{name}-pgbouncer"),
        ("{name}-pguser-*",),
        {"postgres-operator.crunchydata.com/cluster": "{name}"},
    ),
    ("pgv2.percona.com", "PerconaPGCluster"): Operator(
        "Percona",
        "postgresql",
        (("spec", "instances", "*", "replicas"),),
        ("{name}-primary", "{name}-replicas", "{name}-ha", "{name}-pgbouncer"),
        ("{name}-pguser-*",),
        {"postgres-operator.crunchydata.com/cluster": "{name}"},
    ),
    ("pxc.percona.com", "PerconaXtraDBCluster"): Operator(
        "Percona",
        "mysql",
        (("spec", "pxc", "size"),),
        _PERCONA_MYSQL,
        labels={_INSTANCE: "{name}", _NAME: "percona-xtradb-cluster"},
    ),
    ("ps.percona.com", "PerconaServerMySQL"): Operator(
        "Percona",
        "mysql",
        (("spec", "mysql", "size"),),
        ("{name}-haproxy", "{name}-mysql", "{name}-mysql-primary", "{name}-router"),
        labels={_INSTANCE: "{name}", _NAME: "percona-server"},
    ),
    ("psmdb.percona.com", "PerconaServerMongoDB"): Operator(
        "Percona",
        "mongodb",
        (("spec", "replsets", "*", "size"),),
        ("{name}-mongos", "{name}-rs0", "{name}-cfg"),
        labels={_INSTANCE: "{name}", _NAME: "percona-server-mongodb"},
    ),
    ("mysql.oracle.com", "InnoDBCluster"): Operator(
        "MySQL",
        "mysql",
        (("spec", "instances"),),
        ("{name}", "{name}-instances"),
        labels={"mysql.oracle.com/cluster": "{name}"},
    ),
    ("k8s.mariadb.com", "MariaDB"): Operator(
        "MariaDB",
        "mariadb",
        (("spec", "replicas"),),
        ("{name}", "{name}-primary", "{name}-secondary", "{name}-internal"),
        labels={_INSTANCE: "{name}", _NAME: "mariadb"},
    ),
    ("mongodbcommunity.mongodb.com", "MongoDBCommunity"): Operator(
        "MongoDB",
        "mongodb",
        (("spec", "members"),),
        ("{name}-svc",),
        ("{name}-*",),
        labels={"app": "{name}-svc"},
    ),
    ("mongodb.com", "MongoDB"): Operator(
        "MongoDB", "mongodb", (("spec", "members"),), ("{name}-svc",), labels={"app": "{name}-svc"}
    ),
    ("kafka.strimzi.io", "Kafka"): Operator(
        "Strimzi",
        "kafka",
        (("spec", "kafka", "replicas"),),
        ("{name}-kafka-bootstrap", "{name}-kafka-brokers"),
        labels={
            "strimzi.io/cluster": "{name}",
            "strimzi.io/kind": "Kafka",
            _INSTANCE: "{name}",
            _NAME: "kafka",
            _PART_OF: "strimzi-{name}",
            _BY: "strimzi-cluster-operator",
        },
    ),
    ("rabbitmq.com", "RabbitmqCluster"): Operator(
        "RabbitMQ",
        "rabbitmq",
        (("spec", "replicas"),),
        ("{name}", "{name}-nodes"),
        ("{name}-default-user",),
        {_NAME: "{name}", _COMPONENT: "rabbitmq", _PART_OF: "rabbitmq"},
    ),
    ("elasticsearch.k8s.elastic.co", "Elasticsearch"): Operator(
        "Elastic",
        "elasticsearch",
        (("spec", "nodeSets", "*", "count"),),
        ("{name}-es-http", "{name}-es-internal-http", "{name}-es-transport"),
        ("{name}-es-*",),
        {
            "elasticsearch.k8s.elastic.co/cluster-name": "{name}",
            "common.k8s.elastic.co/type": "elasticsearch",
        },
    ),
    ("opensearch.opster.io", "OpenSearchCluster"): Operator(
        "OpenSearch",
        "opensearch",
        (("spec", "nodePools", "*", "replicas"),),
        ("{name}",),
        labels={"opster.io/opensearch-cluster": "{name}"},
    ),
    ("databases.spotahome.com", "RedisFailover"): Operator(
        "Spotahome",
        "redis",
        (("spec", "redis", "replicas"),),
        ("rfs-{name}", "rfrm-{name}", "rfrs-{name}"),
        labels={
            "redisfailovers.databases.spotahome.com/name": "{name}",
            _NAME: "{name}",
            _PART_OF: "redis-failover",
            _COMPONENT: "redis",
        },
    ),
    **{
        ("redis.redis.opstreelabs.in", kind): Operator(
            "OpsTree", "redis", (("spec", "clusterSize"),), _REDIS, labels={"app": "{name}"}
        )
        for kind in ("Redis", "RedisCluster", "RedisReplication")
    },
    ("app.redislabs.com", "RedisEnterpriseCluster"): Operator(
        "Redis",
        "redis",
        (("spec", "nodes"),),
        labels={"redis.io/cluster": "{name}", "app": "redis-enterprise"},
    ),
    ("cassandra.datastax.com", "CassandraDatacenter"): Operator(
        "K8ssandra",
        "cassandra",
        (("spec", "size"),),
        ("{name}-service",),
        labels={"cassandra.datastax.com/datacenter": "{name}"},
    ),
    ("clickhouse.altinity.com", "ClickHouseInstallation"): Operator(
        "Altinity",
        "clickhouse",
        (),
        ("clickhouse-{name}",),
        labels={"clickhouse.altinity.com/chi": "{name}"},
    ),
    ("asdb.aerospike.com", "AerospikeCluster"): Operator(
        "Aerospike", "aerospike", (("spec", "size"),), labels={"aerospike.com/cr": "{name}"}
    ),
    ("cluster.redpanda.com", "Redpanda"): Operator(
        "Redpanda", "kafka", (("spec", "clusterSpec", "statefulset", "replicas"),)
    ),
    ("couchbase.com", "CouchbaseCluster"): Operator(
        "Couchbase",
        "couchbase",
        (("spec", "servers", "*", "size"),),
        ("{name}", "{name}-srv", "{name}-ui"),
        labels={"couchbase_cluster": "{name}", "app": "couchbase"},
    ),
    ("crdb.cockroachlabs.com", "CrdbCluster"): Operator(
        "CockroachDB",
        "cockroachdb",
        (("spec", "nodes"),),
        ("{name}", "{name}-public"),
        labels={_INSTANCE: "{name}", _NAME: "cockroachdb"},
    ),
    ("dragonflydb.io", "Dragonfly"): Operator(
        "Dragonfly",
        "redis",
        (("spec", "replicas"),),
        ("{name}",),
        labels={"app": "{name}", _NAME: "dragonfly", _INSTANCE: "{name}"},
    ),
    ("moco.cybozu.com", "MySQLCluster"): Operator(
        "MOCO",
        "mysql",
        (("spec", "replicas"),),
        ("moco-{name}", "moco-{name}-primary", "moco-{name}-replica"),
        labels={_INSTANCE: "{name}", _NAME: "mysql"},
    ),
    ("mysql.presslabs.org", "MysqlCluster"): Operator(
        "Bitpoke",
        "mysql",
        (("spec", "replicas"),),
        ("{name}-mysql", "{name}-mysql-master"),
        labels={"mysql.presslabs.org/cluster": "{name}"},
    ),
    ("pingcap.com", "TidbCluster"): Operator(
        "TiDB",
        "tidb",
        (("spec", "tikv", "replicas"),),
        ("{name}-tidb", "{name}-pd"),
        labels={_INSTANCE: "{name}", _NAME: "tidb-cluster", _BY: "tidb-operator"},
    ),
    ("scylla.scylladb.com", "ScyllaCluster"): Operator(
        "Scylla",
        "scylla",
        (("spec", "datacenter", "racks", "*", "members"),),
        ("{name}-client",),
        labels={"scylla/cluster": "{name}"},
    ),
    ("solr.apache.org", "SolrCloud"): Operator(
        "Solr",
        "solr",
        (("spec", "replicas"),),
        ("{name}-solrcloud-common", "{name}-solrcloud-headless"),
        labels={"solr-cloud": "{name}"},
    ),
    ("stackgres.io", "SGCluster"): Operator(
        "StackGres",
        "postgresql",
        (("spec", "instances"),),
        ("{name}", "{name}-primary", "{name}-replicas"),
        labels={"stackgres.io/cluster-name": "{name}"},
    ),
    ("zookeeper.pravega.io", "ZookeeperCluster"): Operator(
        "Pravega", "zookeeper", (("spec", "replicas"),), ("{name}-client", "{name}-headless")
    ),
    ("minio.min.io", "Tenant"): Operator(
        "MinIO",
        "minio",
        (("spec", "pools", "*", "servers"),),
        ("minio", "{name}-hl"),
        labels={"v1.min.io/tenant": "{name}"},
    ),
}

OPERATORS: Final[Mapping[str, Mapping[tuple[str, str], Operator]]] = {
    kind: {key: operator for key, operator in _TABLE.items() if key[1] == kind}
    for kind in {kind for _, kind in _TABLE}
}
"""Kind -> group and kind -> operator: two groups may use one kind for different things."""


def operator_of(item: Object) -> Operator:
    """The operator of one of the databases of a source."""
    return _TABLE[item.group, item.kind]


def instances(item: Object, manifests: Manifests) -> int | None:
    """Number of instances of a database; None if not stated."""
    found = [count for path in operator_of(item).counts for count in _counts(item.node, path)]
    if item.kind == "Kafka":
        found += [
            count
            for pool in manifests.of("KafkaNodePool")
            if pool.namespace == item.namespace
            and word(at(pool.node, "metadata", "labels"), "strimzi.io/cluster") == item.name
            and "broker" in _texts(at(pool.node, "spec", "roles"))
            for count in _counts(pool.node, ("spec", "replicas"))
        ]
    return sum(found) if found else None


def _counts(node: Node | None, path: tuple[str, ...]) -> list[int]:
    for position, key in enumerate(path):
        if key == "*":
            items = node.items if node is not None and node.kind == LIST else []
            return [count for item in items for count in _counts(item, path[position + 1 :])]
        node = at(node, key)
    text = "" if node is None or node.is_unknown else node.text
    return [int(text)] if text.isascii() and text.isdecimal() and len(text) < 6 else []


def _texts(node: Node | None) -> tuple[str, ...]:
    return tuple(item.text for item in node.items) if node is not None and node.kind == LIST else ()


def hosts_of(item: Object) -> list[str]:
    """Names of Services through which clients reach a database."""
    names = [pattern.format(name=item.name) for pattern in operator_of(item).hosts]
    if item.kind == "Cluster":
        extra = at(item.node, "spec", "managed", "services", "additional")
        for one in extra.items if extra is not None and extra.kind == LIST else ():
            name = word(one, "serviceTemplate", "metadata", "name")
            names += [name] if name is not None else []
    return names


class Databases:
    """The databases of a source with their stores, found by a label of their pods or by the name of a secret.
    A search takes as long as its answer is large, however many databases there are.
    """

    def __init__(self, found: Iterable[tuple[Object, str]]) -> None:
        self._all = tuple(found)
        self._by_label: dict[tuple[str, str, str], list[int]] = {}
        """Namespace, label and value -> positions of the databases that the label names."""
        self._by_secret: dict[tuple[str, str, bool], list[int]] = {}
        """Namespace, part of a secret's name, and whether it is the end -> positions of databases."""
        for position, (item, _) in enumerate(self._all):
            for key, text in operator_of(item).labels.items():
                if "{name}" in text:
                    label = (item.namespace, key, text.format(name=item.name))
                    self._by_label.setdefault(label, []).append(position)
            for pattern in operator_of(item).secrets:
                head, _, tail = pattern.format(name=item.name).partition("*")
                part = (item.namespace, head or tail, not head)
                self._by_secret.setdefault(part, []).append(position)

    def __iter__(self) -> Iterator[tuple[Object, str]]:
        return iter(self._all)

    def selected(self, namespace: str, selector: Mapping[str, str]) -> list[str]:
        """Stores of the databases to whose pods a Service with this selector leads, even if none of the pods
        is known.
        """
        found = {
            position
            for key, text in selector.items()
            for position in self._by_label.get((namespace, key, text), ())
        }
        return [
            self._all[position][1]
            for position in sorted(found)
            if _is_selected(self._all[position][0], selector)
        ]

    def with_secret(self, namespace: str, secret: str) -> list[str]:
        """Stores of the databases that have a secret with that name, which contains their address."""
        if len(secret) > _NAME_MAX:
            return []
        parts = [(secret[:end], False) for end in range(1, len(secret) + 1)]
        parts += [(secret[start:], True) for start in range(len(secret))]
        found = {
            position
            for part, is_end in parts
            for position in self._by_secret.get((namespace, part, is_end), ())
        }
        return [
            self._all[position][1]
            for position in sorted(found)
            if _has_secret(self._all[position][0], secret)
        ]


def _has_secret(item: Object, secret: str) -> bool:
    """Whether a secret with that name has the database's address."""
    for pattern in operator_of(item).secrets:
        head, star, tail = pattern.format(name=item.name).partition("*")
        if secret == head if not star else secret.startswith(head) and secret.endswith(tail):
            return True
    return False


def _is_selected(item: Object, selector: Mapping[str, str]) -> bool:
    """Whether a selector that names the database leads to its pods.

    The labels that any program's pods have count only if the operator sets them; of all others, such as
    roles, the operator may set some.
    """
    own = {key: text.format(name=item.name) for key, text in operator_of(item).labels.items()}
    return all(own[key] == text if key in own else key not in _SHARED for key, text in selector.items())


def spans_clusters(item: Object) -> bool:
    """Whether a database spans several clusters: no operator promotes across them."""
    return at(item.node, "spec", "replica") is not None or at(item.node, "spec", "standby") is not None


def follows(item: Object) -> str | None:
    """What a read-only database follows; None if it has a primary."""
    if at(item.node, "spec", "standby") is not None:
        return "another cluster"
    primary, source = (word(item.node, "spec", "replica", key) for key in ("primary", "source"))
    itself = word(item.node, "spec", "replica", "self") or item.name
    if primary is not None:
        return None if primary == itself else primary
    return source if word(item.node, "spec", "replica", "enabled") == "true" else None


def describe(item: Object, manifests: Manifests) -> str:
    """The object's facts about copies and backups, for people who fill in the overlay."""
    operator = operator_of(item)
    count = instances(item, manifests)
    parts = [f"{operator.title} {item.kind} in {item.namespace}"]
    if count is not None:
        parts.append("1 instance" if count == 1 else f"{count} instances")
    synchronous = word(item.node, "spec", "postgresql", "synchronous", "number") or word(
        item.node, "spec", "minSyncReplicas"
    )
    if synchronous not in (None, "0"):
        parts.append(f"{synchronous} synchronous")
    if word(item.node, "spec", "patroni", "synchronous_mode") == "true":
        parts.append("synchronous")
    followed = follows(item)
    if followed is not None:
        parts.append(f"a replica of {followed}")
    where = word(item.node, "spec", "backup", "barmanObjectStore", "destinationPath")
    if where is not None:
        parts.append(f"backed up to {where}")
    parts += [
        f"backup schedule {word(one.node, 'spec', 'schedule') or 'not stated'}"
        for one in manifests.of("ScheduledBackup")
        if one.namespace == item.namespace and word(one.node, "spec", "cluster", "name") == item.name
    ]
    return ", ".join(parts)
