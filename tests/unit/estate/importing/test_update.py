"""Any recipe, any second state of its sources: an update ends where a fresh import does, and shows it all."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.estate.importers import ImportResult, import_recipe

NAMES = st.sampled_from(["shop", "login", "mail", "pay", "search"])
SITES = st.sampled_from(["fra", "muc", "ber"])
HOSTS = st.lists(
    st.tuples(
        st.sampled_from([f"h{number}" for number in range(6)]),
        SITES,
        st.sampled_from(["", "4", "16"]),
        st.sampled_from(["", "r1", "r2"]),
        st.sampled_from(["", "hall-1", "hall-2"]),
        st.sampled_from(["", "A", "A;B"]),
        st.lists(NAMES, max_size=2, unique=True),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one[0],
)
SERVICES = st.dictionaries(
    NAMES,
    st.tuples(
        st.sampled_from(["", "0", "2"]), st.sampled_from(["", "ann", "eve"]), st.lists(NAMES, max_size=2)
    ),
    min_size=1,
    max_size=4,
)
COMPOSE = st.dictionaries(
    NAMES,
    st.tuples(
        st.integers(1, 3),
        st.sampled_from(["nginx", "postgres:16", "redis:7"]),
        st.sampled_from(["", "login:80", "db.corp.example", "10.1.2.3"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
CLUSTER = st.dictionaries(
    NAMES,
    st.tuples(st.integers(1, 3), st.sampled_from(["app", "postgres:16"]), SITES),
    min_size=1,
    max_size=4,
)
STATES = {"hosts": HOSTS, "services": SERVICES, "stack": COMPOSE, "cluster": CLUSTER}
FILES = {
    "hosts": ("csv", "hosts.csv"),
    "services": ("catalogue", "services.csv"),
    "stack": ("compose", "compose.yaml"),
    "cluster": ("kubernetes", "cluster.json"),
}


def hosts_text(state: Any) -> str:
    rows = [",".join((*cells, " ".join(apps))) for *cells, apps in state]
    return "host,site,cores,rack,hall,feeds,app\n" + "".join(f"{row}\n" for row in rows)


def services_text(state: Any) -> str:
    rows = [f"{name},{tier},{owner},{' '.join(needs)}" for name, (tier, owner, needs) in state.items()]
    return "service,tier,owner,needs\n" + "".join(f"{row}\n" for row in rows)


def stack_text(state: Any) -> str:
    services = {
        name: {
            "image": image,
            "deploy": {"replicas": count},
            **({"environment": {"DB_HOST": host}} if host else {}),
            **({"volumes": [f"{name}-disk:/data"]} if kept else {}),
        }
        for name, (count, image, host, kept) in state.items()
    }
    return yaml.safe_dump({"services": services, "volumes": {f"{name}-disk": {} for name in state}})


def cluster_text(state: Any) -> str:
    items: list[Any] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"node-{site}", "labels": {"topology.kubernetes.io/zone": site}},
        }
        for site in ("fra", "muc", "ber")
    ]
    for name, (count, image, site) in state.items():
        labels = {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "a", "image": image}]},
        }
        spec = {"replicas": count, "template": labels}
        items.append(
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec}
        )
        owner = [{"kind": "StatefulSet", "name": name, "controller": True}]
        items += [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"{name}-{number}", "ownerReferences": owner},
                "spec": {"nodeName": f"node-{site}", "containers": []},
            }
            for number in range(count)
        ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


TEXTS = {"hosts": hosts_text, "services": services_text, "stack": stack_text, "cluster": cluster_text}


def write(folder: Path, states: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["recipe: 1", "into: company", "sources:"]
    for name, state in states.items():
        kind, file = FILES[name]
        (folder / file).write_text(TEXTS[name](state))
        lines.append(f"  {name}: {{kind: {kind}, from: {file}, observed: 2026-11-01}}")
    (folder / "estate.yaml").write_text("\n".join(lines) + "\n")
    return folder / "estate.yaml"


def values(folder: Path) -> dict[tuple[str, str], Any]:
    """Every thing that an import wrote, read by other programs than evac's: section or table, and name."""
    found: dict[tuple[str, str], Any] = {}
    document = yaml.safe_load((folder / "imported-recipe.yaml").read_text())
    for section, entries in document.items():
        if section not in ("evac", "facts"):
            found |= {(section, name): value for name, value in entries.items()}
    for path in folder.glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = (path.stem, next(iter(row.values())))
                found.setdefault(key, []).append({name: cell for name, cell in row.items() if cell})
    return found


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "overlay.yaml"}


def named(thing: tuple[str, str], diff: tuple[str, ...]) -> bool:
    return any(thing[1] in line for line in diff)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_update_shows_what_two_fresh_imports_differ_in(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(STATES)), min_size=1, unique=True))
    before, after = ({kind: data.draw(STATES[kind]) for kind in kinds} for _ in range(2))
    kept = data.draw(st.sets(st.sampled_from(kinds)))
    after |= {kind: before[kind] for kind in kept}
    own = "evac: 1\nname: mine\nservices: {billing: {tier: 3, owner: kim, people: 12}}\n"
    with tempfile.TemporaryDirectory() as folder:
        one, two, three = (Path(folder) / name for name in ("a", "b", "c"))
        into, first = import_recipe(write(one, before))
        (into / "overlay.yaml").write_text(own)
        _, result = import_recipe(write(one, after), update=True)
        old, _ = import_recipe(write(two, before))
        new, _ = import_recipe(write(three, after))
        assert first.diff == ()
        assert written(into) == written(new), "an update ends where a fresh import does"
        assert (into / "overlay.yaml").read_text() == own, "what people wrote is theirs"
        assert_shown(values(old), values(new), result)
        _, again = import_recipe(one / "estate.yaml", update=True)
        assert again.diff == ()
        _, back = import_recipe(write(one, before), update=True)
        assert written(into) == written(old)
        signs = {"+": "-", "-": "+"}
        assert sorted(signs[line[0]] + line[1:] for line in back.diff if line[0] != "~") == sorted(
            line for line in result.diff if line[0] != "~"
        ), "the way back is the way there, turned round"


def assert_shown(old: dict[Any, Any], new: dict[Any, Any], result: ImportResult) -> None:
    changed = {thing for thing in old.keys() | new.keys() if old.get(thing) != new.get(thing)}
    assert bool(changed) == bool(result.diff), (changed, result.diff)
    for thing in changed:
        assert named(thing, result.diff), (thing, old.get(thing), new.get(thing), result.diff)
    words = {line[2:].split(":")[0].split(" (")[0] for line in result.diff}
    names = {name for _, name in changed}
    for line in words:
        assert names & {*line.replace("->", " ").split()}, f"{line} is shown, and nothing changed there"
