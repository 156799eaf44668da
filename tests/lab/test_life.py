"""What a lab refuses, what is left of one that cannot come up, and the estate that it writes for evac."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from evac.cli import console
from evac.cli.main import run
from evac.estate import check
from evac.estate.codecs.policy import load_policy
from evac_lab import doctor, lab_estate, world
from evac_lab.process import Process
from evac_lab.state import LabError, LabFolder, LabState, Starter, living, topology
from evac_lab.world import Options
from tests.lab.conftest import free_offset

pytestmark = [pytest.mark.servers, pytest.mark.enable_socket]


def test_a_lab_whose_processes_are_gone_does_not_block_the_next(folder: LabFolder) -> None:
    offset = free_offset()
    folder.write(LabState("loopback", offset, 0.0, phase="up"))
    (folder.path / "pangyo").mkdir()
    found = doctor.examine(folder, offset)
    row = {one.subject: one for one in found.checkups}["old lab"]
    assert (row.verdict, row.cure) == ("note", "evac lab up removes it")
    assert "next: evac lab down" not in doctor.as_text(found)
    with folder.locked():
        world._clear_dead_lab(folder)
    (folder.path / "lab.json").write_text("{ torn")
    assert {one.subject: one for one in doctor.examine(folder).checkups}["old lab"].verdict == "note"
    with folder.locked():
        world._clear_dead_lab(folder)


def test_the_estate_of_the_lab_is_one_that_evac_reads(folder: LabFolder) -> None:
    from evac_lab.site_servers import Ground

    ground = Ground(folder, topology("loopback", 3))
    ground.secrets.make()
    lab_estate.write(ground)
    found = check(folder.estate)
    assert found.diagnostics == ()
    assert found.estate is not None
    assert {endpoint.driver for endpoint in found.estate.endpoints} >= {"postgres", "redis", "dns", "haproxy"}
    policy = load_policy(folder.estate / "policy.yaml", found.estate)
    assert (policy.mode, policy.profile.name) == ("act", "lab")
    assert "sync" in policy.store("messages").proofs
    text = "".join(path.read_text() for path in folder.estate.iterdir())
    assert ground.secrets.value("postgres") not in text


def test_the_estate_with_every_part_is_one_that_evac_reads(folder: LabFolder) -> None:
    from evac_lab.site_servers import Ground

    ground = Ground(folder, topology("loopback", 3))
    ground.secrets.make()
    lab_estate.write(ground, halls=True, second=True, mariadb=True)
    found = check(folder.estate)
    assert [one.code for one in found.diagnostics] == []
    assert found.estate is not None
    (orders,) = (store for store in found.estate.stores if store.id == "orders")
    assert [member.at for member in orders.members] == ["pangyo/hall-1", "anyang/hall-1"]
    policy = load_policy(folder.estate / "policy.yaml", found.estate)
    assert policy.store("orders").proofs == ("sync", "attest")


def test_taken_ports_and_no_space_are_clear_errors(
    folder: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = free_offset()
    host = topology("loopback", offset).site("anyang").host("redis")
    with socket.create_server((host, 6379)):
        with pytest.raises(LabError) as raised:
            world.up(Options(offset=offset), folder)
        assert raised.value.code == "lab-ports"
        assert f"{host}:6379" in raised.value.message
        ports = {one.subject: one for one in doctor.examine(folder, offset).checkups}["ports"]
        assert ports.verdict == "missing"
    monkeypatch.setattr(doctor, "SPACE_MIB", 1 << 40)
    with pytest.raises(LabError) as raised:
        world.up(Options(offset=offset), folder)
    assert raised.value.code == "lab-space"
    assert living(None, folder) == set()


def test_a_lab_that_cannot_come_up_leaves_nothing(folder: LabFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(starter: Starter, options: Options) -> None:
        starter.launch("pangyo", "etcd", Process("x", ("sleep", "60"), folder.path / "log"))
        raise KeyboardInterrupt

    monkeypatch.setattr(world, "_start_all", broken)
    with pytest.raises(KeyboardInterrupt):
        world.up(Options(offset=free_offset()), folder)
    assert living(folder.read(), folder) == set()


def test_what_is_severe_is_not_done_unasked(folder: LabFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write(LabState("loopback", 0, 0.0, "up"))
    where = ["--folder", str(folder.path)]
    assert run(["lab", "burn", "pangyo", *where]) == console.USAGE
    assert run(["lab", "burn", "pangyo", "--confirm", "anyang", *where]) == console.USAGE
    assert run(["lab", "burn", "pangio", "--confirm", "pangio", *where]) == console.USAGE
    assert "--confirm SITE" in capsys.readouterr().err
    assert folder.need().burnt == {}


def test_without_a_lab_every_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["heal", "pangyo"], ["burn", "pangyo", "--confirm", "pangyo"]):
        assert run(["lab", *words, "--folder", str(tmp_path)]) == console.FAILED
        assert "evac lab up" in capsys.readouterr().err
    assert run(["lab", "report", "--folder", str(tmp_path)]) == console.DONE
    assert run(["lab", "down", "--folder", str(tmp_path / "none")]) == console.DONE
