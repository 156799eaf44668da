"""The access file: people and their roles, tokens of programs, the identity provider, TLS, lengths of logins.

One YAML file, `access.yaml` in the estate's folder by default. Read like the estate: every problem at once,
with file, line and column. It contains no secrets: passwords are references, tokens are hashes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from evac.estate.codecs.policy import ED25519_KEY, MOMENT
from evac.estate.format import quantities as q
from evac.estate.format.document import ACCESS_FILE, MAP, Node, beside, read_root
from evac.estate.format.kinds import (
    Field,
    Listed,
    Mapped,
    Record,
    Scalar,
    choice,
    measure,
    rate,
    record_schema,
    reference,
    small_count,
    text,
)
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError
from evac.estate.format.reading import BAD, FactBook, Reader
from evac.model import access as a
from evac.model.errors import EstateError
from evac.model.names import alike

SCHEMA_ID: Final = "urn:evac:access:1"
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_ARGON2ID: Final = re.compile(
    r"\$argon2id\$v=19\$m=\d{4,8},t=\d{1,3},p=\d{1,2}\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{22,}"
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?|::1")


def read_reference(raw: str) -> str:
    """A reference to a secret, unchanged. Raises QuantityError, which never quotes an invalid one."""
    kind, _, rest = raw.partition(":")
    if (kind == "env" and rest) or (kind in ("file", "command") and rest.startswith("/")):
        return raw
    raise QuantityError(
        "secret-in-clear",
        "a secret must be given by reference",
        "write env:NAME, file:/path or command:/path",
    )


def _read_digest(raw: str) -> str:
    if _DIGEST.fullmatch(raw):
        return raw.removeprefix("sha256:")
    raise QuantityError("not-a-hash", "this is not a token hash", "create one: evac access token NAME")


def _read_argon(raw: str) -> str:
    if _ARGON2ID.fullmatch(raw):
        return raw
    raise QuantityError("not-a-hash", "this is not an argon2id hash", "create one: evac access password NAME")


def _read_network(raw: str) -> str:
    try:
        return str(ipaddress.ip_network(raw))
    except ValueError as error:
        raise QuantityError(
            "not-a-network", f"'{raw[:60]}' is not a network", "use a value like 10.0.0.0/8 or 10.0.0.7"
        ) from error


def is_hidden(parts: SplitResult) -> bool:
    """Whether an address is protected by TLS or reaches only this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


def _read_url(raw: str) -> str:
    """An address without query, fragment or user name that passes `is_hidden`."""
    try:
        parts = urlsplit(raw)
        parts.port  # noqa: B018 - raises ValueError for a wrong one
    except ValueError as error:
        raise QuantityError(
            "not-an-address", f"'{raw[:60]}' is not an address", "write https://HOST"
        ) from error
    if not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise QuantityError("not-an-address", f"'{raw[:60]}' is not an address", "write https://HOST")
    if is_hidden(parts):
        return raw
    raise QuantityError("address-open", f"'{raw[:60]}' does not use TLS", "write https://HOST")


def _read_host(raw: str) -> str:
    if _HOST.fullmatch(raw):
        return raw.lower()
    raise QuantityError("not-a-host", f"'{raw[:60]}' is not a host name", "leave out scheme, port and path")


def _read_path(raw: str) -> str:
    if raw.startswith("/") and "\0" not in raw:
        return raw
    raise QuantityError("not-a-path", f"'{raw[:60]}' is not an absolute path", "start it with /")


