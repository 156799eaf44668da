"""Commands of runbooks: the tools' own, with the settings of an endpoint, and never a secret."""

from __future__ import annotations

import subprocess

import pytest

from evac.drivers.by_hand import move_traffic, promote, scale
from evac.drivers.spec import NOTHING
from evac.model.estate import Endpoint, Setting


def endpoint(driver: str, **settings: Setting) -> Endpoint:
    return Endpoint("e", "orders", "east", driver, settings)


@pytest.mark.parametrize(
    ("driver", "settings", "do"),
    [
        (
            "postgres",
            {"host": "db.east", "password": "env:PW"},
            "psql 'host=db.east port=5432 user=postgres dbname=postgres' -c \"select pg_promote()\"",
        ),
        (
            "patroni@east",
            {"scope": "orders", "name": "east-1"},
            "patronictl -c /etc/patroni.yml failover orders --candidate east-1 --force",
        ),
        ("redis", {"host": "r.east", "port": 6380}, "redis-cli -h r.east -p 6380 REPLICAOF NO ONE"),
    ],
)
def test_a_promotion_is_the_command_of_the_database(
    driver: str, settings: dict[str, Setting], do: str
) -> None:
    found = promote(endpoint(driver, **settings))
    assert found.do == do
    assert found.done_when
    assert "env:" not in found.do + found.done_when


def test_a_start_says_how_many_replicas_there_are_then() -> None:
    made = endpoint(
        "kubernetes", kubeconfig="file:/etc/east.conf", kind="Deployment", name="web", namespace="shop"
    )
    assert scale(made, 7).do == (
        "kubectl --kubeconfig /etc/east.conf --namespace shop scale deployment/web --replicas=7"
    )


def test_traffic_moves_by_an_update_that_a_shell_accepts() -> None:
    made = endpoint(
        "dns",
        server="ns.east",
        zone="example",
        records=("shop=north:192.0.2.1,east:192.0.2.2",),
        key_name="evac",
        key_secret="file:/etc/key",
    )
    found = move_traffic(made, "east")
    assert "update add shop.example 60 A 192.0.2.2" in found.do
    assert "192.0.2.1" not in found.do
    assert found.done_when == "dig +short @ns.east shop.example prints 192.0.2.2"
    sent = subprocess.run(
        ["sh", "-c", found.do.split(" | ")[0]], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert sent == [
        "server ns.east",
        "zone example",
        "update delete shop.example A",
        "update add shop.example 60 A 192.0.2.2",
        "send",
    ]
    assert move_traffic(made, "west") == NOTHING


def test_no_command_is_invented_for_other_systems() -> None:
    assert promote(endpoint("http", url="https://x")) == NOTHING
    assert scale(endpoint("process", name="web"), 3) == NOTHING
