"""Subscribers of the public status page by email: they ask, confirm by a link that only their mailbox gets,
receive what is published, and leave by a link in every mail.

    notices/asked/<mailbox>     asked and not confirmed: one for each mailbox and day, however it is spelled
    subscriber/<id>             a confirmed subscriber, who goes along when a store is copied
    notices/mailed/<message>    how far an update has been sent

Addresses are sealed with the channel's key (AES-256-GCM). Names of entries are keyed hashes, so a copy of the
store does not reveal who subscribed. Requests get the same answer whether the address is known or not.

A mail is marked as sent before it is sent. So a controller that takes over, or one that lost the connection
in the middle of a mail, sends nothing twice; that one mail may be missing. A mail that the server refused
for now is sent again later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import smtplib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, Final, TypeVar, get_type_hints
from urllib.parse import unquote, urlsplit

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from evac.incident.components import Language
from evac.model.errors import Conflict, Corrupt, EvacError, InvalidInput
from evac.model.records import dataclass
from evac.net.secrets import secret_of
from evac.notices.values import OLDEST_MS, Channel, Message, pause_of
from evac.office.notices.sending import ANSWER_S, Outcome, apart, key_bytes
from evac.store.port import Change, Compare, Delete, Entry, Put, Store, all_entries
from evac.views.status_page import said_in

ASKED: Final = "notices/asked/"
READER: Final = "subscriber/"
MAILED: Final = "notices/mailed/"
DAY_MS: Final = 86_400_000
ADDRESS_MOST: Final = 254
Row = TypeVar("Row", bound="Invited | Reader")
READERS_MOST: Final = 10_000
ASKED_MOST: Final = 1_000
"""Open requests at one time, and so at most this many confirmation mails in a day."""
INVITES_MOST: Final = 30
"""Confirmation mails in one minute."""
AGAIN_MOST: Final = 500
"""Subscribers whose mail the server refused for now, for one update."""
REFUSED_MOST: Final = 3
"""A subscriber whose mailbox was refused for good this often in a row is removed."""
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])"
)


def address_of(text: str) -> str:
    """An email address as it is sent to. Raises InvalidInput."""
    found = text.strip()
    if len(found) > ADDRESS_MOST or not _ADDRESS.fullmatch(found):
        raise InvalidInput("address-invalid", "this is not an email address", "use the form name@example.com")
    return found


@dataclass(frozen=True, slots=True)
class Invited:
    """A request. sealed: address and language; mailed_ms: when the confirmation mail was sent, 0: not yet."""

    sealed: str
    at_ms: int
    mailed_ms: int = 0
    tries: int = 0
    """How often the server refused the mail for now."""
    next_ms: int = 0
    """Earliest moment of the next attempt."""

    @property
    def due_ms(self) -> int:
        return max(self.at_ms, self.next_ms)

    @property
    def ends_ms(self) -> int:
        """When it is forgotten: a day after its mail was sent."""
        return max(self.at_ms, self.mailed_ms) + DAY_MS


@dataclass(frozen=True, slots=True)
class Reader:
    """A confirmed subscriber. refused: updates in a row that the mailbox refused for good."""

    sealed: str
    since_ms: int
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an update has been sent. after: the last subscriber that was tried; again: who was refused for
    now.
    """

    at_ms: int
    after: str = ""
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One line of an export."""

    address: str
    language: Language
    since_ms: int


class Vault:
    """Seals what is stored and what is sent in links, under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(hmac.digest(key, b"seal", hashlib.sha256))

    def hashed(self, use: str, text: str) -> str:
        return hmac.new(self._key, f"{use}\0{text}".encode(), hashlib.sha256).hexdigest()[:40]

    def id_of(self, address: str) -> str:
        return self.hashed("reader", address.lower())

    def mailbox_of(self, address: str) -> str:
        """The same for every spelling that reaches one mailbox: letter case, and what follows a `+`."""
        local, _, domain = address.lower().rpartition("@")
        return self.hashed("mailbox", f"{local.partition('+')[0]}@{domain}")

    def seal(self, use: str, fields: dict[str, Any]) -> str:
        nonce = os.urandom(12)
        return base64.urlsafe_b64encode(
            nonce + self._cipher.encrypt(nonce, orjson.dumps(fields), use.encode())
        ).decode()

    def opened(self, use: str, text: str) -> dict[str, Any]:
        """Raises InvalidInput for anything that was not sealed for this use with this key."""
        try:
            raw = base64.b64decode(text.encode(), b"-_", validate=True)
            return dict(orjson.loads(self._cipher.decrypt(raw[:12], raw[12:], use.encode())))
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise InvalidInput(
                "link-invalid",
                "this link is not valid",
                "use the link in the latest email, or subscribe again",
            ) from error

    def leave_link(self, reader: str) -> str:
        """It does not expire: it works in every mail ever sent."""
        return f"{reader}.{self.hashed('leave', reader)}"


