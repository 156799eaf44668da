"""The documentation's script for keepalived, run by the driver `command` on two real keepalived.

Each runs in its own network namespace, with its own /run; both are on one network.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path

import pytest

from evac.cli import console
from evac.cli.main import run
from evac.drivers.command.driver import CommandDriver
from evac.drivers.port import Action, Value, Verb
from evac.model.errors import Permanent, Retryable
from evac.model.records import dataclass
from tests.contract.capabilities.story import order

pytestmark = pytest.mark.enable_socket
ADDRESS, V6 = "192.0.2.80", "2001:db8::80"
DRIVER = CommandDriver()
OWN = ("unshare", "--user", "--map-root-user", "--net", "--mount")
MOUNTS = "mount -t tmpfs none /run; mkdir /run/evac; touch /run/{}; echo 0 > /run/evac/highest"
CONFIGURATION = """
track_file evac_rank {{ file /run/evac/rank
  weight 10
  init_file 0 }}
track_file evac_withdrawn {{ file /run/evac/withdrawn
  weight 0
  init_file 0 }}
vrrp_instance shop {{
  state BACKUP
  interface lan
  virtual_router_id 51
  priority {priority}
  advert_int 0.2
  version 3
  virtual_ipaddress {{ 192.0.2.80/32 }}
  virtual_ipaddress_excluded {{ 2001:db8::80/128 }}
  track_file {{ evac_rank
    evac_withdrawn }}
}}
"""


@dataclass(slots=True)
class Site:
    """A host of its own. holder: the process that keeps its namespaces."""

    name: str
    holder: subprocess.Popen[bytes]
    log: Path
    keepalived: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def command(self) -> str:
        return f"nsenter -t {self.holder.pid} --user --net --mount --preserve-credentials"

    def do(self, words: str) -> str:
        argv = [*self.command.split(), "sh", "-ec", words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout

    def start(self) -> None:
        argv = [*self.command.split(), "keepalived", "--use-file=/run/keepalived.conf"]
        argv += ["--dont-fork", "--log-console", "--vrrp"]
        with self.log.open("a") as log:
            self.keepalived = subprocess.Popen(argv, stdout=log, stderr=log)

    def stop(self) -> None:
        if self.keepalived is not None:
            self.keepalived.terminate()
            self.keepalived.wait(20)
            self.keepalived = None

    def is_there(self) -> bool:
        """Whether its namespaces are complete."""
        argv = [*self.command.split(), "test", "-e", f"/run/{self.name}"]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def holds(self) -> bool:
        return f" {ADDRESS}/" in self.do("ip -o address show")

    def heard(self) -> int:
        """Packets received, most of them advertisements."""
        (link,) = json.loads(self.do("ip -s -j link show lan"))
        return int(link["stats64"]["rx"]["packets"])

    def runs(self) -> bool:
        """Whether keepalived has written its process id."""
        return bool(self.do("cat /run/keepalived.pid 2>/dev/null || true"))


def until(condition: Callable[[], bool], words: str) -> None:
    """Wait until the world is as it should be."""
    end_s = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end_s, words
        time.sleep(0.05)


@pytest.fixture
def sites(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Site]]:
    """fra, with the highest priority, muc, and ber if the test asks for it. All run, and fra holds the
    address.
    """
    names = ("fra", "muc", *getattr(request, "param", ()))
    for program in ("keepalived", "unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    tried = subprocess.run(
        [*OWN, "sh", "-ec", MOUNTS.format("x")], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"this machine does not allow network namespaces: {tried.stderr.strip()}")
    made: dict[str, Site] = {}
    try:
        for name in names:
            # The others are within the user namespace of the first, so that links can join them.
            argv = [*made["fra"].command.split(), "unshare", "--net", "--mount"] if made else [*OWN]
            holder = subprocess.Popen([*argv, "sh", "-ec", f"{MOUNTS.format(name)}; exec sleep 600"])
            made[name] = Site(name, holder, tmp_path / f"{name}.log")
            until(made[name].is_there, f"{name} has no namespaces")
        join(list(made.values()))
        for number, site in enumerate(made.values(), 1):
            site.do(f"ip link set lo up; ip link set lan up; ip address add 10.9.0.{number}/24 dev lan")
            text = CONFIGURATION.format(priority=10 - number)
            site.do(f"cat > /run/keepalived.conf <<'END'\n{text}\nEND")
            site.start()
        until(lambda: made["fra"].holds() and not made["muc"].holds(), "fra does not hold the address")
        for site in made.values():
            until(site.runs, f"{site.name} does not run keepalived")
        yield made
    finally:
        for site in made.values():
            site.stop()
        for site in reversed(made.values()):
            site.holder.kill()
            site.holder.wait()


def join(made: list[Site]) -> None:
    """One network `lan`: a link between two, or a bridge at the last site, which must then stay up."""
    *others, last = made
    if len(others) == 1:
        others[0].do(f"ip link add lan type veth peer name lan netns {last.holder.pid}")
        return
    last.do("ip link add lan type bridge")
    for number, site in enumerate(others):
        last.do(f"ip link add port{number} type veth peer name lan netns {site.holder.pid}")
        last.do(f"ip link set port{number} master lan up")


@pytest.fixture
def endpoint(project_root: Path, sites: dict[str, Site], tmp_path: Path) -> Callable[..., Action]:
    """Makes an action of the endpoint that runs the script. commands: of sites, other than their own."""
    script = (sys.executable, str(project_root / "docs" / "how-to" / "scripts" / "keepalived.py"))
    outside = witnesses(tmp_path)

    def made(verb: Verb, at: str, commands: dict[str, str] | None = None, **parameters: Value) -> Action:
        keys = ("argv", "check_argv", "observe_argv", "undo_argv")
        settings: dict[str, Value] = dict.fromkeys(keys, script)
        reached = {name: site.command for name, site in sites.items()} | (commands or {})
        settings["env"] = environment(reached, f"{outside},{reached['fra']}")
        return Action(verb, "shop", "command", at, settings, parameters)

    return made


@pytest.fixture
def lost(tmp_path: Path) -> str:
    """A command that ends as ssh does if a host does not answer."""
    words = "ssh: connect to host fra-lb1 port 22: Connection timed out"
    return program(tmp_path / "lost", f"echo '{words}' >&2; exit 255")


def program(path: Path, words: str) -> str:
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o755)
    return str(path)


def witnesses(folder: Path) -> str:
    """Two machines outside the sites. A host in fra is the third."""
    made = []
    for name in ("w1", "w2"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "highest").write_text("0\n")
        # The folder is the first word after `sh -s --`.
        made.append(program(folder / f"{name}.sh", f'shift 4; exec sh -s -- {folder / name} "$@"'))
    return ",".join(made)


def environment(commands: dict[str, str], witnessed: str) -> tuple[str, ...]:
    hosts = ";".join(f"{name}={command}" for name, command in commands.items())
    addresses = f"{ADDRESS},2001:DB8:0::80"
    return (
        f"KEEPALIVED_HOSTS={hosts}",
        f"KEEPALIVED_ADDRESSES={addresses}",
        f"KEEPALIVED_WITNESSES={witnessed}",
        "KEEPALIVED_FOLDER=/run/evac",
    )


def observed(action: Action) -> tuple[str, str]:
    seen = asyncio.run(DRIVER.observe(action, order()))
    return seen.outcome, str(seen.evidence.get("output") or seen.evidence.get("why"))


def execute(action: Action, token: int = 7) -> None:
    asyncio.run(DRIVER.execute(action, order(token=token)))


def problems(action: Action) -> str:
    return " ".join(asyncio.run(DRIVER.check(action, order())).problems)


def test_the_addresses_move_and_come_back(sites: dict[str, Site], endpoint: Callable[..., Action]) -> None:
    shift = endpoint("shift", "muc", to=("muc",), away=("fra",))
    both = f"{ADDRESS}, {V6}"
    assert observed(shift) == ("absent", f"fra holds {both}; muc is ready")
    execute(shift)
    assert observed(shift) == ("done", f"fra is withdrawn; muc holds {both}")
    assert (sites["fra"].holds(), sites["muc"].holds()) == (False, True)
    assert (
        problems(endpoint("drain", "muc", site="muc")) == "no host would be left that can hold the addresses"
    )
    asyncio.run(DRIVER.undo(shift, order()))
    assert (sites["fra"].holds(), sites["muc"].holds()) == (True, False)
    assert observed(endpoint("ready", "muc", site="muc"))[0] == "done", "muc stays standby"


def test_a_share_of_an_address_does_not_move(sites: dict[str, Site], endpoint: Callable[..., Action]) -> None:
    part = endpoint("shift", "muc", to=("muc",), away=("fra",), share=500)
    execute(part)
    assert observed(part)[0] == "done"
    assert sites["fra"].holds()


def test_a_host_that_returns_from_a_lost_site_stays_standby(
    sites: dict[str, Site], endpoint: Callable[..., Action], lost: str
) -> None:
    execute(endpoint("shift", "fra", to=("fra",)))
    sites["fra"].stop()
    gone = {"fra": lost}
    shift = endpoint("shift", "muc", gone, to=("muc",), away=("fra",))
    execute(shift)
    assert observed(shift)[0] == "done"
    sites["fra"].start()
    until(sites["fra"].runs, "fra does not run again")
    before = sites["fra"].heard()
    until(lambda: sites["fra"].heard() > before + 30, "fra hears no advertisements")
    until(lambda: observed(shift)[0] == "done", "muc is not the one that holds them")
    assert observed(endpoint("ready", "fra", site="fra"))[0] == "done"
    execute(endpoint("shift", "fra", to=("fra",)))
    assert (sites["fra"].holds(), sites["muc"].holds()) == (True, False)


def test_two_sites_lost_in_turn_and_the_second_one_stays_standby(
    sites: dict[str, Site], endpoint: Callable[..., Action], lost: str
) -> None:
    execute(endpoint("shift", "muc", to=("muc",)))
    sites["muc"].stop()
    execute(endpoint("shift", "fra", {"muc": lost}, to=("fra",), away=("muc",)))
    sites["fra"].stop()
    sites["muc"].start()
    until(sites["muc"].holds, "muc does not hold the address")
    back = endpoint("shift", "muc", {"fra": lost}, to=("muc",), away=("fra",))
    assert observed(back)[0] == "absent", "fra has a higher rank"
    execute(back)
    assert observed(back)[0] == "done"
    sites["fra"].start()
    until(sites["fra"].runs, "fra does not run again")
    before = sites["fra"].heard()
    until(lambda: sites["fra"].heard() > before + 30, "fra hears no advertisements")
    assert (sites["fra"].holds(), sites["muc"].holds()) == (False, True)


@pytest.mark.parametrize("sites", [("ber",)], indirect=True)
def test_a_second_fire_of_three_sites_moves_the_addresses_again(
    sites: dict[str, Site], endpoint: Callable[..., Action], lost: str
) -> None:
    """The site that was lost first is silent, and the second step does not leave it."""
    silent = {"fra": lost}
    sites["fra"].stop()
    execute(endpoint("shift", "muc", silent, to=("muc",), away=("fra",)))
    sites["muc"].stop()
    elsewhere = endpoint("shift", "ber", silent | {"muc": lost}, to=("ber",), away=("fra",))
    with pytest.raises(Retryable, match="muc was chosen last, so it must answer or be left"):
        execute(elsewhere)
    shift = endpoint("shift", "ber", silent | {"muc": lost}, to=("ber",), away=("muc",))
    execute(shift)
    assert observed(shift)[0] == "done"
    for name in ("fra", "muc"):
        sites[name].start()
    for name in ("fra", "muc"):
        until(sites[name].runs, f"{name} does not run again")
        before = sites[name].heard()
        until(lambda name=name, before=before: sites[name].heard() > before + 30, f"{name} hears nothing")
    assert {name: site.holds() for name, site in sites.items()} == {"fra": False, "muc": False, "ber": True}


def test_a_host_that_answers_wrongly_is_not_a_lost_one(
    sites: dict[str, Site], endpoint: Callable[..., Action], tmp_path: Path
) -> None:
    denied = "echo 'evac@fra-lb1: Permission denied (publickey).' >&2; exit 255"
    for words in (denied, "exit 0", "exit 1", "printf '\\377'", "printf 'rank \\377 withdrawn 0\\n'"):
        wrong = {"fra": program(tmp_path / "wrong", words)}
        shift = endpoint("shift", "muc", wrong, to=("muc",), away=("fra",))
        with pytest.raises(Retryable, match="fra does not answer as it should"):
            execute(shift)
        assert observed(shift)[0] == "unclear", words
    assert sites["fra"].holds()


def test_a_token_that_cannot_be_read_opens_no_fence(
    sites: dict[str, Site], endpoint: Callable[..., Action]
) -> None:
    for words in (":", "echo seven"):
        sites["fra"].do(f"{{ {words}; }} > /run/evac/token")
        with pytest.raises(Retryable, match="token holds no number"):
            execute(endpoint("drain", "fra", site="fra"))
    assert sites["fra"].holds()


def test_wrong_settings_are_not_an_answer(sites: dict[str, Site], endpoint: Callable[..., Action]) -> None:
    shift = endpoint("shift", "muc", to=("muc",), away=("fra",))
    for name, value in (("ADDRESSES", "192.0.2.800"), ("HOSTS", "fra=;muc="), ("WITNESSES", "'")):
        env = shift.settings["env"]
        assert isinstance(env, tuple)
        wrong = (
            *(one for one in env if not str(one).startswith(f"KEEPALIVED_{name}=")),
            f"KEEPALIVED_{name}={value}",
        )
        action = Action(
            shift.verb, "shop", "command", "muc", {**shift.settings, "env": wrong}, shift.parameters
        )
        assert observed(action)[0] == "unclear", name
        with pytest.raises(Permanent, match="settings of this script are wrong"):
            execute(action)


def test_what_cannot_be_known_or_done_changes_nothing(
    sites: dict[str, Site], endpoint: Callable[..., Action], lost: str
) -> None:
    silent = {"fra": lost}
    assert observed(endpoint("drain", "fra", silent, site="fra"))[0] == "unclear"
    assert observed(endpoint("shift", "muc", silent, to=("muc",)))[0] == "unclear", "fra is not left"
    with pytest.raises(Permanent, match="names no host of ber"):
        execute(endpoint("ready", "ber", site="ber"))
    sites["muc"].stop()
    shift = endpoint("shift", "muc", to=("muc",), away=("fra",))
    assert problems(shift) == "no host of muc runs keepalived"
    with pytest.raises(Retryable, match="no host of muc runs keepalived"):
        execute(shift)
    assert sites["fra"].holds()


def test_a_drain_that_no_one_takes_over_is_undone(
    sites: dict[str, Site], endpoint: Callable[..., Action]
) -> None:
    sites["muc"].do("ip link set lan down")
    until(lambda: not sites["muc"].holds(), "muc holds an address without a network")
    with pytest.raises(Retryable, match="no other site took over within 6 s: fra is as before"):
        execute(endpoint("drain", "fra", site="fra"))
    sites["muc"].do("ip link set lan up")
    until(sites["fra"].holds, "fra did not get the address back")


def test_orders_of_a_leader_that_was_replaced_are_refused(
    sites: dict[str, Site], endpoint: Callable[..., Action]
) -> None:
    execute(endpoint("drain", "fra", site="fra"), token=9)
    with pytest.raises(Permanent, match="a newer leader has changed it"):
        execute(endpoint("ready", "fra", site="fra"), token=8)
    assert not sites["fra"].holds()
    execute(endpoint("ready", "fra", site="fra"), token=9)
    until(sites["fra"].holds, "fra did not get the address back")


def test_the_driver_test_passes_on_it(
    sites: dict[str, Site],
    endpoint: Callable[..., Action],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drain = endpoint("drain", "fra", site="fra")
    settings = {key: list(value) for key, value in drain.settings.items() if isinstance(value, tuple)}
    settings["does"] = ["shift", "drain", "ready"]
    (tmp_path / "estate.yaml").write_text(
        "evac: 2\nname: acme\nsites: {fra: {}, muc: {}}\nservices: {shop: {sites: [fra, muc]}}\n"
        f"endpoints:\n  shop-fra: {{for: shop, at: fra, driver: command, settings: {json.dumps(settings)}}}\n"
    )
    code = run(["driver", "test", str(tmp_path), "shop-fra", "--act", "drain", "--output", "json"])
    said = capsys.readouterr().out
    assert (code, json.loads(said)["passed"]) == (console.DONE, True), said
    until(sites["fra"].holds, "fra did not get the address back")
