"""Real MariaDB servers on given loopback addresses: small, with GTIDs, and read-only after every start.

A new server starts from a copy of an empty data folder, made once because `mariadb-install-db` takes seconds.
The folder has a certificate too. Without one a server makes an RSA key at every start: 0.5 to 1.1 s of
processor, by chance. Without TLS no copy of version 11.4 or later follows it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from evac.model.records import dataclass
from evac_lab.process import OneProcess, Process, ServerFailed, find_program, give_to, may_change_user

PACKAGE: Final = "mariadb-server"
CLIENT_PACKAGE: Final = "mariadb-client"
ADMIN: Final = "admin"
"""The account that may do everything."""
SYSTEM_USER: Final = "mysql"
RIGHTS: Final = (
    "BINLOG ADMIN",
    "CONNECTION ADMIN",
    "PROCESS",
    "READ_ONLY ADMIN",
    "RELOAD",
    "REPLICATION MASTER ADMIN",
    "REPLICATION SLAVE",
    "REPLICATION SLAVE ADMIN",
    "SLAVE MONITOR",
)
"""Privileges of the driver's account everywhere."""
_SMALL: Final = (
    "innodb_log_file_size = 4M",
    "innodb_autoextend_increment = 1",
    "innodb_buffer_pool_size = 8M",
    "innodb_undo_tablespaces = 0",
    "innodb_data_file_path = ibdata1:4M:autoextend",
    "innodb_temp_data_file_path = ibtmp1:4M:autoextend",
    "aria_log_file_size = 8M",
    "aria_pagecache_buffer_size = 1M",
    "key_buffer_size = 1M",
    "performance_schema = OFF",
)
_CERT: Final = "own.pem"
_KEY: Final = "own.key"
_GOOD: Final = timedelta(days=20 * 365)
"""Before and after today: a lab's clocks may be made to jump."""


@dataclass(slots=True)
class MariadbServer(OneProcess):
    """One server. number: its server id. prefix: put before its command."""

    name: str
    host: str
    port: int
    folder: Path
    number: int
    password: str
    prefix: tuple[str, ...] = ()
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        argv = (find_program("mariadbd", PACKAGE), f"--defaults-file={self.folder / 'my.cnf'}")
        user = SYSTEM_USER if may_change_user() else ""
        self.process = Process(
            f"mariadb {self.name}",
            argv,
            self.folder / "mariadb.log",
            user,
            self.prefix,
            self.folder / "data",
        )

    def start(self, timeout_s: float = 20.0) -> None:
        """Starts it and waits until it answers."""
        self.process.start()
        self.process.wait_until(self.answers, timeout_s)

    def answers(self) -> bool:
        """Whether it sends its greeting."""
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1.0) as link:
            link.settimeout(1.0)
            return len(link.recv(64)) > 8
        return False

    def sql(self, *statements: str) -> str:
        """Runs statements with the system's client, bypassing drivers; returns the output."""
        argv = [*self.prefix, find_program("mariadb", CLIENT_PACKAGE), "--no-defaults"]
        argv += [f"--host={self.host}", f"--port={self.port}", "--protocol=tcp", f"--user={ADMIN}"]
        argv += ["--skip-column-names", "--skip-ssl"]
        try:
            done = subprocess.run(
                argv,
                input=";\n".join(statements),
                env={"MYSQL_PWD": self.password},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerFailed("server-sql", f"{self.name} does not answer") from error
        if done.returncode:
            raise ServerFailed("server-sql", f"{self.name}: {done.stderr[-400:]}")
        return done.stdout


def install(folder: Path) -> Path:
    """An empty data folder to copy servers from. Raises `MissingProgram`."""
    argv = [find_program("mariadb-install-db", PACKAGE), "--no-defaults", f"--datadir={folder}"]
    argv += ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    argv += [f"--{line.replace(' ', '').replace('_', '-')}" for line in _SMALL]
    argv += ["--user=root"] if may_change_user() else []
    with tempfile.TemporaryDirectory() as own:
        env = os.environ | {"TMPDIR": own}
        made = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    if made.returncode:
        raise ServerFailed("server-install", f"mariadb-install-db: {made.stdout[-400:]}{made.stderr[-400:]}")
    _certify(folder)
    return folder


def _certify(folder: Path) -> None:
    """Writes a key and a certificate signed by it. Clients verify it by their account's password, not by an
    authority.
    """
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evac lab")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = builder.not_valid_before(now - _GOOD).not_valid_after(now + _GOOD).sign(key, hashes.SHA256())
    (folder / _CERT).write_bytes(made.public_bytes(Encoding.PEM))
    (folder / _KEY).touch(mode=0o600)
    (folder / _KEY).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def mariadb(
    folder: Path,
    host: str,
    port: int,
    name: str,
    number: int,
    *,
    template: Path,
    password: str,
    confirms: bool = True,
    tls: bool = True,
    prefix: tuple[str, ...] = (),
    accounts: Sequence[str] = (),
) -> MariadbServer:
    """A server under `folder`, not started. It starts read-only: a promotion makes it writable. confirms:
    whether it acknowledges to its primary what it has stored. tls: whether it offers TLS. accounts: SQL that
    creates more of them.
    """
    folder.mkdir(parents=True)
    shutil.copytree(template, folder / "data")
    (folder / "tmp").mkdir()
    (folder / "evac.sql").write_text(
        "SET sql_log_bin = 0;\n"
        f"CREATE USER IF NOT EXISTS evac@'%' IDENTIFIED BY '{password}';\n"
        f"GRANT {', '.join(RIGHTS)} ON *.* TO evac@'%';\n"
        "GRANT CREATE, SELECT, INSERT, DELETE ON evac.* TO evac@'%';\n"
        f"CREATE USER IF NOT EXISTS {ADMIN}@'%' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON *.* TO {ADMIN}@'%';\n" + "".join(f"{statement};\n" for statement in accounts)
    )
    cert, key = folder / "data" / _CERT, folder / "data" / _KEY
    (folder / "my.cnf").write_text(
        "\n".join(
            (
                "[mariadbd]",
                f"datadir = {folder / 'data'}",
                # A server that starts removes every temporary table in its folder, also of other servers.
                f"tmpdir = {folder / 'tmp'}",
                f"socket = {folder / 'socket'}",
                f"bind_address = {host}",
                f"port = {port}",
                f"init_file = {folder / 'evac.sql'}",
                "skip_name_resolve",
                "feedback = OFF",
                *((f"ssl_cert = {cert}", f"ssl_key = {key}") if tls else ("ssl = OFF",)),
                f"server_id = {number}",
                f"report_host = {name}",
                f"report_port = {port}",
                "log_bin = log",
                "log_slave_updates = ON",
                "gtid_strict_mode = ON",
                "sync_binlog = 1",
                "innodb_flush_log_at_trx_commit = 1",
                "read_only = ON",
                "init_rpl_role = SLAVE",
                f"rpl_semi_sync_slave_enabled = {'ON' if confirms else 'OFF'}",
                "slave_net_timeout = 4",
                "character_set_server = utf8mb4",
                *_SMALL,
                "",
            )
        )
    )
    give_to(SYSTEM_USER, folder)
    return MariadbServer(name, host, port, folder, number, password, prefix)
