"""The format of an estate as data: sections, keys, kinds, units and what each key means.

Reader, writer, JSON Schema and the reference page are all made from this one table, so they
cannot disagree. Importing it imports no parser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from types import MappingProxyType
from typing import Any, Final, Literal

from evac.drivers.registry import DRIVERS
from evac.estate.format import quantities as q
from evac.estate.format.data import DATA_SET, STORE
from evac.estate.format.kinds import (
    Choices,
    Field,
    Listed,
    Mapped,
    Record,
    choice,
    day,
    flag,
    measure,
    permille,
    rate,
    reference,
    small_count,
    text,
)
from evac.estate.format.services import SERVICE, capacity
from evac.model import estate as m
from evac.model.records import dataclass
from evac.model.step_id import TOOL_ROLES
from evac.model.units import UNLIMITED
from evac.steps.registry import MANUAL_KINDS, STATED_KINDS

FORMAT_VERSION: Final = 2
_DURATION: Final = measure(q.DURATION)
_TAKES: Final = measure(q.DURATION, "high")
"""A measured duration: longer is worse, and an interval may be given."""
_AT_ONCE: Final = measure(q.COUNT, "low")
_ROOM: Final = measure(q.BANDWIDTH_HELD, "low")
_POWER: Final = measure(q.POWER_HELD, "low")
_DOMAIN: Final = reference("domain", "path of a fault domain, or server name")
_FATE: Final = reference("domain or provider", "path of a fault domain, server name, or `provider:NAME`")


Style = Literal["ids", "list", "mapping"]


@dataclass(frozen=True, slots=True)
class Section:
    """One top-level key. `style`: a mapping of ids, a list, or one mapping; `make` builds an entry.

    `path_id`: ids begin with the id of a site; `lines`: entries are written over several lines.
    """

    key: str
    attr: str
    style: Style
    fields: tuple[Field, ...]
    make: Callable[..., Any]
    doc: str
    path_id: bool = False
    lines: bool = False
    record: Record = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "record", Record(self.fields, self.make))


def _site_of(path: str) -> str:
    return path.split("/", 1)[0]


def _hall(id: str, **values: Any) -> m.Hall:
    return m.Hall(id, _site_of(id), **values)


def _feed(id: str, **values: Any) -> m.Feed:
    return m.Feed(id, _site_of(id), **values)


def _rack(id: str, **values: Any) -> m.Rack:
    return m.Rack(id, _site_of(id), **{"hall": hall_of(id), **values})


def hall_of(rack: str) -> str | None:
    """The hall that a rack's path names: all but its last part, if that is more than a site."""
    parent = rack.rpartition("/")[0]
    return parent if "/" in parent else None


def _group(id: str, kind: str = "shared fate", members: tuple[str, ...] = ()) -> m.SharedFate:
    return m.SharedFate(id, kind, members)


def _store(id: str, family: str | None = None, engine: str = "unknown", **values: Any) -> m.Store:
    return m.Store(id, family or id, engine, **values)


def _recovery_group(id: str, stores: tuple[str, ...] = (), **values: Any) -> m.RecoveryGroup:
    return m.RecoveryGroup(id, stores, **values)


def _expiring(id: str, kind: str = "certificate", expires: Any = None, **values: Any) -> m.Expiring:
    return m.Expiring(id, kind, expires, **values)


def _automation(id: str, kind: str = "gitops", undoes: tuple[str, ...] = (), **values: Any) -> m.Automation:
    return m.Automation(id, kind, undoes, **values)


def _link(ends: tuple[str, ...], **values: Any) -> m.Link:
    low, high = sorted(ends)
    return m.Link((low, high), **values)


def _limits(manual_ms: dict[str, int] | None = None, **values: Any) -> m.Limits:
    return m.Limits(**values, manual_ms=MappingProxyType(dict(sorted((manual_ms or {}).items()))))


