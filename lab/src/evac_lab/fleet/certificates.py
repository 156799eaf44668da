"""Makes the certificates of a fleet: an authority of its own and one certificate for all controllers.

One certificate cannot carry 32,000 addresses, so a client either pins it or asks the authority without asking
for the name, as people do with controllers that are known by their address. Keys are elliptic (P-256).
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evac_lab.agent_certificates import key_usage
from evac_lab.fleet.addresses import CIRCUITS_ADDRESS, address_of
from evac_lab.fleet.tls import Certificates

_DAYS = 825


def make(folder: Path) -> Certificates:
    """New keys and certificates in a folder; the key is for its owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _signed(
        _name("evac lab fleet authority"), authority_key, None, authority_key, _authority_uses()
    )
    certificate = _signed(
        _name("bmc.fleet.example"), key, authority.subject, authority_key, _server_uses(authority_key)
    )
    found = Certificates(
        folder / "ca.pem",
        folder / "bmc.pem",
        folder / "bmc-key.pem",
        certificate.fingerprint(hashes.SHA256()).hex(),
    )
    found.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    found.chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    found.key.touch(mode=0o600)
    found.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return found


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


Extension = tuple[x509.ExtensionType, bool]


def _signed(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name | None,
    by: ec.EllipticCurvePrivateKey,
    extensions: list[Extension],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(by, hashes.SHA256())


def _authority_uses() -> list[Extension]:
    return [(x509.BasicConstraints(ca=True, path_length=0), True), (key_usage(signs_certificates=True), True)]


def _server_uses(authority: ec.EllipticCurvePrivateKey) -> list[Extension]:
    names: list[x509.GeneralName] = [x509.DNSName("bmc.fleet.example")]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in (address_of(0), CIRCUITS_ADDRESS)]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName(names), False),
        (issuer, False),
    ]
