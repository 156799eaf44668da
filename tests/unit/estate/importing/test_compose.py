"""A Compose file becomes services, needs and stores; what it does not state stays unknown."""

from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evac.estate import load
from evac.estate.format.problems import Problems
from evac.estate.importers import ImportResult, SourceError, import_estate
from evac.estate.importers.compose.reader import read
from evac.estate.importers.discovery import look_around
from evac.estate.importers.imported import Options
from evac.model.estate import Dependency, Estate

SHOP = """\
services:
  web:
    image: nginx:1.27
    ports: ["443:443"]
    deploy: {replicas: 3, resources: {reservations: {cpus: "0.5", memory: 256M}}}
    depends_on: {api: {condition: service_healthy}, metrics: {condition: service_started, required: false}}
  api:
    image: registry.example/shop/api:${TAG:-latest}
    mem_limit: 1g
    environment: ["DATABASE_URL=postgres://shop@db:5432/shop", "CACHE=cache:6379", "NAME=$$HOME"]
  db:
    image: docker.io/library/postgres:15
    volumes: ["data:/var/lib/postgresql/data", "./conf:/conf"]
  cache: {image: "redis:7"}
  metrics: {image: prom, deploy: {mode: global}}
volumes: {data: {}}
"""


def imported(tmp_path: Path, text: str, env: str = "") -> tuple[Estate, ImportResult]:
    source = tmp_path / "compose.yaml"
    source.write_text(text)
    if env:
        (tmp_path / ".env").write_text(env)
    result = import_estate("compose", source, tmp_path / "estate")
    return load(tmp_path / "estate"), result


def needs(estate: Estate, service: str) -> list[tuple[str, bool, str]]:
    found = next(one for one in estate.services if one.id == service).needs
    return sorted((need.target, need.hard, need.needed_to) for need in found if isinstance(need, Dependency))


def test_services_wait_for_what_must_be_healthy_and_reach_what_their_addresses_name(tmp_path: Path) -> None:
    estate, result = imported(tmp_path, SHOP)
    assert [one.id for one in estate.services] == ["api", "cache", "db", "metrics", "web"]
    assert needs(estate, "web") == [("api", True, "start"), ("metrics", False, "serve")]
    assert [target for target, _, _ in needs(estate, "api")] == ["cache", "db"]
    assert not [one for one in result.diagnostics if one.severity == "error"]


def test_a_database_is_a_store_with_its_volume_or_without(tmp_path: Path) -> None:
    estate, _ = imported(tmp_path, SHOP)
    assert {store.id: store.engine for store in estate.stores} == {
        "cache-data": "redis",
        "data": "postgresql",
    }
    text = (tmp_path / "estate" / "imported-compose.yaml").read_text()
    assert "cannot be backed up" in text, "a database whose data ends with its container is named"
    estate, _ = imported(
        tmp_path, 'services:\n  db: {image: "postgres:16", volumes: ["./pg:/var/lib/postgresql"]}\n'
    )
    text = (tmp_path / "estate" / "imported-compose.yaml").read_text()
    assert "db keeps its data in ./pg on its host" in text


def test_reservations_count_before_limits_and_amounts_are_rounded_up_once(tmp_path: Path) -> None:
    estate, _ = imported(tmp_path, SHOP)
    text = (tmp_path / "estate" / "imported-compose.yaml").read_text()
    assert "cpu: 500 mCPU" in text
    assert "256 MiB" in text
    assert "1 GiB" in text, "a limit counts where nothing is reserved"
    assert len(estate.services) == 5


def test_the_same_files_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported(tmp_path, SHOP)
    first = (tmp_path / "estate" / "imported-compose.yaml").read_bytes()
    monkeypatch.setenv("TAG", "from-the-environment")
    _, again = imported(tmp_path, SHOP)
    assert (tmp_path / "estate" / "imported-compose.yaml").read_bytes() == first
    assert again.diff == ()


