"""A driver's declaration of its name, settings and capabilities, without the library that it needs.

Each driver's folder ends in such a value, `DRIVER`. `evac check`, the driver reference, the engine and the
audit read it; only code that connects to a real system imports the driver's own modules. It also contains the
commands with which people do the same by hand: commands of the systems' own tools, with the settings of an
endpoint filled in, and none if no single command does it safely. A secret is never printed: a reference to a
file is shown as the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from importlib import import_module
from types import MappingProxyType
from typing import Final, Literal

from evac.drivers.capabilities import ABOUT, AnswersProbe, Fences, Subject
from evac.drivers.port import Driver, Value, Verb
from evac.model.errors import Permanent
from evac.model.records import dataclass
from evac.model.run_policy import Proof

Kind = Literal["text", "number", "flag", "list", "secret"]
"""secret: a reference such as `env:NAME` or `file:/path`, never the secret itself."""
Names = Literal["", "host", "secret", "program", "folder", "socket", "variable", "repository", "query"]
"""What the value of a setting gives access to: an agent does only what its file lists."""
ProbeKind = Literal["user", "data", "member", "agent"]
"""The role of a probe: a user, a client of the data, a member of the store, or the site's agent."""
Need = Subject | Literal["fence"]
DOES = "does"
"""The setting of an endpoint that lists the verbs of its program."""
FENCE = "fence"
"""The setting of an endpoint for a site that names its proof: it fences, and does nothing else."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """do: the command; done_when: another command, with its expected output. Empty if none is known."""

    do: str = ""
    done_when: str = ""


NOTHING: Final = ByHand()


def file_of(value: Value | None) -> str:
    """The path of a reference to a file; empty for any other."""
    return str(value).removeprefix("file:") if str(value).startswith("file:") else ""


def options(settings: Mapping[str, Value], names: Mapping[str, str]) -> list[str]:
    """names: setting -> option of the program, for those that are given."""
    parts = []
    for name, option in names.items():
        if name in settings:
            parts += [option, file_of(settings[name]) or str(settings[name])]
    return parts


def addresses(settings: Mapping[str, Value], to: str) -> list[tuple[str, str]]:
    """(name, address there) of an endpoint's `records`: `NAME=SITE:ADDRESS,SITE:ADDRESS`."""
    value, zone = settings.get("records"), str(settings.get("zone", "")).strip(".")
    found = []
    for row in value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ():
        name, _, places = str(row).partition("=")
        there = dict(part.split(":", 1) for part in places.split(",") if ":" in part)
        if to in there:
            found.append((zone if name == "@" else f"{name}.{zone}", there[to]))
    return found


def dig(names: list[tuple[str, str]], server: str = "") -> str:
    """The query for the first of these names, and its expected output."""
    name, address = names[0]
    return f"dig +short {f'@{server} ' if server else ''}{name} prints {address}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a driver's endpoints."""

    key: str
    kind: Kind
    meaning: str
    default: str = ""
    """The default, in words."""
    needed: tuple[Need, ...] = ()
    """Endpoints for which it is required, by what they are for; `fence` for those that fence a site."""
    unless: str = ""
    """Another setting that replaces it."""
    with_: str = ""
    """Another setting without which it is not required."""
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = 2**53
    reaches: Names = ""
    """host: an address, a URL or a list of them; program: of a list, its first word; variable: a list of
    `NAME=value` or `NAME=reference` for a program's environment; repository: of backups, as its tool writes
    it; query: sent to a system, which may then run or read anything.
    """

    @property
    def names(self) -> Names:
        return "secret" if self.kind == "secret" else self.reaches

    def problem(self, value: Value) -> str:
        """What is wrong with a value; empty if nothing is."""
        texts = value if isinstance(value, tuple) else (value,)
        if self.kind == "flag":
            return "" if isinstance(value, bool) else "must be true or false"
        if any(isinstance(one, bool) for one in texts):
            return "must be text" if self.kind != "number" else "must be a number"
        if self.kind == "list":
            return ""
        if isinstance(value, tuple):
            return "must be a single value, not a list"
        if self.kind == "number":
            number = int(value) if str(value).isascii() and str(value).isdigit() else -1
            fits = self.least <= number <= self.most
            return "" if fits else f"must be a number between {self.least} and {self.most}"
        if self.choices and str(value) not in self.choices:
            return f"must be one of: {', '.join(self.choices)}"
        return ""


