"""Checks an estate as a whole: unknown names, unreachable endpoints, absurd amounts.

Works on the assembled tuples; servers, which are many, are looked up in their column. Each amount may be as
large as 2^53; sums could overflow the integers of planner and checker or fill memory. That is noted here, so
that later stages need no check.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from evac.drivers import process
from evac.drivers.capabilities import Subject
from evac.drivers.port import Value
from evac.drivers.registry import DRIVERS
from evac.drivers.spec import FENCE
from evac.estate.format.assembling import Assembly
from evac.estate.format.backup_checks import check_backups
from evac.estate.format.bindings import ReplicaRows, ServerNames, totals
from evac.estate.format.problems import Problems, shown
from evac.estate.format.reading import Reader, Reference
from evac.estate.format.store_checks import witness_sites
from evac.model.diagnostic import Place
from evac.model.estate import PROVIDER_PREFIX, Endpoint, Service, SharedFate, Store
from evac.model.fleet import Fleet, np
from evac.model.names import alike
from evac.model.objectives import LOSS_CLASSES, rpo_for
from evac.model.records import dataclass
from evac.model.units import QUANTITY_LIMIT, RESOURCE_WORDS

HORIZON_MIN_MS: Final = 1_000
HORIZON_MAX_MS: Final = 366 * 86_400_000
REPLICAS_MAX: Final = 1_000_000


def check_extremes(assembly: Assembly, fleet: Fleet, rows: ReplicaRows, reader: Reader) -> None:
    """Notes amounts that no plan can handle. `rows`: where replicas are, from YAML and the table."""
    values, problems = assembly.values, reader.problems
    if not HORIZON_MIN_MS <= values["horizon_ms"] <= HORIZON_MAX_MS:
        message = "the horizon must be between 1 second and 366 days"
        problems.add("out-of-range", message, reader.place("horizon"), "use a value like 24 h")
    weights = values["tier_weights"] or (1,)
    placed = totals(rows.replicas, len(values["services"])).tolist()
    for service, count in zip(values["services"], placed, strict=True):
        _check_weight(service, weights, reader)
        if service.external and count and f"services/{service.id}/replicas" not in reader.places:
            _runs_here(service, "replicas", reader)
        whole = max(count, service.replicas or 0)
        _check_count(service, whole, problems, reader)
        _check_demand(service, min(whole, REPLICAS_MAX), reader)
    _check_fleet(fleet, problems)


def _check_weight(service: Service, weights: tuple[int, ...], reader: Reader) -> None:
    tier = len(weights) - 1 if service.tier is None else min(service.tier, len(weights) - 1)
    people = service.people or 0
    if people * weights[tier] > QUANTITY_LIMIT:
        message = f"{people:,} people times the weight {weights[tier]:,} of the tier is more than 2^53"
        place = reader.place(f"services/{service.id}/people")
        reader.problems.add("quantity-too-large", message, place, "check people and tier_weights")


def _check_demand(service: Service, count: int, reader: Reader) -> None:
    for word, amount in zip(RESOURCE_WORDS, service.demand, strict=True):
        if (amount or 0) * count > QUANTITY_LIMIT:
            message = f"{count:,} replicas of {shown(service.id)} demand more than 2^53 base units of {word}"
            place = reader.place(f"services/{service.id}/demand/{word}")
            reader.problems.add("quantity-too-large", message, place, "check the unit and the count")


def _check_fleet(fleet: Fleet, problems: Problems) -> None:
    """Columns are added up in 64 bits, so the sums over the fleet must stay well within them."""
    for resource, word in enumerate(RESOURCE_WORDS):
        if fleet.capacity[:, resource].sum(dtype=np.float64) > 2**61:
            message = f"together, the servers have more than 2^61 base units of {word}"
            problems.add("quantity-too-large", message, Place("servers"), "check the unit of the column")


def _check_count(service: Service, count: int, problems: Problems, reader: Reader) -> None:
    if count > REPLICAS_MAX:
        message = f"{shown(service.id)} has {count:,} replicas; at most {REPLICAS_MAX:,} can be planned"
        place = reader.place(f"services/{service.id}/replicas", f"services/{service.id}")
        problems.add("too-many-replicas", message, place, "check the number")


_SECRET_WORDS: Final = ("password", "secret", "token", "passphrase")
_NOT_SECRET: Final = ("_name", "_algorithm", "_url")
_SECTIONS: Final[Mapping[str, Subject]] = {
    "services": "service",
    "stores": "store",
    "sites": "site",
    "feeds": "feed",
    "data_sets": "backup",
}


def check_endpoints(assembly: Assembly, reader: Reader) -> None:
    """Notes endpoints that are never used, and settings that are unknown, missing or wrong."""
    subjects: dict[str, list[Subject]] = {}
    for section, kind in _SECTIONS.items():
        for entry in assembly.values[section]:
            subjects.setdefault(entry.id, []).append(kind)
    keys: dict[Value, Endpoint] = {}
    for endpoint in assembly.values["endpoints"]:
        found = subjects.get(endpoint.subject, [])
        used = [one for one in found if DRIVERS[endpoint.driver].serves(one, endpoint.settings)]
        if found and not used:
            _never_asked(endpoint, found[0], reader)
        for key, value in endpoint.settings.items():
            _check_setting(endpoint, key, value, found, reader)
        missing = {
            one.key: one for kind in used for one in DRIVERS[endpoint.driver].missing(kind, endpoint.settings)
        }
        _check_agent(endpoint, keys, reader)
        if endpoint.hall is not None and endpoint.hall.partition("/")[0] != endpoint.at:
            place = reader.place(f"endpoints/{endpoint.id}/hall", f"endpoints/{endpoint.id}")
            message = (
                f"{shown(endpoint.id)} is at {shown(endpoint.at)}, and its hall {shown(endpoint.hall)} is not"
            )
            reader.problems.add(
                "hall-elsewhere", message, place, f"use a hall of {endpoint.at}, or remove it"
            )
        for one in missing.values():
            message = f"{shown(endpoint.id)} lacks {one.key}: {one.meaning}"
            hint = f"write {one.key} under settings"
            reader.problems.add("setting-missing", message, reader.place(f"endpoints/{endpoint.id}"), hint)


def _check_agent(endpoint: Endpoint, keys: dict[Value, Endpoint], reader: Reader) -> None:
    """Notes two agents with one key: a key stolen at one site would open the other. keys: of earlier
    agents.
    """
    key, agent = endpoint.settings.get("secret"), endpoint.settings.get("agent")
    if endpoint.driver != process.DRIVER.name or not key or not agent:
        return
    first = keys.setdefault(key, endpoint)
    if (first.at, first.settings["agent"]) != (endpoint.at, agent):
        place = reader.place(f"endpoints/{endpoint.id}/settings/secret", f"endpoints/{endpoint.id}")
        message = (
            f"{shown(endpoint.id)} and {shown(first.id)} belong to two agents with "
            f"the same key, {shown(str(key))}"
        )
        reader.problems.add("agent-key-shared", message, place, "give each agent its own key")


def _never_asked(endpoint: Endpoint, kind: Subject, reader: Reader) -> None:
    """Why the endpoint is never used, and which drivers would use it."""
    spec, proof = DRIVERS[endpoint.driver], endpoint.settings.get(FENCE)
    if kind == "site" and proof is not None:
        message = f"{endpoint.driver} cannot prove a fence by {shown(str(proof))}, so it is never used"
        others = {FENCE: proof}
    else:
        message = f"{endpoint.driver} cannot act on a {kind}, so {shown(endpoint.id)} is never used"
        others = {}
    able = [name for name, one in DRIVERS.items() if one.serves(kind, others)]
    hint = f"drivers for a {kind}: {', '.join(able)}"
    proofs = [one for one in spec.proofs if one in ("network", "power")]
    if kind == "site" and proof is None and proofs:
        hint = f"if it fences the site, add {FENCE}: {' or '.join(proofs)}"
    elif spec.by_person or not spec.acts:
        hint = "remove it; people do the steps that have no endpoint"
    path = f"endpoints/{endpoint.id}"
    reader.problems.add("endpoint-never-asked", message, reader.place(f"{path}/driver", path), hint)


def _check_setting(
    endpoint: Endpoint, key: str, value: object, kinds: Sequence[Subject], reader: Reader
) -> None:
    known = {one.key: one for one in DRIVERS[endpoint.driver].all_settings}
    if kinds and "site" not in kinds:
        del known[FENCE]
    path = f"endpoints/{endpoint.id}"
    place = reader.place(f"{path}/settings/{key}", path)
    setting = known.get(key)
    worded = any(word in key for word in _SECRET_WORDS) and not key.endswith(_NOT_SECRET)
    is_secret = worded if setting is None else worded or setting.kind == "secret"
    if is_secret and not str(value).startswith(("env:", "file:")):
        message = f"{key} of {shown(endpoint.id)} is written in plain text"
        reader.problems.add(
            "secret-in-clear", message, place, "write env:NAME or file:/path instead, and change the secret"
        )
    elif setting is None:
        hint = (
            reader.problems.suggest(key, known)
            or f"settings of {endpoint.driver}: {', '.join(sorted(known))}"
        )
        reader.problems.add("setting-unknown", f"{endpoint.driver} has no setting {shown(key)}", place, hint)
    elif problem := setting.problem(endpoint.settings[key]):
        message = f"{key} of {shown(endpoint.id)} {problem}"
        reader.problems.add("setting-wrong", message, place, setting.meaning)


_DOMAIN_SECTIONS: Final = ("sites", "groups", "halls", "feeds", "racks")


@dataclass(frozen=True, slots=True)
class Known:
    """Names by kind. `servers` are looked up one at a time, not listed."""

    names: dict[str, Collection[str]]
    servers: ServerNames

    def has(self, kind: str, name: str) -> bool:
        return name in self.names[kind] or (kind.startswith("domain") and self.servers.has(name))


def known_names(assembly: Assembly, servers: ServerNames) -> Known:
    """All names, by the kinds that references use."""
    values = assembly.values
    domains = {entry.id: None for section in _DOMAIN_SECTIONS for entry in values[section]}
    names: dict[str, Collection[str]] = {
        "domain": domains,
        "domain or provider": {**domains, **_providers(values)},
        "site": _ids(values["sites"]),
        "hall": _ids(values["halls"]),
        "feed": _ids(values["feeds"]),
        "class": _ids(values["classes"]),
        "provider": _ids(values["providers"]),
        "site, region or group": {
            **_ids([*values["sites"], *values["groups"]]),
            **{site.region: None for site in values["sites"] if site.region is not None},
        },
        "service": _ids(values["services"]),
        "store": _ids(values["stores"]),
        "store family": {store.family: None for store in values["stores"]},
        "site or pool": _ids([*values["sites"], *values["pools"]]),
        "subject": _ids(
            [
                *values["services"],
                *values["stores"],
                *values["data_sets"],
                *values["sites"],
                *values["feeds"],
            ]
        ),
        "endpoint": _ids(values["endpoints"]),
    }
    return Known(names, servers)


def _ids(entries: Iterable[Any]) -> dict[str, None]:
    return {entry.id: None for entry in entries}


def _providers(values: Mapping[str, Any]) -> dict[str, None]:
    """Fault domains of providers: the described ones, and external services without one."""
    named = [one.id for one in values["providers"]]
    named += [service.provided_by for service in values["services"] if service.external]
    return {PROVIDER_PREFIX + name: None for name in named}


def check_references(reader: Reader, known: Known, assembly: Assembly) -> None:
    """Notes references to unknown names. Entries refused for their own errors count as existing."""
    described = {path.split("/", 1)[1]: None for path in assembly.entries}
    for reference in reader.references:
        if known.has(reference.names, reference.name) or (
            reference.name in described and _refused(reference, assembly)
        ):
            continue
        _dangling(reference, assembly, known, reader.problems)


_NAMES_SHOWN: Final = 8
_SECTION_OF: Final = {
    "site": "sites",
    "hall": "halls",
    "feed": "feeds",
    "class": "classes",
    "provider": "providers",
    "service": "services",
    "store": "stores",
    "endpoint": "endpoints",
}


_SECTIONS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "domain": _DOMAIN_SECTIONS,
    "domain or provider": (*_DOMAIN_SECTIONS, "providers"),
    "site, region or group": ("sites", "groups"),
    "store family": ("stores",),
    "site or pool": ("sites", "pools"),
    "subject": ("services", "stores", "data_sets", "sites", "feeds"),
}
"""Where names that can be of several kinds are described."""


def _refused(reference: Reference, assembly: Assembly) -> bool:
    """Whether the name is described as the required kind, but its entry had an error of its own."""
    sections = _SECTIONS_OF.get(reference.names, (_SECTION_OF.get(reference.names, ""),))
    return any(f"{section}/{reference.name}" in assembly.entries for section in sections)


def _dangling(reference: Reference, assembly: Assembly, known: Known, problems: Problems) -> None:
    what = "fault domain or server" if reference.names.startswith("domain") else reference.names
    code = "hall-unknown" if reference.names == "hall" else "name-unknown"
    others = {"a service": "services", "a store": "stores", "a data set": "data_sets", "a pool": "pools"}
    other = next((kind for kind, at in others.items() if f"{at}/{reference.name}" in assembly.entries), "")
    hint = f"it is {other}" if other else problems.suggest(reference.name, known.names[reference.names])
    if reference.names == "site or pool" and known.servers.has(reference.name):
        hint = "it is a server: state the replicas of the service in the table of replicas (replicas.csv)"
    if other == "a store" and "/needs" in reference.path:
        hint += f": write {{store: {reference.name}}}"
    if other == "a pool" and reference.names.startswith(("site", "domain")):
        site = next((one.site for one in assembly.values["pools"] if one.id == reference.name), "")
        hint += f": write its site {shown(site)}" if site else ": write its site"
    section = _SECTION_OF.get(reference.names, "")
    if not hint and reference.names == "site or pool":
        names = [name.partition("/")[2] for name in assembly.entries if name.startswith(("sites/", "pools/"))]
        more = ", ..." * (len(names) > _NAMES_SHOWN)
        hint = f"define it under pools:, or use one of these: {', '.join(names[:_NAMES_SHOWN])}{more}"
    hint = hint or (f"define it under {section}:" if section else "")
    problems.add(code, f"no such {what}: {shown(reference.name)}", reference.node.place, hint)


def check_sense(assembly: Assembly, reader: Reader, known: Known) -> None:
    """Notes contradictions across sections: paths, shared name spaces, groups, stores, needs."""
    _check_paths(assembly, reader, known)
    _check_shared_names(assembly, reader, known)
    _check_groups(assembly.values["groups"], reader)
    _check_rebuilds(assembly.values["stores"], reader)
    check_backups(assembly, reader)
    check_endpoints(assembly, reader)
    _check_external(assembly, reader)
    witnesses = witness_sites(assembly.values["sites"])
    at_witness = {site: site for site in witnesses}
    at_witness |= {pool.id: pool.site for pool in assembly.values["pools"] if pool.site in witnesses}
    for service in assembly.values["services"]:
        _check_service(service, reader)
    for placement in reader.placements:
        if (site := at_witness.get(placement.target)) is not None:
            message = f"{shown(site)} is a witness site: it only votes and runs nothing"
            reader.problems.add(
                "replicas-at-witness",
                message,
                placement.node.place,
                "give the site another role, or move the replicas",
            )
    links = assembly.values["links"]
    for row, link in enumerate(links[1:], 1):
        if link.ends == links[row - 1].ends:
            message = f"a second link between {link.ends[0]} and {link.ends[1]}"
            reader.problems.add(
                "link-twice",
                message,
                assembly.entries[f"links/{row}"].place,
                "merge the two and add up their bandwidth",
            )


def _check_paths(assembly: Assembly, reader: Reader, known: Known) -> None:
    sites = known.names["site"]
    for section in ("halls", "feeds", "racks"):
        for entry in assembly.values[section]:
            node = assembly.entries.get(f"{section}/{entry.id}")
            if entry.site not in sites and node is not None and f"sites/{entry.site}" not in assembly.entries:
                hint = reader.problems.suggest(entry.site, sites) or "the path must start with a site"
                message = f"no such site: {shown(entry.site)}"
                reader.problems.add("domain-path-invalid", message, node.place, hint)
    halls = known.names["hall"]
    for rack in assembly.values["racks"]:
        node = assembly.entries.get(f"racks/{rack.id}")
        said = f"racks/{rack.id}/hall" in reader.places
        if node is not None and rack.hall is not None and not said and rack.hall not in halls:
            hint = (
                reader.problems.suggest(rack.hall, halls) or "define it under halls:, or write hall: unknown"
            )
            message = f"rack {shown(rack.id)} is in hall {shown(rack.hall)}, which is not defined"
            reader.problems.add("hall-unknown", message, node.place, hint)


def _check_shared_names(assembly: Assembly, reader: Reader, known: Known) -> None:
    """Domains and servers share one name space; so do sites, pools and servers as targets."""
    for sections in (_DOMAIN_SECTIONS, ("sites", "pools")):
        seen: dict[str, str] = {}
        for section in sections:
            for entry in assembly.values[section]:
                node = assembly.entries.get(f"{section}/{entry.id}")
                if node is None:
                    continue
                other = seen.setdefault(entry.id, section)
                if other != section or known.servers.has(entry.id):
                    what = other if other != section else "servers"
                    message = f"{shown(entry.id)} is also used as a name in {what}"
                    reader.problems.add("id-taken", message, node.place, "rename one of them")
    looks: dict[str, str] = {}
    for site in assembly.values["sites"]:
        other = looks.setdefault(alike(site.id), site.id)
        node = assembly.entries.get(f"sites/{site.id}")
        if node is not None and other.casefold() != site.id.casefold():
            message = f"the sites {shown(site.id)} and {shown(other)} look the same but are different"
            reader.problems.add("id-taken", message, node.place, "rename one of them")


def _check_groups(groups: tuple[SharedFate, ...], reader: Reader) -> None:
    """Notes each group that contains itself, directly or indirectly; iterative, linear."""
    inside = {group.id: group.members for group in groups}
    done: set[str] = set()
    for start in sorted(inside):
        path: list[str] = []
        rests = [iter((start,))]
        while rests:
            member = next((m for m in rests[-1] if m in inside and m not in done), None)
            if member is None:
                rests.pop()
                done.update(path[-1:])
                path = path[:-1]
            elif member in path:
                loop = [*path[path.index(member) :], member]
                shape = " > ".join(loop[:10])
                place = reader.place(f"groups/{loop[-2]}/members")
                reader.problems.add("group-cycle", f"circular groups: {shape}", place, "remove one of them")
            else:
                path.append(member)
                rests.append(iter(inside[member]))


def _check_rebuilds(stores: tuple[Store, ...], reader: Reader) -> None:
    """Notes data rebuilt from data that is itself made from it."""
    sources: dict[str, set[str]] = {}
    for store in stores:
        if store.rebuilt_from is not None:
            sources.setdefault(store.family, set()).add(store.rebuilt_from)
    for store in stores:
        path = f"stores/{store.id}"
        if store.rebuilt_from is None:
            if store.rebuild_ms is not None:
                message = f"store {shown(store.id)} has a rebuild time, but no source to rebuild from"
                place = reader.place(f"{path}/rebuild", path)
                reader.problems.add("rebuild-circle", message, place, "add rebuilt_from: FAMILY")
            continue
        found, work = {store.rebuilt_from}, [store.rebuilt_from]
        while work:
            fresh = sources.get(work.pop(), set()) - found
            found |= fresh
            work += sorted(fresh)
        if store.family in found:
            message = f"store {shown(store.id)} would be rebuilt from itself"
            place = reader.place(f"{path}/rebuilt_from", path)
            reader.problems.add(
                "rebuild-circle", message, place, "give the family of the store that holds the original"
            )


_RUNS_HERE: Final = (
    "replicas",
    "sites",
    "demand",
    "share",
    "spread",
    "conflict_group",
    "eligible_classes",
    "eligible_sites",
    "data_in",
    "sheddable",
    "movable",
    "shed_rehearsed",
    "shed_time",
    "single_run",
    "purges",
    "start",
    "warm",
    "verify",
    "traffic",
)
"""Keys of services that run at our own sites."""


def _runs_here(service: Service, key: str, reader: Reader) -> None:
    path = f"services/{service.id}"
    message = f"{shown(service.id)} is external, so it cannot have {key} here"
    place = reader.place(f"{path}/{key}", path)
    reader.problems.add("external-runs-here", message, place, "remove it, or set external: false")


def _check_external(assembly: Assembly, reader: Reader) -> None:
    """Checks that external services run nowhere here and need nothing of ours, and that only they have a
    provider.
    """
    services = {service.id: service for service in assembly.values["services"]}
    for service in services.values():
        path = f"services/{service.id}"
        if service.provider is not None and not service.external:
            message = f"{shown(service.id)} has a provider but is not external"
            place = reader.place(f"{path}/provider", path)
            reader.problems.add("provider-of-own", message, place, "add external: true, or remove provider")
        if not service.external:
            continue
        stated = [key for key in _RUNS_HERE if f"{path}/{key}" in reader.places]
        if stated:
            _runs_here(service, stated[0], reader)
        for row, need in enumerate(service.needs):
            named = [services.get(name) if need.kind == "service" else None for name in need.targets]
            pairs = zip(need.targets, named, strict=True)
            ours = [name for name, one in pairs if one is None or not one.external]
            if ours:
                message = f"{shown(service.id)} is external and needs {shown(ours[0])}, which is not"
                hint = "external services can only need external services; remove the need"
                reader.problems.add(
                    "external-needs-ours", message, reader.place(f"{path}/needs/{row}", path), hint
                )
    for section in ("sites", "groups"):
        for entry in assembly.values[section]:
            if entry.id.startswith(PROVIDER_PREFIX):
                message = f"{shown(entry.id)} starts with {PROVIDER_PREFIX}, which is reserved for providers"
                place = assembly.entries[f"{section}/{entry.id}"].place
                reader.problems.add("id-taken", message, place, "rename it")


def _check_service(service: Service, reader: Reader) -> None:
    seen = set()
    for row, need in enumerate(service.needs):
        place = f"services/{service.id}/needs/{row}"
        if need.any_of and len(set(need.any_of)) < max(2, len(need.any_of)):
            message = (
                f"{shown(service.id)} needs any of {', '.join(need.any_of)}, which offers no alternative"
            )
            hint = "list at least two different services, or write a plain need"
            reader.problems.add("alternatives-alike", message, reader.place(place), hint)
        if need.kind == "service" and service.id in need.targets:
            reader.problems.add(
                "needs-itself", f"{shown(service.id)} needs itself", reader.place(place), "remove it"
            )
        key = (need.kind, need.targets, need.needed_to)
        if key in seen:
            message = f"{shown(service.id)} needs {shown(' or '.join(need.targets))} twice"
            reader.problems.add("need-twice", message, reader.place(place), "keep one of the two")
        seen.add(key)
    states_rpo = any(rpo_for(service, of_class) is not None for of_class in LOSS_CLASSES)
    if states_rpo and not any(need.kind == "store" and need.hard for need in service.needs):
        message = f"the rpo of {shown(service.id)} decides nothing: it hard-needs no store"
        hint = "add the store to its needs: {store: NAME}, or remove the rpo"
        reader.problems.add("rpo-without-store", message, reader.place(f"services/{service.id}"), hint)
    if service.movable and service.single_run:
        message = f"{shown(service.id)} must not run twice, and does for a while when it moves"
        hint = "remove movable, or single_run"
        reader.problems.add(
            "single-run-movable", message, reader.place(f"services/{service.id}/movable"), hint
        )
    degraded, people = service.degraded_people, service.people
    if degraded is not None and people is not None and degraded > people:
        message = (
            f"{degraded:,} notice that {shown(service.id)} is degraded, but only {people:,} that it is down"
        )
        place = f"services/{service.id}/degraded_people"
        reader.problems.add(
            "degraded-above-people", message, reader.place(place), "degraded_people must not exceed people"
        )
