"""Maps a Terraform state to an estate: machines become servers, managed databases and buckets become stores.

The source is the output of `terraform show -json` for a state or plan; OpenTofu prints the same. Only
attributes named in the tables below are read, so that no secret enters an estate. A zone is a site. Regional
resources have no location until the overlay states one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from evac.estate.format.document import MAP, SCALAR, Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.csv import bare
from evac.estate.importers.host_words import STATES
from evac.estate.importers.hosts import Host, Renames, add_hosts, id_of_text
from evac.estate.importers.imported import Imported, Options, Sign, Unknown, Value
from evac.estate.importers.json_stream import PARTS_FROM_BYTES, Parts, is_large, read_in_parts
from evac.estate.importers.services import service_examples
from evac.estate.importers.source_files import at, is_id, items_in, read_values, texts_of, word, words
from evac.model.records import dataclass


@dataclass(frozen=True, slots=True)
class _Machine:
    """Attributes of a kind of machine."""

    sites: tuple[str, ...]
    kinds: tuple[str, ...]
    names: tuple[str, ...] = ("name",)


@dataclass(frozen=True, slots=True)
class _Data:
    """Attributes of a kind of managed data. `engine` is fixed if no attribute states it."""

    engine: str
    engines: tuple[str, ...] = ()
    names: tuple[str, ...] = ("name",)
    sites: tuple[str, ...] = ()


_MACHINES: Final[Mapping[str, _Machine]] = {
    "aws_instance": _Machine(("availability_zone",), ("instance_type",), ("tags.Name",)),
    "azurerm_linux_virtual_machine": _Machine(("zone", "location"), ("size",)),
    "azurerm_windows_virtual_machine": _Machine(("zone", "location"), ("size",)),
    "digitalocean_droplet": _Machine(("region",), ("size",)),
    "equinix_metal_device": _Machine(("metro", "facility"), ("plan",), ("hostname",)),
    "exoscale_compute_instance": _Machine(("zone",), ("type",)),
    "google_compute_instance": _Machine(("zone",), ("machine_type",)),
    "hcloud_server": _Machine(("datacenter", "location"), ("server_type",)),
    "openstack_compute_instance_v2": _Machine(("availability_zone",), ("flavor_name",)),
    "scaleway_instance_server": _Machine(("zone",), ("type",)),
    "vsphere_virtual_machine": _Machine((), ()),
}
_DATA: Final[Mapping[str, _Data]] = {
    "aws_db_instance": _Data("", ("engine",), ("identifier",), ("availability_zone",)),
    "aws_rds_cluster": _Data("", ("engine",), ("cluster_identifier",)),
    "aws_docdb_cluster": _Data("mongodb", (), ("cluster_identifier",)),
    "aws_dynamodb_table": _Data("dynamodb"),
    "aws_efs_file_system": _Data("efs", (), ("tags.Name", "creation_token"), ("availability_zone_name",)),
    "aws_kinesis_stream": _Data("kinesis"),
    "aws_memorydb_cluster": _Data("redis"),
    "aws_neptune_cluster": _Data("neptune", (), ("cluster_identifier",)),
    "aws_redshift_cluster": _Data("redshift", (), ("cluster_identifier",), ("availability_zone",)),
    "aws_sqs_queue": _Data("sqs"),
    "aws_elasticache_cluster": _Data("", ("engine",), ("cluster_id",), ("availability_zone",)),
    "aws_elasticache_replication_group": _Data("redis", ("engine",), ("replication_group_id",)),
    "aws_msk_cluster": _Data("kafka", (), ("cluster_name",)),
    "aws_mq_broker": _Data("", ("engine_type",), ("broker_name",)),
    "aws_opensearch_domain": _Data("opensearch", (), ("domain_name",)),
    "aws_s3_bucket": _Data("s3", (), ("bucket",)),
    "azurerm_cosmosdb_account": _Data("cosmosdb"),
    "azurerm_mssql_database": _Data("mssql"),
    "azurerm_mysql_flexible_server": _Data("mysql", (), ("name",), ("zone", "location")),
    "azurerm_postgresql_flexible_server": _Data("postgresql", (), ("name",), ("zone", "location")),
    "azurerm_redis_cache": _Data("redis"),
    "azurerm_eventhub_namespace": _Data("eventhub"),
    "azurerm_servicebus_namespace": _Data("servicebus"),
    "azurerm_storage_account": _Data("azure-storage"),
    "google_bigtable_instance": _Data("bigtable"),
    "google_filestore_instance": _Data("filestore", (), ("name",), ("location",)),
    "google_pubsub_topic": _Data("pubsub"),
    "google_spanner_instance": _Data("spanner"),
    "google_redis_instance": _Data("redis", (), ("name",), ("location_id",)),
    "google_sql_database_instance": _Data("", ("database_version",)),
    "google_storage_bucket": _Data("gcs"),
    "digitalocean_database_cluster": _Data("", ("engine",), ("name",), ("region",)),
}
_TAGS: Final = ("tags", "labels", "metadata")
"""Attributes with what people wrote about a machine: mappings, or lists such as `service:shop`."""
_SERVICE_TAGS: Final = ("service", "application", "app", "component", "role")
"""Keys that name a service, the clearest first."""
_INSTANCES: Final = frozenset(
    {"aws_docdb_cluster_instance", "aws_neptune_cluster_instance", "aws_rds_cluster_instance"}
)
"""Members of a cluster that shares its storage between zones."""
_GROUPS: Final = frozenset(
    {
        *(
            "aws_autoscaling_group",
            "aws_eks_node_group",
            "google_container_node_pool",
            "hcloud_kubernetes_cluster",
        ),
        *(
            "azurerm_kubernetes_cluster",
            "azurerm_kubernetes_cluster_node_pool",
            "digitalocean_kubernetes_cluster",
        ),
        *("azurerm_linux_virtual_machine_scale_set", "azurerm_windows_virtual_machine_scale_set"),
        *("azurerm_orchestrated_virtual_machine_scale_set", "google_compute_instance_group_manager"),
        *("google_compute_region_instance_group_manager", "scaleway_k8s_pool", "exoscale_sks_nodepool"),
    }
)
"""Kinds that create machines which the state does not list."""
_READ: Final = frozenset({*_MACHINES, *_DATA, *_INSTANCES})
_ENGINES: Final = {
    "aurora-mysql": "mysql",
    "aurora-postgresql": "postgresql",
    "mysql": "mysql",
    "pg": "postgresql",
    "postgres": "postgresql",
    "rabbitmq": "rabbitmq",
    "sqlserver": "mssql",
}


@dataclass(frozen=True, slots=True)
class _Resource:
    kind: str
    address: str
    values: Node
    node: Node


def looks_like(name: str, head: str) -> Sign | None:
    """What a file that begins like this contains, if it is a source of this kind."""
    is_one = '"terraform_version"' in head and ('"root_module"' in head or '"planned_values"' in head)
    return "placed" if is_one else None


def read(source: Path, problems: Problems, options: Options) -> Imported:
    """The facts of a state; problems are added."""
    imported = Imported()
    tree = _state(source, problems)
    if tree is None:
        return imported
    root = at(tree, "values", "root_module") or at(tree, "planned_values", "root_module")
    if root is None:
        hint = "create it with: terraform show -json > show.json"
        if at(tree, "resources") is not None and at(tree, "lineage") is not None:
            hint = f"this is the state file itself; {hint}"
        message = f"{source.name} is not the output of terraform show -json"
        problems.add("import-shape", message, tree.place, hint)
        return imported
    hosts: dict[str, Host] = {}
    names: dict[tuple[str, str], str] = {}
    renames = Renames()
    unread: dict[str, int] = {}
    copies: list[tuple[_Resource, str]] = []
    stores: dict[str, str] = {}
    instances: dict[str, list[_Resource]] = {}
    for resource in _resources(root, problems):
        original = _first(resource.values, ("replicate_source_db", "replication_source_identifier"))
        original = original or _first(resource.values, ("master_instance_name",))
        if _first(resource.values, ("create_mode",)) == "Replica":
            original = _first(resource.values, ("source_server_id",)) or original
        if resource.kind in _MACHINES:
            _add_machine(resource, hosts, names, renames, options, problems)
        elif resource.kind in _INSTANCES:
            instances.setdefault(_first(resource.values, ("cluster_identifier",)), []).append(resource)
        elif resource.kind in _DATA and original:
            copies.append((resource, re.split(r"[:/]", original)[-1]))
        elif resource.kind in _DATA:
            _add_data(resource, imported, stores, problems)
        elif resource.kind in _GROUPS:
            message = (
                f"{shown(resource.address)} creates machines that the state does not list; they are left out"
            )
            hint = (
                "import the running cluster with evac import kubernetes, or a host list with evac import csv"
            )
            problems.add("import-skipped", message, resource.node.place, hint)
        else:
            unread[resource.kind] = unread.get(resource.kind, 0) + 1
    for cluster, found in instances.items():
        _add_instances(found, stores.get(cluster, cluster), imported)
    for resource, original in copies:
        _add_copy(resource, stores.get(original, original), imported, problems)
    if not hosts and not imported.sections.get("stores"):
        message = "it has no machines or managed databases that evac knows"
        problems.add("import-shape", message, tree.place, "docs/how-to/import.md lists what evac reads")
        return imported
    add_hosts(hosts, imported)
    if unread:
        what = "resource types that evac does not read"
        imported.unknown.append(Unknown(what, len(unread), tuple(sorted(unread))))
    imported.examples = service_examples(imported)
    return imported


def _state(source: Path, problems: Problems) -> Node | None:
    """The value in a state; of a large one, only what is read."""
    if is_large(source, PARTS_FROM_BYTES):
        return read_in_parts(source, _PARTS, problems)
    return read_values(source, problems)


def _pruned(around: str, item: Any) -> Any:
    """What is read of a resource. A kind that evac does not know is only counted."""
    if around != "resources" or not isinstance(item, dict):
        return item if not isinstance(item, list | dict) else None
    kept = {key: item.get(key) for key in ("address", "mode", "type")}
    values, kind = item.get("values"), item.get("type")
    if not isinstance(values, dict):
        return kept
    is_known = isinstance(kind, str) and kind in _READ
    kept["values"] = {
        key: value
        for key, value in (values.items() if is_known else ())
        if key in _NESTED
        or not (value is None or isinstance(value, list | dict) or len(str(value)) > _TEXT_MAX)
    }
    return kept


_NESTED: Final = frozenset({*_TAGS, "geo_location", "high_availability", "preferred_cache_cluster_azs"})
"""Attributes that are read and are lists or mappings."""
_TEXT_MAX: Final = 1_000
_INSIDE: Final = frozenset({"values", "planned_values", "root_module", "child_modules"})
_PARTS: Final = Parts(
    _INSIDE, (_INSIDE | {"resources", "address", "lineage", "terraform_version"}).__contains__, _pruned
)


def _resources(module: Node, problems: Problems) -> Iterator[_Resource]:
    """Managed resources of a module and its submodules; notes those that cannot be read. The depth of a
    document is bounded.
    """
    for node in items_in(module, "resources"):
        kind, address, values = word(node, "type") or "", word(node, "address") or "", at(node, "values")
        if word(node, "mode") != "managed":
            continue
        if values is not None and values.kind == MAP:
            yield _Resource(kind, address, values, node)
        elif kind in _READ:
            message = f"{shown(address)} is skipped: the state has no values of it"
            problems.add("import-skipped", message, node.place, "describe it in the overlay")
    for child in items_in(module, "child_modules"):
        yield from _resources(child, problems)


def _site(values: Node, names: tuple[str, ...]) -> str:
    """The site in the attributes; Azure's zones are numbers within a location."""
    zone, location = _first(values, names[:1]), _first(values, names[1:])
    return f"{location}-{zone}" if names[:1] == ("zone",) and location and zone else zone or location