SQL_FACTS: Final = Setting(
    "facts",
    "list",
    "`name=SELECT ...`: values to compare after a restore, one per query",
    "none",
    reaches="query",
)
OF_A_COPY = (
    Setting("host", "text", "address of a copy, for the drivers of the other copies", "none", reaches="host"),
    Setting("port", "number", "its port, for the same drivers", "none", most=65_535),
    Setting("name", "text", "its name as its primary sees it, for the same drivers", "none"),
)
"""Settings of drivers that report where the copies of a store are."""
CONTROLLER = (
    Setting(
        "boot_source", "text", "what it boots from, this time only", "left as it is", choices=("disk", "pxe")
    ),
    Setting(
        "requests_at_once",
        "number",
        "maximum simultaneous requests per management network (hall)",
        "64",
        most=4_096,
    ),
    Setting(
        "refusals_at_most",
        "number",
        "logins rejected in a row before evac stops using this password",
        "5",
        most=100,
    ),
    Setting("answer_s", "number", "timeout of one request, in seconds", "10", most=120),
)
"""Settings of drivers that use management controllers."""
RESTORED_POSTGRES = (
    Setting("bin", "text", "folder of PostgreSQL's programs", needed=("store",), reaches="program"),
    Setting("system_user", "text", "owner of the data", "`postgres`"),
    Setting(
        "host",
        "text",
        "where a restored primary accepts connections",
        "from its own settings",
        reaches="host",
    ),
    Setting("port", "number", "its port", "from its own settings", most=65_535),
    Setting(
        "configuration",
        "text",
        "folder with `postgresql.conf` and `pg_hba.conf`, if the restored data has none",
        "none",
        reaches="folder",
    ),
    SQL_FACTS,
    Setting("facts_database", "text", "the database to query for `facts`", "`postgres`"),
    Setting(
        "source",
        "text",
        "how evac connects to the primary, such as `host=10.0.0.5 user=evac`",
        "none: nothing is compared with it",
        reaches="host",
    ),
    Setting("source_password", "secret", "a reference to the password", "none"),
)
"""Settings of every driver that restores PostgreSQL."""
COPY_FOLDER = (
    Setting(
        "repository",
        "text",
        "absolute path of the folder with the backups; its file `evac-repository` contains its ID",
        needed=("store",),
        reaches="folder",
    ),
    Setting("repository_id", "text", "ID of the repository; evac refuses any other", "not compared"),
    Setting("place", "text", "folder that a run restores into", "none", reaches="folder"),
    Setting("download_kib", "number", "maximum rate at which evac reads from it, in KiB/s", "no bound"),
)
"""Settings of every driver that keeps its backups in a folder."""
UPLOAD_KIB = Setting("upload_kib", "number", "maximum rate of backups and copies to it, in KiB/s", "no bound")
"""For engines whose backups can be limited to any rate."""
PROBED: Mapping[ProbeKind, frozenset[Subject]] = {
    "user": frozenset({"service", "site"}),
    "data": frozenset({"store"}),
    "member": frozenset({"site"}),
    "agent": frozenset({"service", "site"}),
}
"""Subjects of an endpoint for which the witness probes it."""
COMMON = (
    Setting(
        FENCE,
        "text",
        "for a site's endpoint: the proof of fencing that it provides",
        choices=("network", "power"),
    ),
    Setting("takes", "number", "duration in seconds; only for the simulated company of `evac serve --demo`"),
)
"""Settings of every driver."""


