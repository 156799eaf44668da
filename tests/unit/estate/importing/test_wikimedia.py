"""The real two-site estate: counts and known answers, also on copies with sites renamed and flaws changed."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from evac.estate import load
from evac.estate.importers import ImportResult, SourceError, import_estate
from evac.model.estate import Dependency, Estate
from evac.model.fleet import ON_SERVER
from tests.unit.estate.importing.known_answers import (
    core_sites,
    families_only_at,
    hidden_behind_stores,
    without_other_site,
)

EQIAD_ONLY = {
    "aux-k8s-ctrl",
    "k8s-ingress-aux",
    "jaeger-collector-http",
    "jaeger-collector-grpc",
    "jaeger-query",
    "cloudelastic-chi-https",
    "cloudelastic-omega-https",
    "cloudelastic-psi-https",
    "cloudelastic-chi-https-public",
    "cloudelastic-omega-https-public",
    "cloudelastic-psi-https-public",
    "datahubsearch",
    "druid-public-broker",
    "k8s-ingress-dse",
    "labweb-ssl",
    "dse-k8s-ctrl",
    "superset",
    "superset-next",
    "mpic",
    "mpic-next",
}
CODFW_ONLY = {"k8s-ingress-ml-staging", "ml-staging-ctrl", "inference-staging"}
HIDDEN = {"eventgate-analytics", "eventgate-analytics-external", "mw-page-content-change-enrich"}
BEYOND_THE_CATALOGUE = {
    "changeprop",
    "changeprop-jobqueue",
    "cirrus-streaming-updater",
    "mw-page-content-change-enrich",
    "mw-videoscaler",
    "rdf-streaming-updater",
}


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Path:
    folder = Path(request.getfixturevalue("shared_data")) / "wikimedia"
    if not folder.is_dir():
        pytest.skip("the Wikimedia sources in ../shared/data/wikimedia are not on this machine")
    return folder


@pytest.fixture(scope="module")
def imported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Estate, ImportResult, Path]:
    target = tmp_path_factory.mktemp("wikimedia") / "estate"
    result = import_estate("wikimedia", source, target)
    return load(target), result, target


def changed_copy(source: Path, folder: Path, rename: Callable[[str], str]) -> Path:
    """A copy of the sources with every text and file name changed."""
    for path in sorted(source.rglob("*")):
        if path.suffix in (".yaml", ".csv"):
            copy = folder / rename(path.relative_to(source).as_posix())
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(rename(path.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def swapped(text: str) -> str:
    return text.replace("eqiad", "\0").replace("codfw", "eqiad").replace("\0", "codfw")


def renamed(text: str) -> str:
    return text.replace("eqiad", "north-1").replace("codfw", "south2")


@pytest.mark.data
def test_every_service_and_host_is_there(imported: tuple[Estate, ImportResult, Path]) -> None:
    estate, result, _ = imported
    assert (result.services, result.servers) == (136 + len(BEYOND_THE_CATALOGUE), 964)
    assert {service.id for service in estate.services} >= BEYOND_THE_CATALOGUE
    per_site = {site.id: int((estate.fleet.site == row).sum()) for row, site in enumerate(estate.sites)}
    assert per_site == {
        "codfw": 406,
        "drmrs": 20,
        "eqiad": 458,
        "eqsin": 20,
        "esams": 20,
        "magru": 20,
        "ulsfo": 20,
    }
    assert core_sites(estate) == {"codfw", "eqiad"}
    assert {site.role for site in estate.sites if site.id not in ("codfw", "eqiad")} == {"edge"}


@pytest.mark.data
def test_all_bindings_are_accounted_for(imported: tuple[Estate, ImportResult, Path]) -> None:
    """1,590 bindings: a replica, membership of a pool, or reported as nobody's."""
    estate, result, target = imported
    bound = {line.split(",")[1] for line in (target / "replicas.csv").read_text().splitlines()[1:]}
    in_pools = int((estate.fleet.pool >= 0).sum())
    loose = next(u for u in result.unknown if u.what.startswith("host bindings"))
    # Services that share one conftool service, such as text and text-https, share its bindings.
    distinct = {(int(target_row), name) for target_row, name in _conftool_bindings(estate)}
    assert in_pools == 503
    assert len(distinct) + in_pools + loose.count == 1_590
    assert len(bound) > 300


