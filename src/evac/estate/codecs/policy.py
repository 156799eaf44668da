"""The policy file: what evac may do automatically, whom it asks, how it fences and how quickly it trusts a
signal.

One YAML file, `policy.yaml` in the estate's folder by default. Read like the estate: every problem at once,
with file, line and column. An empty file is the careful policy.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from evac.estate.format import quantities as q
from evac.estate.format.document import POLICY_FILE, Node, beside, read_root
from evac.estate.format.kinds import (
    Field,
    Listed,
    Mapped,
    Record,
    Records,
    Scalar,
    choice,
    flag,
    measure,
    permille,
    reference,
    small_count,
    text,
)
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError, parse_moment
from evac.estate.format.reading import BAD, FactBook, Reader
from evac.model import run_policy as rp
from evac.model.errors import EstateError
from evac.model.estate import Estate
from evac.model.names import alike

_DURATION: Final = measure(q.DURATION)
_COUNT: Final = measure(q.COUNT)
_SITES: Final = Listed(reference("site"))
_STORES: Final = Listed(reference("store"))
_KEY_BYTES: Final = 32
ACCESS_LOG_LEAST_MS: Final = 31 * 86_400_000


def _read_key(raw: str) -> str:
    try:
        if len(base64.b64decode(raw, validate=True)) == _KEY_BYTES:
            return raw
    except (binascii.Error, ValueError):
        pass
    raise QuantityError("not-a-key", "this is not an ed25519 public key", "create one: evac key FILE")


def _show_moment(value: int) -> str:
    return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


ED25519_KEY: Final = Scalar("ed25519 public key, base64", _read_key, str, {"type": "string"}, quoted=True)
MOMENT: Final = Scalar(
    "time, such as `2026-11-25T03:00:00Z`", parse_moment, _show_moment, {"type": "string"}, quoted=True
)
_SHARES: Final = Listed(permille(), ordered=True)


def _watch(profile: str = "cautious", **changed: Any) -> rp.WatchProfile:
    return dataclasses.replace(rp.PROFILES[profile], **changed)


def _store_policy(store: str, **values: Any) -> rp.StorePolicy:
    return rp.StorePolicy(store, **values)


_WATCH: Final = Record(
    (
        Field(
            "profile",
            "profile",
            choice(tuple(sorted(rp.PROFILES))),
            "how quickly evac decides that a site is lost",
            default="cautious",
        ),
        Field("period", "period_ms", _DURATION, "time between probes"),
        Field("deadline", "deadline_ms", _DURATION, "time until an unanswered probe counts as missed"),
        Field(
            "misses", "misses", small_count(1, 1_000), "probes missed in a row before a witness reports down"
        ),
        Field("suspect", "suspect_ms", _DURATION, "how long until a site is suspected"),
        Field("confirm", "confirm_ms", _DURATION, "how long a quorum agrees before a site counts as lost"),
        Field("clear", "clear_ms", _DURATION, "how long it must answer before it counts as healthy again"),
        Field("kinds", "kinds", small_count(2, 5), "independent kinds of evidence that must agree"),
    ),
    _watch,
)

_ENVELOPE: Final = Record(
    (
        Field("sites", "sites", _SITES, "sites that evac may evacuate", default=()),
        Field("stores", "stores", _STORES, "stores that evac may promote", default=()),
        Field("most_lost", "most_lost_ms", _DURATION, "maximum data loss, per store", default=0),
        Field("most_shed", "most_shed", _COUNT, "maximum number of people affected by shedding", default=0),
    ),
    rp.Envelope,
)

STORE_FIELDS: Final = (
    Field(
        "fence_proofs",
        "proofs",
        Listed(choice(rp.FENCE_PROOFS), ordered=True),
        "accepted proofs that the old primary is fenced",
        default=("network", "power", "attest"),
    ),
    Field(
        "self_fence",
        "self_fence",
        flag(),
        "true: members become read-only when their lease ends",
        default=False,
    ),
    Field("lease", "lease_ttl_ms", _DURATION, "how long that lease lasts", default=15_000),
    Field(
        "on_sync_loss",
        "on_sync_loss",
        choice(("next", "async", "ask")),
        "what to do when the synchronous replica is lost: use the next one, go asynchronous, or ask",
        default="ask",
    ),
    Field(
        "async_promotion",
        "async_promotion",
        choice(("ask", "allow", "never")),
        "whether a replica that may have lost writes is promoted",
        default="ask",
    ),
    Field("most_lost", "most_lost_ms", _DURATION, "with `allow`: maximum data loss", default=0),
)

_WINDOW: Final = Record(
    (
        Field("from", "begin_ms", MOMENT, "start of the window", required=True),
        Field("to", "end_ms", MOMENT, "end of the window", required=True),
        Field("sites", "sites", _SITES, "sites it applies to; default: all", default=()),
        Field("reason", "reason", text(), "why the window is needed", default=""),
    ),
    rp.Window,
)

_PATIENCE: Final = Record(
    (
        Field(
            "attempts",
            "attempts",
            small_count(1, 100),
            "maximum attempts per step; one that a change of leader interrupts does not count",
            default=4,
        ),
        Field(
            "deadline_factor",
            "deadline_factor",
            small_count(1, 100),
            "deadline of a step, as a multiple of its predicted time",
            default=4,
        ),
        Field(
            "deadline_least",
            "deadline_least_ms",
            _DURATION,
            "minimum deadline of a step, even if its plan says less",
            default=10_000,
        ),
        Field(
            "backoff",
            "backoff_ms",
            _DURATION,
            "delay before the second attempt; doubles with each further attempt",
            default=500,
        ),
        Field("backoff_most", "backoff_most_ms", _DURATION, "maximum delay between attempts", default=30_000),
        Field(
            "stuck_factor",
            "stuck_factor",
            small_count(1, 100),
            "time until a step raises an alarm, as a multiple of its predicted time",
            default=2,
        ),
    ),
    rp.Patience,
)

_PACE: Final = Record(
    (
        Field(
            "shares",
            "shares",
            _SHARES,
            "shares of traffic to move, increasing to 100 %",
            default=(1_000,),
        ),
        Field("wait", "wait_ms", _DURATION, "wait between two shares", default=0),
        Field(
            "errors",
            "errors_permille",
            permille(),
            "error rate above which evac slows down; at twice this rate it stops",
            default=50,
        ),
    ),
    rp.Pace,
)

FIELDS: Final = (
    Field(
        "mode",
        "mode",
        choice(("advise", "hold", "act")),
        "advise: only advise; hold: prepare, then wait for approval; act: proceed without asking",
        default="advise",
    ),
    Field("approvals", "approvals", small_count(1, 5), "number of people who must approve", default=1),
    Field(
        "four_eyes",
        "four_eyes",
        flag(),
        "true: the proposer of a run may not approve it; always true when two or more approvals are required",
        default=False,
    ),
    Field(
        "approvers",
        "approvers",
        Mapped(text(), ED25519_KEY),
        "people who may approve: name -> ed25519 public key",
        default={},
    ),
    Field(
        "rooms",
        "rooms",
        Mapped(text(), ED25519_KEY),
        "war rooms whose logins prove a person: name -> ed25519 public key",
        default={},
    ),
    Field(
        "controllers",
        "controllers",
        Mapped(text(), Listed(ED25519_KEY, ordered=True, one_allowed=True)),
        "controllers that sign journal heads, for `evac run verify`: site -> ed25519 public key, or several "
        "while one is replaced",
        default={},
    ),
    Field(
        "access_log",
        "access_log_ms",
        _DURATION,
        "how long the access log of war rooms is kept, at least 31 d; deleted in whole months",
        default=0,
    ),
    Field(
        "envelope",
        "envelope",
        _ENVELOPE,
        "what evac may do without asking when mode is act",
        default=rp.Envelope(),
    ),
    Field("watch", "profile", _WATCH, "how a lost site is recognised", default=rp.PROFILES["cautious"]),
    Field(
        "windows",
        "windows",
        Records(_WINDOW),
        "maintenance windows, in which no new effects start",
        default=(),
    ),
    Field("patience", "patience", _PATIENCE, "deadlines and retries of steps", default=rp.Patience()),
    Field("pace", "pace", _PACE, "how gradually traffic is moved", default=rp.Pace()),
    Field(
        "driver_limits",
        "driver_limits",
        Mapped(text(), _COUNT),
        "maximum simultaneous actions, by driver",
        default={},
    ),
    Field(
        "generation",
        "generation",
        choice(("told", "asked")),
        "whether an effect waits until the agent of its site reports no newer generation",
        default="told",
    ),
    Field("longest_pause", "pause_most_ms", _DURATION, "maximum length of a pause", default=3_600_000),
)
_STORE_RECORD: Final = Record(STORE_FIELDS, _store_policy)
_TOP: Final = Record(FIELDS, dict)


def load_policy(path: Path, estate: Estate | None = None) -> rp.RunPolicy:
    """The policy in a file. Names are checked against the estate. Raises EstateError with every problem."""
    problems = Problems()
    root = read_root(path, problems)
    made = rp.RunPolicy() if root is None else _policy(root, estate, problems)
    if problems.has_errors:
        raise EstateError(problems.all(), "policy")
    return made


def policy_beside(estate_path: Path) -> Path | None:
    """`policy.yaml` of an estate, if there is one."""
    return beside(estate_path, POLICY_FILE)


def _policy(root: Node, estate: Estate | None, problems: Problems) -> rp.RunPolicy:
    reader = Reader(problems, FactBook(None, problems))
    stores_pair = root.fields.pop("stores", None)
    values = reader.arguments(_TOP, root, "policy")
    arguments: dict[str, Any] = dict(values) if isinstance(values, dict) else {}
    stores = {} if stores_pair is None else _stores(stores_pair[1], reader)
    _check_names(reader, estate)
    approvers = arguments.pop("approvers", {})
    arguments["approvers"] = tuple(rp.Approver(name, key) for name, key in sorted(approvers.items()))
    for name in ("rooms", "controllers"):
        if name in arguments:
            arguments[name] = MappingProxyType(dict(sorted(arguments[name].items())))
    if "driver_limits" in arguments:
        arguments["driver_limits"] = MappingProxyType(dict(sorted(arguments["driver_limits"].items())))
    policy = rp.RunPolicy(**arguments, stores=MappingProxyType(stores))
    _check_sense(policy, root, problems)
    return policy


def _stores(node: Node, reader: Reader) -> dict[str, rp.StorePolicy]:
    if node.kind != 2:
        reader.problems.add("wrong-type", "stores must be a mapping of ids", node.place, "write ID: {...}")
        return {}
    found: dict[str, rp.StorePolicy] = {}
    for name, (key, value) in node.fields.items():
        reader.scalar(reference("store"), key, f"stores/{name}")
        made = reader.arguments(_STORE_RECORD, value, f"stores/{name}")
        if made is not BAD and isinstance(made, dict):
            found[name] = _store_policy(name, **made)
    return dict(sorted(found.items()))


def _check_names(reader: Reader, estate: Estate | None) -> None:
    if estate is None:
        return
    known: Mapping[str, Iterable[str]] = {
        "site": [site.id for site in estate.sites],
        "store": [store.id for store in estate.stores],
    }
    for row in reader.references:
        names = list(known[row.names])
        if row.name not in names:
            hint = reader.problems.suggest(row.name, names)
            message = f"the estate has no {row.names} {shown(row.name)}"
            reader.problems.add("name-unknown", message, row.node.place, hint)


def _check_sense(policy: rp.RunPolicy, root: Node, problems: Problems) -> None:
    """Notes impossible values: shares that do not end at 100 %, windows that end before they begin."""
    shares = policy.pace.shares
    if not shares or list(shares) != sorted(set(shares)) or shares[-1] != 1_000:
        problems.add(
            "out-of-range", "shares must increase and end at 100 %", root.place, "write [10 %, 50 %, 100 %]"
        )
    if 0 < policy.access_log_ms < ACCESS_LOG_LEAST_MS:
        problems.add(
            "out-of-range",
            "the access log must be kept for at least 31 days",
            root.place,
            "access_log: 400 d",
        )
    if policy.approvers and policy.approvals > len(policy.approvers):
        message = f"{policy.approvals} approvals are needed, but {len(policy.approvers)} people may approve"
        problems.add("out-of-range", message, root.place, "add approvers, or require fewer approvals")
    names: dict[str, str] = {}
    keys: dict[str, str] = {}
    for one in policy.approvers:
        if (other := names.setdefault(alike(one.name), one.name)) != one.name:
            message = f"the approvers {shown(one.name)} and {shown(other)} look the same"
            problems.add("id-taken", message, root.place, "give each approver a distinct name")
        if (other := keys.setdefault(one.key, one.name)) != one.name:
            message = f"the approvers {shown(one.name)} and {shown(other)} have the same key"
            problems.add("id-taken", message, root.place, "give each approver their own key")
    for window in policy.windows:
        if window.end_ms <= window.begin_ms:
            problems.add("out-of-range", "a window ends before it begins", root.place, "swap from and to")
