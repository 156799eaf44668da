"""What is sent and how answers are judged: signatures of Standard Webhooks, the body, what a status means."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from typing import Final

import orjson

from evac.drivers import parameters
from evac.drivers.port import Action, Order
from evac.model.errors import OutcomeUnknown, Permanent, Retryable
from evac.net import secrets
from evac.net.http_calls import Answer
from evac.net.secrets import Secret

AGAIN: Final = frozenset({408, 425, 429, 503})
_KEPT: Final = 12
_OF_A_COPY: Final = ("host", "port", "name")


def signed_headers(secret: Secret | None, message_id: str, body: bytes, at_s: int) -> dict[str, str]:
    """Headers of Standard Webhooks (standardwebhooks.com, HMAC-SHA256, `v1`), and the key that makes a second
    try harmless. Without a secret nothing is signed.
    """
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{message_id}"',
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
    }
    if secret is not None:
        content = f"{message_id}.{at_s}.".encode() + body
        digest = hmac.digest(_key(secret), content, hashlib.sha256)
        headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode("ascii")
    return headers


def _key(secret: Secret) -> bytes:
    """A key that begins with `whsec_` is base64 after it; any other is taken as it is."""
    text = secret.reveal()
    if not text.startswith("whsec_"):
        return secret.reveal_bytes()
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise Permanent("secret-unreadable", f"{secret} is not base64 after whsec_") from None


def secret_of(action: Action) -> Secret | None:
    reference = parameters.text(action.settings, "secret", "")
    return secrets.resolve(reference) if reference else None


def authority(order: Order) -> dict[str, str]:
    return {"Evac-Token": str(order.token), "Evac-Epoch": str(order.epoch)}


def body_of(action: Action, order: Order, what: str) -> bytes:
    """What is asked, in canonical JSON, the same for every try of a step. Of the settings only
    the address of a copy is sent.
    """
    return orjson.dumps(
        {
            "what": what,
            "verb": action.verb,
            "target": action.target,
            "site": action.at,
            "parameters": {key: action.parameters[key] for key in sorted(action.parameters)},
            "copy": {key: action.settings[key] for key in _OF_A_COPY if key in action.settings},
            "run": order.run,
            "step": order.step,
            "reason": order.reason,
            "ticket": order.ticket,
            "token": order.token,
            "epoch": order.epoch,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def judge(answer: Answer, why: str = "") -> None:
    """Raises what a status other than 2xx means. why: what the other system says of it."""
    status = answer.status
    if 200 <= status < 300:
        return
    words = f"it answers {status}: {why}" if why else f"it answers {status}"
    if status in AGAIN:
        raise Retryable("http-busy", words, after_ms=answer.after_ms(time.time()))
    if status >= 500:
        raise OutcomeUnknown("http-failed", words, "observe it first")
    if 300 <= status < 400:
        raise Permanent("http-redirect", f"{words}: redirects are not followed", "write the final URL")
    raise Permanent("http-refused", words, "look at what the other system says")


def plain(answer: Answer) -> dict[str, str | int | bool]:
    """The first small plain values of a JSON answer."""
    kept = [
        (f"said_{key[:40]}", value[:200] if isinstance(value, str) else value)
        for key, value in sorted(answer.values().items())
        if isinstance(value, str | int | bool)
    ]
    return dict(kept[:_KEPT])
