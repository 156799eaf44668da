"""Catalogues of services: plain tables and YAML, and Backstage."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import KINDS, ImportResult, Options, SourceError, import_estate
from evac.estate.importers.discovery import look_around
from evac.estate.importers.running import read_source
from evac.model.estate import Estate


def imported(tmp_path: Path, kind: str, name: str, text: str, **options: Any) -> tuple[Estate, ImportResult]:
    source = tmp_path / name
    source.write_text(text)
    result = import_estate(kind, source, tmp_path / "estate", options=Options(**options))
    return load(tmp_path / "estate"), result


TABLE = (
    "Service;Tier;Team;RTO;Users;Depends on;CPU;Colour\n"
    "shop;tier-1;web;30 min;200 K;login, store:orders, stripe;0.5 cores;red\n"
    "login;0;id;;1 M;store:users;;\n"
    "shop;2;web;;;;;\n"
    "odd;critical;;soon;;odd;;\n"
)
YAML = """
services:
  shop: {tier: 1, team: web, rto: 30 min, users: 200 K, cpu: 500 mCPU,
    depends_on: [login, {store: orders}, stripe]}
  login: {tier: 0, team: id, users: 1 M, needs: {users: {}}}
  users: {type: postgres}
  odd: {tier: critical, rto: soon, needs: odd}
