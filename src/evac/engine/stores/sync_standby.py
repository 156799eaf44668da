"""The loss of a synchronous replica: its primary lives and every commit hangs until somebody is next. Pure.

One small run a store: say on the primary which member is synchronous from now on, or that none is, as policy
says, under one epoch. Its plan is a document of its own, so that whoever takes over can read it again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from evac.drivers.capabilities import Promotes
from evac.drivers.port import Action
from evac.drivers.registry import can
from evac.engine.runs.binding import Bound
from evac.model.canonical import canonical_json
from evac.model.domain import Topology, site_of, topology
from evac.model.errors import Corrupt
from evac.model.estate import Endpoint, Estate, Store
from evac.model.observation import primary_site
from evac.model.run_policy import Envelope, RunPolicy
from evac.model.step_id import StepId
from evac.run.values import RunSpec, RunStep

_MARK: Final = b'{"protect":'
DURATION_MS: Final = 1_000
_ORDER: Final = {"sync": 0, "async": 1, "primary": 2}


@dataclass(frozen=True, slots=True)
class Roles:
    """Roles of a store as its last epoch left them: the site of its primary, names of synchronous members."""

    holder: str
    synchronous: tuple[str, ...]


def plans_for(
    estate: Estate,
    policy: RunPolicy,
    lost: Collection[str],
    roles: Mapping[str, Roles],
    left: Collection[str] = (),
) -> dict[str, bytes]:
    """Store -> canonical bytes of the plan that protects it after these sites were lost.

    roles: of stores whose roles changed since the estate was written. left: sites whose copies are no choice.
    Only stores whose primary lives, and that had a synchronous copy in a lost site and none elsewhere.
    """
    top = topology(estate)
    found: dict[str, bytes] = {}
    for store in estate.stores:
        now = roles.get(store.id)
        holder = now.holder if now is not None and now.holder else primary_site(top, store)
        names = None if now is None else now.synchronous
        sites = _synchronous_sites(estate, top, store, names) - {holder}
        if holder in lost or not sites or not sites <= set(lost):
            continue
        primary = _endpoint(estate, store.id, holder)
        if primary is not None:
            found[store.id] = _plan(policy, store, primary, _next(estate, top, store, holder, {*lost, *left}))
    return found


def is_protection(data: bytes) -> bool:
    return data.startswith(_MARK)


def bound_of(data: bytes, policy: RunPolicy, *, run: str, incident: str, digest: str) -> Bound:
    """The run of such a plan. Raises `Corrupt` for what is none."""
    try:
        told: dict[str, Any] = orjson.loads(data)["protect"]
        action = Action(
            "protect",
            told["store"],
            told["driver"],
            told["at"],
            MappingProxyType(told["settings"]),
            MappingProxyType({"candidate": told["at"], "synchronous": tuple(told["synchronous"])}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the plan {digest[:19]} cannot be read") from error
    step = RunStep(
        id=str(StepId("protect", action.target)),
        kind="protect",
        target=action.target,
        start_ms=0,
        duration_ms=DURATION_MS,
        data_set=action.target,
        site=action.at,
    )
    wanted = policy.store(action.target).on_sync_loss
    agreed = wanted == "async" or (wanted == "next" and bool(action.parameters["synchronous"]))
    spec = RunSpec(
        run=run,
        incident=incident,
        plan=digest,
        steps=(step,),
        envelope=Envelope(stores=(action.target,)),
        patience=policy.patience,
        pace=policy.pace,
        approvals=0 if agreed else policy.approvals,
        labels=MappingProxyType({"scenario": _words(action)}),
    )
    return Bound(spec, MappingProxyType({step.id: (action,)}))


def _words(action: Action) -> str:
    """What is asked, for people who see it in the middle of the night."""
    names = action.parameters["synchronous"]
    if names:
        assert isinstance(names, tuple)
        return f"{action.target}: commits hang; let {', '.join(names)} confirm them"
    return f"{action.target}: commits hang, and no copy is left; let them go on without one"


def _synchronous_sites(
    estate: Estate, top: Topology, store: Store, names: tuple[str, ...] | None
) -> set[str]:
    """Where commits of a store are confirmed, besides its primary."""
    if names is None:
        return {site_of(top, member.at) or "" for member in store.members if member.mode == "sync"}
    return {e.at for e in estate.endpoints if e.subject == store.id and e.settings.get("name") in names}


def _endpoint(estate: Estate, store: str, site: str) -> Endpoint | None:
    return next(
        (e for e in estate.endpoints if (e.subject, e.at) == (store, site) and can(e.driver, Promotes)),
        None,
    )


def _next(estate: Estate, top: Topology, store: Store, holder: str, gone: Collection[str]) -> str:
    """The name of the copy that lives nearest to being synchronous; empty where there is none."""
    rows = []
    for member in store.members:
        site = site_of(top, member.at) or ""
        endpoint = _endpoint(estate, store.id, site)
        if site in gone or site == holder or endpoint is None or member.mode not in _ORDER or member.detached:
            continue
        if "name" in endpoint.settings:
            rows.append((_ORDER[member.mode], site, str(endpoint.settings["name"])))
    return min(rows)[2] if rows else ""


def _plan(policy: RunPolicy, store: Store, primary: Endpoint, following: str) -> bytes:
    """The next copy; none where policy says so, or where there is no other: then a person is asked."""
    wanted = policy.store(store.id).on_sync_loss
    names = [following] if following and wanted != "async" else []
    return canonical_json(
        {
            "protect": {
                "store": store.id,
                "driver": primary.driver,
                "at": primary.at,
                "settings": dict(primary.settings),
                "synchronous": names,
            }
        }
    )
