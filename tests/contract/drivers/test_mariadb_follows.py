"""A MariaDB server that is to follow another one and cannot: on real servers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from evac.drivers.mariadb.driver import MariadbDriver
from evac.drivers.mariadb.link import linked, member_of, read_facts
from evac.drivers.mariadb.rejoin import _refuse_broken
from evac.drivers.port import Action
from evac.model.errors import Permanent
from evac_lab.servers.mariadb import MariadbServer, _certify
from tests.contract.adapters.mariadb import PASSWORD, WITHOUT_PASSWORD, DataSet, ask, data_set
from tests.contract.capabilities.story import order
from tests.contract.drivers.test_mariadb_rebuild import order_of, until_equal

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


async def looked_at_again(action: Action) -> None:
    """A rejoin's look at a server whose applier has stopped."""
    async with linked(member_of(action), 30.0) as link, asyncio.timeout(20):
        while not (facts := await read_facts(link)).apply_error:
            await link.pause()
        _refuse_broken(link, member_of(action), facts, has_ended=False)


def test_one_that_cannot_follow_is_reported_with_the_servers_own_words(server_folder: Path) -> None:
    """It would wait for as long as a rebuild may take."""
    with data_set(server_folder, synchronous=()) as world:
        pangyo, anyang, driver = world.pangyo, world.anyang, MariadbDriver()
        until_equal(world)
        anyang.sql("STOP SLAVE", "RESET SLAVE ALL")
        plain = world.rejoin("dc-anyang", "dc-pangyo")
        wrong = {**plain.settings, "replication_user": "nobody"}
        with pytest.raises(Permanent, match=r"error 1045: .*nobody") as raised:
            asyncio.run(driver.execute(replace(plain, settings=wrong), order_of(600.0)))
        assert raised.value.code == "mariadb-refused"
        assert "replication_password" in raised.value.hint
        anyang.sql("SET SESSION sql_log_bin = 0", "INSERT INTO app.orders VALUES (5)")
        pangyo.sql("INSERT INTO app.orders VALUES (5)")
        with suppress(Permanent):  # whether the row arrives before it counts as following is open
            asyncio.run(driver.execute(plain, order_of(600.0)))
        with pytest.raises(Permanent, match=r"error 1062: .*Duplicate entry '5'") as raised:
            asyncio.run(looked_at_again(plain))
        assert raised.value.code == "mariadb-not-applied"
        anyang.sql("SET SESSION sql_log_bin = 0", "DELETE FROM app.orders WHERE id = 5")
        assert asyncio.run(driver.execute(plain, order()))["role"] == "replica"


def return_to_anyang(world: DataSet) -> Action:
    """The rejoin of pangyo, once anyang is the primary and has a row that pangyo lacks."""
    until_equal(world)
    world.pangyo.sql("SET GLOBAL read_only = ON")
    asyncio.run(MariadbDriver().execute(world.action("promote", "dc-anyang", proof="attest"), order_of(60.0)))
    world.anyang.sql("INSERT INTO app.orders VALUES (3)")
    return world.rejoin("dc-pangyo", "dc-anyang")


async def source_of(action: Action) -> dict[str, Any]:
    """How a server connects to its primary."""
    async with linked(member_of(action), 30.0) as link:
        return (await link.rows("SHOW ALL SLAVES STATUS"))[0]


def refusal(action: Action) -> Permanent:
    with pytest.raises(Permanent) as raised:
        asyncio.run(MariadbDriver().execute(action, order_of(120.0)))
    return raised.value


def test_a_primary_without_tls_is_named_and_the_demand_for_it_stays(server_folder: Path) -> None:
    """From version 11.4 on, a server demands TLS of its primary unless it was set up without."""
    with data_set(server_folder, synchronous=(), without_tls=("dc-anyang",)) as world:
        if tuple(int(part) for part in ask(world.pangyo, "@@version").split(".")[:2]) < (11, 4):
            pytest.skip("this version demands no TLS of its primary")
        back = return_to_anyang(world)
        refused = refusal(back)
        assert refused.code == "mariadb-no-tls"
        assert f"{world.anyang.host}:{world.anyang.port} offers no TLS" in refused.message
        assert "error 2026" in refused.message
        assert "CHANGE MASTER TO MASTER_SSL = 0" in refused.hint
        source = asyncio.run(source_of(back))
        assert source["Master_SSL_Allowed"] == source["Master_SSL_Verify_Server_Cert"] == "Yes"
        world.pangyo.sql("STOP SLAVE", "CHANGE MASTER TO MASTER_SSL = 0")
        assert asyncio.run(MariadbDriver().execute(back, order_of(120.0)))["role"] == "replica"
        assert asyncio.run(source_of(back))["Master_SSL_Allowed"] == "No"