def test_variables_come_from_the_env_file_and_unset_ones_are_named_with_their_place(tmp_path: Path) -> None:
    services = "  a: {image: x, deploy: {replicas: $COUNT}}\n  b: {image: x, deploy: {replicas: $NONE}}\n"
    text = f"services:\n{services}"
    _, result = imported(tmp_path, text, env="# counts\nexport COUNT=4 # of a\n")
    written = (tmp_path / "estate" / "imported-compose.yaml").read_text()
    assert "replicas: 4" in written
    unset = [one for one in result.diagnostics if one.code == "import-word-unknown"]
    assert [(one.place.line, "'NONE' is not set" in one.message) for one in unset] == [(3, True)]
    assert "set NONE in the .env file" in unset[0].hint


def test_a_name_that_the_file_does_not_describe_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    text = "services:\n  a: {image: x, depends_on: [bb]}\n  b: {image: x}\n"
    estate, result = imported(tmp_path, text)
    assert [(one.id, one.external) for one in estate.services] == [("a", False), ("b", False), ("bb", False)]
    assert needs(estate, "a") == [("bb", False, "serve")]
    dangling = [one for one in result.diagnostics if one.code == "import-dangling"]
    assert [(one.place.line, one.hint) for one in dangling] == [(2, "did you mean 'b'?")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: {}\n", "has no services"),
        ("- a\n", "is not a mapping"),
        ("services: {a: [\n", ""),
        ("kind: Deployment\n", "has no services"),
    ],
)
def test_what_is_not_a_compose_file_is_refused_and_nothing_is_written(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, text)
    assert any(words in one.message for one in caught.value.diagnostics)
    assert not (tmp_path / "estate").exists()


def test_an_empty_folder_says_which_names_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        import_estate("compose", tmp_path / "empty", tmp_path / "estate")
    assert "docker-compose.yml" in caught.value.diagnostics[0].hint


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_never_end_in_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    text = list(SHOP)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(
            st.sampled_from(["", "{", "}", "[", "$", "${", ":", "\n", "-", "\x00", "9" * 30, "é"])
        )
    source = tmp_path / "compose.yaml"
    source.write_text("".join(text))
    problems = Problems()
    imported = read(source, problems, Options())
    assert imported.sections or problems.count


def test_a_project_of_several_files_is_read_as_compose_merges_it(tmp_path: Path) -> None:
    files = {
        "base.yaml": "services: {app: {deploy: {resources: {limits: {cpus: '0.5', memory: 256M}}}}}",
        "infra.yaml": "services: {db: {image: 'postgres:16', volumes: ['pg:/data']}}\nvolumes: {pg: {}}",
        "compose.override.yaml": "services: {api: {environment: [DB=mysql://other/x], scale: 4}}",
        "compose.yaml": """\
include: [infra.yaml]
services:
  api:
    extends: {file: base.yaml, service: app}
    environment: {DB: "postgres://db/shop"}
    depends_on: [db]
  other: {image: x}
  worker: {extends: api, profiles: [batch], depends_on: {other: {condition: service_healthy}}}
""",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = import_estate("compose", tmp_path / "compose.yaml", tmp_path / "estate")
    estate = load(tmp_path / "estate")
    assert not result.diagnostics
    api, db, other, worker = estate.services
    assert (api.replicas, api.demand[:2]) == (4, (500, 256))
    assert needs(estate, "api") == [("db", True, "serve"), ("other", True, "serve")]
    assert (db.replicas, other.replicas, worker.replicas) == (1, 1, None)
    assert needs(estate, "worker") == [("db", True, "serve"), ("other", True, "start")]
    assert [(store.id, store.engine) for store in estate.stores] == [("pg", "postgresql")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("include: [../outside.yaml]\nservices: {a: {image: x}}", "import-skipped"),
        ("services: {a: {extends: b}, b: {extends: a}}", "import-dangling"),
        ("services: {a: {extends: {file: none.yaml, service: b}}}", "import-source-missing"),
    ],
)
def test_what_a_project_names_and_cannot_be_read_is_said(tmp_path: Path, text: str, code: str) -> None:
    problems = Problems()
    source = tmp_path / "compose.yaml"
    source.write_text(text)
    read(source, problems, Options())
    assert code in {one.code for one in problems.all()}


PARTS: Final = {
    "compose.yaml": """\
services:
  web: {image: nginx, scale: 3, depends_on: [api]}
  api: {image: a, scale: 2, links: [cache]}
""",
    "db.yaml": """\
services:
  db: {image: "postgres:16", volumes: ["pg:/data"]}
  cache: {image: redis}
  api: {environment: [DB=postgres://db/x, CACHE=redis://cache]}
volumes: {pg: {}}
""",
    "prod.yml": """\
services:
  web: {scale: !override 5, depends_on: !override []}
  cache: !reset null
  api: {links: !reset [], environment: {CACHE: !reset null}}
""",
}