"""


@pytest.mark.parametrize(("name", "text"), [("services.csv", TABLE), ("services.yaml", YAML)])
def test_a_plain_catalogue(tmp_path: Path, name: str, text: str) -> None:
    estate, result = imported(tmp_path, "catalogue", name, text)
    services = {s.id: s for s in estate.services}
    assert sorted(services) == ["login", "odd", "shop", "stripe"]
    shop = services["shop"]
    assert (shop.tier, shop.owner, shop.rto_ms, shop.people) == (1, "web", 1_800_000, 200_000)
    assert shop.demand[0] == 500
    assert [(n.kind, n.target, n.hard) for n in shop.needs] == [
        ("service", "login", True),
        ("store", "orders", True),
        ("service", "stripe", False),
    ]
    assert [need.target for need in services["login"].needs] == ["users"]
    assert [store.id for store in estate.stores] == ["orders", "users"]
    odd = [d for d in result.diagnostics if d.code == "import-word-unknown"]
    assert [d.message.split(" is not a valid ")[0] for d in odd] == ["'critical'", "'soon'"]
    assert all(d.place.line > 1 and d.hint for d in odd)
    codes = {d.code for d in result.diagnostics}
    assert ("import-twice" in codes) == (name == "services.csv")
    assert "import-dangling" in codes


@pytest.mark.parametrize(
    "header",
    [
        "Dienst;Stufe;Verantwortlich;Wiederanlaufzeit;Benutzer;benötigt",
        "Anwendung;Priorität;Eigentümer;RTO;Kunden;Hängt ab von",
        "Application;Criticité;Équipe;RTO;Utilisateurs;Dépend de",
        "서비스명;중요도;담당팀;RTO;사용자수;의존성",
    ],
)
def test_columns_in_other_languages(tmp_path: Path, header: str) -> None:
    text = f"{header}\nshop;1;web;30 min;200 K;login\nlogin;0;;;;\n"
    estate, result = imported(tmp_path, "catalogue", "services.csv", text)
    shop = next(s for s in estate.services if s.id == "shop")
    assert (shop.tier, shop.owner, shop.rto_ms, shop.people) == (1, "web", 1_800_000, 200_000)
    assert [(n.kind, n.target, n.hard) for n in shop.needs] == [("service", "login", True)]
    assert not result.diagnostics
    assert not [one for one in result.unknown if "needs" in one.what]


@pytest.mark.parametrize(
    ("name", "text", "unknown_key"),
    [
        ("services.csv", "service,tier\nshop,1\nlogin,0\n", False),
        ("services.csv", "service,tier,needs\nshop,1,\nlogin,0,\n", False),
        ("services.yaml", "services: {shop: {tier: 1, relies_on: [login]}, login: {tier: 0}}\n", True),
        ("services.yaml", "services:\n- {name: shop, relies_on: [login]}\n- {name: login}\n", True),
    ],
)
def test_a_catalogue_without_needs_says_that_they_are_unknown(
    tmp_path: Path, name: str, text: str, unknown_key: bool
) -> None:
    _, result = imported(tmp_path, "catalogue", name, text)
    (unknown,) = [one for one in result.unknown if "needs" in one.what]
    assert (unknown.what, unknown.count) == ("services whose needs the source does not state", 2)
    named = [one for one in result.diagnostics if "'relies_on' is unknown to evac" in one.message]
    assert len(named) == unknown_key


def test_a_catalogue_that_says_that_nothing_is_needed_leaves_nothing_unknown(tmp_path: Path) -> None:
    _, result = imported(tmp_path, "catalogue", "services.yaml", "services: {shop: {needs: []}, login: {}}\n")
    assert not [one for one in result.unknown if "needs" in one.what]


def test_a_site_for_everything(tmp_path: Path) -> None:
    estate, _ = imported(tmp_path, "catalogue", "services.csv", "service,replicas\na,3\nb,\n", site="fra")
    assert [site.id for site in estate.sites] == ["fra"]
    assert estate.services[0].replicas == 3


ENTITIES = """
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: web, labels: {example.com/tier: "1"}}
spec: {type: website, owner: group:default/shop, system: store, consumesApis: [cart-api]}
---
apiVersion: backstage.io/v1alpha1
kind: Component
metadata: {name: cart}
spec: {type: service, providesApis: [cart-api], dependsOn: ["resource:carts", "component:other/mail"]}
---
apiVersion: backstage.io/v1alpha1
kind: API
metadata: {name: cart-api}
spec: {type: openapi}
---
apiVersion: backstage.io/v1alpha1
kind: Resource
metadata: {name: carts}
spec: {type: database, owner: shop}
"""


def test_a_location_of_a_catalogue_is_named_as_not_followed(tmp_path: Path) -> None:
    text = (
        "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec: {}\n---\n"
        "apiVersion: backstage.io/v1alpha1\nkind: Location\nmetadata: {name: b}\n"
        "spec: {target: ./one.yaml, targets: [./two.yaml]}\n"
    )
    _, result = imported(tmp_path, "backstage", "catalog-info.yaml", text)
    told = {one.message for one in result.diagnostics if one.code == "import-ignored"}
    assert told == {f"the location './{name}.yaml' is not followed" for name in ("one", "two")}


def test_backstage_components_need_who_provides_their_apis(tmp_path: Path) -> None:
    estate, result = imported(tmp_path, "backstage", "catalog-info.yaml", ENTITIES)
    services = {s.id: s for s in estate.services}
    assert (services["web"].owner, services["web"].family, services["web"].tier) == ("shop", "store", 1)
    assert [(n.target, n.hard) for n in services["web"].needs] == [("cart", True)]
    assert [(n.kind, n.target, n.hard) for n in services["cart"].needs] == [
        ("store", "carts", True),
        ("service", "other.mail", False),
    ]
    assert [store.id for store in estate.stores] == ["carts"]
    assert [(d.code, d.place.line) for d in result.diagnostics] == [("import-dangling", 10)]


def test_a_broken_file_of_a_folder_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    (folder / "team").mkdir(parents=True)
    (folder / "team" / "catalog-info.yaml").write_text(ENTITIES)
    (folder / "broken.yaml").write_text("a: [")
    result = import_estate("backstage", folder, tmp_path / "estate")
    assert [d.code for d in result.diagnostics] == ["import-skipped", "import-dangling"]


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("catalogue", "a.csv", "colour\nred\n"),
        ("catalogue", "a.yaml", "x: [1, 2]\n"),
        ("backstage", "a.yaml", "kind: Component\nmetadata: {name: a}\n"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, kind: str, name: str, text: str) -> None:
    with pytest.raises(SourceError):
        imported(tmp_path, kind, name, text)
    assert not (tmp_path / "estate").exists()


def test_a_row_whose_needs_would_be_lost_refuses_a_catalogue(tmp_path: Path) -> None:
    """Left out, `login` would be another company's, which survives every loss."""
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, "catalogue", "a.csv", "service,tier,needs\nshop,1,login\nlogin,1,db,oops\n")
    assert [(d.code, str(d.place)) for d in caught.value.diagnostics if d.severity == "error"] == [
        ("import-row-length", "a.csv:3:1")
    ]


