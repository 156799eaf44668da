"""Passwords and second factors: argon2id hashes (RFC 9106), codes of an authenticator app (TOTP, RFC
6238), and the delay after wrong attempts.

No one is locked out. After several wrong attempts, the next one is delayed: by eight seconds at most for
one address and two for one name, so that a stranger who guesses names cannot keep anyone from signing in.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.low_level import Type

from evac.model.errors import InvalidInput
from evac.model.estate import Rate
from evac.web.access.port import TooMany

PASSWORD_LEAST: Final = 12
"""Minimum number of characters (NIST SP 800-63B asks for 8, and for 15 without a second factor)."""
PASSWORD_LONGEST: Final = 1_024
HASH_BEGINS: Final = "$argon2id$"
ADDRESS_MS: Final = 8_000
NAME_MS: Final = 2_000
FIRST_MS: Final = 250
BY_NAME: Final = 5
"""How many times more wrong attempts a name may have, from all addresses, before it is slowed down."""
WAITING_MOST: Final = 16
"""Maximum number of simultaneous delayed attempts from one address."""
KNOWN_MOST: Final = 10_000
CODE_STEP_S: Final = 30
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
"""19 MiB and 2 passes, as OWASP recommends; about 30 ms."""


def hash_of(password: str) -> str:
    """The value for a person's `password_hash`. Raises InvalidInput for a password that is too short or
    too long.
    """
    if not PASSWORD_LEAST <= len(password) <= PASSWORD_LONGEST:
        raise InvalidInput(
            "password-short",
            f"a password must have {PASSWORD_LEAST} to {PASSWORD_LONGEST} characters",
            "several words are easier to remember than symbols",
        )
    return _HASHER.hash(password)


def fits(stored: str, given: str) -> bool:
    """Whether a password matches a hash, or a plain-text secret, which must be long enough."""
    if stored.startswith(HASH_BEGINS):
        try:
            return _HASHER.verify(stored, given)
        except (Argon2Error, InvalidHashError):
            return False
    same = hmac.compare_digest(stored.encode(), given.encode("utf-8", "surrogatepass"))
    return same and len(stored) >= PASSWORD_LEAST


def print_of(stored: str, name: str) -> str:
    """The fingerprint of a plain-text secret that a login is based on; reveals nothing to readers of the
    store.
    """
    if stored.startswith(HASH_BEGINS):
        return stored
    salt = f"evac login {name}".encode()
    return hashlib.scrypt(stored.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


def new_totp(name: str) -> tuple[str, str]:
    """Return (new secret, its URL for an authenticator app, `otpauth://`)."""
    secret = pyotp.random_base32()
    return secret, pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name="evac")


class Codes:
    """The codes that were used in this process: each is valid once."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()

    def step_of(self, name: str, secret: str, code: str, now_ms: int) -> int:
        """The time step of this code, if it is that of now or half a minute before or after and has not been
        used before; otherwise 0.
        """
        try:
            totp = pyotp.TOTP("".join(secret.split()))
            now = now_ms // 1_000 // CODE_STEP_S
            found = next((n for n in (now, now - 1, now + 1) if _same(totp.generate_otp(n), code)), None)
        except ValueError:  # the secret is no base32
            return 0
        if found is None or found <= self._last.get(name, -1):
            return 0
        self._last[name] = found
        self._last.move_to_end(name)
        while len(self._last) > KNOWN_MOST:
            self._last.popitem(last=False)
        return found


def _same(code: str, given: str) -> bool:
    return hmac.compare_digest(code.encode(), "".join(given.split()).encode("utf-8", "surrogatepass"))


class Slow:
    """How long to delay attempts after wrong ones. now_ms: a clock that never goes back."""

    def __init__(
        self, now_ms: Callable[[], int], pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._now_ms, self.pause = now_ms, pause
        self._wrong: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._waiting: Counter[str] = Counter()

    def wait_ms(self, near: str, name: str, rate: Rate) -> int:
        """Milliseconds until the next attempt is checked."""
        at_address = _delay(self._count(near, rate) - rate.count, ADDRESS_MS)
        return max(at_address, _delay(self._count(name, rate) - BY_NAME * rate.count, NAME_MS))

    async def turn(self, near: str, name: str, rate: Rate) -> None:
        """Wait. Raises TooMany if too many attempts of that address are waiting already."""
        wait_ms = self.wait_ms(near, name, rate)
        if not wait_ms:
            return
        if self._waiting[near] >= WAITING_MOST:
            raise TooMany("too-many-tries", "too many sign-in attempts are already waiting", wait_ms)
        self._waiting[near] += 1
        try:
            await self.pause(wait_ms / 1_000)
        finally:
            self._waiting[near] -= 1
            if not self._waiting[near]:
                del self._waiting[near]

    def wrong(self, *names: str) -> None:
        """Count one more wrong attempt for this address and this name."""
        for name in names:
            count, _ = self._wrong.pop(name, (0, 0))
            while len(self._wrong) >= KNOWN_MOST:
                self._wrong.popitem(last=False)
            self._wrong[name] = (count + 1, self._now_ms())

    def right(self, near: str, name: str) -> None:
        """Someone who was right was not guessing: reset the name, and forgive the address one attempt."""
        self._wrong.pop(name, None)
        count, at_ms = self._wrong.get(near, (0, 0))
        if count:
            self._wrong[near] = (count - 1, at_ms)

    def _count(self, name: str, rate: Rate) -> int:
        """The wrong attempts since the last pause as long as the rate's window."""
        count, at_ms = self._wrong.get(name, (0, 0))
        if count and self._now_ms() - at_ms >= rate.window_ms:
            del self._wrong[name]
            return 0
        return count


def _delay(over: int, most_ms: int) -> int:
    return 0 if over < 0 else min(most_ms, FIRST_MS * 2 ** min(over, 8))
