"""What is particular to the observer of object storage: which rules count, and how far a bucket is behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evac.drivers import object_store
from evac.drivers.s3.driver import S3Driver, replicates
from evac.model.errors import ActionError
from tests.contract.adapters.s3 import Buckets, buckets

pytestmark = [pytest.mark.enable_socket, pytest.mark.servers]


def ask(action: Any) -> Any:
    async def story() -> Any:
        try:
            return await S3Driver().report_role(action, 30.0)
        except ActionError as error:
            return error

    return asyncio.run(story())


def role(world: Buckets) -> str:
    return str(ask(world.replica()).role)


def test_a_bucket_follows_while_a_rule_replicates_all_of_its_source(server_folder: Path) -> None:
    with buckets(server_folder) as world:
        assert (ask(world.action("east")).role, ask(world.action("east")).lag_ms) == ("primary", 0)
        assert (role(world), ask(world.replica()).lag_ms) == ("replica", 0)
        for wrong in (
            {"Status": "Disabled"},
            {"Destination": {"Bucket": "arn:aws:s3:::north"}},
        ):
            world.replicate(**wrong)
            assert role(world) == "detached", wrong
        world.s3.delete_bucket_replication(Bucket="east")
        assert role(world) == "detached"
        world.replicate()
        assert role(world) == "replica"


@pytest.mark.parametrize(
    ("scope", "counts"),
    [
        ({"Filter": {"Prefix": ""}}, True),
        ({"Filter": {}}, True),
        ({"Prefix": ""}, True),
        ({}, False),
        ({"Prefix": "public/"}, False),
        ({"Filter": {"Prefix": "public/"}}, False),
        ({"Filter": {"Tag": {"Key": "copy", "Value": "yes"}}}, False),
        ({"Filter": {"And": {"Prefix": "", "Tags": [{"Key": "copy", "Value": "yes"}]}}}, False),
    ],
)
def test_a_rule_counts_if_it_says_that_it_is_about_all_objects(scope: dict[str, Any], counts: bool) -> None:
    """moto answers every rule with an empty prefix."""
    rule = {"Status": "Enabled", "Destination": {"Bucket": "arn:aws:s3:::west"}}
    assert replicates([{**rule, **scope}], "west") == counts
    assert not replicates([{**rule, **scope}], "north")


def test_it_is_as_far_behind_as_the_oldest_object_that_has_not_arrived(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with buckets(server_folder) as world:
        written = {
            one["Key"]: one["LastModified"] for one in world.s3.list_objects_v2(Bucket="east")["Contents"]
        }
        later = written["b"].timestamp() + 90
        monkeypatch.setattr("evac.drivers.s3.driver.time.time", lambda: later)
        assert ask(world.replica()).lag_ms == 0
        world.put("west", c="more than the source has")
        assert ask(world.replica()).lag_ms == 0
        world.put("west", b="an older version")
        assert ask(world.replica()).lag_ms == 90_000
        world.s3.delete_object(Bucket="west", Key="a")
        assert ask(world.replica()).lag_ms == int((later - written["a"].timestamp()) * 1_000)


def test_too_many_objects_leave_the_lag_unknown_and_a_missing_bucket_is_named(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with buckets(server_folder) as world:
        assert ask(world.action("nowhere")).code == "s3-no-repository"
        assert ask(world.replica(source="nowhere")).code == "s3-no-repository"
        monkeypatch.setattr(object_store, "OBJECTS_MOST", 2)
        assert (role(world), ask(world.replica()).lag_ms) == ("replica", None)