def _first(values: Node, names: tuple[str, ...]) -> str:
    """The first attribute of these that has a value; a dot leads into a mapping."""
    for name in names:
        node = at(values, *name.split("."))
        if node is not None and node.kind == SCALAR and not node.is_unknown and node.text:
            return node.text
    return ""


def _members(resource: _Resource, kind: _Data) -> list[tuple[str, str]]:
    """Places of copies of managed data, and how each follows; none if the state names no zone."""
    places = items_in(resource.values, "geo_location")
    if places:
        order = sorted(places, key=lambda one: (word(one, "failover_priority") or "").rjust(6, "0"))
        sites = [word(one, "location") or "" for one in order]
        return [(site, "async" if position else "primary") for position, site in enumerate(sites)]
    zones = words(resource.values, "preferred_cache_cluster_azs")
    if zones and _first(resource.values, ("num_node_groups",)) in ("", "1"):
        # The first zone is the primary's.
        return [
            (zone, "async" if position else "primary") for position, zone in enumerate(dict.fromkeys(zones))
        ]
    if not _first(resource.values, kind.sites[:1]):
        return []
    members = [(_site(resource.values, kind.sites), "primary")]
    for standby in items_in(resource.values, "high_availability"):
        zone = word(standby, "standby_availability_zone")
        if zone and word(standby, "mode") == "ZoneRedundant":
            location = _first(resource.values, ("location",))
            members.append((f"{location}-{zone}", "sync"))
    return members


