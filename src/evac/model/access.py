"""Who may do what in the war room: people and their roles, what programs present, how long a login lasts.

Loaded from an access file at the edge. Secrets appear here only as references, tokens only as hashes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from evac.model.digest import digest
from evac.model.estate import Rate
from evac.model.records import dataclass

Role = Literal["viewer", "operator", "approver", "admin"]
"""viewer reads. operator pauses, resumes, retries, skips, cancels, undoes, attests, holds and writes notes.
approver approves as well. admin does everything.
"""

ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each role may do everything that the ones before it may."""


BREAK_GLASS: Final = "BREAK-GLASS"
"""Prefix, in every journal, of the reason of a request made with such a credential."""
SIGNED_FOR_MOST: Final = 400
"""Characters of a credential's reason that journals repeat; the reason of the request follows it."""


@dataclass(frozen=True, slots=True)
class GlassUse:
    """One use of an offline-signed credential."""

    id: str
    """First letters of the credential's id."""
    number: int
    """Number of this use, from 1."""
    uses: int
    """How often the credential may be used."""
    signed_for: str = ""
    """Why it was signed."""
    credential: str = ""
    """`Grant.credential`; empty in journals of earlier versions."""

    @property
    def words(self) -> str:
        """`BREAK-GLASS 1b2c3d4e, use 1 of 2`."""
        return f"{BREAK_GLASS} {self.id}, use {self.number} of {self.uses}"

    @property
    def mark(self) -> str:
        """Names this use in the marks of a run (`RunView.marks`), where none counts twice."""
        return f"{BREAK_GLASS} {self.credential or self.id}/{self.number}"

    def is_in(self, marks: Collection[str]) -> bool:
        """Whether a run with these marks records this use, also if an earlier version recorded it."""
        return self.mark in marks or replace(self, credential="").mark in marks

    def to_data(self) -> dict[str, str | int]:
        told: dict[str, str | int] = {"id": self.id, "number": self.number, "uses": self.uses}
        told["signed_for"] = self.signed_for
        return told | ({"credential": self.credential} if self.credential else {})

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> GlassUse:
        """Raises KeyError, TypeError or ValueError if the data is not a valid use."""
        numbers = int(data["number"]), int(data["uses"])
        return cls(
            str(data["id"]), *numbers, str(data.get("signed_for", "")), str(data.get("credential", ""))
        )


ProofKind = Literal["trust", "token", "password", "oidc", "certificate", "break-glass", "signature"]
"""How a person proved their identity. trust: not at all, a name was typed."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Evidence that the caller is the person whom the request names."""

    kind: ProofKind = "trust"
    acr: str = ""
    """Strength of the proof: the `acr` of an identity provider; `totp` for a password with a
    second factor.
    """
    at_ms: int = 0
    """When the person proved it."""
    program: bool = False
    """Whether it is a program's token that acts for no person."""
    room: str = ""
    """Key id of the war room that checked it; empty for a signature, which anyone can check."""
    mark: str = ""
    """Signature of the person, or of the war room."""
    key: str = ""
    """Key id of the person's key, for a signature: it does not count once that key was replaced."""

    @property
    def words(self) -> str:
        """For people: `signature`, `oidc (acr gold)`, `name not proven`."""
        if self.kind == "trust":
            return "name not proven"
        return f"{self.kind} ({self.acr})" if self.acr else self.kind

    def to_data(self) -> dict[str, str | int | bool]:
        told: dict[str, str | int | bool] = {"kind": self.kind}
        for name in ("acr", "at_ms", "program", "room", "mark", "key"):
            if value := getattr(self, name):
                told[name] = value
        return told

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Proven:
        """Raises ValueError if the data is not a valid proof."""
        kind = data.get("kind", "trust")
        texts = [data.get(name, "") for name in ("acr", "room", "mark", "key")]
        if kind not in get_args(ProofKind) or not all(type(text) is str for text in texts):
            raise ValueError("no proof")
        acr, room, mark, key = texts
        at_ms = int(data.get("at_ms", 0))
        if at_ms.bit_length() > 63:  # no journal can record it
            raise ValueError("no proof")
        return cls(kind, acr, at_ms, data.get("program") is True, room, mark, key)


