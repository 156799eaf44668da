#!/usr/bin/env python3
"""Moves the virtual addresses of a service between the sites whose hosts run keepalived (VRRP), for evac.

Verbs: shift, drain, ready. KEEPALIVED_HOSTS: how a shell is run on the hosts of each site. Semicolons
separate sites, commas the hosts of one, such as fra=ssh fra-lb1,ssh fra-lb2;muc=ssh muc-lb1.
KEEPALIVED_ADDRESSES: the addresses, separated by commas. KEEPALIVED_FOLDER: the folder of the two files on
each host that keepalived tracks: rank (the host with the highest one holds the addresses) and withdrawn (0 or
1). A rank is even at the site that was chosen last, and the odd one below it elsewhere. Each service needs a
folder of its own. KEEPALIVED_WITNESSES: how a shell is run on the machines that remember the highest rank, in
the file highest of that folder, separated by commas. More than half of them must answer if a host does not.

A shift counts a site as left if none of its hosts can be reached. Such a host has a lower rank when it
returns. The same is true of a third site that a shift does not leave, if the witnesses remember that another
site was chosen last. A host that can be reached, but does not answer as it should, is not counted as lost.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import NamedTuple

DONE, NOT_DONE, NEVER, AGAIN = 0, 1, 64, 75
BACK = {"drain": "ready", "ready": "drain"}
HOSTS: dict[str, list[str]] = {}
WITNESSES: list[str] = []
ADDRESSES: set[str] = set()
FOLDER = os.environ.get("KEEPALIVED_FOLDER", "/etc/keepalived/evac")
CALL_S, TAKEN_OVER_S, PAUSE_S, MOST_RANK = 4, 6, 0.2, 24
# What ssh says, with its exit code 255, of a host that cannot be reached. Others did answer, or may be up.
NO_WAY = re.compile("timed out|No route to host|Network is unreachable")
LOOK = """
echo rank "$(cat "$1/rank")" withdrawn "$(cat "$1/withdrawn")"
read -r pid < /run/keepalived.pid && [ -d "/proc/$pid" ] && echo running
ip -o address show
"""
RECALL = 'cat "$1/highest"'
CHANGE = f"""
set -eu
cd "$1"
exec 9>> lock
flock -w 2 9
highest=0
if [ -e token ]; then read -r highest < token || highest=; fi
case "$highest" in ''|*[!0-9]*) echo "$1/token holds no number" >&2; exit {AGAIN};; esac
[ "$2" -ge "$highest" ] || exit {NEVER}
put() {{ echo "$2" > "$1.new"; mv "$1.new" "$1"; }}
put token "$2"
shift 2
while [ "$#" -gt 0 ]; do put "$1" "$2"; shift 2; done
"""


class Host(NamedTuple):
    """What a host said. silent: why it cannot be reached; wrong: what is wrong with its answer."""

    site: str
    command: str
    silent: str = ""
    wrong: str = ""
    rank: int = 0
    withdrawn: bool = False
    running: bool = False
    holds: frozenset[str] = frozenset()

    def __str__(self) -> str:
        number = f" host {HOSTS[self.site].index(self.command) + 1}" if len(HOSTS[self.site]) > 1 else ""
        if self.silent:
            return f"{self.site}{number} does not answer"
        if self.wrong:
            return f"{self.site}{number} does not answer as it should"
        state = "is withdrawn" if self.withdrawn else "is ready" if self.running else "runs no keepalived"
        return f"{self.site}{number} " + (f"holds {', '.join(sorted(self.holds))}" if self.holds else state)


def end(code: int, words: str) -> None:
    print(words)
    sys.exit(code)


def call(command: str, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*shlex.split(command), "sh", "-s", "--", FOLDER, *words]
    return subprocess.run(
        argv,
        input=script,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=CALL_S,
        check=False,
        env=os.environ | {"LC_ALL": "C"},
    )


def ask(site: str, command: str) -> Host:
    try:
        ended = call(command, LOOK)
    except subprocess.TimeoutExpired as error:
        return Host(site, command, silent=type(error).__name__)
    except OSError as error:
        return Host(site, command, wrong=str(error))
    said = ended.stderr.strip()[-200:]
    if ended.returncode == 255 and NO_WAY.search(said):
        return Host(site, command, silent=said)
    files = re.match(r"rank (\d{1,2}) withdrawn ([01])$", ended.stdout, re.MULTILINE)
    if ended.returncode != 0 or files is None:
        return Host(site, command, wrong=said or "unexpected answer")
    there = {found.partition("/")[0] for found in re.findall(r"\binet6? (\S+)", ended.stdout)}
    running = "running" in ended.stdout.splitlines()
    holds = frozenset(ADDRESSES & there)
    return Host(site, command, "", "", int(files[1]), files[2] == "1", running, holds)


def look() -> list[Host]:
    """Every host, all asked at once."""
    every = [(site, command) for site, commands in HOSTS.items() for command in commands]
    with ThreadPoolExecutor(len(every)) as pool:
        return list(pool.map(lambda one: ask(*one), every))


def change(host: Host, rank: int | None = None, withdrawn: int | None = None) -> None:
    pairs = (("rank", rank), ("withdrawn", withdrawn))
    given = [word for name, value in pairs if value is not None for word in (name, str(value))]
    try:
        ended = call(host.command, CHANGE, os.environ.get("EVAC_TOKEN", "0"), *given)
    except (OSError, subprocess.TimeoutExpired) as error:
        end(AGAIN, f"{host}: {type(error).__name__}")
    if ended.returncode == NEVER:
        end(NEVER, f"{host}: a newer leader has changed it")
    if ended.returncode != 0:
        end(AGAIN, f"{host}: {ended.stderr.strip()[-200:]}")


class Memory(NamedTuple):
    """The highest rank given since all hosts last answered, and the sites that got it, by the witnesses.

    named: every site that one of them names, at any rank: a witness may have missed what came later.
    """

    highest: int
    sites: frozenset[str]
    named: frozenset[str]


def recall() -> Memory:
    """What more than half of the witnesses remember. One of them has noted the last rank."""

    def one(command: str) -> re.Match[str] | None:
        try:
            ended = call(command, RECALL)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return re.fullmatch(r"(\d{1,2})(?::(\S+))?\n", ended.stdout) if ended.returncode == 0 else None

    with ThreadPoolExecutor(len(WITNESSES)) as pool:
        found = [(int(match[1]), match[2] or "") for match in pool.map(one, WITNESSES) if match]
    if len(found) * 2 <= len(WITNESSES):
        end(AGAIN, f"a host does not answer, and only {len(found)} of {len(WITNESSES)} witnesses do")
    highest = max(rank for rank, _ in found)
    named = frozenset(site for _, names in found for site in names.split(",") if site)
    return Memory(highest, frozenset(names for rank, names in found if rank == highest), named)


def remember(rank: int, on: list[str]) -> bool:
    """Whether more than half of the witnesses have noted the rank and the sites that get it."""

    def one(command: str) -> int:
        words = (os.environ.get("EVAC_TOKEN", "0"), "highest", f"{rank}:{','.join(sorted(on))}")
        try:
            return call(command, CHANGE, *words).returncode
        except (OSError, subprocess.TimeoutExpired):
            return AGAIN

    with ThreadPoolExecutor(len(WITNESSES)) as pool:
        codes = list(pool.map(one, WITNESSES))
    if NEVER in codes:
        end(NEVER, "a witness knows a newer leader")
    return codes.count(0) * 2 > len(WITNESSES)


def is_highest(on: list[str], now: list[Host], memory: Memory) -> bool:
    """Whether the sites, and no others, have the highest rank that any host can have."""
    own = [host for host in now if host.site in on and not host.silent]
    same = memory.sites == {",".join(sorted(on))} and memory.highest % 2 == 0 < memory.highest
    return same and all(host.rank == memory.highest for host in own)


def sites(name: str) -> list[str]:
    return [site for site in os.environ.get(f"EVAC_PARAMETER_{name}", "").split(",") if site]


def wanted(what: str, verb: str) -> tuple[str, list[str], list[str]]:
    """The verb, sites that shall hold the addresses (or be ready to), and sites that shall not."""
    if verb != "shift" and verb not in BACK:
        end(NEVER, f"this script does not {verb}")
    if verb != "shift":
        return (BACK[verb] if what == "undo" else verb), sites("SITE"), []
    if int(os.environ.get("EVAC_PARAMETER_SHARE") or 1000) < 1000:
        end(DONE, "addresses move as a whole, with the last share: nothing moves now")
    to, away = sites("TO"), sites("AWAY")
    if what == "undo" and not away:
        end(NEVER, "it is not known which site held the addresses before")
    return (verb, away, []) if what == "undo" else (verb, to, away)


def can_hold(host: Host) -> bool:
    return host.running and not host.silent and not host.wrong


def is_done(verb: str, on: list[str], off: list[str], now: list[Host]) -> bool:
    own = [host for host in now if host.site in on]
    if verb == "ready":
        return any(can_hold(host) for host in own) and not any(host.withdrawn for host in own)
    if verb == "drain":
        return all(host.withdrawn and not host.holds for host in own)
    held = {address for host in own for address in host.holds}
    others = [host for host in now if host.site not in on and not host.silent]
    left = all(host.withdrawn for host in others if host.site in off)
    # Not done if keepalived moved them by itself: the rank must keep them there when another host returns.
    ranked = all(host.rank and host.rank % 2 == 0 for host in own if can_hold(host))
    lower = all(host.rank < other.rank for host in others for other in own if can_hold(other))
    done = held == ADDRESSES and left and ranked and lower and not any(host.holds for host in others)
    # A host that does not answer may have got a higher rank while one of these did not answer.
    return done and (not any(host.silent for host in now) or is_highest(on, now, recall()))


def must_answer(verb: str, off: list[str], on: list[str], now: list[Host]) -> None:
    """A site must answer unless a shift leaves it: each host for drain and ready, one host for a shift.

    A third site may be silent in a shift if no witness names it: its rank is lower than the one that the
    shift gives. No host that can be reached may answer wrongly: it may hold the addresses.
    """
    silent_sites = []
    for host in now:
        if host.wrong and (verb == "shift" or host.site in on):
            end(AGAIN, f"{host}: {host.wrong}")
    for site in HOSTS:
        own = [host for host in now if host.site == site]
        silent = [host for host in own if host.silent]
        each = verb != "shift" and site in on
        if silent and site not in off and (each or len(silent) == len(own)):
            if verb != "shift" or site in on:
                end(AGAIN, f"{silent[0]}: {silent[0].silent}")
            silent_sites.append(silent[0])
    chosen = recall().named if silent_sites else frozenset()
    for host in silent_sites:
        if not chosen or host.site in chosen:
            why = "was chosen last" if chosen == {host.site} else "may have been chosen last"
            end(AGAIN, f"{host}: {host.silent}; {host.site} {why}, so it must answer or be left")


def must_be_possible(verb: str, on: list[str], now: list[Host]) -> None:
    if verb == "drain":
        if not any(can_hold(host) and not host.withdrawn for host in now if host.site not in on):
            end(NEVER, "no host would be left that can hold the addresses")
        return
    for site in on:
        if not any(can_hold(host) for host in now if host.site == site):
            end(AGAIN, f"no host of {site} runs keepalived")


def wait_until(verb: str, on: list[str]) -> bool:
    """Whether, in time, hosts of the sites hold all addresses (shift), or hosts of other sites do (drain)."""
    until = time.monotonic() + TAKEN_OVER_S
    while True:
        now = look()
        held = {address for host in now if (host.site in on) == (verb == "shift") for address in host.holds}
        if held == ADDRESSES:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(PAUSE_S)


def shift(on: list[str], off: list[str], now: list[Host]) -> None:
    answering = [host for host in now if not host.silent]
    silent = len(answering) < len(now)
    rank = 2
    if silent:
        memory = recall()
        known = max(rank, memory.highest, *(host.rank for host in answering))
        rank = memory.highest if is_highest(on, now, memory) else (known // 2 + 1) * 2
        if rank > MOST_RANK:
            end(AGAIN, "no higher rank is left: shift once while every host in KEEPALIVED_HOSTS answers")
        if not remember(rank, on):
            end(AGAIN, "more than half of the witnesses must note the rank: nothing has changed")
    # No other host outranks the new holder meanwhile: ranks fall at the others first, and rise there last.
    order = sorted(answering, key=lambda host: (host.site in on) != silent)
    for host in order:
        change(host, rank, 0) if host.site in on else change(host, rank - 1)
    if not silent:
        remember(
            rank, on
        )  # now no host has a higher one; a witness that misses this remembers too high a rank
    if not wait_until("shift", on):
        end(AGAIN, f"no host of {', '.join(on)} took over within {TAKEN_OVER_S} s; no site was withdrawn")
    for host in answering:
        if host.site in off:
            change(host, withdrawn=1)


def drain(own: list[Host], on: list[str]) -> None:
    for host in own:
        change(host, withdrawn=1)
    if not wait_until("drain", on):
        for host in own:
            change(host, withdrawn=int(host.withdrawn))
        end(AGAIN, f"no other site took over within {TAKEN_OVER_S} s: {', '.join(on)} is as before")


def main(what: str, verb: str) -> None:
    verb, on, off = wanted(what, verb)
    if unknown := [site for site in on + off if site not in HOSTS]:
        end(NEVER, f"KEEPALIVED_HOSTS names no host of {', '.join(unknown)}")
    now = look()
    must_answer(verb, off, on, now)
    if what == "observe":
        end(DONE if is_done(verb, on, off, now) else NOT_DONE, "; ".join(map(str, now)))
    must_be_possible(verb, on, now)
    if what == "check":
        end(DONE, "; ".join(map(str, now)))
    own = [host for host in now if host.site in on]
    if verb == "shift":
        shift(on, off, now)
    elif verb == "drain":
        drain(own, on)
    else:
        for host in own:
            change(host, withdrawn=0)
    end(DONE, "; ".join(map(str, look())))


def read_settings() -> None:
    for part in os.environ["KEEPALIVED_HOSTS"].split(";"):
        site, _, commands = part.strip().partition("=")
        HOSTS[site] = [command.strip() for command in commands.split(",")]
    WITNESSES.extend(one.strip() for one in os.environ["KEEPALIVED_WITNESSES"].split(","))
    if not all(map(shlex.split, [*WITNESSES, *(one for own in HOSTS.values() for one in own)])):
        raise ValueError("KEEPALIVED_HOSTS or KEEPALIVED_WITNESSES has an empty command")
    ADDRESSES.update(str(ip_address(one.strip())) for one in os.environ["KEEPALIVED_ADDRESSES"].split(","))


if __name__ == "__main__":
    try:
        read_settings()
    except KeyError as error:
        end(NEVER, f"{error.args[0]} is not set")
    except ValueError as error:
        end(NEVER, f"the settings of this script are wrong: {error}")
    try:
        main(os.environ["EVAC_WHAT"], os.environ["EVAC_VERB"])
    except Exception as error:  # an exit with 1 would mean: not done
        end(AGAIN, f"{type(error).__name__}: {error}")