def _conftool_bindings(estate: Estate) -> list[tuple[int, str]]:
    twins = {
        "text-https": "text",
        "upload-https": "upload",
        "ncredir-https": "ncredir",
        "prometheus-https": "prometheus",
    }
    rows = estate.replicas
    names = [estate.services[int(row)].id for row in rows.service]
    assert set(rows.kind.tolist()) == {ON_SERVER}
    return [(int(target), twins.get(name, name)) for target, name in zip(rows.target, names, strict=True)]


@pytest.mark.data
def test_known_answers(imported: tuple[Estate, ImportResult, Path]) -> None:
    estate, _, _ = imported
    assert without_other_site(estate, "eqiad") == EQIAD_ONLY
    assert without_other_site(estate, "codfw") == CODFW_ONLY
    assert families_only_at(estate, "eqiad") == {"kafka-jumbo"}
    assert hidden_behind_stores(estate, "eqiad") == HIDDEN
    assert hidden_behind_stores(estate, "codfw") == set()


@pytest.mark.data
def test_known_answers_follow_the_names_of_the_sites(source: Path, tmp_path: Path) -> None:
    import_estate("wikimedia", changed_copy(source, tmp_path / "swapped", swapped), tmp_path / "one")
    estate = load(tmp_path / "one")
    assert without_other_site(estate, "codfw") == EQIAD_ONLY
    assert without_other_site(estate, "eqiad") == CODFW_ONLY
    assert hidden_behind_stores(estate, "codfw") == HIDDEN
    import_estate("wikimedia", changed_copy(source, tmp_path / "renamed", renamed), tmp_path / "two")
    estate = load(tmp_path / "two")
    assert without_other_site(estate, "north-1") == EQIAD_ONLY
    assert without_other_site(estate, "south2") == CODFW_ONLY
    assert hidden_behind_stores(estate, "north-1") == HIDDEN
    assert families_only_at(estate, "north-1") == {"kafka-jumbo"}


@pytest.mark.data
def test_one_flaw_less_and_one_more(source: Path, tmp_path: Path) -> None:
    copy = changed_copy(source, tmp_path / "copy", str)
    edges = copy / "stateful_edges.csv"
    edges.write_text(edges.read_text() + "eventgate-analytics,codfw,kafka,jumbo-codfw\n")
    catalogue = copy / "puppet" / "service.yaml"
    text = catalogue.read_text()
    start = text.index("\n  zotero:")
    catalogue.write_text(text[:start] + text[start:].replace("      - codfw\n", "", 1))
    import_estate("wikimedia", copy, tmp_path / "estate")
    estate = load(tmp_path / "estate")
    assert hidden_behind_stores(estate, "eqiad") == set()
    assert without_other_site(estate, "eqiad") == EQIAD_ONLY | {"zotero"}


@pytest.mark.data
def test_stores_are_families_with_an_instance_at_each_site(
    imported: tuple[Estate, ImportResult, Path],
) -> None:
    estate, result, _ = imported
    stores = {store.id: store for store in estate.stores}
    assert stores["kafka-main-codfw"].family == stores["kafka-main-eqiad"].family == "kafka-main"
    assert [m.at for m in stores["kafka-main-codfw"].members] == ["codfw"]
    assert stores["redis-6379-misc"].members == ()
    sections = [store for store in estate.stores if store.engine == "mariadb"]
    assert len(sections) == 23
    assert all([m.at for m in s.members] == ["codfw", "eqiad"] and s.primary is None for s in sections)
    assert all(member.lag_ms is None for s in sections for member in s.members)
    assert "database sections whose primary site is not in the source" in {u.what for u in result.unknown}


