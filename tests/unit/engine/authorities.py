"""Authorities for tests, and certificates that they sign: of any name, good for as long as is asked."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from evac.net.tls import TlsFiles
from evac_lab.authorities import key_usage

DAY = timedelta(days=1)


class Authority:
    """Signs certificates into a folder. file: its own certificate. bare: as authorities of old did, with
    nothing said of keys.
    """

    def __init__(self, folder: Path, name: str = "authority", bare: bool = False) -> None:
        self._folder, self._name, self._bare = folder, name, bare
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._signed(name, self._key.public_key(), True, (), 2 * DAY))

    def sign(self, name: str, *names: str, good: timedelta = DAY, begin: timedelta = -DAY) -> TlsFiles:
        """Files of a certificate with these alternative names, and of this authority as the one believed."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(self._signed(name, key.public_key(), False, names, good, begin))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        secret.chmod(0o600)
        return TlsFiles(self.file, cert, secret)

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        ca: bool,
        names: tuple[str, ...],
        good: timedelta,
        begin: timedelta = -DAY,
    ) -> bytes:
        now = datetime.now(UTC)
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(called)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + good)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not self._bare:
            by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            made = (
                made.add_extension(key_usage(signs_certificates=ca), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
                .add_extension(by, critical=False)
            )
        if names:
            made = made.add_extension(
                x509.SubjectAlternativeName([_name(one) for one in names]), critical=False
            )
        return made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