def vault_of(channel: Channel) -> Vault:
    """Raises EvacError if the key cannot be read."""
    return Vault(key_bytes(secret_of(channel.secret).reveal()))


FIELDS: Final[dict[type, dict[str, Any]]] = {kind: get_type_hints(kind) for kind in (Invited, Reader)}


def _asked(entry: Entry) -> Invited | None:
    return _read(Invited, entry)


def _reader(entry: Entry) -> Reader | None:
    return _read(Reader, entry)


def _read(kind: type[Row], entry: Entry) -> Row | None:
    """None if the entry cannot be read: another program, or another version of evac, wrote it."""
    try:
        row = kind(**orjson.loads(entry.value))
    except (TypeError, ValueError):
        return None
    wanted = FIELDS[kind]
    return row if all(type(getattr(row, name)) is wanted[name] for name in wanted) else None


def _address(vault: Vault, use: str, sealed: str) -> str:
    """Empty if another key sealed it."""
    try:
        return str(vault.opened(use, sealed)["address"])
    except InvalidInput:
        return ""


def _keys_of(vault: Vault, entry: Entry, reader: Reader) -> tuple[str, ...]:
    """What holds the address of a subscriber: its entry and the request of its mailbox."""
    address = _address(vault, "reader", reader.sealed)
    return (entry.key, *([ASKED + vault.mailbox_of(address)] if address else []))


def _is_old(entry: Entry, name: str, now_ms: int) -> bool:
    """Whether a request is forgotten. One that cannot be read is kept, unless its mailbox asks again."""
    asked = _asked(entry)
    return asked.ends_ms <= now_ms if asked else entry.key == name


async def ask(store: Store, vault: Vault, address: str, language: Language, now_ms: int) -> None:
    """Record a request, for which the leader sends a confirmation mail. Nothing happens if the mailbox was
    asked for within a day. Raises InvalidInput, Unavailable, and EvacError above the limit.
    """
    address = address_of(address)
    name, known = ASKED + vault.mailbox_of(address), await all_entries(store, ASKED)
    old = {one.key: one.revision for one in known if _is_old(one, name, now_ms)}
    if len(known) - len(old) >= ASKED_MOST:
        raise EvacError("too-many-requests", "too many people are subscribing now", "try again tomorrow")
    if any(one.key == name and name not in old for one in known):
        return
    sealed = vault.seal("asked", {"address": address, "language": language})
    gone = [Delete(key) for key in old if key != name][:50]
    try:
        put = Put(name, orjson.dumps(asdict(Invited(sealed, now_ms))))
        await store.transact((Compare(name, old.get(name, 0)),), (put, *gone))
    except Conflict:
        return  # somebody asked for the same mailbox at the same moment


async def confirm(store: Store, vault: Vault, link: str, now_ms: int) -> Language:
    """Subscribe the address in a link, and delete its request, so that no old link subscribes someone who
    left. It may be subscribed already. Raises InvalidInput, Unavailable, and EvacError above the limit.
    """
    told = vault.opened("confirm", link)
    if now_ms > told["until_ms"]:
        raise InvalidInput("link-expired", "this link has expired", "subscribe again")
    key, known = READER + vault.id_of(told["address"]), await all_entries(store, READER)
    language: Language = told["language"]
    request = ASKED + vault.mailbox_of(told["address"])
    entry = await store.get(request)
    asked = None if entry is None else _asked(entry)
    old = next((one for one in known if one.key == key), None)
    if old and _reader(old):
        await store.transact((), (Delete(request),))
        return language
    # A link of an older version does not say for which request it is; it is valid for a day at most.
    if entry is None or asked is None or asked.at_ms != told.get("at_ms", asked.at_ms):
        raise InvalidInput("link-expired", "this link was used, or its request was erased", "subscribe again")
    if len(known) >= READERS_MOST:
        raise EvacError("too-many-subscribers", "no more people can subscribe", "follow the RSS feed instead")
    sealed = vault.seal("reader", {"address": told["address"], "language": language})
    same = (Compare(key, old.revision if old else 0), Compare(request, entry.revision))
    try:
        await store.transact(same, (_put(key, Reader(sealed, now_ms)), Delete(request)))
    except Conflict:  # the same link was used twice at the same moment, or they left
        return await confirm(store, vault, link, now_ms)
    return language