GRAVE: Final = frozenset({"approve", "attest", "undo", "cancel"})
"""Verbs that require a recent login."""


def role_for(verb: str) -> Role:
    """The role that a request to a run needs."""
    return "approver" if verb == "approve" else "operator"


def least(one: Role, other: Role) -> Role:
    """The lower of the two roles."""
    return ROLES[min(ROLES.index(one), ROLES.index(other))]


@dataclass(frozen=True, slots=True)
class Person:
    """One person of an access file."""

    name: str
    role: Role
    password: str = ""
    """A reference."""
    key: str = ""
    """Ed25519 public key (32 bytes, base64) that verifies the person's signatures."""
    subject: str | None = None
    """Subject at the identity provider; empty: the person has no account there; None: not stated."""
    password_hash: str = ""
    """argon2id."""
    totp: str = ""
    """Reference to an authenticator secret; with it, sign-in requires the password and a code."""

    certificate: str = ""
    """SHA-256 of the person's client certificate (DER), in hexadecimal."""

    @property
    def signs_in(self) -> bool:
        """Whether the person has a password."""
        return bool(self.password or self.password_hash)


@dataclass(frozen=True, slots=True)
class Token:
    """What a program presents. `digest`: SHA-256 of the token in hexadecimal. `of`: the person it acts for;
    empty: a program in its own right, which may neither approve nor attest. `ends_ms`: since 1970; 0: never.
    """

    name: str
    role: Role
    digest: str
    of: str = ""
    ends_ms: int = 0


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID Connect provider. `secret`: a reference, empty for a public client. `name_claim`: the claim
    with the person's name; `role_claim`: a string, or a list of strings, that `roles` maps to roles.
    """

    issuer: str
    client: str
    secret: str = ""
    scopes: tuple[str, ...] = ("openid", "profile")
    name_claim: str = "sub"
    role_claim: str = "groups"
    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    acr: str = ""
    """Required strength of a login (`acr`); empty: no requirement."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. `client_ca`: clients must present a certificate signed by it."""

    cert: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Sessions:
    """How long a login lasts."""

    idle_ms: int = 3_600_000
    """Longest time without a request."""
    whole_ms: int = 43_200_000
    """Longest total duration."""
    grave_ms: int = 900_000
    """How recent a login has to be for `GRAVE` verbs."""


@dataclass(frozen=True, slots=True)
class GlassRules:
    """Limits for offline-signed credentials."""

    most_ms: int = 14_400_000
    uses: int = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """One action that a person may request without the identity provider, for one run or the run of one
    incident. `id`: 128 random bits in hexadecimal. `from_ms`, `until_ms`: since 1970 (UTC). `uses`: how
    often.
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

    @property
    def credential(self) -> str:
        """Names the credential where its uses are counted. The signer chooses the id, so only the id and the
        signer together are one credential: otherwise, anyone with a key could use up those of others.
        """
        return digest({"id": self.id, "who": self.who}).removeprefix("sha256:")

    def use(self, number: int) -> GlassUse:
        """The use with this number, from 1."""
        return GlassUse(self.id[:8], number, self.uses, self.reason[:SIGNED_FOR_MOST], self.credential)

    def is_used(self, number: int, marks: Collection[str]) -> bool:
        """Whether a run with these marks records the use with this number."""
        return self.use(number).is_in(marks)


@dataclass(frozen=True, slots=True)
class AccessLimits:
    """Rate limits."""

    sign_in: Rate = field(default_factory=lambda: Rate(10, 300_000))
    """Failed sign-ins from one address before further attempts are slowed down."""
    requests: Rate = field(default_factory=lambda: Rate(3_000, 60_000))
    """Requests of one person or program."""
    streams: int = 20
    """Simultaneous streams of one person or program."""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The whole access file. `address`: the war room's address as browsers know it; `hosts`: its
    other names.
    """

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
    """Networks of proxies whose `X-Forwarded-For` is trusted."""


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One action that someone took, or was refused, at a war room."""

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