def _name(resource: _Resource, names: tuple[str, ...], problems: Problems) -> str | None:
    """A resource's name, else its address; None, with a note, if neither is a valid id."""
    for name in (_first(resource.values, names), resource.address.replace("[", ".").replace("]", "")):
        plain = name.replace('"', "")
        if plain and "/" not in plain and is_id(plain, resource.node.place, Problems()):
            return plain
    message = f"{shown(resource.address)} is skipped: its name is not valid in an estate"
    problems.add("import-skipped", message, resource.node.place, "describe it in the overlay")
    return None


def _is_twice(name: str, known: Collection[str], resource: _Resource, problems: Problems) -> bool:
    """Whether a name is taken, which is noted."""
    if name in known:
        message = f"{shown(resource.address)} appears twice in the state"
        problems.add("import-twice", message, resource.node.place, "the first is used")
    return name in known


def _add_machine(
    resource: _Resource,
    hosts: dict[str, Host],
    names: dict[tuple[str, str], str],
    renames: Renames,
    options: Options,
    problems: Problems,
) -> None:
    kind = _MACHINES[resource.kind]
    name = _name(resource, kind.names, problems)
    if name is not None and name in hosts:
        # Machines of one name get other names by their address.
        name = _name(resource, (), problems)
    if name is None or _is_twice(name, hosts, resource, problems):
        return
    facts = {}
    site = _site(resource.values, kind.sites) or options.site or ""
    if site and is_id(site, resource.node.place, Problems()):
        facts["site"] = site
    else:
        message = f"{shown(resource.address)} has no zone; it is left out"
        problems.add("import-host-nowhere", message, resource.node.place, "set its site with --site")
    stated = _first(resource.values, kind.kinds).rpartition("/")[2]
    size = id_of_text(stated)
    if size:
        facts["class"] = size
        renames.note("class", stated, size, resource.node.place, problems)
    stated = _first(resource.values, ("instance_state", "current_status", "power_state", "status"))
    if stated:
        state = STATES.get(bare(stated))
        facts["state"] = state or "condemned"
        if state is None:
            message = f"{shown(resource.address)} has an unknown state: {shown(stated)}"
            hint = "its capacity does not count until its state is known"
            problems.add("import-word-unknown", message, resource.node.place, hint)
    service = _service(resource, names, problems)
    hosts[name] = Host(facts, {service} if service else set())


