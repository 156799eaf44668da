"""Importing again: the overlay stays, changes are shown, and nobody's own file is overwritten."""

from pathlib import Path

import pytest

from evac.estate import load
from evac.estate.importers import import_estate
from evac.model.errors import InvalidInput

HOSTS = "host,site,cores,app\nh1,x,4,shop\nh2,x,4,shop\nh3,y,8,login\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.csv"
    path.write_text(HOSTS)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_source_gives_the_same_bytes_and_no_difference(source: Path, tmp_path: Path) -> None:
    first = import_estate("csv", source, tmp_path / "estate")
    assert first.files == ("imported-csv.yaml", "overlay.yaml", "replicas.csv", "servers.csv")
    before = contents(tmp_path / "estate")
    second = import_estate("csv", source, tmp_path / "estate")
    assert (first.diff, second.diff) == ((), ())
    assert second.files == ("imported-csv.yaml", "replicas.csv", "servers.csv")
    assert contents(tmp_path / "estate") == before


def test_a_changed_source_shows_its_difference_and_keeps_the_overlay(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "estate"
    import_estate("csv", source, target)
    (target / "overlay.yaml").write_text("name: mine\nservices: {shop: {tier: 1}}\n")
    source.write_text("host,site,cores,app\nh1,x,6,shop\nh3,y,8,login audit\nh4,z,4,shop\n")
    result = import_estate("csv", source, target)
    assert result.diff == (
        "+ replica audit on h3 (1)",
        "- replica shop on h2 (1)",
        "+ replica shop on h4 (1)",
        "~ server h1: cpu_millicores: 4000 -> 6000",
        "- server h2",
        "+ server h4",
        "+ service audit",
        "+ site z",
    )
    assert (target / "overlay.yaml").read_text() == "name: mine\nservices: {shop: {tier: 1}}\n"
    assert next(s for s in load(target).services if s.id == "shop").tier == 1


def test_edges_and_counts_of_manifests_are_in_the_difference(tmp_path: Path) -> None:
    source = tmp_path / "web.yaml"
    pod = (
        "template: {metadata: {labels: {app: %s}}, "
        "spec: {containers: [{name: a, env: [{name: X_ADDR, value: '%s:1'}]}]}}"
    )
    parts = [
        "kind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2, " + pod % ("web", "db") + "}\n",
        "kind: Deployment\nmetadata: {name: db}\nspec: {" + pod % ("db", "localhost") + "}\n",
        "kind: Service\nmetadata: {name: db}\nspec: {selector: {app: db}}\n",
    ]
    source.write_text("---\n".join(parts))
    import_estate("kubernetes", source, tmp_path / "estate")
    source.write_text(
        "---\n".join(parts)
        .replace("replicas: 2", "replicas: 3")
        .replace("value: 'db:1'", "value: 'no.example:1'")
    )
    assert import_estate("kubernetes", source, tmp_path / "estate").diff == (
        "- need web -> service db",
        "+ need web -> service no.example (hard false)",
        "+ service no.example",
        "~ service web: replicas: 2 -> 3",
        "~ service web: spread: {per_server: 2} -> {per_server: 3}",
    )


def test_a_table_that_is_no_more_is_removed(source: Path, tmp_path: Path) -> None:
    import_estate("csv", source, tmp_path / "estate")
    source.write_text("host,site\nh1,x\n")
    import_estate("csv", source, tmp_path / "estate")
    assert sorted(contents(tmp_path / "estate")) == ["imported-csv.yaml", "overlay.yaml", "servers.csv"]


def test_a_service_that_only_the_overlay_still_has_is_named(source: Path, tmp_path: Path) -> None:
    import_estate("csv", source, tmp_path / "estate")
    (tmp_path / "estate" / "overlay.yaml").write_text("services: {login: {tier: 0}}\n")
    source.write_text("host,site,app\nh1,x,shop\n")
    result = import_estate("csv", source, tmp_path / "estate")
    assert [d.code for d in result.diagnostics] == ["overlay-only"]


def test_mistakes_in_the_overlay_do_not_stop_an_import(source: Path, tmp_path: Path) -> None:
    import_estate("csv", source, tmp_path / "estate")
    (tmp_path / "estate" / "overlay.yaml").write_text("services: {shop: {tier: many}}\n")
    result = import_estate("csv", source, tmp_path / "estate")
    assert [(d.code, d.place.file) for d in result.diagnostics] == [("not-a-number", "overlay.yaml")]
    assert (result.services, result.servers) == (2, 3)


def test_a_given_overlay_begins_the_one_of_the_folder(source: Path, tmp_path: Path) -> None:
    given = tmp_path / "facts.yaml"
    given.write_text("evac: 1\nname: ours\n")
    import_estate("csv", source, tmp_path / "estate", overlay=given)
    assert load(tmp_path / "estate").name == "ours"
    import_estate("csv", source, tmp_path / "estate", overlay=given)
    given.write_text("evac: 1\nname: theirs\n")
    with pytest.raises(InvalidInput) as caught:
        import_estate("csv", source, tmp_path / "estate", overlay=given)
    assert caught.value.code == "overlay-exists"
    assert load(tmp_path / "estate").name == "ours"


def test_two_kinds_of_sources_share_a_folder(source: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(
        "kind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: a}]}}}\n"
    )
    import_estate("csv", source, tmp_path / "estate")
    result = import_estate("kubernetes", manifest, tmp_path / "estate")
    assert (result.services, result.servers) == (3, 3)


@pytest.mark.parametrize("name", ["servers.csv", "servers.parquet", "imported-csv.yaml"])
def test_files_of_others_are_never_overwritten(source: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "estate"
    target.mkdir()
    (target / name).write_text("mine\n")
    with pytest.raises(InvalidInput) as caught:
        import_estate("csv", source, target)
    assert caught.value.code == "import-would-overwrite"
    assert contents(target) == {name: b"mine\n"}


def test_wrong_uses(source: Path, tmp_path: Path) -> None:
    for kind, target, overlay, code in (
        ("excel", tmp_path / "estate", None, "import-kind-unknown"),
        ("csv", source, None, "import-target-not-folder"),
        ("csv", tmp_path / "estate", tmp_path / "none.yaml", "overlay-not-found"),
    ):
        with pytest.raises(InvalidInput) as caught:
            import_estate(kind, source, target, overlay=overlay)
        assert caught.value.code == code
    assert not (tmp_path / "estate").exists()
    assert source.read_text() == HOSTS


def test_names_that_other_yaml_readers_take_for_something_else_are_quoted(tmp_path: Path) -> None:
    source = tmp_path / "hosts.csv"
    source.write_text("host,site,app,model\n1,on,1e5,null\nh2,on,y,0x1F\n")
    import_estate("csv", source, tmp_path / "estate")
    text = (tmp_path / "estate" / "imported-csv.yaml").read_text()
    assert '"on": {}' in text
    assert '"1e5": {}' in text
    assert '"y": {}' in text
    assert '"0x1F": {}' in text
    assert [s.id for s in load(tmp_path / "estate").services] == ["1e5", "y"]


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_the_folder_as_it_was(
    there: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "estate"
    if there:
        import_estate("csv", source, target)
    before = contents(target) if there else {}
    write_text = Path.write_text

    def full(path: Path, *args: str, **options: str) -> int:
        if path.name == ".servers.csv.new":
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    write_text(source, HOSTS.replace("h1", "h9"))
    with pytest.raises(OSError, match="No space left"):
        import_estate("csv", source, target)
    assert target.exists() == there
    assert (contents(target) if there else {}) == before