def test_the_files_that_env_lists_are_one_project(tmp_path: Path) -> None:
    for name, text in {**PARTS, ".env": "COMPOSE_FILE=compose.yaml:db.yaml:prod.yml"}.items():
        (tmp_path / name).write_text(text)
    result = import_estate("compose", tmp_path, tmp_path / "estate")
    estate = load(tmp_path / "estate")
    assert not result.diagnostics
    assert [(one.id, one.replicas) for one in estate.services] == [("api", 2), ("db", 1), ("web", 5)]
    assert needs(estate, "api") == [("db", True, "serve")]
    assert needs(estate, "web") == []
    assert [store.id for store in estate.stores] == ["pg"]


def test_parts_of_a_project_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name, text in {**PARTS, "values.yaml": "image: x"}.items():
        (tmp_path / name).write_text(text)
    result = import_estate("compose", tmp_path, tmp_path / "estate")
    (ignored,) = [one for one in result.diagnostics if one.code == "import-ignored"]
    assert "db.yaml, prod.yml: not read" in ignored.message
    assert ignored.hint.endswith("COMPOSE_FILE=compose.yaml:db.yaml:prod.yml")


def names(*files: str) -> str:
    """A file that includes the first of these, and extends a service of each of the others."""
    web = "".join(f"  w{at}: {{extends: {{file: {one}, service: x}}}}\n" for at, one in enumerate(files[1:]))
    return f"include: [{files[0]}]\nservices:\n  x:\n    image: x\n{web}"


@pytest.mark.parametrize(
    ("files", "kept", "hinted"),
    [
        (
            {"docker-compose.yml": "no.yml", "docker-compose.prod.yml": "docker-compose.yml"},
            "docker",
            "docker",
        ),
        ({"a.yml": "b.yml", "b.yml": "c.yml", "c.yml": "a.yml", "d.yml": "c.yml"}, "d", ""),
        ({"a.yml": "compose.yml", "compose.yml": "a.yml"}, "compose", ""),
        ({"a.yml": "b.yml", "b.yml": "a.yml"}, "a", ""),
        ({"app.yml": "sub/compose.yml", "sub/compose.yml": "no.yml"}, "app", ""),
        ({"ci/test.yml": "../compose.yml", "compose.yml": "no.yml"}, "compose test", ""),
        ({"compose.yml": "b.yml", "b.yml": "no.yml", "c.yml": "d.yml", "d.yml": "no.yml"}, "compose", "c"),
        ({"compose.yml": '"a\\0b"', "b.yml": "no.yml"}, "compose", "b"),
    ],
)
@pytest.mark.parametrize("extends", [False, True])
def test_of_files_that_name_each_other_those_that_are_read_are_sources(
    tmp_path: Path, files: dict[str, str], kept: str, hinted: str, extends: bool
) -> None:
    for name, other in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(names(*(["no.yml"] if extends else []), other))
    around = look_around(tmp_path)
    assert sorted(Path(one.path).name.split("-")[0].split(".")[0] for one in around.sources) == kept.split()
    assert [one.split("-")[0].split(".")[0] for one in around.hints] == hinted.split()
    if kept == "docker":
        assert around.sources[0].path == "docker-compose.yml"


@pytest.mark.parametrize("text", [names('"a\\0b"'), names("no.yml", '"a\\0b"'), '  y: {env_file: "a\\0b"}\n'])
def test_a_name_that_no_file_can_have_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "compose.yaml").write_text(text if "services" in text else f"services:\n{text}")
    problems = Problems()
    read(tmp_path, problems, Options())
    assert any("is not read" in one.message and one.place.line for one in problems.all())


@pytest.mark.parametrize("value", ["none.yaml", "../x.yaml", ":", "compose.yaml:none.yaml"])
def test_a_list_of_files_that_cannot_be_read_is_said(tmp_path: Path, value: str) -> None:
    for name, text in {**PARTS, ".env": f"COMPOSE_FILE={value}"}.items():
        (tmp_path / name).write_text(text)
    problems = Problems()
    read(tmp_path, problems, Options())
    assert problems.count


