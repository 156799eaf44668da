"""The JSON Schema accepts what the loader accepts, and refuses what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings

from evac.estate import check, load, schema, write
from evac.model.estate import Estate
from tests.unit.estate.test_diagnostics import MARK, YAML_CASES
from tests.unit.estate.wild import estates

ESTATES = Path(__file__).resolve().parents[2] / "fixtures" / "estates"
VALIDATOR = jsonschema.Draft202012Validator(schema())
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class CoreLoader(yaml.SafeLoader):
    """Plain scalars as YAML 1.2 reads them, which is what editors do."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the library's own shape


def _plain(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style is not None:
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    return json.loads(text) if NUMBER.fullmatch(text) else text


CoreLoader.add_constructor("tag:yaml.org,2002:str", _plain)


def as_json(text: str) -> Any:
    return yaml.load(text, Loader=CoreLoader)  # a safe loader with other scalars


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads(json.dumps(schema())) == schema()


@pytest.mark.parametrize("name", ["first", "small"])
def test_fixture_estates_validate(name: str) -> None:
    assert list(VALIDATOR.iter_errors(as_json((ESTATES / name / "estate.yaml").read_text()))) == []


SAMPLE = """
evac: 1
name: example
as_of: 2026-11-25
horizon: 24 h
tier_weights: [8, 4, 2, 1]
sites:
  pangyo: {ingress: 400 Gbit/s, ingress_connections: 20 M, power_budget: 24 MW,
           people: "facility team"}
  anyang: {}
  seoul-office: {role: witness}
halls:
  pangyo/hall-1: {power_budget: 5 MW, cooling: 4.8 MW, network_up: 4 min, bmc_requests_at_once: 64}
feeds:
  pangyo/hall-1/feed-a: {power_budget: 2.5 MW, inrush_budget: 3 MW, boots_at_once: 64, close: 5 s}
racks:
  pangyo/hall-1/r001: {feeds: [pangyo/hall-1/feed-a], power_budget: 12 kW}
groups:
  utility: {kind: utility, members: [pangyo, anyang]}
classes:
  web: {cpu: 32 cores, memory: 128 GiB, disk: 2 TiB, accelerators: 0, watts: 350 W, boot: 6 min,
        boot_odds: 98 %, inrush: 600 W, inrush_hold: 20 s, image: 200 Mbit/s, image_offset: 60 s,
        image_hold: 90 s, power_on: last}
boot_servers:
  anyang-boot-1: {site: anyang, boots_at_once: 100, image: 20 Gbit/s, boots: 40 per 10 s}
pools:
  pangyo-k8s: {site: pangyo, cpu: 4000 cores, memory: 16 TiB, quota: 90 %, starts: 600 per minute}
links:
  - {ends: [pangyo, anyang], bandwidth: 200 Gbit/s, connections: 5 M}
limits: {approvals_at_once: 4, starts: 3000 per minute, hands_at_once: 20, power_margin: 5 %,
         manual: {start: 20 min, boot: 10 min}}
tools: {deploy: pay, registry: [pay]}
services:
  pay:
    family: pay
    people: {value: 30 M, source: billing, observed: 2026-10-01, good_for: 90 d}
    paid: true
    purges: true
    rto: unknown
    rpo: 0 s
    demand: {cpu: 4 cores, memory: 8 GiB, disk: 10 GiB, accelerators: 0}
    replicas: {pangyo: 12, anyang: 8}
    share: 3/5
    spread: {per_server: 1, per_rack: 10 %, per_feed: 50 %, per_site: 60 %}
    eligible_sites: [anyang]
    shed_rehearsed: 2026-05-01
    needs:
      - {service: search, hard: false, needed_to: serve}
      - {store: accounts}
      - empty
    traffic: {kind: dns, ttl: 60 s, change: 5 s, settle: 60 s, peak: 8 Gbit/s, connections: 400000}
  search: {replicas: 7, tier: ~}
  empty:
stores:
  accounts:
    engine: postgresql
    members:
      - {at: pangyo, mode: primary}
      - {at: anyang, mode: sync, lag: 0 s, votes: 1}
    backups: [{at: anyang, size: 2 TiB, age: 24 h, restore: 4 Gbit/s, verified: 2026-10-01, deletable: false}]
    backup_policy: {rpo: 24 h, keep: 30 d, level: 4, schedule: "15 1 * * *", keys_at: [anyang]}
data_sets:
  wiki: {kind: volume, at: pangyo, used_by: [search], size: 20 GiB, backup_policy: {waived: rebuilt}}
providers:
  bank: {contact: desk, status_page: "https://status.example"}
recovery_groups:
  money: {stores: [accounts], tolerance: 0 s}
expiring:
  wildcard-cert: {kind: certificate, expires: 2027-01-01, at: anyang, used_by: [pay]}
automations:
  argocd: {kind: gitops, undoes: [start, shed], manages: [pay], can_be_paused: true}
rehearsals:
  - {domain: pangyo, done: 2026-06-01, kind: live}
endpoints:
  accounts-pangyo:
    {for: accounts, at: pangyo, driver: postgres, settings: {host: db, port: 5432, password: "env:PW"}}
facts:
  services/pay/paid: {source: "billing report", observed: 2026-10-01, good_for: 90 d}
"""


def test_a_sample_of_every_section_validates_and_loads(tmp_path: Path) -> None:
    VALIDATOR.validate(as_json(SAMPLE))
    (tmp_path / "estate.yaml").write_text(SAMPLE)
    result = check(tmp_path)
    assert result.diagnostics == ()
    assert set(as_json(SAMPLE)) == set(schema()["properties"]) - {"changed", "detection", "approval"}


SHAPES = {
    "key-unknown",
    "value-missing",
    "wrong-type",
    "not-a-number",
    "unit-missing",
    "unit-unknown",
    "unit-wrong-dimension",
    "negative",
    "not-a-rate",
    "not-a-choice",
    "not-a-flag",
    "version-unknown",
}
"""Codes of what a schema can see: the shape of single values."""


@pytest.mark.parametrize("text", [text for code, text, _ in YAML_CASES if code in SHAPES])
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    assert not VALIDATOR.is_valid(as_json(text.replace(MARK, "")))


@given(estate=estates())
@settings(max_examples=15)
def test_whatever_is_written_validates(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("schema")
    for path in write(estate, folder / "out"):
        if path.suffix == ".yaml":
            assert list(VALIDATOR.iter_errors(as_json(path.read_text()))) == []


def test_the_schema_is_written_beside_the_estate(tmp_path: Path) -> None:
    write(load(ESTATES / "first"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "estate.schema.json").read_text()) == schema()
