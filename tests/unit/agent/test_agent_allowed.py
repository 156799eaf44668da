"""What the key of an agent opens: only what its file lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evac.agent.allowed import Allowed
from evac.agent.config import read_config
from evac.drivers.port import Action, Value
from evac.drivers.registry import DRIVERS
from evac.model.errors import InvalidInput, Permanent

POSTGRES: dict[str, Value] = {
    "host": "10.1.0.9",
    "port": 5432,
    "user": "postgres",
    "password": "file:/etc/evac/pg",
    "bin": "/usr/lib/postgresql/17/bin",
    "data": "/srv/pg/main",
    "archive": "file:/srv/archive",
}
PEERS: dict[str, Value] = {"primary_host": "10.2.0.9", "primary_port": 5432, "copies": ("10.2.0.9:5432",)}
ALLOWED = Allowed(
    hosts=("10.1.0.9:5432", "10.2.0.0/24", "db.example"),
    secrets=("file:/etc/evac/pg",),
    bin=("/usr/lib/postgresql/17/bin", "fence-it"),
    data=("/srv/pg/main", "/srv/archive"),
    sockets=("/run/haproxy.sock",),
    env=("A",),
    repositories=("rest:https://10.2.0.9/orders",),
    facts=("rows=SELECT 1",),
)


def refused(driver: str, settings: dict[str, Any], parameters: dict[str, Any] | None = None) -> str:
    """The words of the refusal; empty where it may be named."""
    try:
        ALLOWED.refuse_other(Action("rejoin", "db", driver, "pangyo", settings, parameters or {}), "pangyo")
    except Permanent as error:
        return f"{error.message} {error.hint}"
    return ""


def test_what_the_file_lists_may_be_named() -> None:
    assert not refused("postgres", POSTGRES, PEERS)
    assert not refused("postgres", POSTGRES | {"data": "/srv/pg/main/17"}, {"primary_host": "DB.example"})
    assert not refused("haproxy", {"socket": "/run/../run/haproxy.sock", "backend": "web"})
    assert not refused("patroni", {"url": "http://10.2.0.7:8008/x", "etcd": ("https://10.2.0.2:2379",)})
    assert not refused("command", {"argv": ("fence-it", "--now", "10.9.9.9"), "env": ("A=b",)})
    assert not refused("command", {"argv": ("/usr/lib/postgresql/17/bin/pg_ctl", "stop")})
    assert not refused("restic", {"repository": "rest:https://10.2.0.9/orders"})
    assert not refused("borg", {"repository": "/srv/archive/borg"})
    assert not refused("pgbackrest", {"facts": ("rows=SELECT 1",), "source": "host=10.2.0.9 user=evac"})
    assert not refused("manual", {}, {"instructions": "call 10.9.9.9", "ttl_ms": 5, "share": 1_000})


@pytest.mark.parametrize(
    ("driver", "settings", "parameters", "words"),
    [
        ("postgres", POSTGRES | {"host": "10.9.9.9"}, {}, "10.9.9.9:5432 (setting host)"),
        ("postgres", POSTGRES | {"port": 5433}, {}, "10.1.0.9:5433"),
        ("postgres", POSTGRES | {"password": "file:/etc/shadow"}, {}, "add it to secrets"),
        ("postgres", POSTGRES | {"password": "env:HOME"}, {}, "env:HOME"),
        ("postgres", POSTGRES | {"password": "file:/etc/evac/pg,file:/etc/shadow"}, {}, "secrets"),
        ("postgres", POSTGRES | {"bin": "/opt/evil"}, {}, "add it to bin"),
        ("postgres", POSTGRES | {"bin": "/usr/lib/postgresql/17/bin/../../../../../tmp"}, {}, "bin"),
        ("postgres", POSTGRES | {"data": "/srv/pg/main/../other"}, {}, "add it to data"),
        ("postgres", POSTGRES | {"data": "/srv/pg/main2"}, {}, "data"),
        ("postgres", POSTGRES | {"data": "srv/pg/main"}, {}, "data"),
        ("postgres", POSTGRES | {"data": "/srv/pg/main/\0/../../../../etc"}, {}, "data"),
        ("command", {"argv": ("/usr/lib/postgresql/17/bin/\0",)}, {}, "add it to bin"),
        ("postgres", POSTGRES, {"primary_host": "10.9.9.9"}, "parameter primary_host"),
        ("postgres", POSTGRES, {"old_password": "file:/etc/shadow"}, "parameter old_password"),
        ("postgres", POSTGRES, {"peers": ("a=10.9.9.9:5432",)}, "10.9.9.9:5432"),
        ("postgres", POSTGRES, {"archive": "/etc"}, "parameter archive"),
        ("postgres", POSTGRES | {"sslkey": "/etc/key"}, {}, "no setting sslkey"),
        ("redis", {"host": "127.0.0.1", "password": "file:/etc/evac/pg"}, {}, "127.0.0.1"),
        ("redis", {"host": "fd00::9", "port": 6379}, {}, "[fd00::9]:6379"),
        ("haproxy", {"socket": "/run/docker.sock"}, {}, "add it to sockets"),
        (
            "patroni",
            {"url": "http://10.1.0.9:8008", "etcd": "http://10.2.0.2:1,http://9.9.9.9:1"},
            {},
            "10.1",
        ),
        (
            "patroni",
            {"url": "http://10.2.0.7", "etcd": "http://10.2.0.2:1,http://9.9.9.9:1"},
            {},
            "9.9.9.9:1",
        ),
        ("patroni", {"url": "http://10.2.0.7@9.9.9.9/"}, {}, "9.9.9.9:80"),
        ("command", {"argv": ("/bin/sh", "-c", "id")}, {}, "/bin/sh"),
        ("command", {"argv": ("fence-it",), "env": ("A=file:/etc/shadow",)}, {}, "file:/etc/shadow"),
        ("command", {"argv": ("fence-it", "file:/etc/shadow")}, {}, "file:/etc/shadow"),
        ("http", {"url": "https://9.9.9.9/hook"}, {}, "9.9.9.9:443"),
        ("restic", {"repository": "rest:https://10.9.9.9/orders"}, {}, "add it to repositories"),
        ("borg", {"repository": "/srv/elsewhere"}, {}, "use /srv/elsewhere "),
        ("pgbackrest", {"facts": ("rows=SELECT 1", "x=\\! id")}, {}, "add it to facts"),
        ("pgbackrest", {"source": "host=10.9.9.9 user=10.1.0.9:5432"}, {}, "use 10.9.9.9 "),
        ("pgbackrest", {"source": "user=10.1.0.9:5432\thost=10.9.9.9"}, {}, "use 10.9.9.9 "),
        ("pgbackrest", {"source": "host=10.2.0.9 passfile=/etc/shadow"}, {}, "use /etc/shadow "),
        ("pgbackrest", {"source": "postgresql://10.2.0.9/db?host=10.9.9.9"}, {}, "10.9.9.9"),
        ("mariadb", {"ca": "/etc/shadow"}, {}, "add it to data"),
        ("nobody", {"host": "10.2.0.9"}, {}, "no setting host"),
    ],
)
def test_everything_else_is_refused_and_says_what_to_add(
    driver: str, settings: dict[str, Any], parameters: dict[str, Any], words: str
) -> None:
    assert words in refused(driver, settings, parameters)


def test_nothing_may_be_named_where_the_file_lists_nothing() -> None:
    with pytest.raises(Permanent):
        Allowed().refuse_other(Action("promote", "db", "redis", "", {"host": "127.0.0.1"}), "pangyo")
    Allowed().refuse_other(Action("verify", "db", "noop", ""), "pangyo")


def test_a_link_out_of_a_listed_folder_leads_nowhere(tmp_path: Path) -> None:
    listed, link = tmp_path / "data", tmp_path / "data" / "link"
    listed.mkdir()
    link.symlink_to("/etc")
    allowed = Allowed(hosts=("h",), bin=("/b",), data=(str(listed),))
    with pytest.raises(Permanent, match="setting data"):
        allowed.refuse_other(
            Action("rejoin", "db", "postgres", "", {"host": "h", "bin": "/b", "data": str(link)}), "pangyo"
        )


HARMLESS = {
    *(
        "port",
        "served_port",
        "answer",
        "seconds",
        "name",
        "user",
        "login",
        "dbname",
        "scope",
        "namespace",
        "etcd_user",
        "rest_user",
    ),
    *(
        "replication_user",
        "rebuild_user",
        "system_user",
        "archive_rows",
        "facts_database",
        "repository_id",
        "system_id",
    ),
    *(
        "stanza",
        "repo",
        "type",
        "upload_kib",
        "download_kib",
        "bump",
        "member",
        "format",
        "backend",
        "servers",
    ),
    *(
        "zone",
        "records",
        "key_name",
        "key_algorithm",
        "key",
        "ttl",
        "server_id",
        "provider",
        "vhost",
        "cluster",
    ),
    *(
        "origin",
        "bucket",
        "region",
        "source_region",
        "context",
        "kind",
        "reconciler",
        "unit",
        "start",
        "does",
    ),
    *(
        "method",
        "probe",
        "instructions",
        "privilege",
        "cipher",
        "boot_source",
        "requests_at_once",
        "answer_s",
    ),
    *("refusals_at_most", "scheme", "tls_name", "pin", "insecure", "circuit", "label", "fence", "takes"),
}
"""Settings that name an account, a thing inside of a system that is listed, or a bound. A value of them that
is a reference, as `ca` of redfish, counts as a secret wherever it is."""


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_every_setting_that_reaches_something_says_what(name: str) -> None:
    """Of every driver, because an agent's file may list each. A new setting says it, or is listed here."""
    for setting in DRIVERS[name].all_settings:
        reference = setting.key in ("ca", "source") and name in ("redfish", "backup_reader", "s3")
        assert setting.names or setting.key in HARMLESS or reference, setting.key