HEAD: Final[tuple[Field, ...]] = (
    Field("name", "name", text(), "name of the estate", default="estate"),
    Field("as_of", "as_of", day(), "the date these files describe; facts expire as of this date"),
    Field("changed", "changed", day(), "when someone last changed the estate"),
    Field(
        "horizon",
        "horizon_ms",
        _DURATION,
        "period after the loss in which outages are counted",
        default=86_400_000,
    ),
    Field("detection", "detection_ms", _TAKES, "time from a loss until it is detected; default: 1 min"),
    Field(
        "approval",
        "approval_ms",
        _TAKES,
        "time from detection to approval by a person; 0 s if the policy acts without asking; default: 5 min",
    ),
    Field(
        "tier_weights",
        "tier_weights",
        Listed(small_count(0, 10**6), ordered=True),
        "weights of a user-minute of tier 0, 1, 2, ...",
        default=(8, 4, 2, 1),
    ),
)

_TEXTS: Final = Listed(text(), ordered=True, one_allowed=True)
_SETTINGS: Final = frozenset(setting.key for driver in DRIVERS.values() for setting in driver.settings)


def setting(values: tuple[str, ...]) -> m.Setting:
    """A setting as drivers take it: a list stays text; a single value is a number, a flag or text."""
    if len(values) != 1:
        return values
    (value,) = values
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isascii() and value.isdigit() and (value == "0" or value[0] != "0") else value


def _endpoint(id: str, settings: dict[str, Any] | None = None, **values: Any) -> m.Endpoint:
    typed = {key: setting(found) for key, found in sorted((settings or {}).items())}
    return m.Endpoint(id=id, settings=MappingProxyType(typed), **values)


_LIMITS: Final[tuple[Field, ...]] = (
    Field(
        "approvals_at_once",
        "approvals_at_once",
        _AT_ONCE,
        "maximum simultaneous approvals; a note for people: plans do not use it",
    ),
    Field("fences_at_once", "fences_at_once", _AT_ONCE, "maximum simultaneous fences"),
    Field("promotions_at_once", "promotions_at_once", _AT_ONCE, "maximum simultaneous promotions"),
    Field("sheds_at_once", "sheds_at_once", _AT_ONCE, "maximum number of services being stopped at once"),
    Field(
        "traffic_changes_at_once", "traffic_changes_at_once", _AT_ONCE, "maximum simultaneous traffic changes"
    ),
    Field(
        "backups_at_once",
        "backups_at_once",
        _AT_ONCE,
        "maximum simultaneous backups, checks and restore tests",
    ),
    Field("starts", "starts", rate("low"), "maximum rate of replica starts, across the company"),
    Field(
        "manual_steps_at_once",
        "hands_at_once",
        _AT_ONCE,
        "maximum number of steps that people do by hand at once",
        was="hands_at_once",
    ),
    Field(
        "power_margin",
        "power_margin_permille",
        permille(),
        "share of every power, inrush and cooling budget to keep free",
        default=0,
    ),
    Field(
        "manual",
        "manual_ms",
        Mapped(choice(MANUAL_KINDS), _TAKES),
        "how long each kind of step takes by hand, without tools",
    ),
)

