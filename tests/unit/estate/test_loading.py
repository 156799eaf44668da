"""An estate in files becomes an Estate: sections, units, places, tables, several files."""

from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest

from evac.estate import check, load
from evac.model.diagnostic import Place
from evac.model.errors import EstateError
from evac.model.estate import Dependency, Rate
from evac.model.fleet import AT_SITE, ON_POOL

ESTATES = Path(__file__).resolve().parents[2] / "fixtures" / "estates"


@pytest.mark.parametrize("name", ["first", "small"])
def test_fixture_estates_have_no_problem(name: str) -> None:
    result = check(ESTATES / name)
    assert result.diagnostics == ()
    assert result.estate is not None


def test_small_estate_says_what_its_file_says() -> None:
    estate = load(ESTATES / "small")
    services = {service.id: service for service in estate.services}
    assert len(services) == 20
    assert list(services) == sorted(services)
    assert estate.as_of == date(2026, 11, 25)
    pay = services["pay"]
    assert (pay.people, pay.rto_ms, pay.share, pay.replicas) == (1_000_000, 1_200_000, Fraction(1, 2), 16)
    assert pay.demand == (4_000, 8_192, 20, 0)
    assert pay.needs == (
        Dependency("ledger", "store"),
        Dependency("sso", "service"),
        Dependency("vault", "service", needed_to="start"),
    )
    assert estate.limits.starts == Rate(200, 60_000)
    assert estate.pools[0].quota_permille == 900
    assert [link.ends for link in estate.links] == [("hill", "north"), ("hill", "south"), ("north", "south")]
    assert estate.facts[0].path == "services/pay/people"


def test_counts_by_place_become_bindings() -> None:
    estate = load(ESTATES / "small")
    row = [service.id for service in estate.services].index("vpn")
    mine = estate.replicas.service == row
    assert estate.replicas.kind[mine].tolist() == [AT_SITE, AT_SITE]
    assert estate.replicas.count[mine].tolist() == [1, 1]
    assert set(estate.replicas.kind[~mine].tolist()) >= {ON_POOL}


def test_places_point_at_the_value() -> None:
    estate = load(ESTATES / "first")
    text = (ESTATES / "first" / "estate.yaml").read_text().splitlines()
    place = estate.place("services/login/rto")
    assert text[place.line - 1][place.column - 1 :].startswith("10 min")
    assert estate.place("nothing/like/this") == Place("estate.yaml", 1, 1)


def test_load_raises_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "estate.yaml"
    file.write_text("evac: 1\nsites: {a: {ingres: 1}}\nservices: {x: {rto: 5, needs: [y]}}\n")
    with pytest.raises(EstateError) as caught:
        load(tmp_path)
    codes = [d.code for d in caught.value.diagnostics]
    assert codes == ["key-unknown", "unit-missing", "name-unknown"]
    assert caught.value.diagnostics[0].hint == "did you mean 'ingress'?"
