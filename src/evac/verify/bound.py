"""The bound that a certificate proves: section 9 of docs/explanation/bound.md, in exact integers.

Any non-negative integers give a true bound; a certificate that cannot be read proves nothing
beyond the heads, and says why.
"""

from __future__ import annotations

import numpy as np

from evac.model.instance import Instance
from evac.model.plan import Certificate
from evac.verify.bound_capacity import capacity_of
from evac.verify.bound_heads import Heads, heads_of
from evac.verify.bound_rows import (
    CertificateError,
    Milestone,
    capacity_value,
    is_lost_milestone,
    legal_arcs,
    placement_value,
    supply_value,
)
from evac.verify.reading import counted_from


def proved(instance: Instance, certificate: Certificate) -> tuple[int, int, list[tuple[str, str]]]:
    """(bound, weighted ticks that critical chains alone make unavoidable, complaints). If nothing is lost
    there is nothing to prove, and an empty certificate is read without computing capacity.
    """
    lost = instance.services.base_lost.any() or instance.services.top_lost.any()
    nothing = Certificate(scale=certificate.scale)
    if not lost and not instance.stores and certificate == nothing and certificate.scale >= 1:
        return 0, 0, []
    heads = heads_of(instance, capacity_of(instance))
    least = sum_of_heads(heads)
    try:
        return max(least, _value(heads, certificate), 0), least, []
    except CertificateError as error:
        return max(least, 0), least, [("certificate", str(error))]


def sum_of_heads(heads: Heads) -> int:
    """What critical chains alone make unavoidable: sum of W * max(0, r - grace), without the
    grace for what is down before.
    """
    s, base_since, top_since = heads.instance.services, *counted_from(heads.instance)
    total = 0
    for service in range(len(s)):
        if s.base_lost[service]:
            total += int(s.base_weight[service]) * max(0, heads.base[service] - base_since[service])
        if s.top_lost[service]:
            total += int(s.top_weight[service]) * max(0, heads.top[service] - top_since[service])
    return total


def _value(heads: Heads, certificate: Certificate) -> int:
    instance, scale = heads.instance, certificate.scale
    if scale < 1:
        raise CertificateError("scale is not positive")
    names = _names(instance)
    cost = {m: scale * _weight(instance, m) for m in names.values()}
    of_u = dict.fromkeys(names.values(), 0)
    value = _arcs(heads, certificate, names, cost, of_u)
    for row in certificate.supply:
        value += _take(supply_value(heads, row, names), cost, of_u)
    heads.capacity.services.look(_priced(heads, certificate, names))
    for priced in certificate.capacity:
        value += _take(capacity_value(heads, priced, names), cost, of_u)
    added, more = placement_value(heads, certificate.placement)
    value += _take((added, more, {}), cost, of_u)
    for milestone in names.values():
        value += _box(heads, milestone, cost[milestone], -of_u[milestone])
    base, top = counted_from(instance)
    since = {"base": base, "top": top, "primary": [0] * len(instance.stores)}
    lost = (m for m in names.values() if is_lost_milestone(heads, m))
    return value // scale - sum(_weight(instance, m) * since[m[0]][m[1]] for m in lost)


def _priced(heads: Heads, certificate: Certificate, names: dict[str, Milestone]) -> list[int]:
    """Services whose capacity the certificate's capacity rows need, ascending."""
    needs = np.asarray(heads.capacity.need.any(axis=1))
    named = {names.get(name, ("primary", -1)) for row in certificate.capacity for name, _ in row.shares}
    return sorted({row for kind, row in named if kind != "primary" and needs[row]})


def _take(
    found: tuple[int, dict[Milestone, int], dict[Milestone, int]],
    cost: dict[Milestone, int],
    of_u: dict[Milestone, int],
) -> int:
    value, more, shares = found
    for milestone, amount in more.items():
        of_u[milestone] += amount
    for milestone, share in shares.items():
        cost[milestone] -= share
    return value


def _names(instance: Instance) -> dict[str, Milestone]:
    found: dict[str, Milestone] = {}
    for row, name in enumerate(instance.services.id):
        found[f"{name}.base"] = ("base", row)
        found[f"{name}.top"] = ("top", row)
    for row, store in enumerate(instance.stores):
        found[f"{store.id}.primary"] = ("primary", row)
    return found


def _weight(instance: Instance, milestone: Milestone) -> int:
    kind, row = milestone
    if kind == "primary":
        return 0
    return int((instance.services.base_weight if kind == "base" else instance.services.top_weight)[row])


def _arcs(
    heads: Heads,
    certificate: Certificate,
    names: dict[str, Milestone],
    cost: dict[Milestone, int],
    of_u: dict[Milestone, int],
) -> int:
    legal, value = legal_arcs(heads) if certificate.arcs else {}, 0
    for left, right, multiplier in certificate.arcs:
        pair = (names.get(left, ("none", -1)), names.get(right, ("none", -1)))
        if pair not in legal or multiplier < 0:
            raise CertificateError(f"{left} does not wait for {right}")
        cost[pair[0]] -= multiplier
        cost[pair[1]] += multiplier
        value += multiplier * legal[pair]
        if is_lost_milestone(heads, pair[0]):
            of_u[pair[0]] += multiplier * legal[pair]
    return value


def _box(heads: Heads, milestone: Milestone, cost: int, u_cost: int) -> int:
    """Minimum of cost * O + u_cost * u over the box of a milestone, with its head."""
    kind, row = milestone
    horizon = heads.instance.horizon
    if not is_lost_milestone(heads, milestone):
        sheddable = bool(heads.instance.services.sheddable[row])
        return min(0, cost) * horizon if sheddable else 0
    head = {"base": heads.base, "top": heads.top, "primary": heads.store}[kind][row]
    if head >= horizon:
        return cost * horizon + u_cost
    price = max(0, cost)
    return price * head + min(0, cost) * horizon + min(0, u_cost + price * (horizon - head))
