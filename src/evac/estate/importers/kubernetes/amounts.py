"""Requests of pods and capacity of nodes, in the units of an estate.

Quantities follow the Kubernetes API: a decimal number with a suffix (n, u, m, k, M, G, T, P, E or Ki, Mi, Gi,
Ti, Pi, Ei) or an exponent. Exact arithmetic; needs are rounded up once, and what a node offers down.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from evac.estate.format import quantities as q
from evac.estate.format.document import Node
from evac.estate.format.problems import Problems, shown
from evac.estate.importers.imported import Value
from evac.estate.importers.kubernetes.objects import Object, inside, text_in
from evac.estate.importers.kubernetes.source import Workload
from evac.estate.importers.source_files import at, entries, word
from evac.model.units import QUANTITY_LIMIT

_QUANTITY: Final = re.compile(
    r"\+?(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:e(\d{1,2})|E(\d{1,2})|([numkMGTPE]|[KMGTPE]i))?", re.ASCII
)
_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1_000),
    **{letter: Fraction(10 ** (3 * power)) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", 1)},
}
_ACCELERATOR: Final = re.compile(r"[a-z0-9.-]+/(?:gpu|tpu|fpga|neuron\w*|gaudi|mig-.*)", re.ASCII)
_RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")


def parse_amount(text: str) -> Fraction | None:
    """A Kubernetes quantity in units of one (cores, bytes); None if invalid."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, small, large, suffix = match.groups()
    value = Fraction(number.removesuffix(".")) * Fraction(10) ** int(small or large or 0)
    return value * _SUFFIXES.get(suffix or "", Fraction(1))


def demand(workload: Workload, problems: Problems) -> dict[str, Value]:
    """Demand of one replica. A resource that some container does not request is unknown."""
    steady = workload.containers()
    first = workload.containers(init=True)
    sidecars = [c for c in first if word(c, "restartPolicy") == "Always"]
    amounts: dict[str, Value] = {}
    for resource in _RESOURCES:
        need = _total([*steady, *sidecars], resource, problems)
        if need is not None:
            once = [_request(c, resource, problems) for c in first if c not in sidecars]
            amounts |= _stated(resource, max([need, *(amount for amount in once if amount is not None)]))
    devices = sum((_devices(c, problems) for c in steady), Fraction(0))
    if devices:
        amounts["accelerators"] = -(-devices.numerator // devices.denominator)
    return amounts


def _total(containers: list[Node], resource: str, problems: Problems) -> Fraction | None:
    amounts = [_request(container, resource, problems) for container in containers]
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Fraction(0)) if known and len(known) == len(amounts) else None


def _request(container: Node, resource: str, problems: Problems) -> Fraction | None:
    """A container's request; without one its limit, as the API server does."""
    node = at(container, "resources", "requests", resource) or at(container, "resources", "limits", resource)
    if node is None or node.is_unknown:
        return None
    amount = parse_amount(node.text)
    if amount is None or amount > QUANTITY_LIMIT:
        problems.add(
            "import-word-unknown",
            f"{shown(node.text)} is not an amount of {resource}",
            node.place,
            "its demand stays unknown; use a value like 500m or 2Gi",
        )
        return None
    return amount


def _devices(container: Node, problems: Problems) -> Fraction:
    """Accelerators. The API takes the limit of a device as its request, so either counts."""
    found: dict[str, Fraction] = {}
    for part in ("limits", "requests"):
        for name, _, node in entries(container, "resources", part):
            if _ACCELERATOR.fullmatch(name):
                found[name] = parse_amount(node.text) or Fraction(0)
    return sum(found.values(), Fraction(0))


def _stated(resource: str, amount: Fraction) -> dict[str, Value]:
    if resource == "cpu":
        return {"cpu": q.show(q.CORES_NEEDED, _up(amount * 1_000))}
    if resource == "memory":
        return {"memory": q.show(q.MEMORY_NEEDED, _up(amount / 2**20))}
    return {"disk": q.show(q.DISK_NEEDED, _up(amount / 2**30))}


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def offered(node: Object) -> tuple[str, str, str, str]:
    """Usable capacity of a node, as cells of the servers table: millicores, MiB, GiB, accelerators."""
    stated = inside(node.raw, "status", "allocatable") or inside(node.raw, "status", "capacity")
    amounts = {
        name: parse_amount(text_in(stated, name)) for name in (stated if isinstance(stated, dict) else ())
    }
    devices = sum(
        (amount for name, amount in amounts.items() if amount and _ACCELERATOR.fullmatch(name)), Fraction(0)
    )
    return (
        _down(amounts.get("cpu"), Fraction(1, 1_000)),
        _down(amounts.get("memory"), Fraction(2**20)),
        _down(amounts.get("ephemeral-storage"), Fraction(2**30)),
        str(int(devices)) if devices else "",
    )


def _down(amount: Fraction | None, unit: Fraction) -> str:
    if amount is None or amount > QUANTITY_LIMIT:
        return ""
    return str(int(amount / unit))
