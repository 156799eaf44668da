"""Sends one message over one channel, through apprise or as a signed webhook, and reports the outcome without
secrets.

Addresses and keys are resolved again for every attempt, so a changed one needs no restart. A webhook follows
the Standard Webhooks specification: headers webhook-id (the same on every attempt), webhook-timestamp and
webhook-signature (v1, HMAC-SHA256).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from evac.estate.codecs.access import is_hidden
from evac.model import extras
from evac.model.errors import EvacError, InvalidInput
from evac.model.records import dataclass
from evac.net.http_calls import open_session
from evac.net.secrets import secret_of
from evac.notices.values import UPDATE, Channel, Message, Way
from evac.store.port import Store
from evac.views.words import wall_clock_here

TRY_S: Final = 30.0
ANSWER_S: Final = 10.0
KEY_BYTES: Final = (24, 64)
LIBRARIES: Final[Mapping[Way, str]] = {"apprise": "apprise", "webhook": "standardwebhooks"}
_TITLE_MOST: Final = 80
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one attempt."""

    problem: str = ""
    """Empty if it was accepted."""
    after_ms: int = 0
    """Earliest delay before the next attempt."""
    whole: bool = True
    """Whether the whole channel is down, so that no other message would get through now."""
    hopeless: bool = False
    """Whether it will never be accepted."""


class Sending(Protocol):
    """Sends messages over one channel."""

    async def send(self, message: Message) -> Outcome: ...

    async def close(self) -> None: ...


def check_ways(channels: Mapping[str, Channel]) -> None:
    """Raises InvalidInput, with the command to run, if a channel needs a library that is missing."""
    wanted = {LIBRARIES[channel.way] for channel in channels.values() if channel.way in LIBRARIES}
    missing = sorted(name for name in wanted if importlib.util.find_spec(name) is None)
    if missing:
        raise extras.needs("notices", f"a channel by {' and '.join(missing)}")


def sending_of(
    channel: Channel,
    room: str = "",
    now_ms: Callable[[], int] | None = None,
    page: str = "",
    store: Store | None = None,
) -> Sending:
    """`room`: address of the war room; `page`: of the public status page, empty without one. `now_ms`: time
    for the signature; None: the wall clock. `store`: where subscribers are; None: mail goes to its sender.
    """
    if channel.way == "mail":
        from evac.office.notices.subscribers import Mail

        return Mail(channel, page, store, now_ms or _wall_ms)
    link = page if channel.public else _link(room)
    if channel.way == "webhook":
        return Webhook(channel, link, now_ms or _wall_ms)
    return Apprise(channel, link)


def document_of(message: Message, link: str = "") -> dict[str, Any]:
    """The body of a webhook. For an update, only what was published."""
    head = {
        "type": f"evac.{message.kind}.{message.state}",
        "timestamp": _moment(message.at_ms).isoformat().replace("+00:00", "Z"),
    }
    if message.kind == UPDATE:
        told = {"id": message.id, "title": message.title, "text": message.words, "page": link}
        return {**head, "data": told}
    return {
        **head,
        "data": {
            "id": message.id,
            "kind": message.kind,
            "state": message.state,
            "severity": message.severity,
            "words": message.words,
            "next": message.hint,
            "concerns": list(message.keys[:100]),
            "room": link,
        },
    }


def text_of(message: Message, link: str = "") -> tuple[str, str]:
    """(title, body) for people. Includes the id, so that a message that arrives twice can be recognised."""
    if message.kind == UPDATE:
        lines = [message.words, *filter(None, (link,)), wall_clock_here().both(message.at_ms, 0)]
        return message.title or message.words.partition("\n")[0][:_TITLE_MOST], "\n".join(lines)
    state = "over" if message.state == "over" else message.severity
    lines = [message.words]
    if message.hint:
        lines.append(f"Next: {message.hint}")
    if link:
        lines.append(link)
    lines.append(f"{wall_clock_here().both(message.at_ms, 0, True)}, alert {message.id[:12]}")
    return f"evac, {state}: {message.words[:_TITLE_MOST]}", "\n".join(lines)


async def try_channels(channels: Sequence[Channel], room: str = "", page: str = "") -> dict[str, str]:
    """Sends one message over each channel concurrently: channel -> error; empty if it was sent."""
    at_ms = _wall_ms()

    async def once(channel: Channel) -> str:
        sending = sending_of(channel, room, page=page)
        name = f"evac_{secrets.token_hex(16)}"
        words = "this is a test: this channel gets alerts when something is wrong"
        message = Message(name, "run", "once", "info", words, "", at_ms)
        if channel.public:
            words = "This is a test of this channel. Nothing is wrong."
            message = Message(name, UPDATE, "once", "info", words, "", at_ms, title="Test")
        try:
            return (await sending.send(message)).problem
        finally:
            await sending.close()

    found = await asyncio.gather(*(once(channel) for channel in channels))
    return dict(zip((channel.name for channel in channels), found, strict=True))