SIGNS = ["", "{", "}", "[", "]", ":", ",", ";", "\n", "-", "\x00", "9" * 30, "é", '"', "null", "*a", "&a "]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_altered_sources_of_every_kind_never_end_in_a_traceback(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    seed = (
        '{"_meta": {"hostvars": {"a": {"site": "x"}}}, "g": {"hosts": ["a"]}, "results": [{"name": "d", '
        '"site": {"slug": "x"}}], "values": {"root_module": {"resources": [{"mode": "managed", "type": '
        '"aws_instance", "address": "a.b", "values": {"availability_zone": "x"}}]}}, "services": {"s": {}}}'
    )
    text = list(data.draw(st.sampled_from([TABLE, YAML, ENTITIES, seed])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.sampled_from(SIGNS))
    source = tmp_path / data.draw(st.sampled_from(["source.json", "source.csv"]))
    source.write_text("".join(text))
    problems = Problems()
    read_source(kind, source, problems, Options())
    assert all(one.code and one.message for one in problems.all())


@pytest.mark.parametrize(
    ("text", "people"),
    [("6.000", 6_000), ("40,000", 40_000), ("1.200.000", 1_200_000), ("4'500", 4_500), ("1.2 M", 1_200_000)],
)
def test_a_number_of_people_is_whole(tmp_path: Path, text: str, people: int) -> None:
    """Six thousand users were read as six."""
    source = tmp_path / "services.csv"
    source.write_text(f"Dienst;Benutzer\nkis;{text}\n")
    import_estate("catalogue", source, tmp_path / "estate")
    assert [one.people for one in load(tmp_path / "estate").services] == [people]


def test_an_amount_of_a_table_with_two_readings_stays_unknown(tmp_path: Path) -> None:
    source = tmp_path / "services.csv"
    source.write_text("service;cpu;memory\nkis;1.500 cores;1.024 GiB\nlis;1.5 cores;0.512 GiB\n")
    result = import_estate("catalogue", source, tmp_path / "estate")
    kis, lis = load(tmp_path / "estate").services
    assert kis.demand[:2] == (None, None)
    assert lis.demand[0] == 1_500
    told = [one.message for one in result.diagnostics if one.code == "import-word-unknown"]
    assert told == ["'1.500 cores' may be 1,500 or 1.5", "'1.024 GiB' may be 1,024 or 1.024"]
    hints = [one.hint for one in result.diagnostics if one.code == "import-word-unknown"]
    assert hints == [
        "it stays unknown; write 1500 or 1.5",
        "it stays unknown; write 1024 or 1.0240",
    ]


@pytest.mark.parametrize(("key", "text"), [("people", "1.500 K"), ("rto", "1.500 s"), ("rpo", "2.000 min")])
def test_no_quantity_of_a_table_is_read_as_a_thousandth(tmp_path: Path, key: str, text: str) -> None:
    source = tmp_path / "services.csv"
    source.write_text(f"service;{key};tier\nkis;{text};1\n")
    result = import_estate("catalogue", source, tmp_path / "estate")
    (kis,) = load(tmp_path / "estate").services
    assert (kis.people, kis.rto_ms, kis.rpo_ms) == (None, None, None)
    (told,) = [one for one in result.diagnostics if one.code == "import-word-unknown"]
    assert " may be " in told.message
    source.write_text(f"service;{key};tier\nkis;{text.replace('.500', '.5').replace('.000', '.0')};1\n")
    import_estate("catalogue", source, tmp_path / "other")
    (kis,) = load(tmp_path / "other").services
    assert any((kis.people, kis.rto_ms, kis.rpo_ms)), "the other way to write it is read"


def test_a_catalogue_in_json_is_found(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text('{"services": {"lobby": {"tier": 0, "needs": ["login"]}}}\n')
    (tmp_path / "stack.json").write_text('{"services": {"web": {"image": "nginx"}}}\n')
    found = [(one.kind, one.path) for one in look_around(tmp_path).sources if one.kind == "catalogue"]
    assert found == [("catalogue", "services.json")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "services.json",
            '[{"name": "lobby", "tier": 0, "needs": ["login"]}, {"name": "login", "cpu": 2}]\n',
        ),
        (
            "services.json",
            '{"services": [{"name": "lobby", "tier": 0, "needs": "login"}, {"name": "login"}]}\n',
        ),
        ("services.yaml", "# ours\n- name: lobby\n  tier: 0\n  needs: [login]\n- name: login\n"),
    ],
)
def test_a_list_of_services_is_found_and_read(tmp_path: Path, name: str, text: str) -> None:
    estate, _ = imported(tmp_path, "catalogue", name, text)
    assert sorted(service.id for service in estate.services) == ["lobby", "login"]
    assert [need.target for service in estate.services for need in service.needs] == ["login"]
    found = [(one.kind, one.path) for one in look_around(tmp_path).sources if one.path == name]
    assert found == [("catalogue", name)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hosts.json", '[{"name": "web-1", "site": "fra"}]\n'),
        ("playbook.yaml", "- name: web\n  hosts: all\n  tasks: []\n"),
        ("pods.json", '[{"apiVersion": "v1", "name": "a", "tier": 1}]\n'),
        ("openapi.yaml", "openapi: 3.0.3\npaths: {}\ncomponents: {schemas: {Pet: {type: object}}}\n"),
    ],
)
def test_other_lists_are_not_taken_for_a_catalogue(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert "catalogue" not in [one.kind for one in look_around(tmp_path).sources]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.yaml", "info: {title: a}\nopenapi: 3.1.0\ncomponents: {schemas: {Pet: {}}}\n", "OpenAPI"),
        ("a.json", '{"swagger": "2.0", "paths": {}}', "OpenAPI"),
        ("a.yaml", "asyncapi: 3.0.0\ncomponents: {messages: {}}\n", "AsyncAPI"),
        ("a.json", '{"$schema": "https://json-schema.org/draft/2020-12/schema"}', "JSON schema"),
        ("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "Kubernetes or Backstage"),
        ("a.yaml", "recipe: 1\nsources: {}\n", "a recipe"),
    ],
)
def test_a_document_of_another_kind_is_named_as_what_it_is(
    tmp_path: Path, name: str, text: str, what: str
) -> None:
    """The parts of an OpenAPI description became services: `schemas`, `securitySchemes`."""
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, "catalogue", name, text)
    (error,) = (one for one in caught.value.diagnostics if what in one.message)
    assert (error.code, error.place.file) == ("import-shape", name)
    assert error.place.line > 0
    assert error.hint
    assert not (tmp_path / "estate").exists()