def test_addresses_in_an_env_file_are_needs(tmp_path: Path) -> None:
    (tmp_path / "api.env").write_text("DB=postgres://db/x\nCACHE=redis://cache\n# OLD=other:80\n")
    text = """\
services:
  api: {image: a, env_file: [api.env, {path: none.env, required: false}], environment: {CACHE: ""}}
  db: {image: d}
  cache: {image: c}
  other: {image: o, env_file: missing.env}
"""
    estate, result = imported(tmp_path, text)
    assert needs(estate, "api") == [("db", True, "serve")]
    (skipped,) = [one for one in result.diagnostics if one.code == "import-skipped"]
    assert "missing.env" in skipped.message


NOT_HERE: Final = [
    ("DATABASE_URL", "postgres://shop:{secret}@{host}:5432/shop"),
    ("DB_HOST", "{host}"),
    ("REDIS_ADDR", "{host}:6379"),
    ("DSN", "host={host} dbname=shop"),
    ("JDBC_URL", "jdbc:postgresql://{host}/shop"),
    ("MYSQL_DSN", "shop:{secret}@tcp({host}:3306)/shop"),
    ("LISTENERS", "SASL_SSL://{host}:9092"),
    ("MSSQL", "jdbc:sqlserver://{host}\\\\main;databaseName=shop"),
    ("TNS", "(DESCRIPTION=(ADDRESS=(PROTOCOL=TCP)(HOST={host})(PORT=1521)))"),
    ("PGHOST", "{host}"),
]


_OWN = ["internal", "intern", "intranet", "private", "corp", "home", "lan", "local", "intra", "svc", "consul"]
INTERNAL = tuple(f".{name}" for name in _OWN)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    host=st.from_regex(
        r"[a-z][a-z0-9-]{0,20}[a-z0-9](\.[a-z]{2,8}){0,2}|10\.[0-9]\.[1-9][0-9]\.7", fullmatch=True
    ),
    given=st.sampled_from(NOT_HERE),
    is_known=st.booleans(),
    secret=st.sampled_from(["s3cret", "s3/cret", "s3#cret", "s3:cret/?", "s3 cret"]),
)
def test_every_address_is_a_need_of_what_is_described_or_of_what_nothing_describes(
    tmp_path: Path, host: str, given: tuple[str, str], is_known: bool, secret: str
) -> None:
    secret = secret.replace(" ", "") if given[0] == "DATABASE_URL" else secret
    value = given[1].format(host=host, secret=secret)
    text = f'services:\n  the-app: {{image: x, environment: ["{given[0]}={value}"]}}\n'
    if is_known:
        text += f'  the-db: {{image: y, networks: {{back: {{aliases: ["{host}"]}}}}}}\n'
    estate, result = imported(tmp_path, text)
    outside = () if is_known else (host,)
    inside = host.startswith("10.") or "." not in host or host.endswith(INTERNAL)
    described = ("the-app", "the-db") if is_known else ("the-app",)
    rest = tuple(one for one in estate.services if one.id not in described)
    assert tuple(one.id for one in rest) == outside
    assert all(one.external != inside for one in rest), "what is our own is taken for another company's"
    assert needs(estate, "the-app") == [("the-db" if is_known else host, is_known, "serve")]
    named = "services with an internal name" if inside else "external services"
    found = [(one.what.partition(":")[0], one.names) for one in result.unknown if "needed, but" in one.what]
    assert found == [(named, outside)] * (not is_known)
    dangling = [one for one in result.diagnostics if one.code == "import-dangling"]
    assert len(dangling) == (not is_known and "." not in host), "another network needs no word"
    assert "cret" not in (tmp_path / "estate" / "imported-compose.yaml").read_text()


