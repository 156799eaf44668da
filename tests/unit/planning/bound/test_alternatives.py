"""Where any one of several services is enough, the bound waits for the first of them, whatever that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from evac.estate import load
from evac.model.estate import Estate
from evac.model.scenario import lose
from evac.planning.plan import plan
from evac.verify import check
from tests.kernels import fastest

LOSS = lose("west")


@pytest.fixture(autouse=True)
def fast_kernels() -> Iterator[None]:
    with fastest():
        yield


def _estate(folder: Path, services: dict[str, str], promotes: dict[str, int], starts: int | None) -> Estate:
    """Services lost with west, each in words; stores with a copy at the other site, by how long it takes."""
    lines = [
        "evac: 2",
        "name: alternatives",
        "horizon: 1 h",
        "sites: {west: {}, east: {}}",
        "pools:",
        "  west-units: {site: west, cpu: 500 cores, memory: 500 GiB}",
        "  east-units: {site: east, cpu: 500 cores, memory: 500 GiB}",
        "" if starts is None else f"limits: {{starts: {starts} per minute}}",
        "stores:",
    ]
    for name, seconds in promotes.items():
        members = "[{at: west, mode: primary}, {at: east, mode: sync}]"
        lines.append(f"  {name}: {{rpo: 5 s, fence: 5 s, promote: {seconds} s, members: {members}}}")
    demand = "demand: {cpu: 1 cores, memory: 1 GiB}, replicas: {west-units: 1}, verify: 0 s"
    lines += ["services:", *(f"  {name}: {{{demand}, {words}}}" for name, words in services.items())]
    folder.mkdir()
    (folder / "estate.yaml").write_text("\n".join(lines) + "\n")
    return load(folder)


def _random(folder: Path, seed: int) -> Estate:
    rng = np.random.default_rng(seed)
    stores = {f"d{k}": int(rng.integers(10, 400)) for k in range(int(rng.integers(2, 5)))}
    services = {}
    for k in range(int(rng.integers(3, 6))):
        kind = ["start", "serve"][int(rng.integers(0, 2))]
        needs = []
        if rng.random() < 0.7:
            needs.append(f"{{store: {rng.choice(list(stores))}, needed_to: {kind}}}")
        if k > 1:
            some = [f"s{n}" for n in sorted(rng.choice(k, 2, replace=False).tolist())]
            needs.append(f"{{any_of: [{', '.join(some)}], needed_to: {kind}}}")
        tier, people, start = (int(rng.integers(0, top)) for top in (3, 500, 120))
        services[f"s{k}"] = (
            f"tier: {tier}, people: {people + 1}, start: {start} s, needs: [{', '.join(needs)}]"
        )
    return _estate(folder, services, stores, None if rng.random() < 0.5 else 2)


def _pinned(estate: Estate) -> Iterator[Estate]:
    """The estate once for each way to decide what every service counts on."""
    groups = [
        (row, place, need.any_of)
        for row, service in enumerate(estate.services)
        for place, need in enumerate(service.needs)
        if need.any_of
    ]
    for picks in product(*(members for _, _, members in groups)):
        services = list(estate.services)
        for (row, place, _), pick in zip(groups, picks, strict=True):
            needs = list(services[row].needs)
            needs[place] = replace(needs[place], target=pick, any_of=())
            services[row] = replace(services[row], needs=tuple(needs))
        yield replace(estate, services=tuple(services))


@pytest.mark.parametrize("seed", range(12))
def test_no_choice_of_alternatives_is_better_than_the_bound(seed: int, tmp_path: Path) -> None:
    estate = _random(tmp_path / "estate", seed)
    made = plan(estate, LOSS, work=20)
    assert not check(estate, made).violations
    best = min(plan(one, LOSS, work=20).objective for one in _pinned(estate))
    assert made.bound <= min(best, made.objective)


@pytest.mark.parametrize("to", ["start", "serve"])
def test_it_is_the_optimum_where_nothing_is_scarce(to: str, tmp_path: Path) -> None:
    services = {
        "fast": "tier: 2, people: 1, start: 10 s, needs: [{store: near}]",
        "slow": "tier: 2, people: 1, start: 10 s, needs: [{store: far}]",
        "shop": f"tier: 0, people: 1000, start: 20 s, needs: [{{any_of: [slow, fast], needed_to: {to}}}]",
    }
    estate = _estate(tmp_path / "estate", services, {"near": 100, "far": 300}, None)
    made = plan(estate, LOSS, work=20)
    assert made.bound == made.objective
    assert made.proof == "full"
    assert not check(estate, made).violations