def _service(resource: _Resource, names: dict[tuple[str, str], str], problems: Problems) -> str:
    """The service of a machine as an id, as in a host list: blanks become dashes, and a name's first spelling
    counts. Empty, with a note, if it cannot be one. names: what was taken so far.
    """
    stated, place = _service_of(resource.values), resource.node.place
    if not stated or ("taken", stated) in names:
        return names.get(("taken", stated), "")
    made = "-".join(stated.split())
    if not is_id(made, place, Problems()):
        message = (
            f"the service {shown(stated)} of {shown(resource.address)} is skipped: it is not a valid name"
        )
        problems.add("import-skipped", message, place, "letters, digits and . _ - : @ /")
        return ""
    service = names.setdefault(("spelled", made.lower()), made)
    names["taken", stated] = service
    if service != stated:
        message = f"{shown(stated)} is taken as the service {shown(service)}"
        hint = "names in an estate have no blanks" if service == made else "use one spelling"
        problems.add("import-name-changed", message, place, hint)
    return service


def _service_of(values: Node) -> str:
    """The service that a machine's tags, labels or metadata name; empty if none does."""
    stated: dict[str, str] = {}
    for attribute in _TAGS:
        for key, value in texts_of(at(values, attribute)).items():
            stated.setdefault(key.lower(), value)
        for tag in words(values, attribute):
            key, _, value = tag.replace("=", ":").partition(":")
            stated.setdefault(key.lower(), value)
    return next((stated[key].strip() for key in _SERVICE_TAGS if stated.get(key)), "")