def test_own_addresses_links_and_names_of_containers_are_no_external_services(tmp_path: Path) -> None:
    text = """
services:
  app:
    image: x
    environment:
      LISTEN_ADDR: "0.0.0.0:80"
      PEER_HOST: localhost
      LIMIT_SERVERS: "3"
      DB_HOST: database
      CACHE_HOST: the-cache
      LDAP_HOST: directory
    command: ["--trace=http://collector:4317/"]
    links: ["db:database"]
    external_links: ["corp_ldap_1:directory"]
  db: {image: "postgres:16"}
  cache: {image: "redis:7", container_name: the-cache}
"""
    estate, result = imported(tmp_path, text)
    assert needs(estate, "app") == [
        ("cache", True, "serve"),
        ("collector", False, "serve"),
        ("corp_ldap_1", False, "serve"),
        ("db", True, "serve"),
    ]
    assert [one.id for one in estate.services if one.external] == []
    assert [one.id for one in estate.services if one.id not in ("app", "db", "cache")] == [
        "collector",
        "corp_ldap_1",
    ]
    named = [one.message.split("'")[3] for one in result.diagnostics if one.code == "import-dangling"]
    assert sorted(named) == ["collector", "corp_ldap_1"]
    assert "#   collector" not in (tmp_path / "estate" / "overlay.yaml").read_text()


NESTED: Final = {
    "compose.yaml": "include: [a/compose.yaml, {path: [b/compose.yaml, b/more.yaml], env_file: b.env}]\n"
    "services: {web: {image: x, environment: [A=http://api]}}",
    "a/compose.yaml": "include: [deep/compose.yaml]\n"
    "services: {api: {image: x, env_file: api.env, environment: ['DB=postgres://${HOST}/x']}}",
    "a/.env": "HOST=main\nTAG=1",
    "a/api.env": "CACHE=redis://cache",
    "a/deep/compose.yaml": "include: [../../compose.yaml, ../compose.yaml]\n"
    "services: {main: {image: 'postgres:16', environment: ['X=http://${HOST}', 'Y=http://${TAG}-y']}}",
    "a/deep/.env": "HOST=lost\nTAG=2",
    "b/compose.yaml": "services: {cache: {image: redis, scale: 2}, slow: {image: x, environment: ['Z=http://${HOST}']}}",
    "b/more.yaml": "services: {cache: {scale: 5}}",
    "b/.env": "HOST=cache",
    "b.env": "HOST=web",
}


def test_files_that_included_files_include_are_read_once_with_the_values_of_their_own_place(
    tmp_path: Path,
) -> None:
    """Each file has the variables and relative names of its place; an including file's values win."""
    for name, text in NESTED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    result = import_estate("compose", tmp_path / "compose.yaml", tmp_path / "estate")
    estate = load(tmp_path / "estate")
    assert {one.id: one.replicas for one in estate.services if one.replicas} == {
        "api": 1,
        "cache": 5,
        "main": 1,
        "slow": 1,
        "web": 1,
    }
    assert needs(estate, "web") == [("api", True, "serve")]
    assert needs(estate, "api") == [("cache", True, "serve"), ("main", True, "serve")]
    assert needs(estate, "slow") == [("web", True, "serve")]
    assert needs(estate, "main") == [("1-y", False, "serve"), ("main-data", True, "serve")]
    assert [one.code for one in result.diagnostics] == ["import-dangling"]


def test_the_file_that_compose_merges_without_being_told_is_read_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}")
    (tmp_path / "docker-compose.override.yml").write_text("services: {web: {image: x, scale: 3}}")
    around = look_around(tmp_path)
    assert ([one.path for one in around.sources], around.hints) == (["compose.yaml"], ())
    result = import_estate("compose", tmp_path, tmp_path / "estate")
    assert not result.diagnostics
    assert load(tmp_path / "estate").services[0].replicas == 3


def test_a_listed_file_stands_for_its_project_as_the_hint_of_init_says(tmp_path: Path) -> None:
    for name in ("compose", "db"):
        (tmp_path / f"{name}.yaml").write_text(f"services:\n  {name}:\n    image: x\n")
    (hint,) = look_around(tmp_path).hints
    assert hint.startswith("db.yaml: ")
    assert "COMPOSE_FILE" in hint
    (tmp_path / ".env").write_text("COMPOSE_FILE=compose.yaml:db.yaml")
    around = look_around(tmp_path)
    assert ([one.path for one in around.sources], around.hints) == (["compose.yaml"], ())
    import_estate("compose", tmp_path / "compose.yaml", tmp_path / "estate")
    assert [one.id for one in load(tmp_path / "estate").services] == ["compose", "db"]