def leaver_of(vault: Vault, link: str) -> str:
    """The subscriber that a link removes. Raises InvalidInput."""
    reader = link.partition(".")[0]
    if not hmac.compare_digest(link.encode(), vault.leave_link(reader).encode()):
        raise InvalidInput("link-invalid", "this link is not valid", "use the link in the latest email")
    return reader


async def remove(store: Store, vault: Vault, reader: str, mailbox: str = "") -> bool:
    """Deletes a subscriber, and any request of its address or mailbox; returns whether there was one.
    mailbox: known even if there is no subscriber. Raises Unavailable.
    """
    entry = await store.get(READER + reader)
    one = _reader(entry) if entry else None
    keys = {READER + reader, *([ASKED + mailbox] if mailbox else [])}
    keys |= set(_keys_of(vault, entry, one)) if entry and one else set()
    for request in await all_entries(store, ASKED):
        asked = _asked(request)
        if asked and vault.id_of(_address(vault, "asked", asked.sealed)) == reader:
            keys.add(request.key)  # asked again after they left
    found = [key for key in keys if await store.get(key) is not None]
    if found:
        await store.transact((), [Delete(key) for key in found])
    return bool(found)


async def exported(store: Store, vault: Vault) -> list[Subscriber]:
    """All subscribers, sorted by address. Raises InvalidInput if the key is another one, Corrupt if an entry
    cannot be read, Unavailable.
    """
    found = []
    for entry in await all_entries(store, READER):
        one = _reader(entry)
        if one is None:
            raise Corrupt(f"{entry.key} in the store is not a subscriber")
        told = vault.opened("reader", one.sealed)
        found.append(Subscriber(told["address"], told["language"], one.since_ms))
    return sorted(found, key=lambda one: one.address)


