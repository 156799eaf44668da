"""Why a plan does not restore a service or stops it, and why a server stays off: data, and its words."""

from __future__ import annotations

from typing import Final, Literal

from evac.model.records import dataclass
from evac.model.units import amount

ReasonKind = Literal[
    "capacity-for",
    "place-unknown",
    "members-unknown",
    "fact-unknown",
    "start-cycle",
    "tool-cycle",
    "needs",
    "needs-tool",
    "store-late",
    "majority-lost",
    "loss-above-rpo",
    "loss-unknown",
    "no-copy",
    "provider",
    "late",
    "no-capacity",
    "capacity-not-found",
    "capacity-taken",
    "text",
]
NAMED_MOST: Final = 3
PLACEMENT: Final = "placement"
"""The last part of the path of where replicas or members are, which the files may leave unknown."""
LOAD: Final = "load"
"""The last part of the path of a load that may be above a budget."""
BUDGET: Final = "power_budget"
"""The last part of the path of a power budget that is not stated."""
SERVERS: Final = "servers"
"""The last part of the path of where the servers of a site are, and of what powers them."""
_NAMES_SERVICES: Final = frozenset(
    {"capacity-for", "capacity-taken", "place-unknown", "start-cycle", "tool-cycle", "needs", "needs-tool"}
)


def fact_words(path: str) -> str:
    """A missing fact, by its path: `pools/a-k8s/cpu` is the cpu of pool a-k8s."""
    section, name, what = path.split("/", 2)
    place, _, last = f"{name}/{what}".rpartition("/")
    if last == LOAD:
        return f"whether {section.removesuffix('s')} {place} carries a {last} above its budget"
    if last == BUDGET:
        return f"{last} of {section.removesuffix('s')} {place}"
    if what == PLACEMENT:
        return (
            f"where the members of store {name} are"
            if section == "stores"
            else f"where the replicas of {name} run"
        )
    if section == "limits" and name == "manual":
        return f"how long {what} takes by hand (limits: manual: {what})"
    if section == "limits":
        return f"how long {what} takes (limits: {name}:)"
    if section == "sites" and what == SERVERS:
        return f"where the servers at {name} are and what powers them"
    if section == "sites" and what == "replicas":
        return f"which servers the replicas at {name} run on"
    if section == "services":
        parts = what.split("/")
        return f"{' '.join(parts if parts[0] == 'traffic' else reversed(parts))} of {name}"
    return f"{what} of {'class' if section == 'classes' else section.removesuffix('s')} {name}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a service is shed, is not restored or cannot be judged."""

    kind: ReasonKind
    services: tuple[str, ...] = ()
    """For `needs`, `needs-tool` and `place-unknown`: the other service; for `capacity-for`: the first few
    that get the capacity; for `capacity-taken`: the first few whose missing replicas get it; for a circle:
    what the service needs, and itself if that needs it in turn; for `loss-above-rpo`: the service whose RPO
    is the limit, if it is not the store's own.
    """
    more: int = 0
    """How many more `services` there are."""
    store: str = ""
    site: str = ""
    """Where the best copy or backup of `store` is."""
    backup: bool = False
    """Whether it is a backup."""
    text: str = ""
    """For `text`, which only plans of earlier versions have: all that is known."""
    provider: str = ""
    """For `provider`: who provides the service."""
    fact: str = ""
    """For `fact-unknown` and `loss-unknown`: the path of the unknown amount; for `no-capacity`: of the fact
    without which servers that have some stay off.
    """
    supply: str = ""
    """For `no-capacity`: the feed, hall, rack or site whose power keeps off servers that have some."""
    resource: str = ""
    """For `capacity-not-found`: the one of `RESOURCE_WORDS` that is short for this service and everything
    restored of its tier and above; empty if that is not proved.
    """
    missing: int = 0
    """How much of it is missing."""

    def __post_init__(self) -> None:
        if self.kind == "fact-unknown" and self.fact.count("/") < 2:
            raise ValueError("a reason of the kind fact-unknown names no fact")
        if self.kind in _NAMES_SERVICES and not self.services:
            raise ValueError(f"a reason of the kind {self.kind} names no service")

    @property
    def words(self) -> str:
        """One sentence without its full stop: what keeps the service down, and how people can change that."""
        match self.kind:
            case "capacity-for" | "capacity-taken" | "capacity-not-found" | "no-capacity":
                return self._capacity_words
            case "place-unknown":
                return f"cannot be judged: {fact_words(f'services/{self.services[0]}/{PLACEMENT}')}"
            case "members-unknown":
                return f"cannot be judged: {fact_words(f'stores/{self.store}/{PLACEMENT}')}"
            case "fact-unknown":
                return f"cannot be judged: {fact_words(self.fact)}"
            case "start-cycle":
                return (
                    f"start cycle: starting {self._circle};"
                    " limits: manual: start-cycle states how long people take to break it"
                )
            case "tool-cycle":
                return (
                    f"circular dependency: restoring {self._circle};"
                    " state how to do it without the tool, under limits: manual"
                )
            case "needs":
                return f"needs {self.services[0]}, which is not restored"
            case "needs-tool":
                return f"steps of its recovery need the tool {self.services[0]}, which is not restored"
            case "provider":
                return f"only its provider {self.provider} can restore it, and the time is unknown"
            case "late":
                return "it would not be back before the horizon"
            case "text":
                return self.text
            case _:
                return self._store_words

    @property
    def _capacity_words(self) -> str:
        names = f"{', '.join(self.services)}{' and others' if self.more else ''}"
        match self.kind:
            case "capacity-for":
                return f"frees capacity for {names}"
            case "capacity-taken":
                return f"missing replicas of {names} take the capacity that it needs"
            case "capacity-not-found" if self.resource:
                much = amount(self.resource, self.missing)
                return (
                    "there is not enough capacity for it and everything else "
                    f"in its tier and above ({much} short)"
                )
            case "capacity-not-found":
                return "no capacity was found for it within the search budget"
            case _ if self.supply:
                return f"the power of {self.supply} is not enough for the servers that it needs"
            case _ if self.fact:
                off = "servers that could take it stay off because a fact is not stated"
                return f"there is no capacity left for it; {off}: {fact_words(self.fact)}"
            case _:
                return "there is no capacity left for it"

    @property
    def _circle(self) -> str:
        other, *itself = self.services
        return f"{itself[0]} needs {other}, which needs {itself[0]}" if itself else f"{other} needs {other}"

    @property
    def _store_words(self) -> str:
        store = f"store {self.store}"
        anyway = f"--waive {self.store} accepts this"
        match self.kind:
            case "store-late":
                return f"{store} would not be back before the horizon"
            case "majority-lost":
                return (
                    f"{store} lost the majority of its votes, so writes stop;"
                    f" --waive {self.store} plans to force a new cluster from the remaining members"
                )
            case "loss-above-rpo":
                what = "backup" if self.backup else "copy"
                whose = f"the RPO of {self.services[0]}" if self.services else "its RPO"
                return f"{store}: its {what} at {self.site} may lack more than {whose} allows; {anyway}"
            case "loss-unknown":
                return f"{store}: it is unknown how much data its copy lacks; {anyway}"
            case _:
                return f"{store} has no copy or backup that can take over"


