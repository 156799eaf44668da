"""The notices file: alert channels, and which messages go where.

One YAML file, `notices.yaml` in the estate's folder by default. Read with the same machinery as the estate:
every problem at once, with file, line and column. Nothing secret stands in it: addresses and keys are
references, for the address of a chat is as good as a password.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from evac.estate.codecs.access import REFERENCE
from evac.estate.format.document import MAP, NOTICES_FILE, Node, beside, read_root
from evac.estate.format.kinds import Field, Listed, Record, Scalar, choice, flag, record_schema, reference
from evac.estate.format.problems import Problems, shown
from evac.estate.format.quantities import QuantityError
from evac.estate.format.reading import BAD, FactBook, Reader
from evac.model.errors import EstateError
from evac.model.records import dataclass
from evac.notices.values import KINDS, SEVERITIES, UPDATE, Channel, Kind, NoticeRules, Severity, Way

SCHEMA_ID: Final = "urn:evac:notices:1"
CHANNELS_MOST: Final = 16


def _read_link(raw: str) -> str:
    """A page address that browsers can open."""
    wrong = QuantityError("not-an-address", f"'{raw[:60]}' is not a web address", "write https://HOST")
    try:
        parts = urlsplit(raw)
        parts.port  # noqa: B018 - raises ValueError for a wrong one
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise wrong
    return raw


_LINK: Final = Scalar(
    "address, such as `https://war.example.com`",
    _read_link,
    str,
    {"type": "string", "pattern": "^https?://"},
    quoted=True,
)


def _read_sender(raw: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,189}", raw):
        raise QuantityError("address-invalid", f"'{raw[:60]}' is not an email address", "write NAME@HOST")
    return raw


_SENDER: Final = Scalar(
    "email address, such as `status@example.com`",
    _read_sender,
    str,
    {"type": "string", "pattern": "^[^@ ]+@[^@ ]+$"},
    quoted=True,
)

CHANNEL_FIELDS: Final = (
    Field("apprise", "apprise", REFERENCE, "reference to the Apprise URL", default=""),
    Field(
        "webhook",
        "webhook",
        REFERENCE,
        "reference to the URL of a signed webhook, instead of `apprise`",
        default="",
    ),
    Field(
        "mail",
        "mail",
        REFERENCE,
        "reference to the SMTP server that sends updates to subscribers: `smtps://USER:PASSWORD@HOST`",
        default="",
    ),
    Field(
        "secret",
        "secret",
        REFERENCE,
        "reference to the key that signs webhooks or seals subscribers' addresses: `whsec_` and base64",
        default="",
    ),
    Field("sender", "sender", _SENDER, "address of the sender of mail to subscribers", default=""),
    Field(
        "join", "join", _LINK, "address of the page where users subscribe, used for links in mail", default=""
    ),
    Field(
        "kinds",
        "kinds",
        Listed(choice(KINDS), one_allowed=True),
        "kinds of messages to send; default: all",
        default=(),
    ),
    Field("least", "least", choice(SEVERITIES), "minimum severity to send", default="warning"),
    Field("clear", "clear", flag(), "true: webhook or mail may be sent without TLS", default=False),
)
FIELDS: Final = (
    Field("room", "room", _LINK, "address of the war room, used for links in messages", default=""),
    Field("page", "page", _LINK, "address of the public status page, used for links in updates", default=""),
)


@dataclass(frozen=True, slots=True)
class _Written:
    """A channel as written in the file."""

    apprise: str = ""
    webhook: str = ""
    secret: str = ""
    kinds: tuple[Kind, ...] = ()
    least: Severity = "warning"
    clear: bool = False
    mail: str = ""
    sender: str = ""
    join: str = ""

    def channel(self, name: str) -> Channel:
        way: Way = "mail" if self.mail else "webhook" if self.webhook else "apprise"
        url, kinds = self.mail or self.webhook or self.apprise, frozenset(self.kinds)
        join = self.join.rstrip("/")
        return Channel(name, way, url, self.secret, kinds, self.least, self.clear, self.sender, join)


_CHANNEL: Final = Record(CHANNEL_FIELDS, _Written)
_TOP: Final = Record(FIELDS, dict)


def load_notices(path: Path) -> NoticeRules:
    """The rules in a file. Raises EstateError with every problem; a file without a channel is a problem
    too.
    """
    problems = Problems()
    root = read_root(path, problems)
    made = NoticeRules() if root is None else _rules(root, problems)
    if problems.has_errors:
        raise EstateError(problems.all(), "notices")
    return made


def notices_beside(estate_path: Path) -> Path | None:
    """`notices.yaml` of an estate, if there is one."""
    return beside(estate_path, NOTICES_FILE)


def notices_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a notices file."""
    top = record_schema(FIELDS)
    entries = {
        "type": "object",
        "additionalProperties": record_schema(CHANNEL_FIELDS),
        "minProperties": 1,
        "maxProperties": CHANNELS_MOST,
    }
    top["properties"]["channels"] = {"description": "channels, by name", **entries}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "evac notices",
        "description": "Who is notified, about what, and over which channel.",
        **top,
        "required": ["channels"],
        "$defs": {"fact": {"type": "object", "required": ["value"]}},
    }