@pytest.mark.parametrize(
    ("name", "text", "services"),
    [
        ("a.json", '{"$schema": "./c.schema.json", "services": [{"name": "shop", "tier": 1}]}', ["shop"]),
        ("a.yaml", "shop: {tier: 1}\nrecipe: {tier: 2}\nswagger: {tier: 3}\n", ["recipe", "shop", "swagger"]),
    ],
)
def test_a_schema_for_editors_and_services_of_any_name_are_part_of_a_catalogue(
    tmp_path: Path, name: str, text: str, services: list[str]
) -> None:
    imported(tmp_path, "catalogue", name, text)
    assert sorted(one.id for one in load(tmp_path / "estate").services) == services


UNITS = [
    ("RAM (GiB)", "64", "64 GiB"),
    ("RAM_GB", "8", "8 GB"),
    ("RAM (GiB)", "512 MiB", "512 MiB"),
    ("Arbeitsspeicher (GiB)", "0,5", "0.5 GiB"),
]


@pytest.mark.parametrize(("column", "cell", "same"), UNITS)
def test_the_name_of_a_column_may_state_the_unit(tmp_path: Path, column: str, cell: str, same: str) -> None:
    one, result = imported(tmp_path, "catalogue", "a.csv", f"service;{column}\nkis;{cell}\n")
    assert not [d for d in result.diagnostics if d.code in ("import-ignored", "import-word-unknown")]
    (tmp_path / "other").mkdir()
    other, _ = imported(tmp_path / "other", "catalogue", "a.csv", f"service;memory\nkis;{same}\n")
    assert one.services[0].demand == other.services[0].demand
    assert one.services[0].demand[1]