OffKind = Literal[
    "no-boot-time",
    "above-power-budget",
    "above-inrush-limit",
    "power-late",
    "not-enough-power",
    "late",
    "text",
]


@dataclass(frozen=True, slots=True)
class OffReason:
    """Why servers of a restored domain stay off."""

    kind: OffKind
    supply: str = ""
    """The feed, hall, rack or site whose power is not enough."""
    watts: int = 0
    """What would be drawn from it; for `above-inrush-limit`: at once, while servers are switched on."""
    limit_watts: int = 0
    """What it can carry."""
    text: str = ""
    """For `text`, which only plans of earlier versions have: all that is known."""

    @property
    def words(self) -> str:
        """A clause without a full stop."""
        match self.kind:
            case "no-boot-time":
                return "their boot time is not stated"
            case "above-power-budget":
                return (
                    f"servers drawing {self.watts} W would power on by themselves, but {self.supply} "
                    f"can carry only {self.limit_watts} W"
                )
            case "above-inrush-limit":
                return (
                    f"the inrush alone would be {self.watts} W, but {self.supply} "
                    f"tolerates only {self.limit_watts} W"
                )
            case "power-late":
                return "its power would only return after the horizon"
            case "not-enough-power":
                return f"the power of {self.supply} is not enough"
            case "late":
                return "it would only be on after the horizon"
            case "text":
                return self.text
