"""The lab's second database: one PostgreSQL without a live copy, and backups on a disk at another site.

pgBackRest reaches the disk through a repository server, a unit of the agents. It runs at the first site, with
the database, and can run at the last one, with the disk. A fire at the first site takes the database and the
access to its backups: a recovery must start that server before it can restore.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evac_lab import authorities
from evac_lab.process import find_program, give_to, run_once
from evac_lab.servers import postgres
from evac_lab.site_servers import AgentMore, Endpoint, Ground, mark_of, start_unit
from evac_lab.state import PORTS, SITES, Site, Starter

STORE: Final = "receipts"
REPOSITORY: Final = "repository"
FACT: Final = f"rows=SELECT count(*) FROM {STORE}"
HOME, AWAY = SITES[0], SITES[-1]
"""Where the database and its backup server run at first, and where both are restored."""
POLICY: Final = f"  {STORE}: {{fence_proofs: [attest], async_promotion: ask}}\n"
_SECONDS: Final = 60.0


def program() -> str:
    """Raises `MissingProgram`."""
    return find_program("pgbackrest", "pgbackrest")


def prepare(ground: Ground) -> None:
    """Keys and configuration files, before the agents start."""
    disk = ground.folder.data(AWAY, "disk")
    disk.mkdir(parents=True)
    give_to(postgres.USER, disk)
    for name in (HOME, AWAY):
        site, data = ground.topology.site(name), ground.folder.data(name, STORE)
        for role in (STORE, REPOSITORY):
            folder = ground.folder.data(name, role)
            folder.mkdir(parents=True)
            folder.chmod(0o755)
            authorities.lend(ground.folder.certificates, f"{REPOSITORY}-{name}", folder)
        database = {"pg1-path": data / "data", "pg1-port": PORTS[STORE], "pg1-socket-path": data}
        server = {
            **_certificates("tls-server", ground.folder.data(name, REPOSITORY)),
            "tls-server-address": site.host(REPOSITORY),
            "tls-server-port": PORTS[REPOSITORY],
            "tls-server-auth": f"{REPOSITORY}-{name}={STORE}",
            "repo1-path": disk,
            "repo1-retention-full": 2,
        }
        client = {
            **_certificates("repo1-host", data),
            "repo1-host": site.host(REPOSITORY),
            "repo1-host-type": "tls",
            "repo1-host-port": PORTS[REPOSITORY],
            "repo1-host-config": _config(ground, name, REPOSITORY),
        }
        _write(_config(ground, name, REPOSITORY), server, database)
        _write(_config(ground, name, STORE), client, database)
        for role in (STORE, REPOSITORY):
            give_to(postgres.USER, ground.folder.data(name, role))


def _certificates(prefix: str, folder: Path) -> dict[str, object]:
    files = {"ca": folder / "ca.pem", "cert": folder / "own.pem", "key": folder / "own.key"}
    return {f"{prefix}-{name}-file": path for name, path in files.items()}


def _config(ground: Ground, site: str, role: str) -> Path:
    return ground.folder.data(site, role) / "pgbackrest.conf"


def _write(path: Path, options: Mapping[str, object], database: Mapping[str, object]) -> None:
    plain = {"log-level-file": "off", "lock-path": path.parent / "lock", "start-fast": "y", "job-retry": 0}
    lines = ["[global]", *(f"{key}={value}" for key, value in {**plain, **options}.items())]
    lines += [f"[{STORE}]", *(f"{key}={value}" for key, value in database.items()), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def of_agent(ground: Ground, site: Site) -> AgentMore:
    """What a site's agent runs and may contact; empty if the site has neither."""
    if site.name not in (HOME, AWAY):
        return AgentMore()
    config = f"--config={_config(ground, site.name, REPOSITORY)}"
    ((mark, value),) = mark_of(ground, site).items()
    unit = [
        "[[units]]",
        f"name = {json.dumps(REPOSITORY)}",
        f"argv = {json.dumps([program(), config, 'server'])}",
        f"check_argv = {json.dumps([program(), config, 'server-ping'])}",
        f"user = {json.dumps(postgres.USER)}",
        "most = 1",
        "stop_ms = 1000",
        f"env = {{ {mark} = {json.dumps(value)} }}",
        "",
    ]
    data = str(ground.folder.data(site.name, STORE))
    # A restore also gets the location of the old primary.
    hosts = tuple(ground.topology.site(name).host(STORE) for name in (HOME, AWAY))
    return AgentMore(hosts, (program(),), (data,), ("pgbackrest",), "\n".join(unit), (FACT,))