@pytest.mark.data
def test_a_primary_site_that_is_stated_is_taken(source: Path, tmp_path: Path) -> None:
    copy = changed_copy(source, tmp_path / "copy", str)
    (copy / "puppet/conftool-data/mwconfig/data.yaml").write_text("common: {WMFMasterDatacenter: codfw}\n")
    import_estate("wikimedia", copy, tmp_path / "estate")
    sections = [s for s in load(tmp_path / "estate").stores if s.engine == "mariadb"]
    assert {(m.at, m.mode) for s in sections for m in s.members} == {("codfw", "primary"), ("eqiad", "async")}


@pytest.mark.data
def test_calls_are_needs_and_unresolved_ones_are_reported(
    imported: tuple[Estate, ImportResult, Path],
) -> None:
    estate, result, _ = imported
    services = {service.id: service for service in estate.services}
    assert services["citoid"].needs == (Dependency("zotero", "service"),)
    updater = {need.target: need.hard for need in services["cirrus-streaming-updater"].needs}
    assert not updater["cloudelastic-chi-https"]
    assert updater["search-https"]
    assert updater["kafka-main"]
    dangling = [d for d in result.diagnostics if d.code == "import-dangling"]
    assert len(dangling) == 13
    assert str(dangling[0].place) == "edges.csv:16:26"
    assert sum(len(s.needs) for s in estate.services) == 51 + 20


@pytest.mark.data
def test_pools_hold_what_the_catalogue_gives_to_kubernetes(
    imported: tuple[Estate, ImportResult, Path],
) -> None:
    estate, _, target = imported
    assert {"eqiad-kubernetes", "codfw-kubernetes", "codfw-ml_staging"} <= {pool.id for pool in estate.pools}
    services = {service.id: service for service in estate.services}
    assert services["apertium"].replicas is None
    assert services["wdqs"].replicas == 7 + 11
    assert services["wdqs"].share == Fraction(4, 18)
    assert services["apertium"].traffic.kind == "dns"
    assert services["text"].traffic.kind == services["text-https"].traffic.kind == "dns"
    written = (target / "imported-wikimedia.yaml").read_text()
    assert "apertium: {sites: [codfw, eqiad], replicas: {codfw-kubernetes: unknown, eqiad-kuber" in written


@pytest.mark.data
def test_nothing_is_guessed(imported: tuple[Estate, ImportResult, Path]) -> None:
    estate, _, _ = imported
    assert not estate.fleet.capacity_known.any()
    assert not estate.fleet.watts_known.any()
    for service in estate.services:
        assert (service.tier, service.people, service.rto_ms, service.sheddable) == (None,) * 4
        assert service.demand == (None, None, None, None)


@pytest.mark.data
def test_the_example_overlay_is_valid_once_its_signs_are_gone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "estate"
    import_estate("wikimedia", source, target)
    overlay = target / "overlay.yaml"
    overlay.write_text("\n".join(line.removeprefix("# ") for line in overlay.read_text().splitlines()[3:]))
    result = import_estate("wikimedia", source, target)
    assert [d for d in result.diagnostics if d.code != "import-dangling"] == []
    estate = load(target)
    assert all(store.primary is not None for store in estate.stores if store.engine == "mariadb")
    assert estate.fleet.capacity_known[:, :2].all()


