"""A host that only an own network knows is not taken for another company's: it may burn with our sites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evac import estate as estates
from evac.cli import console
from evac.cli.main import run
from evac.estate.importers.containers import is_internal

OWN = (
    "db01",
    "db01.corp.internal",
    "db.shop.svc",
    "db-0.db.shop.svc.cluster.local",
    "nas.home.arpa",
    "printer.lan",
    "wiki.intra",
    "wiki.INTRANET.",
    "ad.acme.corp",
    "mail.home",
    "vault.private",
    "cache.service.consul",
    "host.localdomain",
    "10.1.2.3",
    "192.168.4.5",
    "fd00::7",
)
OTHERS = (
    "api.stripe.com",
    "db.abc.eu-west-1.rds.amazonaws.com",
    "internal.example.com",
    "lan.example",
    "corp.io",
    "8.8.8.8",
)


@pytest.mark.parametrize("host", OWN)
def test_own_names(host: str) -> None:
    assert is_internal(host)


@pytest.mark.parametrize("host", OTHERS)
def test_names_of_others(host: str) -> None:
    assert not is_internal(host)


@pytest.mark.parametrize(("host", "external"), [("db01.corp.internal", False), ("api.stripe.com", True)])
def test_an_audit_does_not_take_an_own_host_for_one_that_survives(
    tmp_path: Path, host: str, external: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"services:\n  app: {{image: x, environment: [DB_HOST={host}]}}\n"
    (tmp_path / "compose.yaml").write_text(text)
    target = str(tmp_path / "estate")
    assert (
        run(["import", "compose", str(tmp_path / "compose.yaml"), "-o", target, "--site", "a"])
        == console.DONE
    )
    capsys.readouterr()
    (found,) = (one for one in estates.load(Path(target)).services if one.id == host)
    assert found.external is external
    assert run(["audit", target, "--all", "--fail-on", "never", "--output", "json"]) == console.DONE
    unknown = [
        one["message"]
        for one in json.loads(capsys.readouterr().out)["findings"]
        if "how many replicas run where" in one["message"]
    ]
    assert any(host in message for message in unknown) is not external


def test_a_name_of_a_catalogue_is_no_host(tmp_path: Path) -> None:
    """`payments` in a catalogue may be a company; `ledger.corp.internal` is not."""
    (tmp_path / "services.yaml").write_text(
        "services:\n- {name: shop, tier: 1, needs: [payments, ledger.corp.internal]}\n"
    )
    target = str(tmp_path / "estate")
    assert run(["import", "catalogue", str(tmp_path / "services.yaml"), "-o", target]) == console.DONE
    found = {one.id: one.external for one in estates.load(Path(target)).services}
    assert found == {"shop": False, "payments": True, "ledger.corp.internal": False}