def _rules(root: Node, problems: Problems) -> NoticeRules:
    reader = Reader(problems, FactBook(None, problems))
    pair = root.fields.pop("channels", None)
    values = reader.arguments(_TOP, root, "notices")
    links = {key: str(values.get(key, "")) if isinstance(values, dict) else "" for key in ("room", "page")}
    if pair is None or pair[1].is_unknown or (pair[1].kind == MAP and not pair[1].fields):
        problems.add(
            "nobody-told",
            "no channels are configured, so no alerts are sent",
            root.place,
            "write channels: {NAME: {apprise: env:NAME}}",
        )
        return NoticeRules()
    if pair[1].kind != MAP:
        problems.add("wrong-type", "channels must be a mapping of names", pair[1].place, "write NAME: {}")
        return NoticeRules()
    found: dict[str, Channel] = {}
    for name, (key, value) in pair[1].fields.items():
        read = reader.scalar(reference("channel"), key, f"channels/{name}")
        made = reader.arguments(_CHANNEL, value, f"channels/{name}")
        if read is BAD or not isinstance(made, dict):
            continue
        if "/" in name:
            problems.add(
                "id-invalid", f"{shown(name)} is not a valid channel name", key.place, "leave out the /"
            )
        written = _Written(**made)
        _check(name, value, key, written, problems)
        if UPDATE in written.kinds and len(set(written.kinds)) > 1:
            problems.add(
                "channel-mixed",
                f"{shown(name)} would send internal messages to users",
                key.place,
                "give this channel only the kind update, and use another channel for the rest",
            )
        found[name] = written.channel(name)
    mails = [name for name, one in found.items() if one.way == "mail"]
    if len(mails) > 1:
        hint = "keep one: all subscribers are in one list"
        problems.add("too-many-channels", f"{len(mails)} channels of kind mail; at most 1", root.place, hint)
    if len(found) > CHANNELS_MOST:
        hint = "let several people share a channel"
        problems.add("too-many-channels", f"{len(found)} channels; at most {CHANNELS_MOST}", root.place, hint)
    return NoticeRules(MappingProxyType(dict(sorted(found.items()))), **links)


def _check(name: str, value: Node, key: Node, written: _Written, problems: Problems) -> None:
    """A channel has exactly one type and the keys that type requires."""
    said = value.fields.keys()  # also what was refused: that is told by itself
    if len(said & {"apprise", "webhook", "mail"}) != 1:
        problems.add(
            "channel-way",
            f"{shown(name)} needs either apprise:, webhook: or mail:",
            key.place,
            "write apprise: env:NAME, or webhook: env:NAME with secret: env:NAME",
        )
    if "mail" in said:
        lacks = [one for one in ("secret", "sender", "join") if one not in said]
        if lacks or UPDATE not in written.kinds:
            problems.add(
                "mail-incomplete",
                f"{shown(name)} sends mail, so it needs secret, sender, join and kinds: update",
                key.place,
                f"add {', '.join(lacks) or 'kinds: update'}",
            )
    elif said & {"sender", "join"}:
        problems.add(
            "channel-way",
            f"sender and join apply only to mail, not to {shown(name)}",
            key.place,
            "remove them",
        )
    if "webhook" in said and "secret" not in said:
        problems.add(
            "value-missing",
            f"the webhook {shown(name)} has no signing key",
            key.place,
            "add secret: env:NAME; create one: evac notices key",
        )
    if said & {"apprise", "webhook", "mail"} == {"apprise"} and ("secret" in said or "clear" in said):
        problems.add(
            "channel-way",
            f"secret and clear apply only to webhooks and mail, not to {shown(name)}",
            key.place,
            "remove them",
        )