@dataclass(frozen=True, slots=True)
class DriverSpec:
    """The declaration of a driver."""

    name: str
    meaning: str
    capabilities: tuple[type, ...]
    """Protocols of `capabilities`; the driver's class inherits from each of them."""
    settings: tuple[Setting, ...]
    make: str
    """`module:Class`, imported on first use. The class is created without arguments."""
    extra: str = ""
    """The extra of the distribution that contains its library."""
    proofs: tuple[Proof, ...] = ()
    """What its fence proves: `network`, `power` for endpoints of a site; `sync`, `lease` for a store."""
    probe: ProbeKind | None = None
    """The role in which it probes; None if it does not."""
    copies_follow_by_themselves: bool = False
    """Whether copies find a new primary by themselves."""
    fetches_from_copies: bool = False
    """Whether a candidate may fetch what it lacks from other copies before it is promoted."""
    answers_are_cached: bool = False
    """Whether clients cache its answers: such traffic moves after the proxies."""
    acts: bool = True
    """Whether it acts on a real system; if not, its observations mean nothing."""
    by_person: bool = False
    """Whether a person does the work."""
    agent_may: bool = False
    """Whether a site's agent runs its orders unless its file says otherwise; never if it runs programs."""
    agent_verbs: frozenset[Verb] = frozenset()
    """Verbs that the agent of a site with one runs, on the machine with the data; `rejoin` only with
    `on_site_with`.
    """
    on_site_with: str = "data"
    """The setting of a member with which the agent rejoins it. Without it, the member is only repointed."""
    on_site_ms: int = 0
    """How long one try of a rejoin by the agent may take, if longer than any rejoin may; else 0."""
    only_with: Mapping[type, str] = field(default_factory=lambda: MappingProxyType({}))
    """Capability -> the setting without which an endpoint does not have it."""
    not_with: Mapping[type, str] = field(default_factory=lambda: MappingProxyType({}))
    """Capability -> the setting with which an endpoint does not have it."""
    by_hand: Mapping[Verb, Callable[[Mapping[str, Value], Mapping[str, Value]], ByHand]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """The command for a verb, from the settings of an endpoint and the parameters of the action."""

    def can(self, *capabilities: type) -> bool:
        """Whether it has one of these capabilities."""
        return any(one in self.capabilities for one in capabilities)

    def does(self, verb: Verb) -> bool:
        """Whether it acts on a real system with this verb."""
        return self.acts and any(verb in ABOUT[one].verbs for one in self.capabilities)

    def rejoins_on_site(self, settings: Mapping[str, Value]) -> bool:
        """Whether a member with these settings is rejoined by the agent of its site."""
        return "rejoin" in self.agent_verbs and self.on_site_with in settings

    def offers(self, settings: Mapping[str, Value], *capabilities: type) -> bool:
        """Whether an endpoint with these settings has one of these capabilities. One that lists its verbs
        (`does`) has a capability if it lists all of its verbs.
        """
        named = settings.get(DOES, ())
        does = frozenset(named if isinstance(named, tuple) else (str(named),))
        return any(
            one in self.capabilities
            and (not does or ABOUT[one].verbs <= does)
            and (one not in self.only_with or self.only_with[one] in settings)
            and (one not in self.not_with or self.not_with[one] not in settings)
            for one in capabilities
        )

    def serves(self, subject: Subject, settings: Mapping[str, Value]) -> tuple[type, ...]:
        """Its capabilities that plans or the witness use for an endpoint with such a subject."""
        fences = subject == "site" and FENCE in settings
        if fences:
            return (Fences,) if settings[FENCE] in self.proofs else ()
        found = [
            one
            for one in self.capabilities
            if one is not Fences and subject in ABOUT[one].subjects and self.offers(settings, one)
        ]
        if self.probe is not None and subject not in PROBED[self.probe]:
            found = [one for one in found if one is not AnswersProbe]
        return tuple(found)

    @property
    def all_settings(self) -> tuple[Setting, ...]:
        return (*self.settings, *COMMON)

    def missing(self, subject: Subject, settings: Mapping[str, Value]) -> Iterable[Setting]:
        """Settings that an endpoint with such a subject must have and lacks."""
        whats = {subject, "fence"} if subject == "site" and FENCE in settings else {subject}
        for one in self.settings:
            wanted = not whats.isdisjoint(one.needed) and (not one.with_ or one.with_ in settings)
            if wanted and settings.get(one.key, "") in ("", ()) and not settings.get(one.unless):
                yield one

    def create(self) -> Driver:
        """Create a driver. Raises `Permanent` if its library is not installed."""
        module, _, maker = self.make.partition(":")
        try:
            made = import_module(module)
        except ModuleNotFoundError as error:
            if not self.extra or (error.name or "").partition(".")[0] == "evac":
                raise
            raise Permanent(
                "driver-library-missing",
                f"the driver {self.name} needs {error.name}, which is not installed",
                f"install it: pip install 'evac[{self.extra}]'",
            ) from error
        driver: Driver = vars(made)[maker]()
        return driver