MINIATURE = {
    "puppet/service.yaml": """
service::catalog:
  shop:
    description: "the shop: sells\\n# things"
    ip: &shop_ips {a: {default: 10.0.0.1}, b: {default: 10.0.1.1}}
    lvs: {conftool: {cluster: web, service: nginx}, depool_threshold: 0.5}
    sites: [a, b]
    state: production
    discovery: [{dnsdisc: shop-ro, active_active: true}, {dnsdisc: shop-rw, active_active: false}]
  shop-http:
    {ip: *shop_ips, lvs: {conftool: {cluster: web, service: nginx}, depool_threshold: many}, sites: [a, b]}
  till: {sites: [a], state: service_setup}
""",
    "puppet/conftool-data/node/a.yaml": """
a:
  web: &web
    a1.example: [nginx]
    a2.example: [nginx, canary]
  batch: *web
""",
    "puppet/conftool-data/node/b.yaml": "b: {web: {b1.example: [nginx]}, k8s: {b2.example: [kubesvc]}}\n",
    "puppet/conftool-data/node/edge.yaml": "edge: {cache: {e1.example: [cdn]}}\n",
    "puppet/conftool-data/dbconfig-section/sections.yaml": "a: [s1]\nb: [s1]\n",
    "puppet/conftool-data/geodns/services.yaml": "shop-addrs: [a, b]\n",
    "edges.csv": "source_service,listener,target_service\nshop,till,till\nshop,gone,\n",
    "stateful_edges.csv": (
        "source_service,deployed_in,store_kind,store_instance\nshop,a,kafka,log-a\nmailer,b,kafka,log-a\n"
    ),
}


def miniature(folder: Path, **changes: str) -> Path:
    for name, text in (MINIATURE | changes).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_miniature(tmp_path: Path) -> None:
    result = import_estate("wikimedia", miniature(tmp_path / "source"), tmp_path / "estate")
    estate = load(tmp_path / "estate")
    services = {service.id: service for service in estate.services}
    assert sorted(services) == ["mailer", "shop", "shop-http", "till"]
    assert services["shop"].replicas == 3
    assert services["shop"].share == Fraction(1, 3)
    assert services["shop-http"].share == Fraction(1)
    assert services["shop-http"].traffic.kind == "dns"
    assert services["till"].traffic.kind is None
    assert services["mailer"].sites == ("b",)
    assert [d.code for d in result.diagnostics] == [
        "import-dangling",
        "store-without-primary",
        "import-word-unknown",
    ]
    assert families_only_at(estate, "a") == {"kafka-log"}
    assert hidden_behind_stores(estate, "a") == {"shop", "mailer"}
    assert core_sites(estate) == {"a", "b"}
    text = (tmp_path / "estate" / "imported-wikimedia.yaml").read_text()
    assert (
        "# the shop: sells # things; DNS shop-ro (active in every site), shop-rw (active in one site" in text
    )
    assert "# state service_setup" in text


def test_what_is_missing_is_said_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceError) as caught:
        import_estate("wikimedia", empty, tmp_path / "estate")
    assert [d.code for d in caught.value.diagnostics] == ["import-source-missing", "import-source-missing"]
    assert not (tmp_path / "estate").exists()


def test_broken_sources_give_every_problem_and_write_nothing(tmp_path: Path) -> None:
    source = miniature(
        tmp_path / "source",
        **{
            "puppet/conftool-data/node/b.yaml": "b: {web: {a1.example: [nginx]}}\n",
            "puppet/conftool-data/node/edge.yaml": "edge: {cache: {e1.example: [cdn\n",
            "edges.csv": "from,to\nshop,till\n",
        },
    )
    with pytest.raises(SourceError) as caught:
        import_estate("wikimedia", source, tmp_path / "estate")
    codes = {d.code: str(d.place) for d in caught.value.diagnostics}
    assert codes.keys() == {"import-host-twice", "yaml-syntax", "import-shape"}
    assert codes["import-host-twice"] == "b.yaml:1:11"
    assert codes["import-shape"] == "edges.csv:1:1"
    assert not (tmp_path / "estate").exists()


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    source = miniature(tmp_path / "source", **{"puppet/service.yaml": "\n".join(rows)})
    with pytest.raises(SourceError) as caught:
        import_estate("wikimedia", source, tmp_path / "estate")
    assert "too-many-values" in {d.code for d in caught.value.diagnostics}


def test_a_copy_of_the_same_sources_gives_the_same_bytes(tmp_path: Path) -> None:
    source = miniature(tmp_path / "source")
    shutil.copytree(source, tmp_path / "again" / "source")
    for folder, name in ((source, "one"), (tmp_path / "again" / "source", "two")):
        import_estate("wikimedia", folder, tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