SECTIONS: Final[tuple[Section, ...]] = (
    Section(
        "sites",
        "sites",
        "ids",
        (
            Field(
                "role",
                "role",
                choice(("full", "witness", "edge")),
                "full, witness (only votes) or edge (only serves traffic)",
                default="full",
            ),
            Field("staff", "people", text(), "who is on site or arrives first", was="people"),
            Field("phone", "phone", text(), "phone number of its staff, printed in runbooks"),
            Field(
                "ingress",
                "ingress_mbps",
                _ROOM,
                "user traffic the site can take; audit and plans say if it is too small",
            ),
            Field(
                "ingress_connections",
                "ingress_connections",
                _AT_ONCE,
                "user connections the site can take; audit and plans say if it is too small",
            ),
            Field("power_budget", "power_budget_watts", _POWER, "power available to servers"),
            Field("region", "region", text(), "country or other area, as used in `data_in`"),
        ),
        m.Site,
        "Buildings.",
    ),
    Section(
        "halls",
        "halls",
        "ids",
        (
            Field("power_budget", "power_budget_watts", _POWER, "power available to servers"),
            Field("cooling", "cooling_watts", _POWER, "server heat that its cooling can remove"),
            Field(
                "network_up",
                "network_up_ms",
                _TAKES,
                "time from power-on until its switches and BMCs answer",
                default=0,
            ),
            Field(
                "bmc_requests_at_once",
                "bmc_requests_at_once",
                _AT_ONCE,
                "simultaneous BMC requests that its management network can handle",
            ),
        ),
        _hall,
        "Halls. The path starts with the site.",
        path_id=True,
    ),
    Section(
        "feeds",
        "feeds",
        "ids",
        (
            Field(
                "power_budget",
                "power_budget_watts",
                measure(q.POWER_HELD, "low", {"unlimited": UNLIMITED}),
                "power it can supply; `unlimited` if it can carry everything behind it",
            ),
            Field("inrush_budget", "inrush_budget_watts", _POWER, "power it can supply while servers boot"),
            Field("boots_at_once", "boots_at_once", _AT_ONCE, "servers that may boot on it at the same time"),
            Field("close", "close_ms", _TAKES, "how long it takes to close its breaker remotely", default=0),
        ),
        _feed,
        "Power feeds. The path starts with the site.",
        path_id=True,
    ),
    Section(
        "racks",
        "racks",
        "ids",
        (
            Field("hall", "hall", reference("hall"), "the hall it is in; default: taken from its path"),
            Field(
                "feeds",
                "feeds",
                Listed(reference("feed")),
                "its feeds; the rack is lost when all of them are lost",
                default=(),
            ),
            Field("power_budget", "power_budget_watts", _POWER, "power it can supply"),
        ),
        _rack,
        "Racks. The path starts with the site. List many racks in the table `racks`.",
        path_id=True,
    ),
    Section(
        "groups",
        "groups",
        "ids",
        (
            Field("kind", "kind", text(), "campus, utility, cooling, spine, ...", default="shared fate"),
            Field(
                "members", "members", Listed(_FATE), "domains that fail together", required=True, default=()
            ),
        ),
        _group,
        "Shared-fate groups across sites, halls and racks.",
    ),
    Section(
        "classes",
        "classes",
        "ids",
        (
            *capacity("capacity"),
            Field("watts", "watts", measure(q.POWER_NEEDED, "high"), "power draw under load"),
            Field("boot", "boot_ms", _TAKES, "time from power-on until it can take work"),
            Field(
                "boot_odds",
                "boot_odds_permille",
                permille("low"),
                "share of cold spares that boot successfully",
            ),
            Field("inrush", "inrush_watts", measure(q.POWER_NEEDED, "high"), "power draw while it boots"),
            Field("inrush_hold", "inrush_ms", _TAKES, "how long the inrush lasts", default=0),
            Field(
                "image",
                "image_mbps",
                measure(q.BANDWIDTH_NEEDED, "high"),
                "bandwidth needed to fetch its boot image",
            ),
            Field(
                "image_offset",
                "image_offset_ms",
                _DURATION,
                "time from power-on until it fetches its image",
                default=0,
            ),
            Field("image_hold", "image_hold_ms", _TAKES, "how long it takes to fetch the image", default=0),
            Field(
                "power_on",
                "power_on",
                choice(("on", "dark", "last")),
                "what it does when power returns: turn on, stay off (`dark`), or return to its last state",
            ),
        ),
        m.ServerClass,
        "Kinds of servers.",
    ),
    Section(
        "boot_servers",
        "boot_servers",
        "ids",
        (
            Field("site", "site", reference("site"), "the site it serves; default: all sites"),
            Field(
                "boots_at_once", "boots_at_once", _AT_ONCE, "servers that may boot from it at the same time"
            ),
            Field("image", "image_mbps", _ROOM, "bandwidth for boot images"),
            Field("boots", "boots", rate("low"), "maximum rate of DHCP leases"),
        ),
        m.BootServer,
        "Servers that others boot from (DHCP and boot images).",
    ),
    Section(
        "pools",
        "pools",
        "ids",
        (
            Field("site", "site", reference("site"), "the site it is at", required=True),
            *capacity("capacity"),
            Field(
                "quota",
                "quota_permille",
                permille("low"),
                "share of its capacity that may be used",
                default=1_000,
            ),
            Field("starts", "starts", rate("low"), "maximum rate of replica starts"),
        ),
        m.Pool,
        "Pools that schedule their own work, such as Kubernetes or a VM cloud.",
    ),
    Section(
        "links",
        "links",
        "list",
        (
            Field("ends", "ends", Listed(reference("site")), "the two sites it connects", required=True),
            Field(
                "bandwidth",
                "bandwidth_mbps",
                _ROOM,
                "traffic it can carry; audit and plans say if it is too small",
            ),
            Field(
                "connections",
                "connections",
                _AT_ONCE,
                "connections it can carry; audit and plans say if it is too small",
            ),
        ),
        _link,
        "Links between sites.",
    ),
    Section(
        "providers",
        "providers",
        "ids",
        (
            Field("contact", "contact", text(), "who to call when it is down"),
            Field("status_page", "status_page", text(), "address of its status page"),
        ),
        m.ServiceProvider,
        "Companies that provide external services. Each is a fault domain, `provider:NAME`.",
    ),
    Section("limits", "limits", "mapping", _LIMITS, _limits, "Limits that apply to the whole company."),
    Section("services", "services", "ids", SERVICE, m.Service, "Services.", lines=True),
    Section("stores", "stores", "ids", STORE, _store, "Data.", lines=True),
    Section(
        "data_sets",
        "data_sets",
        "ids",
        DATA_SET,
        m.DataSet,
        "Data that is not in a store: volumes, repositories, configuration, data that tools need.",
        lines=True,
    ),
    Section(
        "recovery_groups",
        "recovery_groups",
        "ids",
        (
            Field("stores", "stores", Listed(reference("store")), "the stores", required=True, default=()),
            Field(
                "tolerance", "tolerance_ms", _DURATION, "how far apart their restore points may be", default=0
            ),
        ),
        _recovery_group,
        "Stores that must be restored to the same point in time.",
    ),
    Section(
        "expiring",
        "expiring",
        "ids",
        (
            Field("kind", "kind", text(), "certificate, key, licence, signature, ...", default="certificate"),
            Field("expires", "expires", day(), "last day on which it is valid"),
            Field("at", "at", _DOMAIN, "where it is stored"),
            Field("used_by", "used_by", Listed(reference("service")), "services that need it", default=()),
        ),
        _expiring,
        "Things that expire: certificates, keys, licences, signatures.",
    ),
    Section(
        "automations",
        "automations",
        "ids",
        (
            Field(
                "kind", "kind", text(), "gitops, configuration management, autoscaler, ...", default="gitops"
            ),
            Field("undoes", "undoes", Listed(choice(STATED_KINDS)), "kinds of steps it may undo", default=()),
            Field("manages", "manages", Listed(reference("service")), "the services it manages", default=()),
            Field("can_be_paused", "can_be_paused", flag(), "whether a person can pause it"),
        ),
        _automation,
        "Automation that may undo a step.",
    ),
    Section(
        "rehearsals",
        "rehearsals",
        "list",
        (
            Field("domain", "domain", _FATE, "the fault domain whose loss was rehearsed", required=True),
            Field("done", "done", day(), "when", required=True),
            Field("kind", "kind", text(), "live, isolated, tabletop, ...", default="live"),
            Field("estate_digest", "estate_digest", text(), "digest of the estate at that time"),
        ),
        m.Rehearsal,
        "Losses that were rehearsed.",
    ),
    Section(
        "endpoints",
        "endpoints",
        "ids",
        (
            Field(
                "for",
                "subject",
                reference("subject", "name of a service, store, data set, site or feed"),
                "what it acts on",
                required=True,
            ),
            Field("at", "at", reference("site"), "the site where it acts", required=True),
            Field(
                "hall",
                "hall",
                reference("hall"),
                "its hall at that site; for a store, the hall of its member",
            ),
            Field("driver", "driver", choice(tuple(DRIVERS)), "driver that evac uses for it", required=True),
            Field(
                "settings",
                "settings",
                Mapped(text(), _TEXTS, _SETTINGS),
                "addresses, names, references to secrets (`env:NAME`, `file:/path`); never a secret itself",
            ),
        ),
        _endpoint,
        "How evac reaches the real systems.",
        lines=True,
    ),
)

TOOLS: Final = Mapped(choice(TOOL_ROLES), Choices(reference("service")))
"""`tools`: the services that fill each role."""

FACT: Final = Record(
    (
        Field("source", "source", text(), "where the value comes from"),
        Field("observed", "observed", day(), "when it was true"),
        Field("good_for", "good_for_days", measure(q.DAYS), "how long it can be relied on"),
    ),
    m.Fact,
)
TOP_KEYS: Final = ("evac", *(f.key for f in HEAD), *(s.key for s in SECTIONS), "tools", "facts")
