"""Real PostgreSQL members on given loopback addresses: primaries and standbys, to start, stop, pause and
kill.

The functions here only prepare folders; nothing runs until `start`. There is no socket file: pg_basebackup
would copy one inside the data folder with its lock, and the copy would not start.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal as signals
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from evac.drivers.postgres.link import format_conninfo, passfile_line
from evac.model.records import dataclass
from evac_lab.process import (
    MissingProgram,
    Process,
    ServerFailed,
    find_program,
    give_to,
    kill_family,
    run_once,
    signal_family,
)

USER = "postgres"
PACKAGE = "postgresql"
INITDB_OPTIONS = ("-A", "scram-sha-256", "--no-sync", "-k", "-E", "UTF8", "--locale=C")
"""Options of initdb for the data of a primary."""
DEFAULTS: Mapping[str, str] = {
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_senders": "10",
    "wal_level": "replica",
    "hot_standby": "on",
    # pg_rewind needs hints in the log (or checksums), and the log since the fork
    "wal_log_hints": "on",
    "wal_keep_size": "256MB",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
    "wal_retrieve_retry_interval": "100ms",
    "unix_socket_directories": "",
    # In the data folder: shared memory of a killed server would otherwise stay in the machine forever.
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "warning",
}


def program_folder() -> str:
    """Folder of the newest installed PostgreSQL's initdb, which Debian does not put in PATH."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )
    return str(Path(find_program("initdb", PACKAGE, [str(folder) for folder in folders])).parent)


