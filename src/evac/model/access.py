"""Who may do what in the war room: people and their roles, what programs show, how long a login lasts.

Read from an access file at the edge. Secrets stand here as references only, tokens as hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from evac.model.estate import Rate

Role = Literal["viewer", "operator", "approver", "admin"]
"""viewer reads. operator pauses, resumes, retries, skips, cancels, undoes, attests, holds and writes notes.
approver approves as well. admin does everything.
"""

ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each may do what those before it may."""


BREAK_GLASS: Final = "BREAK-GLASS"
"""How the reason of whatever was asked with such a credential begins, in every journal."""


@dataclass(frozen=True, slots=True)
class GlassUse:
    """One use of a credential that was signed offline."""

    id: str
    """The first letters of the credential's id."""
    number: int
    """Which use of it this is, from 1."""
    uses: int
    """How often it may be used."""
    signed_for: str = ""
    """Why it was signed."""

    @property
    def words(self) -> str:
        """`BREAK-GLASS 1b2c3d4e, use 1 of 2`."""
        return f"{BREAK_GLASS} {self.id}, use {self.number} of {self.uses}"

    def to_data(self) -> dict[str, str | int]:
        return {"id": self.id, "number": self.number, "uses": self.uses, "signed_for": self.signed_for}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> GlassUse:
        """Raises KeyError, TypeError or ValueError for what is none."""
        numbers = int(data["number"]), int(data["uses"])
        return cls(str(data["id"]), *numbers, str(data.get("signed_for", "")))


ProofKind = Literal["trust", "token", "password", "oidc", "certificate", "break-glass", "signature"]
"""How a person was proven. trust: not at all, a name was typed."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What shows that the person who asks is who the request says."""

    kind: ProofKind = "trust"
    acr: str = ""
    """How strong: the `acr` of an identity provider; `totp` for a password with a second factor."""
    at_ms: int = 0
    """When the person showed it."""
    program: bool = False
    """A token that acts for no person."""
    room: str = ""
    """The war room that saw it, by the id of its key; empty of a signature, which needs nobody else."""
    mark: str = ""
    """The signature of the person, or of the room."""

    @property
    def words(self) -> str:
        """For people: `signature`, `oidc (acr gold)`, `name not proven`."""
        if self.kind == "trust":
            return "name not proven"
        return f"{self.kind} ({self.acr})" if self.acr else self.kind

    def to_data(self) -> dict[str, str | int | bool]:
        told: dict[str, str | int | bool] = {"kind": self.kind}
        for name in ("acr", "at_ms", "program", "room", "mark"):
            if value := getattr(self, name):
                told[name] = value
        return told

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Proven:
        """Raises ValueError for what is none."""
        kind, texts = data.get("kind", "trust"), [data.get(name, "") for name in ("acr", "room", "mark")]
        if kind not in get_args(ProofKind) or not all(type(text) is str for text in texts):
            raise ValueError("no proof")
        acr, room, mark = texts
        return cls(kind, acr, int(data.get("at_ms", 0)), data.get("program") is True, room, mark)


GRAVE: Final = frozenset({"approve", "attest", "undo", "cancel"})
"""Verbs that only somebody asks who proved a moment ago who it is."""


def role_for(verb: str) -> Role:
    """What a request to a run needs."""
    return "approver" if verb == "approve" else "operator"


def least(one: Role, other: Role) -> Role:
    """The role that may do less."""
    return ROLES[min(ROLES.index(one), ROLES.index(other))]


@dataclass(frozen=True, slots=True)
class Person:
    """One person of an access file."""

    name: str
    role: Role
    password: str = ""
    """A reference."""
    key: str = ""
    """An ed25519 public key (32 bytes, base64), for what the person signs."""
    subject: str | None = None
    """Who this is at the identity provider; empty: nobody there; None: not said."""
    password_hash: str = ""
    """argon2id."""
    totp: str = ""
    """A reference to the secret of an authenticator: the password needs its code as well."""

    certificate: str = ""
    """SHA-256 of the person's client certificate (DER), in hexadecimal."""

    @property
    def signs_in(self) -> bool:
        """Whether there is a password."""
        return bool(self.password or self.password_hash)


@dataclass(frozen=True, slots=True)
class Token:
    """What a program shows. digest: SHA-256 of the token in hexadecimal. of: the person it acts for; empty: a
    program of its own, which neither approves nor attests. ends_ms: since 1970; 0: never.
    """

    name: str
    role: Role
    digest: str
    of: str = ""
    ends_ms: int = 0


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID Connect provider. secret: a reference, empty for a public client. name_claim: what people are
    called; role_claim: a text or a list of texts that `roles` maps to roles.
    """

    issuer: str
    client: str
    secret: str = ""
    scopes: tuple[str, ...] = ("openid", "profile")
    name_claim: str = "sub"
    role_claim: str = "groups"
    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    acr: str = ""
    """How strong a login has to be there (`acr`); empty: as the provider likes."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. client_ca: whoever connects must show a certificate that it signed."""

    cert: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Sessions:
    """How long a login lasts."""

    idle_ms: int = 3_600_000
    """Without anything asked."""
    whole_ms: int = 43_200_000
    """In all."""
    grave_ms: int = 900_000
    """For grave acts; after that the person signs in again first."""


@dataclass(frozen=True, slots=True)
class GlassRules:
    """Bounds of credentials that are signed offline."""

    most_ms: int = 14_400_000
    uses: int = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing that a person may ask, of one run or of that of one incident, without the identity provider.

    id: 128 random bits in hexadecimal. from_ms, until_ms: since 1970 (UTC). uses: how often it may be asked.
    """

    id: str
    who: str
    verb: str
    run: str
    incident: str
    from_ms: int
    until_ms: int
    uses: int = 1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AccessLimits:
    """How often."""

    sign_in: Rate = field(default_factory=lambda: Rate(10, 300_000))
    """False proofs from one address, before further tries are slowed down."""
    requests: Rate = field(default_factory=lambda: Rate(3_000, 60_000))
    """Of one person or program."""
    streams: int = 20
    """Of one person or program, at once."""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """All of it. address: of the room as browsers know it; hosts: more names that it goes by."""

    people: Mapping[str, Person] = field(default_factory=lambda: MappingProxyType({}))
    tokens: Mapping[str, Token] = field(default_factory=lambda: MappingProxyType({}))
    provider: Provider | None = None
    tls: Tls | None = None
    address: str = ""
    hosts: tuple[str, ...] = ()
    sessions: Sessions = Sessions()
    glass: GlassRules = GlassRules()
    limits: AccessLimits = AccessLimits()
    proxies: tuple[str, ...] = ()
    """Networks of proxies whose `X-Forwarded-For` is believed."""


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One action that somebody took, or was refused, at a war room."""

    at_ms: int
    kind: str
    """`sign-in`, `sign-in-refused`, `sign-out`, `logins-ended`, `asked`, `refused`, `break-glass`,
    `access-file`, `clock-jump`, `log-chapter` or `log-deleted`."""
    who: str = ""
    proof: str = ""
    """How the person proved their identity, with the `acr` if there is one."""
    address: str = ""
    request: str = ""
    """Id of the HTTP request, as in responses and logs."""
    what: str = ""
    """What was requested, as a verb and its object; or why it was refused."""
    run: str = ""
    code: str = ""
    """Stable code of a refusal."""
    count: int = 1
    """Number of identical entries: refusals from one address are counted together."""
    site: str = ""
    """Site of the war room."""
