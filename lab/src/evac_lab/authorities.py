"""The certificates of the lab (agents, members of etcd, controllers) and of a fleet. Each of the two has
an authority of its own.

The key of the lab's authority is discarded at once. Its certificates are valid from twenty years ago to
twenty years ahead, because a lab's clocks may be made to jump. One certificate cannot list the 32,000
addresses of a fleet, so a client either pins it or trusts the authority without checking the name, as is
usual for controllers known only by address. Keys are elliptic (P-256).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from evac.drivers.process import CA, CERT, KEY
from evac.drivers.process.client import AgentPeer, peer_of
from evac.net.tls import TlsFiles
from evac_lab.fleet.ground import CIRCUITS_ADDRESS, address_of
from evac_lab.fleet.running import Certificates
from evac_lab.state import HOSTS, OPERATOR, ZONE, Site, Topology

_GOOD: Final = timedelta(days=20 * 365)
_AUTHORITY: Final = "authority of the lab"


def make(folder: Path, topology: Topology) -> None:
    """Writes all files, readable by this user only."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed(_AUTHORITY, key.public_key(), key)
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    for site in topology.sites:
        address = x509.IPAddress(ipaddress.ip_address(site.host("agent")))
        _write(folder, f"agent-{site.name}", key, [address])
        _write(folder, f"etcd-{site.name}", key, _member_names(site))
        _write(folder, f"controller-{site.name}", key, [x509.DNSName(client_name(site.name))])
        _write(folder, f"store-{site.name}", key, [x509.DNSName(client_name(site.name))], nameless=True)
        # pgBackRest checks names only, even if given an address
        _write(folder, f"repository-{site.name}", key, [x509.DNSName(site.host("repository"))])
    _write(folder, OPERATOR, key, [x509.DNSName(client_name())])
    _write(folder, f"store-{OPERATOR}", key, [x509.DNSName(client_name())], nameless=True)


def _member_names(site: Site) -> list[x509.GeneralName]:
    """An etcd member presents a certificate for the address it calls from. On loopback that is the machine's
    first address, in a namespace any address of the site.
    """
    hosts = ["127.0.0.1", *(site.host(role) for role in HOSTS)]
    return [x509.IPAddress(ipaddress.ip_address(host)) for host in hosts]


def client_name(site: str = "") -> str:
    """The name in the certificate of a site's controller, or of an operator."""
    return f"controller.{site}.{ZONE}" if site else f"{OPERATOR}.{ZONE}"


def environment(folder: Path, site: str = "") -> Mapping[str, str]:
    """Environment of a site's controller, or of an operator."""
    name = f"controller-{site}" if site else OPERATOR
    return {
        CA: str(folder / "ca.pem"),
        CERT: str(folder / f"{name}.pem"),
        KEY: str(folder / f"{name}.key"),
    }


def member_files(folder: Path, site: str) -> TlsFiles:
    """Files of an etcd member, for clients and the other members."""
    return TlsFiles(folder / "ca.pem", folder / f"etcd-{site}.pem", folder / f"etcd-{site}.key")


def store_files(folder: Path) -> TlsFiles:
    """Files of an operator, for etcd."""
    shown = folder / f"store-{OPERATOR}"
    return TlsFiles(folder / "ca.pem", shown.with_suffix(".pem"), shown.with_suffix(".key"))


def lend(folder: Path, name: str, to: Path) -> None:
    """Copies a certificate, its key and the authority for a program that runs as another user."""
    for source, copied in (("ca.pem", "ca.pem"), (f"{name}.pem", "own.pem"), (f"{name}.key", "own.key")):
        (to / copied).touch(mode=0o600)
        (to / copied).write_bytes((folder / source).read_bytes())


def operator(folder: Path) -> AgentPeer:
    return peer_of(environment(folder))


def _write(
    folder: Path,
    name: str,
    authority: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    nameless: bool = False,
) -> None:
    """nameless: without a common name, as etcd's gateway requires of its clients once it has users."""
    key = ec.generate_private_key(ec.SECP256R1())
    secret = folder / f"{name}.key"
    secret.touch(mode=0o600)
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    cert = _signed("" if nameless else name, key.public_key(), authority, names)
    (folder / f"{name}.pem").write_bytes(cert.public_bytes(Encoding.PEM))


def _signed(
    name: str,
    key: ec.EllipticCurvePublicKey,
    by: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    """names: of the certificate's subject; none: for the authority itself."""
    now = datetime.now(UTC)
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "evac lab")]
    subject += [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([subject[0], x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _GOOD)
        .not_valid_after(now + _GOOD)
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=not names), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return made.sign(by, hashes.SHA256())


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Allowed uses of a certificate's key: Python 3.13 rejects authorities that do not state them."""
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


_DAYS = 825


def make_for_fleet(folder: Path) -> Certificates:
    """Writes new keys and certificates to a folder; only its owner can read the key."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _signed_for_fleet(
        _name("evac lab fleet authority"),
        authority_key,
        None,
        authority_key,
        [(x509.BasicConstraints(ca=True, path_length=0), True), (key_usage(signs_certificates=True), True)],
    )
    certificate = _signed_for_fleet(
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


def _signed_for_fleet(
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