def _add_instances(found: list[_Resource], store: str, imported: Imported) -> None:
    """The zones of a cluster's instances, if there are several and the state says which one writes; others
    take over without loss, because the storage is shared. Instances in one zone do not show where else it is.
    """
    known = imported.sections.get("stores", {}).get(store)
    zones = [_first(one.values, ("availability_zone",)) for one in found]
    writers = {
        zone for one, zone in zip(found, zones, strict=True) if _first(one.values, ("writer",)) == "true"
    }
    sites_are_ids = all(
        is_id(zone, one.node.place, Problems()) for one, zone in zip(found, zones, strict=True)
    )
    is_shown = len(writers) == 1 and len(set(zones)) > 1 and sites_are_ids
    if known is None or not is_shown or not isinstance(known.values, dict):
        return
    for zone in zones:
        imported.add("sites", zone)
    others = sorted(set(zones) - writers)
    modes = [*((zone, "primary") for zone in writers), *((zone, "sync") for zone in others)]
    members: list[Value] = [{"at": zone, "mode": mode} for zone, mode in modes]
    known.values.update({"members": members, "automatic": True, "sync_timeout": "0 s"})


def _add_copy(resource: _Resource, original: str, imported: Imported, problems: Problems) -> None:
    """A replica is a member of the store it follows; without that, what it copies is unknown."""
    site = _site(resource.values, _DATA[resource.kind].sites)
    known = imported.sections.get("stores", {}).get(original)
    place, address = resource.node.place, shown(resource.address)
    if known is None:
        message = f"{address} is skipped: it is a replica of {shown(original)}, which the state does not have"
        problems.add("import-skipped", message, place, "describe the store and its copies in the overlay")
    elif not site or not is_id(site, place, Problems()):
        message = f"{address} is a replica of {shown(original)}, whose location is not in the state"
        problems.add(
            "import-host-nowhere", message, place, "add it to the members of the store in the overlay"
        )
    elif not isinstance(members := known.values.get("members"), list):
        message = f"{address} is a replica of {shown(original)}, whose zones are not in the state"
        problems.add("import-host-nowhere", message, place, "list the members of the store in the overlay")
    else:
        imported.add("sites", site)
        members.append({"at": site, "mode": "async"})


def _add_data(resource: _Resource, imported: Imported, stores: dict[str, str], problems: Problems) -> None:
    """stores: the provider's name of each -> its name here."""
    kind = _DATA[resource.kind]
    name = _name(resource, kind.names, problems)
    if name is not None and name in imported.sections.get("stores", {}):
        name = _name(resource, (), problems)
    if name is None or _is_twice(name, imported.sections.get("stores", {}), resource, problems):
        return
    stated = _first(resource.values, kind.engines).lower()
    head = stated.partition("_")[0]
    engine = kind.engine or _ENGINES.get(stated) or _ENGINES.get(head) or stated
    values: dict[str, Value] = {"engine": engine} if engine else {}
    notes = [resource.kind]
    spread = _first(resource.values, ("multi_az",)) == "true"
    members = [] if spread else _members(resource, kind)
    odd = [site for site, _ in members if not is_id(site, resource.node.place, Problems())]
    if odd:
        message = (
            f"{shown(odd[0])} is not a valid site name; the zones of {shown(resource.address)} stay unknown"
        )
        problems.add("import-name", message, resource.node.place, "list the members in the overlay")
    elif members:
        for site, _ in members:
            imported.add("sites", site)
        values["members"] = [{"at": site, "mode": mode} for site, mode in members]
    if _first(resource.values, ("automatic_failover_enabled",)) == "true":
        values["automatic"] = True
    if spread:
        notes.append("in several zones that are not in the state")
    stores[_first(resource.values, kind.names)] = name
    days = _first(resource.values, ("backup_retention_period", "backup_retention_days"))
    if days and days != "0":
        notes.append(f"backups kept for {days} {'day' if days == '1' else 'days'}")
    imported.add("stores", name, values, ", ".join(notes))
