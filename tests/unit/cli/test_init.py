"""evac init: from a folder to the first audit, with flags or with answers, and nothing overwritten."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from evac.audit import audit
from evac.cli import console, init_command
from evac.cli.main import run
from evac.cli.program import cli
from evac.estate import load
from evac.estate.importers import SourceError
from tests.unit.app.api_server import kubeconfig, serving

HOSTS = "host;site;cores;role\nweb-1;fra;32;shop\nweb-2;muc;32;shop\n"
MANIFEST = (
    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: login}\n"
    "spec: {replicas: 2, template: {spec: {containers: [{name: a}]}}}\n"
)

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "checkout", "namespace": "prod"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": {
            "metadata": {"labels": {"app": "checkout"}},
            "spec": {"containers": [{"name": "a"}]},
        },
    },
}


@pytest.fixture
def company(tmp_path: Path) -> Path:
    folder = tmp_path / "acme"
    (folder / "cluster").mkdir(parents=True)
    (folder / "hosts.csv").write_text(HOSTS)
    (folder / "services.csv").write_text("service,tier\nshop,1\n")
    (folder / "cluster" / "login.yaml").write_text(MANIFEST)
    (folder / "notes.yaml").write_text("a: 1\n")
    inventory = {"_meta": {"hostvars": {"db-1": {"dc": "fra"}}}, "db": {"hosts": ["db-1"]}}
    (folder / "inventory.json").write_text(json.dumps(inventory))
    return folder


def invoke(folder: Path, *words: str, answers: str | None = None) -> Result:
    env = {"KUBECONFIG": str(folder / "no-kubeconfig"), "COLUMNS": "120"}
    return CliRunner().invoke(cli, ["init", str(folder), *words], input=answers, env=env)


def test_compose_files_are_named_after_their_folders_and_inventories_by_hand_get_their_command(
    tmp_path: Path,
) -> None:
    for place in ("koeln", "ulm"):
        (tmp_path / "depots" / place).mkdir(parents=True)
        (tmp_path / "depots" / place / "docker-compose.yml").write_text("services: {web: {image: nginx}}\n")
    (tmp_path / "ansible").mkdir()
    (tmp_path / "ansible" / "hosts.yml").write_text("all:\n  hosts:\n    web-1:\n")
    done = invoke(tmp_path, "--site", "koeln=cgn", "--site", "ulm=ulm", "--no-audit")
    assert done.exit_code == 0, done.output
    assert "  koeln: compose, depots/koeln/docker-compose.yml" in done.output
    assert "  ulm: compose, depots/ulm/docker-compose.yml" in done.output
    assert "ansible/hosts.yml: ansible-inventory -i hosts.yml --list > inventory.json" in done.output


def test_flags_are_enough_without_a_terminal(company: Path) -> None:
    done = invoke(company, "--site", "cluster=fra", "--detection", "2 min", "--most-important", "login")
    assert done.exit_code == 0, done.output
    assert "4 sources found in acme" in done.output
    assert "most worth adding 1:" in done.output
    assert "fra" in done.stdout, "the first audit"
    estate = load(company / "estate")
    assert (estate.name, estate.detection_ms, estate.approval_ms) == ("acme", 120_000, 300_000)
    services = {s.id: s for s in estate.services}
    assert (services["login"].tier, services["shop"].tier) == (0, 1)
    assert [site.id for site in estate.sites] == ["fra", "muc"]
    assert "cluster: {kind: kubernetes, from: cluster, site: fra}" in (company / "estate.yaml").read_text()
    again = CliRunner().invoke(cli, ["import", str(company / "estate.yaml"), "--update"])
    assert "nothing has changed since the last import" in again.output


def test_a_terminal_is_asked_at_most_ten_questions(company: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def prompt(words: str, default: str, **_: object) -> str:
        asked.append(words)
        return {"Name of the estate?": "Acme"}.get(
            words, "muc" if "does not state its site" in words else default
        )

    monkeypatch.setattr(click, "prompt", prompt)
    monkeypatch.setattr(init_command, "has_terminal", lambda: True)
    for number in range(12):
        (company / f"more-{number}").mkdir()
        (company / f"more-{number}" / "a.yaml").write_text(MANIFEST.replace("login", f"app-{number}"))
    done = invoke(company, "--no-audit")
    assert done.exit_code == 0, done.output
    assert len(asked) == 10
    assert load(company / "estate").name == "Acme"


def test_a_second_init_overwrites_nothing(company: Path) -> None:
    invoke(company, "--no-audit")
    before = (company / "estate.yaml").read_text()
    again = invoke(company)
    assert again.exit_code != 0
    assert "[init-exists]" in again.output or "already exists" in str(again.exception)
    assert (company / "estate.yaml").read_text() == before


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_or_new_folder_takes_sites_and_services_by_name(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "empty"
    if there:
        folder.mkdir()
    nothing = invoke(folder)
    assert nothing.exit_code != 0
    assert (list(folder.iterdir()) == []) if there else not folder.exists()
    done = invoke(folder, "--at", "fra, muc", "--services", "shop, login", "--most-important", "login")
    assert done.exit_code == 0, done.output
    estate = load(folder / "estate")
    assert [site.id for site in estate.sites] == ["fra", "muc"]
    assert {s.id: s.tier for s in estate.services} == {"login": 0, "shop": None}


def test_a_source_that_cannot_be_read_leaves_nothing_behind(company: Path) -> None:
    (company / "hosts.csv").write_text('host;site\n"open;fra\n')
    done = invoke(company)
    assert done.exit_code != 0
    assert not (company / "estate.yaml").exists()
    assert not (company / "estate").exists()
    assert isinstance(done.exception, SourceError)
    assert "--skip NAME; then run evac init again" in done.exception.hint
    assert invoke(company, "--skip", "hosts").exit_code == 0, "the others are enough"


def test_a_dump_of_netbox_is_found_and_an_inventory_in_sections_has_its_command(company: Path) -> None:
    device = {"name": "db", "site": {"slug": "fra"}, "device_type": {"model": "R740"}}
    (company / "assets.json").write_text(json.dumps({"devices": [device]}))
    (company / "hosts.ini").write_text("[web]\nweb1\n")
    (company / "dcim").mkdir()
    (company / "dcim" / "devices.json").write_text(
        json.dumps({"results": [{**device, "name": "hv", "id": 7}]})
    )
    machine = {"name": "vm", "vcpus": 2, "cluster": None, "device": {"id": 7}, "role": {"slug": "inside"}}
    (company / "dcim" / "vms.json").write_text(json.dumps({"results": [machine]}))
    (company / "stack").mkdir()
    for name in ("compose.yaml", "base.yaml"):
        (company / "stack" / name).write_text(f"services:\n  {name[:4]}:\n    image: x\n")
    web = "services:\n  web:\n    image: x\n    extends: {file: shared/parts.yaml, service: part}\n"
    (company / "stack" / "compose.yaml").write_text(f"include: [more/compose.yaml]\n{web}")
    for part in ("shared/parts.yaml", "more/compose.yaml"):
        (company / "stack" / part).parent.mkdir()
        (company / "stack" / part).write_text("services:\n  part:\n    restart: always\n")
    done = invoke(company, "--no-audit")
    assert "assets: netbox, assets.json" in done.output
    assert "parts.yaml" not in done.output, "a file that a service extends is no catalogue"
    assert done.output.count("compose, stack") == 1, "a file that another one includes is no second source"
    assert "dcim: netbox, dcim\n" in done.output, "devices and machines of one folder are one source"
    services = {one.id for one in load(company / "estate").services}
    assert "inside" in services
    assert "web" in services
    assert "base" not in services, "Compose does not read it by itself"
    assert "not read yet - stack/base.yaml: if it is part of the project" in done.output
    assert "ansible-inventory -i hosts.ini --list > inventory.json" in done.output


def test_what_to_fix_is_never_in_a_file_that_the_next_import_overwrites(company: Path) -> None:
    assert invoke(company).exit_code == 0
    findings = audit(load(company / "estate")).findings
    places = {one.key_place.file for one in findings if one.key}
    assert places
    assert not [file for file in places if "imported-" in file], places


def test_a_mistake_in_a_flag_is_named(company: Path) -> None:
    for words in (("--site", "nobody=fra"), ("--site", "cluster"), ("--detection", "soon")):
        assert invoke(company, *words).exit_code != 0
        assert not (company / "estate.yaml").exists()


def test_a_table_that_evac_does_not_recognise_is_named(company: Path) -> None:
    (company / "prices.csv").write_text("article,price\nbook,3\n")
    done = invoke(company, "--no-audit")
    assert "not read yet - prices.csv: evac does not recognise its columns" in done.output
    assert done.output.count("does not recognise its columns") == 1


def test_contexts_of_kubectl_become_hints_without_their_credentials(company: Path) -> None:
    (company / "no-kubeconfig").write_text(
        "apiVersion: v1\nkind: Config\ncontexts:\n- context:\n    cluster: a\n    user: b\n  name: prod-eu\n"
        "users:\n- name: b\n  user: {token: hunter2}\n"
    )
    done = invoke(company, "--no-audit")
    assert "not read yet - kubectl context prod-eu: evac init --context prod-eu" in done.output
    assert "hunter2" not in done.output


@pytest.mark.enable_socket
def test_a_context_of_kubectl_becomes_a_source_that_is_asked(company: Path) -> None:
    with serving([DEPLOYMENT]) as api:
        kubeconfig(company / "no-kubeconfig", {"prod-eu": ({"server": api.url}, {"token": "hunter2"})})
        done = invoke(company, "--no-audit", "--context", "muc=prod-eu")
    assert done.exit_code == 0, done.output
    assert "muc: {kind: kubernetes, context: prod-eu, site: muc}" in (company / "estate.yaml").read_text()
    assert "checkout" in {service.id for service in load(company / "estate").services}


@pytest.mark.parametrize("words", [[], ["--no-audit"]], ids=["audit", "no audit"])
def test_the_exit_code_says_that_what_was_imported_is_partial(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    for name, cores, code in (("part", "lots", console.PARTIAL), ("whole", "32", console.DONE)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "hosts.csv").write_text(
            f"host,site,cores,role\nweb-1,fra,32,shop\nweb-2,muc,{cores},shop\n"
        )
        assert run(["init", str(folder), *words]) == code
        err = capsys.readouterr().err
        assert ("hosts.csv:3:11: warning: 'lots' is not an amount of cpu" in err) is (name == "part")
        assert ("partial: what the source says in the places above" in err) is (name == "part")


@pytest.mark.parametrize(("encoding", "named"), [("cp1252", "Windows-1252"), ("utf-16-be", "UTF-16")])
def test_a_table_that_a_spreadsheet_saved_in_its_own_encoding_is_found(
    tmp_path: Path, encoding: str, named: str
) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "hosts.csv").write_bytes((mark + "Gerätename;Standort\nw1;Köln\nw2;Düren\n").encode(encoding))
    done = invoke(tmp_path, "--no-audit")
    assert done.exit_code == 0, done.output
    assert f"read as {named}" in done.output
    assert [site.id for site in load(tmp_path / "estate").sites] == ["Düren", "Köln"]