class Mail:
    """The channel of subscribers. Uses one connection for each round."""

    def __init__(self, channel: Channel, page: str, store: Store | None, now_ms: Callable[[], int]) -> None:
        self._channel, self._page, self._store, self._now_ms = channel, page, store, now_ms
        self._recent: deque[int] = deque(maxlen=INVITES_MOST)
        self.unreadable: set[str] = set()
        """Keys of entries that were skipped because they cannot be read."""

    async def send(self, message: Message) -> Outcome:
        """Sends to everyone who confirmed before it was published and has not received it. Without a store:
        to the sender, as a test. Raises Conflict, Unavailable.
        """
        try:
            vault = vault_of(self._channel)
            server = await apart(self._connected)
        except EvacError as error:
            return Outcome(error.message)
        except (OSError, smtplib.SMTPException) as error:
            return Outcome(f"the mail server cannot be used ({type(error).__name__})")
        try:
            if self._store is None:
                told = self._update(
                    message, vault, "test", {"address": self._channel.sender, "language": "en"}
                )
                return await self._try(server, told)
            return await self._round(self._store, vault, server, message)
        finally:
            await apart(lambda: _quit(server))

    async def _round(self, store: Store, vault: Vault, server: smtplib.SMTP, message: Message) -> Outcome:
        key = MAILED + message.id
        entry = await store.get(key)
        done = _progress(entry) if entry else Progress(message.at_ms)
        if done is None:  # who has received it is unknown, and nobody may get it twice
            return Outcome(f"cannot read {key} in the store", whole=False, hopeless=True)
        revision = entry.revision if entry else 0
        readers = self._readable(await all_entries(store, READER), _reader)
        left = {one.key.removeprefix(READER) for one, _ in readers}
        done = replace(done, again=tuple(name for name in done.again if name in left))
        for one, reader in readers:
            name = one.key.removeprefix(READER)
            if (name <= done.after and name not in done.again) or reader.since_ms > message.at_ms:
                continue
            again = tuple(other for other in done.again if other != name)
            done = Progress(message.at_ms, max(name, done.after), again)
            revision = await store.transact((Compare(key, revision),), (_put(key, done),))
            try:
                mail = self._update(message, vault, name, vault.opened("reader", reader.sealed))
            except InvalidInput:
                continue  # sealed with another key: it cannot be read, and the others must still come
            outcome = await self._try(server, mail)
            if outcome.after_ms and len(done.again) < AGAIN_MOST:
                done = replace(done, again=(*done.again, name))
                revision = await store.transact((Compare(key, revision),), (_put(key, done),))
            if outcome.whole and outcome.problem:
                return replace(outcome, after_ms=0)
            await self._count(store, vault, one, reader, outcome)
        await self._tidy(store)
        return (
            Outcome(f"{len(done.again)} subscribers not reached yet", whole=False)
            if done.again
            else Outcome()
        )

    def _readable(
        self, entries: Sequence[Entry], read: Callable[[Entry], Row | None]
    ) -> list[tuple[Entry, Row]]:
        """Skips what cannot be read, and remembers its key."""
        rows = [(one, read(one)) for one in entries]
        self.unreadable |= {one.key for one, row in rows if row is None}
        return [(one, row) for one, row in rows if row is not None]

    async def _count(
        self, store: Store, vault: Vault, entry: Entry, reader: Reader, outcome: Outcome
    ) -> None:
        """Counts refusals and removes subscribers whose mailbox no longer exists."""
        refused = reader.refused + 1 if outcome.hopeless else 0
        if refused == reader.refused or outcome.after_ms:
            return
        changes: list[Change] = [_put(entry.key, replace(reader, refused=refused))]
        if refused >= REFUSED_MOST:
            changes = [Delete(key) for key in _keys_of(vault, entry, reader)]
        try:
            await store.transact((Compare(entry.key, entry.revision),), changes)
        except Conflict:
            return  # they left at this moment

    async def _tidy(self, store: Store) -> None:
        """Deletes the progress of updates that are no longer being sent."""
        old = [
            Delete(one.key)
            for one in await all_entries(store, MAILED)
            if (done := _progress(one)) and done.at_ms + 2 * OLDEST_MS < self._now_ms()
        ]
        if old:
            await store.transact((), old[:50])

    async def invite(self) -> str:
        """Send the confirmation mails that are due, within the limits, the longest due first; the problem, if
        any. Raises Unavailable.
        """
        assert self._store is not None
        now_ms = self._now_ms()
        known = list(self._readable(await all_entries(self._store, ASKED), _asked))
        for entry, asked in known:
            if asked.ends_ms <= now_ms:
                with suppress(Conflict):  # someone has just asked again
                    await self._store.transact((Compare(entry.key, entry.revision),), (Delete(entry.key),))
        due = [
            (entry, asked)
            for entry, asked in known
            if not asked.mailed_ms and asked.next_ms <= now_ms < asked.at_ms + DAY_MS
        ]
        due.sort(key=lambda row: row[1].due_ms)
        while self._recent and self._recent[0] + 60_000 <= now_ms:
            self._recent.popleft()
        due = due[: INVITES_MOST - len(self._recent)]
        if not due:
            return ""
        try:
            vault = vault_of(self._channel)
            server = await apart(self._connected)
        except EvacError as error:
            return error.message
        except (OSError, smtplib.SMTPException) as error:
            return f"the mail server cannot be used ({type(error).__name__})"
        try:
            for entry, asked in due:
                outcome = await self._invited(self._store, vault, server, entry, asked)
                if outcome.whole and outcome.problem:
                    return outcome.problem
        finally:
            await apart(lambda: _quit(server))
        return ""

    async def _invited(
        self, store: Store, vault: Vault, server: smtplib.SMTP, entry: Entry, asked: Invited
    ) -> Outcome:
        """Sends one confirmation mail, or plans the next attempt. Raises Unavailable."""
        now_ms = self._now_ms()
        sent = _put(entry.key, replace(asked, mailed_ms=now_ms))
        try:
            revision = await store.transact((Compare(entry.key, entry.revision),), (sent,))
            told = vault.opened("asked", asked.sealed) | {"at_ms": asked.at_ms}
            mail = self._invitation(vault, told, now_ms)
            self._recent.append(now_ms)
            outcome = await self._try(server, mail)
            if outcome.after_ms:
                tries = asked.tries + 1
                later = replace(asked, tries=tries, next_ms=now_ms + pause_of(tries))
                await store.transact((Compare(entry.key, revision),), (_put(entry.key, later),))
        except (Conflict, InvalidInput):  # changed or deleted at this moment, or sealed with another key
            return Outcome(whole=False)
        return outcome

    async def _try(self, server: smtplib.SMTP, mail: EmailMessage) -> Outcome:
        """Sends one mail. after_ms: refused for now. hopeless: the mailbox refused it for good. whole: the
        server accepts no mail now.
        """
        to = str(mail["To"])
        try:
            await apart(lambda: server.send_message(mail, self._channel.sender, [to]))
        except smtplib.SMTPRecipientsRefused as error:
            code = error.recipients[to][0]
            later = code < 500
            return Outcome(f"refused ({code})", int(later), whole=code == 421, hopeless=not later)
        except smtplib.SMTPDataError as error:
            return Outcome(f"refused ({error.smtp_code})", int(error.smtp_code < 500), error.smtp_code == 421)
        except smtplib.SMTPResponseException as error:
            return Outcome(f"the mail server refused the sender ({error.smtp_code})", 1)
        except (OSError, smtplib.SMTPException) as error:
            return Outcome(f"the mail server ended the connection ({type(error).__name__})")
        return Outcome(whole=False)

    def _connected(self) -> smtplib.SMTP:
        """Runs on a thread. Raises EvacError, OSError, SMTPException."""
        url = urlsplit(secret_of(self._channel.url).reveal())
        if url.scheme not in ("smtp", "smtps") or not url.hostname:
            raise InvalidInput(
                "not-an-address", "its address is not valid", "write smtps://USER:PASSWORD@HOST"
            )
        context = ssl.create_default_context()
        if url.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                url.hostname, url.port or 465, timeout=ANSWER_S, context=context
            )
        else:
            server = smtplib.SMTP(url.hostname, url.port or 587, timeout=ANSWER_S)
        try:
            if url.scheme == "smtp" and not self._channel.clear:
                server.starttls(context=context)
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
        except BaseException:
            server.close()
            raise
        return server

    def _update(self, message: Message, vault: Vault, reader: str, told: dict[str, Any]) -> EmailMessage:
        language: Language = told["language"]
        leave = f"{self._channel.join}/leave?language={language}&link={vault.leave_link(reader)}"
        lines = [
            message.words,
            *filter(None, (self._page,)),
            "-- ",
            said_in(language, "You get this email because you subscribed to status updates."),
            said_in(language, "Unsubscribe: {0}", leave),
        ]
        mail = self._mail(told["address"], message.title or message.words, lines, language, message.at_ms)
        domain = self._channel.sender.rpartition("@")[2]
        mail["Message-ID"] = f"<{message.id}.{vault.hashed('mail', reader)[:16]}@{domain}>"
        mail["List-Unsubscribe"] = f"<{leave}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        return mail

    def _invitation(self, vault: Vault, told: dict[str, Any], now_ms: int) -> EmailMessage:
        language: Language = told["language"]
        link = vault.seal("confirm", {**told, "until_ms": now_ms + DAY_MS})
        lines = [
            said_in(language, "Someone, probably you, asked for status updates by email at this address."),
            said_in(language, "To get them, open this link within 24 hours and press Subscribe:"),
            f"{self._channel.join}/confirm?link={link}",
            said_in(language, "If it was not you, ignore this email. You will get no updates."),
        ]
        subject = said_in(language, "Confirm your subscription to status updates")
        return self._mail(told["address"], subject, lines, language, now_ms)

    def _mail(
        self, to: str, subject: str, lines: Sequence[str], language: Language, at_ms: int
    ) -> EmailMessage:
        mail = EmailMessage(policy=SMTP)
        mail["From"], mail["To"] = self._channel.sender, to
        mail["Subject"] = " ".join(subject.split())[:200]
        mail["Date"] = format_datetime(datetime.fromtimestamp(at_ms // 1_000, UTC))
        mail["Auto-Submitted"], mail["Content-Language"] = "auto-generated", language
        mail.set_content("\n\n".join(lines) + "\n")
        return mail

    async def close(self) -> None:
        """There is no connection between rounds."""


def _put(key: str, value: Invited | Reader | Progress) -> Put:
    return Put(key, orjson.dumps(asdict(value)))


def _progress(entry: Entry) -> Progress | None:
    """None if it cannot be read."""
    try:
        told = orjson.loads(entry.value)
        done = Progress(**told | {"again": tuple(told["again"])})
    except (KeyError, TypeError, ValueError):
        return None
    whole = type(done.at_ms) is int and all(isinstance(one, str) for one in (done.after, *done.again))
    return done if whole else None


def _quit(server: smtplib.SMTP) -> None:
    try:
        server.quit()
    except (OSError, smtplib.SMTPException):
        server.close()