_TEXT_SCHEMA: Final = MappingProxyType({"type": "string"})
REFERENCE: Final = Scalar(
    "reference: `env:NAME`, `file:/path` or `command:/path ARGUMENTS`",
    read_reference,
    str,
    {"type": "string", "pattern": "^(env:.|file:/|command:/)"},
    quoted=True,
)
_HASH: Final = Scalar(
    "hash of a token, `sha256:...`",
    _read_digest,
    lambda value: f"sha256:{value}",
    {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    quoted=True,
)
_FINGERPRINT: Final = Scalar(
    "SHA-256 of a certificate, `sha256:...`",
    _read_digest,
    lambda value: f"sha256:{value}",
    {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    quoted=True,
)
_ARGON: Final = Scalar(
    "argon2id hash, `$argon2id$...`",
    _read_argon,
    str,
    {"type": "string", "pattern": "^[$]argon2id[$]"},
    quoted=True,
)
_NETWORK: Final = Scalar(
    "network or address, such as `10.0.0.0/8`", _read_network, str, {"type": "string"}, quoted=True
)
_URL: Final = Scalar("address, such as `https://id.example.com`", _read_url, str, _TEXT_SCHEMA, quoted=True)
_HOST_NAME: Final = Scalar("host name, such as `war.example.com`", _read_host, str, _TEXT_SCHEMA, quoted=True)
_PATH: Final = Scalar("absolute path of a PEM file", _read_path, str, _TEXT_SCHEMA, quoted=True)
_DURATION: Final = measure(q.DURATION)
_ROLE: Final = choice(a.ROLES)


def _person(**values: Any) -> a.Person:
    return a.Person("", **values)


def _token(**values: Any) -> a.Token:
    return a.Token("", **values)


def _provider(roles: Mapping[str, Any] | None = None, **values: Any) -> a.Provider:
    return a.Provider(**values, roles=MappingProxyType(dict(roles or {})))


PERSON_FIELDS: Final = (
    Field("role", "role", _ROLE, "what the person may do", required=True),
    Field(
        "password", "password", REFERENCE, "reference to the password used on the sign-in page", default=""
    ),
    Field(
        "password_hash",
        "password_hash",
        _ARGON,
        "its argon2id hash, as printed by `evac access password`",
        default="",
    ),
    Field("totp", "totp", REFERENCE, "reference to the secret of an authenticator app", default=""),
    Field(
        "certificate",
        "certificate",
        _FINGERPRINT,
        "SHA-256 of the client certificate that signs the person in; needs `tls.client_ca`",
        default="",
    ),
    Field("key", "key", ED25519_KEY, "public key for signed requests and break-glass", default=""),
    Field(
        "subject",
        "subject",
        text(),
        "`sub` of the person at the identity provider; `''` if the provider does not know them",
    ),
)
TOKEN_FIELDS: Final = (
    Field("role", "role", _ROLE, "what the token may do", required=True),
    Field("hash", "digest", _HASH, "hash of the token", required=True),
    Field(
        "of",
        "of",
        reference("person"),
        "the person it acts for; without one, it can neither approve nor attest",
        default="",
    ),
    Field("ends", "ends_ms", MOMENT, "date from which the token is rejected", default=0),
)
_PROVIDER: Final = Record(
    (
        Field("issuer", "issuer", _URL, "issuer URL, exactly as the provider publishes it", required=True),
        Field("client", "client", text(), "client ID that the provider assigned to evac", required=True),
        Field("client_secret", "secret", REFERENCE, "reference to the client secret", default=""),
        Field(
            "scopes",
            "scopes",
            Listed(text(), ordered=True),
            "scopes to request",
            default=("openid", "profile"),
        ),
        Field(
            "name_claim",
            "name_claim",
            text(),
            "claim that identifies a person; must not be user-editable",
            default="sub",
        ),
        Field("role_claim", "role_claim", text(), "claim that holds groups or roles", default="groups"),
        Field("roles", "roles", Mapped(text(), _ROLE), "maps a value of that claim to a role", default={}),
        Field("acr", "acr", text(), "required authentication strength (`acr`)", default=""),
    ),
    _provider,
)
_TLS: Final = Record(
    (
        Field("cert", "cert", _PATH, "certificate, with its chain", required=True),
        Field("key", "key", _PATH, "private key of the certificate", required=True),
        Field(
            "client_ca",
            "client_ca",
            _PATH,
            "clients must present a certificate from this CA",
            default="",
        ),
    ),
    a.Tls,
)
_SESSIONS: Final = Record(
    (
        Field("idle", "idle_ms", _DURATION, "how long an idle login stays valid", default=3_600_000),
        Field("whole", "whole_ms", _DURATION, "maximum lifetime of a login", default=43_200_000),
        Field(
            "grave",
            "grave_ms",
            _DURATION,
            "how long a login may be used to approve, attest, undo and cancel",
            default=900_000,
        ),
    ),
    a.Sessions,
)
_GLASS: Final = Record(
    (
        Field("most", "most_ms", _DURATION, "maximum lifetime of a credential", default=14_400_000),
        Field("uses", "uses", small_count(1, 100), "maximum number of uses of a credential", default=3),
    ),
    a.GlassRules,
)
_DEFAULTS: Final = a.AccessLimits()
_LIMITS: Final = Record(
    (
        Field(
            "sign_in",
            "sign_in",
            rate(),
            "failed attempts from one address before it is throttled",
            default=_DEFAULTS.sign_in,
        ),
        Field(
            "requests",
            "requests",
            rate(),
            "maximum requests by one person or program",
            default=_DEFAULTS.requests,
        ),
        Field(
            "streams",
            "streams",
            small_count(1, 1_000),
            "maximum streams open to one person or program",
            default=20,
        ),
    ),
    a.AccessLimits,
)

FIELDS: Final = (
    Field("address", "address", _URL, "address of the war room as browsers see it", default=""),
    Field("hosts", "hosts", Listed(_HOST_NAME), "additional host names", default=()),
    Field(
        "trusted_proxies",
        "proxies",
        Listed(_NETWORK),
        "networks of proxies whose X-Forwarded-For is trusted",
        default=(),
    ),
    Field("oidc", "provider", _PROVIDER, "the identity provider"),
    Field("tls", "tls", _TLS, "certificate of the war room"),
    Field("sessions", "sessions", _SESSIONS, "lifetime of logins", default=a.Sessions()),
    Field("break_glass", "glass", _GLASS, "limits on credentials signed offline", default=a.GlassRules()),
    Field("limits", "limits", _LIMITS, "rate limits", default=_DEFAULTS),
)
_PERSON_RECORD: Final = Record(PERSON_FIELDS, _person)
_TOKEN_RECORD: Final = Record(TOKEN_FIELDS, _token)
_TOP: Final = Record(FIELDS, dict)


def load_access(path: Path) -> a.AccessRules:
    """The rules in a file. Raises EstateError with every problem; naming no one is a problem too."""
    problems = Problems()
    root = read_root(path, problems)
    made = a.AccessRules() if root is None else _rules(root, problems)
    if problems.has_errors:
        raise EstateError(problems.all(), "access")
    return made


def access_beside(estate_path: Path) -> Path | None:
    """`access.yaml` of an estate, if there is one."""
    return beside(estate_path, ACCESS_FILE)


def access_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of an access file."""
    top = record_schema(FIELDS)
    for key, fields, words in (
        ("people", PERSON_FIELDS, "people, by the name used in the journal"),
        ("tokens", TOKEN_FIELDS, "tokens for programs, by name"),
    ):
        entries = {"type": "object", "additionalProperties": record_schema(fields)}
        top["properties"][key] = {"description": words, "anyOf": [entries, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "evac access",
        "description": "Who may do what in the war room.",
        **top,
        "$defs": {"fact": {"type": "object", "required": ["value"]}},
    }


def _rules(root: Node, problems: Problems) -> a.AccessRules:
    reader = Reader(problems, FactBook(None, problems))
    sections = {name: root.fields.pop(name, None) for name in ("people", "tokens")}
    values = reader.arguments(_TOP, root, "access")
    arguments: dict[str, Any] = dict(values) if isinstance(values, dict) else {}
    people = _entries(sections["people"], _PERSON_RECORD, a.Person, "people", reader)
    tokens = _entries(sections["tokens"], _TOKEN_RECORD, a.Token, "tokens", reader)
    rules = a.AccessRules(people=MappingProxyType(people), tokens=MappingProxyType(tokens), **arguments)
    for row in reader.references:
        if row.names == "person" and row.path.startswith("tokens/") and row.name not in people:
            hint = problems.suggest(row.name, people)
            problems.add("name-unknown", f"no such person: {shown(row.name)}", row.node.place, hint)
    _check_people(rules, sections["people"], root, problems)
    _check_tokens(rules, sections["tokens"], problems)
    _check_provider(rules, root, problems)
    return rules


def _entries(pair: tuple[Node, Node] | None, record: Record, make: Any, section: str, reader: Reader) -> Any:
    """A mapping of names to values of one record."""
    if pair is None or pair[1].is_unknown:
        return {}
    if pair[1].kind != MAP:
        reader.problems.add(
            "wrong-type", f"{section} must be a mapping of names", pair[1].place, "write NAME: {}"
        )
        return {}
    found = {}
    for name, (key, value) in pair[1].fields.items():
        read = reader.scalar(reference(section), key, f"{section}/{name}")
        made = reader.arguments(record, value, f"{section}/{name}")
        if read is not BAD and isinstance(made, dict):
            found[name] = make(name, **made)
    return dict(sorted(found.items()))


def _check_people(
    rules: a.AccessRules, pair: tuple[Node, Node] | None, root: Node, problems: Problems
) -> None:
    """One person, one name: a person with two could approve twice."""
    if not (pair and pair[1].fields) and rules.provider is None and "oidc" not in root.fields:
        problems.add("nobody", "no one may do anything", root.place, "add people, or an identity provider")
    names: dict[str, str] = {}
    subjects: dict[str, str] = {}
    shown_by: dict[str, str] = {}
    keys: dict[str, str] = {}
    for name, person in rules.people.items():
        place = pair[1].fields[name][0].place if pair else root.place
        if (other := names.setdefault(alike(name), name)) != name:
            problems.add("id-taken", f"{shown(name)} and {shown(other)} look the same", place, "rename one")
        if person.subject and (other := subjects.setdefault(person.subject, name)) != name:
            problems.add(
                "id-taken", f"{shown(other)} has the same subject", place, "give each person one entry"
            )
        if person.key and (other := keys.setdefault(person.key, name)) != name:
            problems.add(
                "id-taken", f"{shown(other)} has the same key", place, "give each person their own key"
            )
        if person.certificate and (other := shown_by.setdefault(person.certificate, name)) != name:
            problems.add(
                "id-taken",
                f"{shown(other)} has the same certificate",
                place,
                "give each person their own certificate",
            )
        if person.certificate and (rules.tls is None or not rules.tls.client_ca):
            problems.add(
                "certificate-unseen",
                f"{shown(name)} has a certificate, but no client CA is set",
                place,
                "set the CA that signed it: tls: {client_ca: FILE}",
            )
        if person.subject is None and rules.provider is not None:
            problems.add(
                "subject-missing",
                f"{shown(name)} has no identity at the identity provider",
                place,
                "write subject: SUB, or subject: '' if the provider does not know this person",
            )


def _check_tokens(rules: a.AccessRules, pair: tuple[Node, Node] | None, problems: Problems) -> None:
    taken = {alike(name) for name in rules.people}
    digests: dict[str, str] = {}
    for name, token in rules.tokens.items():
        assert pair is not None
        place = pair[1].fields[name][0].place
        if not token.of and token.role in ("approver", "admin"):
            problems.add(
                "program-approves",
                f"{shown(name)} does not act for a person, so it may not approve",
                place,
                "add the person it acts for (of: PERSON), or give it the role operator",
            )
        if not token.of and alike(name) in taken:
            problems.add("id-taken", f"a person is also named {shown(name)}", place, "rename the token")
        if (other := digests.setdefault(token.digest, name)) != name:
            problems.add("id-taken", f"{shown(other)} has the same hash", place, "create a new token")


def _check_provider(rules: a.AccessRules, root: Node, problems: Problems) -> None:
    """Notes missing keys that an identity provider requires."""
    if rules.sessions.idle_ms > rules.sessions.whole_ms or not rules.sessions.idle_ms:
        problems.add(
            "out-of-range",
            "a login would end immediately, or before it becomes idle",
            root.place,
            "set `idle` no longer than `whole`",
        )
    if rules.provider is None:
        return
    place = root.fields["oidc"][0].place if "oidc" in root.fields else root.place
    if not rules.address:
        problems.add(
            "value-missing",
            "with oidc, the address of the war room is required",
            place,
            "add address: https://HOST",
        )
    if "openid" not in rules.provider.scopes:
        problems.add("value-missing", "scopes must include openid", place, "write scopes: [openid, profile]")