@pytest.mark.parametrize(
    ("column", "cell", "rto_ms"),
    [("RTO (h)", "4", 14_400_000), ("RTO (Std)", "1,5", 5_400_000), ("rto_min", "30", 1_800_000)],
)
def test_the_name_of_a_column_may_state_the_unit_of_a_time(
    tmp_path: Path, column: str, cell: str, rto_ms: int
) -> None:
    estate, _ = imported(tmp_path, "catalogue", "a.csv", f"Dienst;{column}\nkis;{cell}\n")
    assert estate.services[0].rto_ms == rto_ms


@pytest.mark.parametrize(
    ("name", "text", "millicores"),
    [
        ("a.csv", "service;CPU\nkis;16\n", 16_000),
        ("a.csv", "service;CPU\nkis;0,5\n", 500),
        ("a.csv", "service;CPU (Kerne)\nkis;2,25\n", 2_250),
        ("a.yaml", "services: {kis: {cpu: 2}}\n", 2_000),
        ("a.yaml", "services: {kis: {cpu: 500 mCPU}}\n", 500),
    ],
)
def test_cpu_without_a_unit_is_in_cores_as_in_a_host_list(
    tmp_path: Path, name: str, text: str, millicores: int
) -> None:
    estate, result = imported(tmp_path, "catalogue", name, text)
    assert estate.services[0].demand[0] == millicores
    assert "import-word-unknown" not in [d.code for d in result.diagnostics]


@pytest.mark.parametrize("cell", ["1,024", "1.024"])
def test_cpu_that_may_be_a_thousand_times_as_much_stays_unknown(tmp_path: Path, cell: str) -> None:
    estate, result = imported(tmp_path, "catalogue", "a.csv", f"service;CPU\nkis;{cell}\n")
    assert estate.services[0].demand[0] is None
    assert [str(d.place) for d in result.diagnostics if d.code == "import-word-unknown"] == ["a.csv:2:5"]


def test_many_cells_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"s{n};many\n" for n in range(40))
    _, result = imported(tmp_path, "catalogue", "a.csv", f"service;CPU\n{rows}")
    found = [d for d in result.diagnostics if d.code == "import-word-unknown"]
    assert [d.place.line for d in found] == [2, 3, 4, 5, 6, 7]
    assert found[-1].message == "and 35 more that are not a valid cpu"


@pytest.mark.parametrize(
    "header",
    [
        "Rechnername;Standort;Schrank;Kerne;Anwendung;Eigentümer",
        "Serveur;Emplacement;Baie;Cœurs;Application;Propriétaire",
        "서버명;센터;랙;코어;서비스;담당자",
        "Nazwa serwera;Lokalizacja;Szafa;Rdzenie;Application;Owner",
    ],
)
def test_a_host_list_in_any_language_is_not_taken_for_a_catalogue(tmp_path: Path, header: str) -> None:
    """Its column of applications made a service of each line, and none of its servers was imported."""
    (tmp_path / "list.csv").write_text(f"{header}\nweb-1;fra;r1;32;shop;web\n")
    assert [(one.kind, one.sign) for one in look_around(tmp_path).sources] == [("csv", "placed")]
