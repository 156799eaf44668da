"""The ranks that the documentation's script for keepalived gives, over any sequence of losses and returns.

The hosts here do what keepalived does with its two files: of the hosts on the network that are not withdrawn,
the one with the highest priority holds the addresses. test_keepalived_script.py runs the real program.
"""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from types import ModuleType
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[3] / "docs" / "how-to" / "scripts" / "keepalived.py"
ADDRESS = "192.0.2.80"


class Machine:
    """A host, or a witness. answers: to evac; on_network: other hosts hear it."""

    def __init__(self, priority: int) -> None:
        self.priority, self.answers, self.on_network = priority, True, True
        self.files = {"rank": "0", "withdrawn": "0", "highest": "0"}

    @property
    def can_hold(self) -> bool:
        return self.on_network and self.files["withdrawn"] == "0"


def one_at_a_time(_: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


class World:
    """Hosts of sites, and three witnesses. fails_at: the change from now on at which its machine is lost.
    made: whether that change is made all the same.
    """

    def __init__(self, sites: dict[str, int]) -> None:
        names = [f"{site}{number}" for site, count in sites.items() for number in range(count)]
        self.hosts = {name: Machine(9 - index) for index, name in enumerate(names)}
        self.witnesses = {f"w{number}": Machine(0) for number in range(3)}
        self.sites = list(sites)
        self.fails_at: int | None = None
        self.made = False
        # The hosts that must come first, by the last shift that ended well.
        self.chosen: frozenset[str] = frozenset()
        # The site of that shift, if most witnesses could note it.
        self.noted = ""
        self.script = self.load()

    def load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("keepalived_script", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        changed = vars(module)
        for name in self.hosts:
            module.HOSTS.setdefault(name[:-1], []).append(name)
        module.WITNESSES.extend(self.witnesses)
        module.ADDRESSES.add(ADDRESS)
        changed.update(call=self.call, TAKEN_OVER_S=0, PAUSE_S=0, ThreadPoolExecutor=one_at_a_time)
        return module

    def holder(self) -> str | None:
        ready = [name for name, host in self.hosts.items() if host.can_hold]

        def priority(name: str) -> int:
            host = self.hosts[name]
            return min(254, host.priority + 10 * int(host.files["rank"]))

        return max(ready, key=priority, default=None)

    def call(self, command: str, script: str, *words: str) -> CompletedProcess[str]:
        machine = (self.hosts | self.witnesses)[command]
        if script == self.script.CHANGE and self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at == 0:
                machine.answers = machine.on_network = False
                if self.made:
                    machine.files |= dict(zip(words[1::2], words[2::2], strict=True))
        if not machine.answers:
            raise TimeoutExpired(command, 4)
        said = ""
        if script == self.script.RECALL:
            said = f"{machine.files['highest']}\n"
        elif script == self.script.CHANGE:
            machine.files |= dict(zip(words[1::2], words[2::2], strict=True))
        else:
            said = f"rank {machine.files['rank']} withdrawn {machine.files['withdrawn']}\nrunning\n"
            said += f"1: lan inet {ADDRESS}/32\n" if self.holder() == command else ""
        return CompletedProcess(command, 0, said, "")

    def run(self, what: str, verb: str, site: str, away: list[str] | None = None) -> int:
        """away: the sites that a shift leaves, if not all others."""
        others = ",".join([other for other in self.sites if other != site] if away is None else away)
        order = {"TO": site, "AWAY": others, "SITE": site, "SHARE": "1000"}
        with (
            patch.dict(os.environ, {f"EVAC_PARAMETER_{name}": value for name, value in order.items()}),
            pytest.raises(SystemExit) as ended,
        ):
            self.script.main(what, verb)
        code = int(str(ended.value.code))
        answering = [witness.answers for witness in self.witnesses.values()]
        if verb == "shift" and what == "execute":
            self.noted = site if code == self.script.DONE and answering.count(True) >= 2 else ""
        if verb == "shift" and code == self.script.DONE:
            self.chosen = frozenset(
                name for name, host in self.hosts.items() if name[:-1] == site and host.answers
            )
        elif verb == "shift" and what == "execute":
            self.chosen = frozenset()
        return code

    def leave(self, site: str, away: list[str]) -> None:
        """A shift takes the addresses from a silent site that was chosen last only if it leaves it."""
        last = self.noted
        silent = not any(host.answers for name, host in self.hosts.items() if name[:-1] == last)
        code = self.run("execute", "shift", site, away)
        assert not (last and last not in (site, *away) and silent and code == self.script.DONE), last

    def must_keep_it(self) -> None:
        """While a host of the chosen site can hold the addresses, no host of another site holds them."""
        able = [name for name in self.chosen if self.hosts[name].can_hold]
        if able:
            holder = self.holder()
            assert holder is not None
            ranks = {name: host.files["rank"] for name, host in self.hosts.items()}
            assert holder[:-1] == able[0][:-1], (holder, able, ranks)


EVENTS = st.tuples(
    st.sampled_from(
        [
            "alone",
            "alone",
            "all",
            "all",
            "lose",
            "return",
            "return",
            "cut",
            "witness",
            "shift",
            "shift",
            "move",
            "move",
            "leave",
            "leave",
            "look",
            "drain",
            "ready",
            "fail",
        ]
    ),
    st.integers(0, 11),
)


@pytest.mark.parametrize(
    "sites", [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 2}]
)
@settings(max_examples=100, deadline=None)
@given(events=st.lists(EVENTS, max_size=40))
def test_no_host_that_returns_takes_the_addresses_from_the_chosen_site(
    sites: dict[str, int], events: list[tuple[str, int]]
) -> None:
    world = World(sites)
    names = list(world.hosts)
    for event, number in events:
        site = world.sites[number % len(world.sites)]
        own = [world.hosts[name] for name in names if name[:-1] == site]
        if event in ("lose", "return"):
            for host in own:
                host.answers = host.on_network = event == "return"
        elif event == "alone":
            for name, host in world.hosts.items():
                host.answers = host.on_network = name[:-1] == site
            world.run("execute", "shift", site)
        elif event == "all":
            for host in world.hosts.values():
                host.answers = host.on_network = True
        elif event == "cut":  # it answers evac no more, and keepalived runs on
            world.hosts[names[number % len(names)]].answers = False
        elif event == "witness":
            witness = world.witnesses[f"w{number % 3}"]
            witness.answers = not witness.answers
        elif event == "move":  # it leaves only the site that was chosen last
            last = {name[:-1] for name in world.chosen} - {site}
            world.run("execute", "shift", site, sorted(last))
        elif event == "leave":  # it leaves any of the others
            world.leave(
                site, [one for bit, one in enumerate(world.sites) if one != site and number >> bit & 1]
            )
        elif event == "fail":
            world.fails_at, world.made = number // 2 + 1, number % 2 == 1
        else:
            world.run(
                "observe" if event == "look" else "execute", "shift" if event == "look" else event, site
            )
        world.must_keep_it()


@pytest.mark.parametrize("count", [2, 3])
def test_sites_lost_in_turn_until_no_rank_is_left(count: int) -> None:
    world = World(dict.fromkeys("abc"[:count], 1))
    script = world.script
    assert world.run("execute", "shift", "a") == script.DONE
    for turn in range(1, 12):
        for index, host in enumerate(world.hosts.values()):
            host.answers = host.on_network = index == turn % count
        site = world.sites[turn % count]
        assert world.run("observe", "shift", site) == script.NOT_DONE
        assert world.run("execute", "shift", site) == script.DONE
        before = {name: dict(host.files) for name, host in world.hosts.items()}
        assert world.run("observe", "shift", site) == script.DONE
        assert world.run("execute", "shift", site) == script.DONE
        assert before == {name: host.files for name, host in world.hosts.items()}, "a retry takes no rank"
        for host in world.hosts.values():
            host.answers = host.on_network = True
        world.must_keep_it()
    holder = world.holder()
    for name, host in world.hosts.items():
        host.answers = name != holder
    last = next(name for name, host in world.hosts.items() if host.answers)
    assert world.run("execute", "shift", last[:-1]) == script.AGAIN
    for host in world.hosts.values():
        host.answers = True
    assert world.run("execute", "shift", last[:-1]) == script.DONE
    assert {host.files["rank"] for host in world.hosts.values()} == {"1", "2"}


def test_without_most_witnesses_a_host_that_does_not_answer_stops_a_shift() -> None:
    world = World({"a": 1, "b": 1})
    world.witnesses["w0"].answers = world.witnesses["w1"].answers = False
    assert world.run("execute", "shift", "a") == world.script.DONE, "every host answers"
    world.hosts["a0"].answers = world.hosts["a0"].on_network = False
    before = dict(world.hosts["b0"].files)
    assert world.run("execute", "shift", "b") == world.script.AGAIN
    assert world.hosts["b0"].files == before
    world.witnesses["w1"].answers = True
    assert world.run("execute", "shift", "b") == world.script.DONE


def test_a_third_site_that_is_silent_stops_no_shift_unless_it_was_chosen_last() -> None:
    """The second fire of three sites: the first one still does not answer."""
    world = World(dict.fromkeys("abc", 1))
    done, again = world.script.DONE, world.script.AGAIN
    lost = world.hosts["a0"]
    lost.answers = lost.on_network = False
    assert world.run("execute", "shift", "c", []) == again, "no one knows what was chosen"
    assert world.run("execute", "shift", "b", ["a"]) == done
    world.hosts["b0"].answers = world.hosts["b0"].on_network = False
    before = dict(world.hosts["c0"].files)
    assert world.run("execute", "shift", "c", ["a"]) == again, "b was chosen last, and is not left"
    assert world.hosts["c0"].files == before
    assert world.run("observe", "shift", "c", ["b"]) == world.script.NOT_DONE
    world.witnesses["w0"].answers = world.witnesses["w1"].answers = False
    assert world.run("execute", "shift", "c", ["b"]) == again, "most witnesses are silent"
    world.witnesses["w1"].answers = True
    assert world.run("execute", "shift", "c", ["b"]) == done
    assert world.run("observe", "shift", "c", ["b"]) == done
    for name in ("a0", "b0"):
        world.hosts[name].answers = world.hosts[name].on_network = True
        assert world.holder() == "c0"


def test_a_witness_that_missed_the_way_home_does_not_speak_for_the_others() -> None:
    """The first site burns and is repaired; one witness is down during the shift back to it."""
    world = World(dict.fromkeys("abc", 1))
    done, again = world.script.DONE, world.script.AGAIN
    assert world.run("execute", "shift", "a") == done
    world.hosts["a0"].answers = world.hosts["a0"].on_network = False
    assert world.run("execute", "shift", "b", ["a"]) == done
    world.hosts["a0"].answers = world.hosts["a0"].on_network = True
    world.witnesses["w2"].answers = False
    assert world.run("execute", "shift", "a", ["b"]) == done
    world.witnesses["w2"].answers = True
    assert [one.files["highest"] for one in world.witnesses.values()] == ["2:a", "2:a", "4:b"]
    world.hosts["a0"].answers = False
    before = {name: dict(host.files) for name, host in world.hosts.items()}
    assert world.run("execute", "shift", "c", ["b"]) == again, "two of three witnesses name a"
    assert before == {name: host.files for name, host in world.hosts.items()}
    assert world.run("execute", "shift", "c", ["a"]) == done, "it leaves a, and b answers"
