"""The member's own files in its data folder: found, kept, and put back as they were."""

from pathlib import Path

from evac.drivers.postgres.own_files import FILE_BYTES, keep, own_names, put_back


def _folder(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


OF_THE_SERVER = dict.fromkeys(
    (
        "PG_VERSION",
        "base/1/2",
        "global/pg_control",
        "pg_wal/0",
        "log/a.log",
        "standby.signal",
        "evac_upstream",
    ),
    "the server's",
)


def test_configuration_includes_and_certificates_are_its_own_and_nothing_of_the_server(
    tmp_path: Path,
) -> None:
    own = {"postgresql.conf": "a", "pg_hba.conf": "b", "conf.d/site.conf": "c", "server.key": "d"}
    data = _folder(tmp_path / "data", OF_THE_SERVER | own)
    (data / "huge").write_bytes(bytes(FILE_BYTES + 1))
    (data / "elsewhere.conf").symlink_to("/etc/hostname")
    assert own_names(data) == ("conf.d/site.conf", "pg_hba.conf", "postgresql.conf", "server.key")


def test_after_a_rewind_the_folder_has_its_own_files_again_and_no_other_ones(tmp_path: Path) -> None:
    data = _folder(tmp_path / "data", {**OF_THE_SERVER, "site.conf": "ours", "conf.d/a.conf": "ours"})
    kept = tmp_path / "kept"
    kept.mkdir()
    keep(data, kept)
    (data / "conf.d" / "a.conf").unlink()
    (data / "conf.d").rmdir()
    _folder(data, {"site.conf": "theirs", "conf.d2/b.conf": "theirs", "base/1/2": "theirs"})
    written = put_back(kept, data)
    assert own_names(data) == ("conf.d/a.conf", "site.conf")
    assert (data / "site.conf").read_text() == (data / "conf.d" / "a.conf").read_text() == "ours"
    assert (data / "base/1/2").read_text() == "theirs"
    assert {data / "conf.d", data / "conf.d" / "a.conf", data / "site.conf"} == set(written)