CHOOSING = ("LD_PRELOAD", "PATH", "BORG_RSH", "RESTIC_PASSWORD_COMMAND", "PGBACKREST_CMD", "PYTHONPATH", "")


@pytest.mark.parametrize(
    "name", sorted(n for n, spec in DRIVERS.items() if any(one.key == "env" for one in spec.all_settings))
)
@pytest.mark.parametrize("variable", CHOOSING)
def test_no_variable_that_chooses_a_program_is_taken_unlisted(name: str, variable: str) -> None:
    assert "add it to env" in refused(name, {"env": (f"{variable}=/srv/pg/main/x",)})
    assert not refused(name, {"env": ("AWS_SECRET_ACCESS_KEY=file:/etc/evac/pg", "A=b")})
    assert "add it to secrets" in refused(name, {"env": ("AWS_SECRET_ACCESS_KEY=file:/etc/shadow",)})


@pytest.mark.parametrize("name", sorted(name for name, spec in DRIVERS.items() if spec.agent_verbs))
def test_a_folder_of_data_is_no_folder_of_programs(name: str) -> None:
    """Who may write into the data must not choose the programs that run."""
    for one in DRIVERS[name].all_settings:
        if one.key in ("bin", "program"):
            assert "add it to bin" in refused(name, {one.key: "/srv/pg/main"}), one.key
            assert not refused(name, {one.key: "/usr/lib/postgresql/17/bin"}), one.key


def test_the_file_says_it_and_what_means_nothing_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    head = 'site = "pangyo"\nhost = "127.0.0.1"\nport = 7070\nstate = "state"\nsecret = "env:KEY"\n[allow]\n'
    file.write_text(head + 'hosts = ["10.0.0.0/8"]\nsecrets = ["file:/a"]\nbin = ["/b"]\ndata = ["/d"]\n')
    assert read_config(file).allow == Allowed(("10.0.0.0/8",), ("file:/a",), ("/b",), ("/d",))
    for wrong in (
        'env = ["A=b"]',
        'hosts = ["10.0.0.1/8"]',
        'secrets = ["hunter2"]',
        'data = ["d"]',
        'host = ["x"]',
    ):
        file.write_text(head + wrong)
        with pytest.raises(InvalidInput):
            read_config(file)