def test_a_certificate_that_is_not_accepted_is_a_refusal_and_stays_one(server_folder: Path) -> None:
    """A CA that is set must have signed it. Without one, the password of the account proves it. Nothing is
    verified at 127.0.0.1, but at `127.1`, which is the same address.
    """
    with data_set(server_folder, synchronous=()) as world:
        pangyo, plain = world.pangyo, return_to_anyang(world)
        back = replace(plain, parameters={**plain.parameters, "primary_host": "127.1"})
        _certify(server_folder)
        verified = "MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 1"
        for ca in (str(server_folder / "own.pem"), ""):
            account = f"MASTER_USER = '{WITHOUT_PASSWORD}', MASTER_SSL_CA = '{ca}'"
            pangyo.sql("STOP SLAVE", f"CHANGE MASTER TO MASTER_HOST = '127.1', {account}, {verified}")
            refused = refusal(back)
            assert refused.code == "mariadb-tls", (ca, refused)
            assert "error 2026" in refused.message
            assert "MASTER_SSL_CA" in refused.hint
            source = asyncio.run(source_of(back))
            assert source["Master_SSL_Allowed"] == source["Master_SSL_Verify_Server_Cert"] == "Yes"
        pangyo.sql("STOP SLAVE", f"CHANGE MASTER TO MASTER_USER = 'evac', MASTER_PASSWORD = '{PASSWORD}'")
        assert asyncio.run(MariadbDriver().execute(back, order_of(120.0)))["role"] == "replica"
        assert asyncio.run(source_of(back))["Master_SSL_Verify_Server_Cert"] == "Yes"


def signed_by_own_ca(server: MariadbServer, folder: Path) -> tuple[Path, Path]:
    """Gives a server a certificate for `127.1` that an own CA signed. Returns that CA, and another one."""
    now, names, keys = datetime.now(UTC), [], []
    paths = folder / "ca.pem", folder / "other-ca.pem"
    for path in paths:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
        key = ec.generate_private_key(ec.SECP256R1())
        made = certificate(name, name, key, now).add_extension(x509.BasicConstraints(True, None), True)
        path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        path.chmod(0o644)
        names.append(name)
        keys.append(key)
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.1")])
    named = x509.SubjectAlternativeName([x509.DNSName("127.1")])
    made = certificate(subject, names[0], own, now).add_extension(named, False)
    signed = made.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM)
    Path(ask(server, "@@ssl_cert")).write_bytes(signed)
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    Path(ask(server, "@@ssl_key")).write_bytes(secret)
    server.sql("FLUSH SSL")
    return paths


def certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))


def test_an_own_ca_signs_the_certificates_of_members(server_folder: Path) -> None:
    """Set as MASTER_SSL_CA it also lets an account without a password follow; another CA does not, not even
    with a password. Without one, the password is proof enough for a certificate that an own CA signed.
    """
    with data_set(server_folder, synchronous=()) as world:
        pangyo, plain = world.pangyo, return_to_anyang(world)
        own, other = signed_by_own_ca(world.anyang, server_folder)
        back = replace(plain, parameters={**plain.parameters, "primary_host": "127.1"})
        verified = "MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 1"
        without = f"MASTER_USER = '{WITHOUT_PASSWORD}', MASTER_PASSWORD = ''"
        with_one = f"MASTER_USER = 'evac', MASTER_PASSWORD = '{PASSWORD}'"
        for account, ca, is_good in (
            (without, own, True),
            (without, other, False),
            (with_one, other, False),
            (with_one, own, True),
            (with_one, "", True),
        ):
            source = f"MASTER_HOST = '127.1', {account}, MASTER_SSL_CA = '{ca}', {verified}"
            pangyo.sql("STOP SLAVE", f"CHANGE MASTER TO {source}")
            if is_good:
                assert asyncio.run(MariadbDriver().execute(back, order_of(120.0)))["role"] == "replica", ca
                found = asyncio.run(source_of(back))
                assert found["Master_SSL_CA_File"] == str(ca), "evac never changes it"
                assert found["Master_User"] == (WITHOUT_PASSWORD if account == without else "evac")
                assert found["Master_SSL_Verify_Server_Cert"] == "Yes"
            else:
                assert refusal(back).code == "mariadb-tls", ca


@pytest.mark.parametrize(("name", "number"), [("127.9", 2003), ("pangyo.invalid", 2005)])
def test_a_primary_that_only_evac_reaches_is_named(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """Nothing listens at 127.0.0.9, which `127.9` is for the server."""
    real = socket.getaddrinfo

    def found(host: object, *given: object, **more: object) -> object:
        return real("127.0.0.1" if host == name else host, *given, **more)  # type: ignore[arg-type]

    with data_set(server_folder, synchronous=()) as world:
        plain = world.rejoin("dc-anyang", "dc-pangyo")
        monkeypatch.setattr(socket, "getaddrinfo", found)
        refused = refusal(replace(plain, parameters={**plain.parameters, "primary_host": name}))
        assert refused.code == "mariadb-unreachable"
        assert f"error {number}" in refused.message
        assert f"{name}:{world.pangyo.port} answers evac" in refused.message
        assert asyncio.run(MariadbDriver().execute(plain, order_of(120.0)))["role"] == "replica"