class Webhook:
    """One address that receives signed requests."""

    def __init__(self, channel: Channel, link: str, now_ms: Callable[[], int]) -> None:
        self._channel, self._link, self._now_ms = channel, link, now_ms
        self._session: aiohttp.ClientSession | None = None

    async def send(self, message: Message) -> Outcome:
        try:
            async with asyncio.timeout(TRY_S):
                url, headers, body = await apart(lambda: self._signed(message))
                return await self._post(url, headers, body)
        except EvacError as error:
            return Outcome(error.message)
        except (TimeoutError, aiohttp.ServerTimeoutError):
            return Outcome(f"no answer in {ANSWER_S:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(f"it cannot be reached ({type(error).__name__})")

    def _signed(self, message: Message) -> tuple[str, dict[str, str], bytes]:
        """Raises EvacError."""
        from standardwebhooks import Webhook as Signer

        url = secret_of(self._channel.url).reveal()
        _check_address(url, self._channel)
        signer = Signer(key_bytes(secret_of(self._channel.secret).reveal()))
        body = orjson.dumps(document_of(message, self._link))
        at = _moment(self._now_ms())
        return (
            url,
            {
                "webhook-id": message.id,
                "webhook-timestamp": str(int(at.timestamp())),
                "webhook-signature": signer.sign(message.id, at, body.decode()),
                "content-type": "application/json",
                "user-agent": "evac",
            },
            body,
        )

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        if self._session is None:
            self._session = open_session(total_s=ANSWER_S)
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            return outcome_of(answer.status, answer.headers.get("retry-after", ""))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def outcome_of(status: int, retry_after: str = "") -> Outcome:
    """The meaning of a response status. Anything but 2xx is a failure; 410: the receiver is gone for good."""
    if 200 <= status < 300:
        return Outcome()
    after = retry_after.strip()
    after_ms = int(after) * 1_000 if after.isascii() and after.isdigit() and len(after) < 10 else 0
    down = status >= 500 or status in (408, 429)
    return Outcome(
        f"it returned status {status}", after_ms if down else 0, whole=down, hopeless=status == 410
    )


class Apprise:
    """Anything apprise can reach: chats, pagers, mail. One attempt at a time: a thread cannot be stopped."""

    def __init__(self, channel: Channel, link: str) -> None:
        self._channel, self._link = channel, link
        self._trying: asyncio.Future[str] | None = None

    async def send(self, message: Message) -> Outcome:
        if self._trying is not None and not self._trying.done():
            return Outcome("the previous attempt has not finished yet")
        self._trying = asyncio.ensure_future(apart(lambda: self._notify(message)))
        try:
            async with asyncio.timeout(TRY_S):
                return Outcome(await asyncio.shield(self._trying))
        except TimeoutError:
            return Outcome(f"no answer in {TRY_S:g} s")
        except EvacError as error:
            return Outcome(error.message)

    def _notify(self, message: Message) -> str:
        """Runs on a thread: the error; empty if it was sent. What apprise logs may contain the address."""
        logging.getLogger("apprise").disabled = True
        import apprise

        name = "Status" if self._channel.public else "evac"
        notifier = apprise.Apprise(asset=apprise.AppriseAsset(app_id=name, app_desc=name))
        if not notifier.add(secret_of(self._channel.url).reveal()):
            return "apprise does not understand the address"
        title, body = text_of(message, self._link)
        try:
            # Plain text: what people wrote is no markup, mention or link of a chat or a mail.
            kind, form = _type_of(message), apprise.NotifyFormat.TEXT
            sent = notifier.notify(body=body, title=title, notify_type=kind, body_format=form)
        except Exception as error:  # whatever a plug-in raises is its failure, and no reason to end
            return f"apprise failed ({type(error).__name__})"
        return "" if sent else "it was refused or unreachable"

    async def close(self) -> None:
        if self._trying is not None:
            self._trying.cancel()


def _type_of(message: Message) -> Any:
    import apprise

    if message.state == "over":
        return apprise.NotifyType.SUCCESS
    known = {"info": apprise.NotifyType.INFO, "warning": apprise.NotifyType.WARNING}
    return known.get(message.severity, apprise.NotifyType.FAILURE)


def _check_address(url: str, channel: Channel) -> None:
    """Raises InvalidInput, without revealing the address."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a wrong one
        usable = parts.scheme in ("https", "http") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput("not-an-address", "its address is not valid", "write https://HOST/PATH")
    if not channel.clear and not is_hidden(parts):
        raise InvalidInput(
            "address-open", "its address does not use TLS", "write https://HOST, or clear: true"
        )


def key_bytes(text: str) -> bytes:
    """The bytes of a key. Raises InvalidInput if it is not a key or too short to sign with."""
    import base64
    import binascii

    try:
        found = base64.b64decode(text.strip().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not KEY_BYTES[0] <= len(found) <= KEY_BYTES[1]:
        least, most = KEY_BYTES
        raise InvalidInput(
            "webhook-key", f"its key is not base64 of {least} to {most} bytes", "create one: evac notices key"
        )
    return found


async def apart(work: Callable[[], Answer]) -> Answer:
    """Runs on a daemon thread, which does not keep the process alive."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def give(set_it: Callable[[Any], None], value: Any) -> None:
        if not answer.done():
            set_it(value)

    def run() -> None:
        try:
            found = work()
        except Exception as error:
            done: tuple[Callable[[Any], None], Any] = (answer.set_exception, error)
        else:
            done = (answer.set_result, found)
        if not loop.is_closed():
            loop.call_soon_threadsafe(give, *done)

    threading.Thread(target=run, name="sending", daemon=True).start()
    return await answer


def _link(room: str) -> str:
    return f"{room.rstrip('/')}/notices" if room else ""


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1_000, UTC)


def _wall_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000)