def start(starter: Starter, ground: Ground) -> None:
    """Starts the repository server and the database, and takes the first backup."""
    site, folder = ground.topology.site(HOME), ground.folder.data(HOME, STORE)
    start_unit(ground, site, REPOSITORY)
    # Relative to the data: where it is restored to, the log goes to the repository as that site reaches it.
    push = f'exec {program()} --config="$(dirname "$PWD")/pgbackrest.conf" --stanza={STORE} archive-push %p'
    server = postgres.primary(
        folder,
        site.host(STORE),
        PORTS[STORE],
        f"{STORE}-{HOME}",
        {
            "archive_mode": "on",
            "archive_command": push,
            "archive_timeout": "5",
            "unix_socket_directories": str(folder),
        },
        password=ground.secrets.value("postgres"),
        prefix=site.prefix,
    )
    starter.launch(HOME, STORE, server.process)
    starter.wait(server.process, server.answers, _SECONDS, "PostgreSQL of receipts")
    server.sql("CREATE TABLE receipts (id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())")
    argv = (program(), f"--config={_config(ground, HOME, REPOSITORY)}", f"--stanza={STORE}")
    env = {"PGPASSWORD": ground.secrets.value("postgres")}
    for words in (("stanza-create",), ("--type=full", "backup")):
        told = (*site.prefix, *argv, *words)
        run_once(told, user=postgres.USER, timeout_s=_SECONDS, env=env)
    starter.tell("the first backup of receipts")


def in_estate(ground: Ground, document: dict[str, Any]) -> None:
    """Adds the store, and the service through which its backups are reached."""
    document["services"][REPOSITORY] = {
        "owner": "lab",
        "tier": 0,
        "people": 1,
        "rto": "30 s",
        "demand": {"cpu": "100 mCPU", "memory": "64 MiB"},
        "replicas": {HOME: 1},
        "eligible_sites": [HOME, AWAY],
        "start": "2 s",
        "verify": "1 s",
    }
    document["stores"][STORE] = {
        "engine": "postgresql",
        "rpo": "1 min",
        "fence": "1 s",
        "fence_rung": "isolate",
        "automatic": False,
        "members": [{"at": HOME, "mode": "primary"}],
        "backups": [
            {
                "at": AWAY,
                "size": "1 GiB",
                "age": "30 s",
                "restore": "1 Gbit/s",
                "endpoint": f"{STORE}-copies-{AWAY}",
            }
        ],
        "backup_policy": {"copies": 2, "systems": 1, "undeletable": 0, "restore_needs": [REPOSITORY]},
    }
    needs = document["services"]["messenger"]["needs"]
    needs.append({"store": STORE, "hard": False})


def endpoints(ground: Ground, site: Site) -> list[Endpoint]:
    """Endpoints of a site: the database, its backups where they are restored, and the repository server."""
    secrets, bin_folder = ground.secrets, postgres.program_folder()
    found: list[Endpoint] = []
    if site.name in (HOME, AWAY):
        agent = {"agent": site.url("agent"), "secret": secrets.reference(f"agent-{site.name}")}
        found.append((REPOSITORY, REPOSITORY, "process", {**agent, "unit": REPOSITORY}))
    if site.name == HOME:
        reached = {
            "host": site.host(STORE),
            "port": PORTS[STORE],
            "user": postgres.USER,
            "password": secrets.reference("postgres"),
            "dbname": ground.database.name,
            "name": f"{STORE}-{HOME}",
        }
        found.append((STORE, STORE, "postgres", reached))
    if site.name == AWAY:
        data = ground.folder.data(AWAY, STORE)
        kept = {
            "config": str(_config(ground, AWAY, STORE)),
            "stanza": STORE,
            "program": program(),
            "bin": bin_folder,
            "place": str(data / "data"),
            "host": site.host(STORE),
            "port": PORTS[STORE],
            "facts": [FACT],
        }
        found.append((f"{STORE}-copies", STORE, "pgbackrest", kept))
    return found
