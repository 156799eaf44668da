"""An authority, a certificate of 127.0.0.1 and one of a client, for tests."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from evac_lab.authorities import key_usage


@dataclass(frozen=True, slots=True)
class Papers:
    """Paths of PEM files."""

    authority: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path


def papers(folder: Path) -> Papers:
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("authority", authority_key, None, authority_key)
    made = {}
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        cert = _signed(name, key, authority, authority_key)
        made[name] = (folder / f"{name}.pem", folder / f"{name}.key")
        made[name][0].write_bytes(cert.public_bytes(Encoding.PEM))
        made[name][1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        made[name][1].chmod(0o600)
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "ca.key").write_bytes(
        authority_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return Papers(folder / "ca.pem", *made["server"], *made["client"])


def second_client(found: Papers, folder: Path) -> dict[str, Path]:
    """Certificate and key of another client, of the same authority."""
    authority = x509.load_pem_x509_certificate(found.authority.read_bytes())
    by = load_pem_private_key(found.authority.with_suffix(".key").read_bytes(), None)
    assert isinstance(by, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    made = {"client_cert": folder / "other.pem", "client_key": folder / "other.key"}
    made["client_cert"].write_bytes(_signed("other", key, authority, by).public_bytes(Encoding.PEM))
    made["client_key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    by: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) - timedelta(hours=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=issuer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(by, hashes.SHA256())
    )
