"""Proof that a bundle is the one that was made: its digest, its signature, or a seal that shares open.

Anyone who carries a bundle could exchange it, so nothing in the file itself is proof: a policy in it could
name any approver. The digest is written down elsewhere and in every share file; the person who starts from
the bundle knows the signer's public key; and the seal covers everything else in the file, so that shares open
nothing in a changed bundle.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evac.engine.runs.signatures import read_key
from evac.estate.codecs.bundle import MANIFEST, Bundle, BundleDamaged, Sign, signed_bytes
from evac.model.errors import InvalidInput, NotAllowed

DIGITS_LEAST: Final = 16
"""Minimum length of a typed digest: 64 bits, too many to find another bundle for."""
_KEY_BYTES_MOST: Final = 4_096


def signer(path: Path) -> Sign:
    """A signer with the private key (ed25519) in that file. Raises NotAllowed, InvalidInput."""
    try:
        key = read_key(path)
    except OSError as error:
        raise InvalidInput("key-missing", f"{path} cannot be read: {error.strerror}") from error
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    shown = base64.b64encode(public).decode()
    return lambda data: {"key": shown, "value": base64.b64encode(key.sign(data)).decode()}


def signed_by(bundle: Bundle) -> str:
    """The public key (base64) whose owner signed the bundle; empty if it is unsigned. Raises BundleDamaged if
    the signature does not match.
    """
    found = bundle.values.get("signature")
    if found is None:
        return ""
    try:
        key, value = (base64.b64decode(found[name], validate=True) for name in ("key", "value"))
        Ed25519PublicKey.from_public_bytes(key).verify(value, signed_bytes(bundle.values))
    except (InvalidSignature, ValueError, KeyError, TypeError) as error:
        raise BundleDamaged("the signature does not match this manifest", MANIFEST) from error
    return str(found["key"])


def check_digest(bundle: Bundle, written: str) -> None:
    """Check a digest. written: the digest, or its first characters. Raises InvalidInput for too few,
    NotAllowed for a mismatch.
    """
    digits = written.strip().lower().removeprefix("sha256:")
    if len(digits) < DIGITS_LEAST:
        raise InvalidInput(
            "digest-short",
            f"{len(digits)} characters of a digest are too few to distinguish bundles",
            f"give at least the first {DIGITS_LEAST}",
        )
    if not bundle.digest.startswith(digits):
        raise NotAllowed(
            "bundle-other",
            f"{bundle.path.name} does not have the given digest; its digest is sha256:{bundle.digest}",
            "use a different copy; this one may have been tampered with",
        )


def check_signer(bundle: Bundle, trusted: str) -> None:
    """Check the signer. trusted: a public key in base64, or a file that contains it. Raises NotAllowed."""
    wanted = trusted
    if len(trusted) != 44 or not trusted.endswith("="):
        try:
            with Path(trusted).open(encoding="ascii") as file:
                wanted = file.read(_KEY_BYTES_MOST).strip()
        except (OSError, ValueError) as error:
            raise InvalidInput("key-missing", f"{trusted} contains no public key in base64") from error
    found = signed_by(bundle)
    if found != wanted:
        said = f"by the owner of {found}" if found else "by nobody"
        raise NotAllowed(
            "bundle-signer",
            f"{bundle.path.name} is signed {said}",
            "use a different copy, or give its digest: --digest",
        )


def prove(bundle: Bundle, digest: str, trusted: str, by_shares: bool) -> None:
    """Require at least one proof, and that all given ones match. by_shares: enough people open its seal.
    Raises NotAllowed, InvalidInput.
    """
    if digest:
        check_digest(bundle, digest)
    if trusted:
        check_signer(bundle, trusted)
    if digest or trusted or (by_shares and bundle.content):
        return
    older = " It has an older format, whose seal covers only itself." if by_shares else ""
    raise NotAllowed(
        "bundle-unproven",
        f"nothing proves that {bundle.path.name} is the original bundle.{older}",
        "add --digest SHA256, which is in each share file and was shown when the "
        "bundle was made; or --signer KEY",
    )
