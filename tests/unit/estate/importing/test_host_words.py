"""Columns and states of host lists in the words of the people who keep them."""

from pathlib import Path

import pytest

from evac.model.fleet import SERVER_STATES
from tests.unit.estate.importing.test_host_list import imported


def test_polish_headers_are_read(tmp_path: Path) -> None:
    text = "Serwer;Lokalizacja;Serwerownia;Szafa;Rdzenie;Pamięć (GiB);Dysk (TB);Stan;Rola;Właściciel\n"
    text += "s1;Łódź;H1;C01;32;64;7,68;działa;gra;gry\ns2;Łódź;H1;C01;32;64;7,68;w serwisie;gra;gry\n"
    text += "s3;Kraków;H1;C01;32;64;7,68;wyłączony;gra;gry\ns4;Kraków;H1;C01;32;64;7,68;zapasowy;;gry\n"
    estate, result = imported(tmp_path, text)
    assert [d.code for d in result.diagnostics] == []
    states = [SERVER_STATES[code] for code in estate.fleet.state]
    assert states == ["serving", "condemned", "dark", "spare"]
    assert {site.id for site in estate.sites} == {"Kraków", "Łódź"}
    assert [(one.id, one.replicas, one.owner) for one in estate.services] == [("gra", 1, "gry")]


@pytest.mark.parametrize(
    "word",
    ["In Stock", "stored", "Out of Service", "auf Lager", "eingelagert", "außer Betrieb", "stocké"],
)
def test_a_server_that_is_not_installed_or_not_in_use_is_no_spare(tmp_path: Path, word: str) -> None:
    """A plan boots servers that are off. One in a store room has no power and no network."""
    estate, result = imported(tmp_path, f"host;site;state\na;x;{word}\n")
    assert [SERVER_STATES[code] for code in estate.fleet.state] == ["condemned"]
    assert not result.diagnostics