@dataclass(slots=True)
class PostgresServer:
    """One member. folder: contains `data`, `log` and the password file; name: its application_name."""

    name: str
    host: str
    port: int
    folder: Path
    password: str
    prefix: tuple[str, ...] = ()
    bin: str = field(default_factory=program_folder)
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        argv = (f"{self.bin}/postgres", "-D", str(self.data))
        self.process = Process(
            f"postgres {self.name}", argv, self.folder / "postgres.log", USER, self.prefix, cwd=self.folder
        )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def user(self) -> str:
        return USER

    def start(self, timeout_s: float = 30.0) -> None:
        """Starts it and waits until it takes connections."""
        self.process.start()
        self.process.wait_until(self.answers, timeout_s)

    def answers(self) -> bool:
        """Whether it takes connections now."""
        return "1" in self._try("SELECT 1")

    def _try(self, statement: str) -> str:
        try:
            return self.sql(statement, timeout_s=2.0)
        except Exception:
            # Not yet up, or gone: either way it does not answer.
            return ""

    def sql(self, statement: str, timeout_s: float = 30.0, database: str = "postgres") -> str:
        """Runs one statement through psql and returns its rows, one per line."""
        argv = (
            *self.prefix,
            f"{self.bin}/psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.host,
            "-p",
            str(self.port),
            "-U",
            USER,
            "-d",
            database,
            "-c",
            statement,
        )
        env = {"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "2"}
        return run_once(argv, timeout_s=timeout_s, env=env).strip()

    def stop(self, timeout_s: float = 10.0) -> None:
        """A fast shutdown: ends sessions, then a last checkpoint."""
        self.process.stop(timeout_s, signals.SIGINT)
        # The site's agent may have restarted it outside this process.
        kill_family(self.running_pid())

    def kill(self) -> None:
        """Sends SIGKILL to the postmaster and every child, as a fire would."""
        segment = shared_segment(self.data) if self.running_pid() else 0
        kill_family(self.running_pid())
        kill_family(self.process.pid)
        self.process.kill()
        remove_segment(segment)

    def pause(self) -> None:
        """Sends SIGSTOP to the whole family: the kernel still accepts connections, but nothing answers."""
        signal_family(self.running_pid(), signals.SIGSTOP)

    def resume(self) -> None:
        signal_family(self.running_pid(), signals.SIGCONT)

    def running_pid(self) -> int:
        """The postmaster that uses the data folder, whoever started it; 0 if none runs."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return 0
        try:
            argv = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            return 0
        return pid if str(self.data) in argv else 0


def shared_segment(data: Path) -> int:
    """Id of the System V segment that the running server of `data` uses as its lock; 0 if unknown."""
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def remove_segment(segment: int) -> None:
    """Removes the segment of a killed server; one that is gone or still in use is left alone."""
    if segment:
        with contextlib.suppress(ServerFailed, MissingProgram):
            run_once((find_program("ipcrm", "util-linux"), "-m", str(segment)), user=USER, timeout_s=5)


def primary(
    folder: Path,
    host: str,
    port: int,
    name: str,
    settings: Mapping[str, str] | None = None,
    *,
    password: str = "evac-lab",
    prefix: tuple[str, ...] = (),
    template: Path | None = None,
) -> PostgresServer:
    """An empty primary under `folder`, not started. settings: override the defaults in postgresql.conf.
    template: a data folder to copy, whose superuser has this password.
    """
    server = _laid_out(folder, host, port, name, password, prefix)
    if template is None:
        _initialise(server)
    else:
        shutil.copytree(template, server.data)
    with (server.data / "pg_hba.conf").open("a") as access:
        access.write("host all all 0.0.0.0/0 scram-sha-256\nhost replication all 0.0.0.0/0 scram-sha-256\n")
    configure(server, {**DEFAULTS, **(settings or {})})
    return server


def _initialise(server: PostgresServer) -> None:
    folder = server.folder
    secret = folder / "password"
    secret.write_text(server.password)
    secret.chmod(0o600)
    give_to(USER, folder)
    argv = (
        f"{server.bin}/initdb",
        "-D",
        str(server.data),
        "-U",
        USER,
        *INITDB_OPTIONS,
        f"--pwfile={secret}",
    )
    run_once(argv, user=USER, timeout_s=120)


def standby(
    of: PostgresServer,
    folder: Path,
    host: str,
    port: int,
    name: str,
    *,
    prefix: tuple[str, ...] | None = None,
) -> PostgresServer:
    """A copy of the running `of` that follows it under `name`, not started."""
    server = _laid_out(folder, host, port, name, of.password, of.prefix if prefix is None else prefix)
    give_to(USER, folder)
    argv = (
        *server.prefix,
        *Process("", (), folder / "x", USER)._as_user(),
        f"{of.bin}/pg_basebackup",
        "-h",
        of.host,
        "-p",
        str(of.port),
        "-U",
        USER,
        "-D",
        str(server.data),
        "-X",
        "stream",
        "-c",
        "fast",
        "--no-sync",
    )
    run_once(argv, timeout_s=120, env={"PGPASSWORD": of.password})
    (server.data / "standby.signal").touch(mode=0o600)
    # pg_basebackup -R writes no application_name, and without it no synchronous set ever matches.
    passwords = folder / "pgpass"
    passwords.touch(mode=0o600)
    passwords.write_text(passfile_line(USER, of.password))
    upstream = format_conninfo(
        {
            "host": of.host,
            "port": str(of.port),
            "user": USER,
            "passfile": str(passwords),
            "application_name": name,
            "connect_timeout": "2",
            "keepalives_idle": "2",
        }
    )
    in_file = _quoted(upstream.replace("\\", "\\\\"))
    (server.data / "postgresql.auto.conf").write_text(f"primary_conninfo = '{in_file}'\n")
    configure(server, {"cluster_name": name})
    return server


def configure(server: PostgresServer, settings: Mapping[str, str]) -> None:
    """Appends settings, and the member's own address, to postgresql.conf (the last line wins)."""
    own = {"listen_addresses": server.host, "port": str(server.port), "cluster_name": server.name}
    with (server.data / "postgresql.conf").open("a") as file:
        file.writelines(f"{key} = '{_quoted(value)}'\n" for key, value in {**settings, **own}.items())
    give_to(USER, server.folder)


def synchronous_names(names: tuple[str, ...]) -> str:
    """The value of synchronous_standby_names that makes every one of `names` confirm each commit."""
    quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    return f"FIRST {len(names)} ({quoted})" if names else ""


def set_synchronous(server: PostgresServer, names: tuple[str, ...]) -> None:
    """Makes commits on the running primary wait for `names`."""
    server.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{_quoted(synchronous_names(names))}'")
    server.sql("SELECT pg_reload_conf()")


def wait_for_standby(
    server: PostgresServer,
    name: str,
    states: tuple[str, ...] = ("sync", "async", "quorum", "potential"),
    timeout_s: float = 20.0,
) -> None:
    """Waits until the primary streams to `name` in one of `states`. Raises `ServerFailed`."""
    allowed = ", ".join(f"'{state}'" for state in states)
    query = (
        f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{_quoted(name)}' "
        f"AND state = 'streaming' AND sync_state IN ({allowed})"
    )
    server.process.wait_until(lambda: server._try(query) == "1", timeout_s)


def _laid_out(
    folder: Path, host: str, port: int, name: str, password: str, prefix: tuple[str, ...]
) -> PostgresServer:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name + password):
        raise ValueError("names and passwords of lab servers are of letters, digits, dots and hyphens")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    return PostgresServer(name, host, port, folder, password, prefix)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
