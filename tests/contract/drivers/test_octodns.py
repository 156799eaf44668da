"""What is particular to the driver `octodns`: what it never replaces, and Route 53, played by moto."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evac.drivers.octodns.driver import OctoDnsDriver
from evac.drivers.port import Action
from evac.model.errors import Permanent, Retryable
from tests.contract.adapters.octodns import ANYANG, PANGYO, ZONE, Files
from tests.contract.capabilities.story import order

pytestmark = pytest.mark.enable_socket
KEY = "quiet-harbour-420"


def play(story: Any) -> None:
    async def whole() -> None:
        driver = OctoDnsDriver()
        try:
            await story(driver)
        finally:
            await driver.close()

    asyncio.run(whole())


def test_what_is_no_plain_address_is_never_replaced(tmp_path: Path) -> None:
    files = Files(tmp_path)
    zone = files.held() | {"chat0": {"type": "CNAME", "value": "elsewhere.example."}}
    files.zone.write_text(yaml.safe_dump(zone))
    ready = files.action("ready", site="anyang")

    async def story(driver: OctoDnsDriver) -> None:
        checked = await driver.check(ready, order())
        assert checked.problems[0] == f"chat0.{ZONE}. CNAME cannot be replaced by addresses"
        with pytest.raises(Permanent, match="chat0"):
            await driver.execute(ready, order())
        assert files.held() == zone
        other = replace(ready, settings={**ready.settings, "zone": "another.test"})
        with pytest.raises(Permanent, match=r"local has no zone another\.test"):
            await driver.execute(other, order())
        assert sorted(path.name for path in files.zone.parent.iterdir()) == [files.zone.name]

    play(story)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"provider": "nobody"}, "has no provider nobody"),
        ({"config": "/nowhere/octodns.yaml"}, "is not a file"),
        ({"python": ("/nowhere/python",)}, "cannot be started"),
        ({"env": ("EMPTY",)}, "NAME=value"),
    ],
)
def test_settings_that_are_wrong_say_so(tmp_path: Path, changes: Any, message: str) -> None:
    action = Files(tmp_path).action("drain", site="pangyo")

    async def story(driver: OctoDnsDriver) -> None:
        with pytest.raises(Permanent, match=message):
            await driver.execute(replace(action, settings={**action.settings, **changes}), order())

    play(story)


def test_a_provider_that_may_not_write_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path, apply_disabled=True)
    before = files.held()

    async def story(driver: OctoDnsDriver) -> None:
        with pytest.raises(Permanent, match="apply_disabled"):
            await driver.execute(files.action("ready", site="anyang"), order())
        assert files.held() == before

    play(story)


@pytest.fixture
def route53(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str, Action]]:
    """A client, the id of the zone, and a shift of its names to anyang."""
    import boto3
    from moto.core.responses import ActionResult
    from moto.route53.responses import Route53
    from moto.server import ThreadedMotoServer

    # AWS says of every list whether it goes on; moto leaves that out here.
    whole = ActionResult({"HealthChecks": [], "IsTruncated": False, "MaxItems": "100", "Marker": ""})
    monkeypatch.setattr(Route53, "list_health_checks", lambda self: whole)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": KEY,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("route53")
    zone = client.create_hosted_zone(Name=f"{ZONE}.", CallerReference="once")["HostedZone"]["Id"]
    changes = [
        {
            "Action": "CREATE",
            "ResourceRecordSet": {
                "Name": f"{name}.{ZONE}.",
                "Type": kind,
                "TTL": 7,
                "ResourceRecords": [{"Value": value}],
            },
        }
        for name, kind, value in (
            ("chat0", "A", PANGYO),
            ("chat1", "A", PANGYO),
            ("mail", "A", "192.0.2.25"),
            ("note", "TXT", '"keep; me"'),
        )
    ]
    client.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
    provider = {"class": "octodns_route53.Route53Provider"}
    provider |= {"access_key_id": "env/AWS_ACCESS_KEY_ID", "secret_access_key": "env/AWS_SECRET_ACCESS_KEY"}
    config = tmp_path / "route53.yaml"
    config.write_text(yaml.safe_dump({"providers": {"route53": provider}, "zones": {}}))
    action = Action(
        "shift",
        ZONE,
        "octodns",
        "anyang",
        {
            "config": str(config),
            "provider": "route53",
            "zone": ZONE,
            "records": tuple(f"chat{n}=pangyo:{PANGYO},anyang:{ANYANG}" for n in range(2)),
            "env": tuple(
                f"{name}={'env:AWS_SECRET_ACCESS_KEY' if value == KEY else value}"
                for name, value in env.items()
            ),
        },
        {"to": "anyang", "away": "pangyo", "share": 1_000},
    )
    yield client, zone, action
    server.stop()


def test_names_of_route_53_move_and_move_back(route53: tuple[Any, str, Action]) -> None:
    client, zone, shift = route53

    def held() -> dict[str, list[str]]:
        sets = client.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        return {
            one["Name"].removesuffix(f".{ZONE}."): [row["Value"] for row in one["ResourceRecords"]]
            for one in sets
            if one["Type"] in ("A", "TXT")
        }

    before = held()

    async def story(driver: OctoDnsDriver) -> None:
        assert (await driver.check(shift, order())).ready
        await driver.execute(shift, order())
        moved = {**before, "chat0": [ANYANG], "chat1": [ANYANG], "_evac-token": ['"7"']}
        assert held() == moved
        with pytest.raises(Permanent, match="older leader"):
            await driver.execute(shift, order(token=6))
        await driver.undo(shift, order())
        assert held() == {**before, "_evac-token": ['"7"']}
        nowhere = tuple(
            "AWS_ENDPOINT_URL=http://127.0.0.1:9" if str(one).startswith("AWS_END") else str(one)
            for one in shift.settings["env"]  # type: ignore[union-attr]
        )
        gone = replace(shift, settings={**shift.settings, "env": nowhere})
        with pytest.raises(Retryable) as raised:
            await driver.execute(gone, order(timeout_s=3.0))
        assert raised.value.code in ("octodns-silent", "octodns-trouble")
        assert KEY not in f"{raised.value!r} {raised.value.__cause__!r}"

    play(story)
