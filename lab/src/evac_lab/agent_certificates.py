"""Certificates of the lab's agents and of those that ask them, made when it comes up.

The key of their authority is forgotten at once. They are good for twenty years to both sides of now: a lab
may be told that its clocks have jumped.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from evac.drivers.process.peers import CA, CERT, KEY, Peer, peer_of
from evac_lab.topology import ZONE, Topology

OPERATOR: Final = "operator"
"""Who looks into the lab from outside of it."""
_GOOD: Final = timedelta(days=20 * 365)
_AUTHORITY: Final = "authority of the lab"


def make(folder: Path, topology: Topology) -> None:
    """Files of everybody, readable by this user only."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed(_AUTHORITY, key.public_key(), key, None)
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    for site in topology.sites:
        address = x509.IPAddress(ipaddress.ip_address(site.host("agent")))
        _write(folder, f"agent-{site.name}", key, address)
        _write(folder, f"controller-{site.name}", key, x509.DNSName(client_name(site.name)))
    _write(folder, OPERATOR, key, x509.DNSName(client_name()))


def client_name(site: str = "") -> str:
    """What the certificate of a site's controller says, or of an operator."""
    return f"controller.{site}.{ZONE}" if site else f"{OPERATOR}.{ZONE}"


def environment(folder: Path, site: str = "") -> Mapping[str, str]:
    """Of the controller of a site, or of an operator."""
    name = f"controller-{site}" if site else OPERATOR
    return {
        CA: str(folder / "ca.pem"),
        CERT: str(folder / f"{name}.pem"),
        KEY: str(folder / f"{name}.key"),
    }


def operator(folder: Path) -> Peer:
    return peer_of(environment(folder))


def _write(folder: Path, name: str, authority: ec.EllipticCurvePrivateKey, san: x509.GeneralName) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = folder / f"{name}.key"
    secret.touch(mode=0o600)
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    cert = _signed(name, key.public_key(), authority, san)
    (folder / f"{name}.pem").write_bytes(cert.public_bytes(Encoding.PEM))


def _signed(
    name: str, key: ec.EllipticCurvePublicKey, by: ec.EllipticCurvePrivateKey, san: x509.GeneralName | None
) -> x509.Certificate:
    """san None: of the authority itself."""
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _GOOD)
        .not_valid_after(now + _GOOD)
        .add_extension(x509.BasicConstraints(ca=san is None, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=san is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if san is not None:
        made = made.add_extension(x509.SubjectAlternativeName([san]), critical=False)
    return made.sign(by, hashes.SHA256())


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What the key of a certificate may be used for: Python 3.13 believes no authority that does not say."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
