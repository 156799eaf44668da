"""Real programs for the suites."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evac.drivers.capabilities import (
    Fences,
    Follows,
    Promotes,
    ReportsRole,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.command import DRIVER
from evac.drivers.command.driver import CommandDriver
from evac.drivers.port import Action, Value, Verb
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Adapter, AskedRole

SECRET = "pass-word-of-the-router"


def script(folder: Path, name: str, *lines: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@contextmanager
def _fence(folder: Path, verb: Verb) -> Iterator[Case]:
    os.environ["ROUTER_KEY"] = SECRET
    done, slow = folder / "done", folder / "slow"
    wait = f"while [ -e {slow} ]; do sleep 0.05; done"
    settings = {
        "argv": (
            script(folder, "do", wait, f"[ -e {done} ] || echo $EVAC_PARAMETER_TO > {done}", "echo $KEY"),
        ),
        "observe_argv": (script(folder, "look", wait, f"test -e {done}"),),
        "undo_argv": (script(folder, "undo", f"rm -f {done}"),),
        "env": ("KEY=env:ROUTER_KEY",),
    }

    async def state() -> object:
        return sorted((path.name, path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir())

    async def is_done() -> bool:
        return done.exists()

    async def silence() -> None:
        slow.touch()

    async def speak() -> None:
        slow.unlink()

    yield Case(
        CommandDriver(),
        Action(verb, "router", "command", "pangyo", settings, {"proof": "network", "to": "anyang"}),
        state,
        is_done,
        silence=silence,
        speak=speak,
        undo="done",
        secrets=(SECRET,),
        silent_codes=("command-unknown",),
    )
    del os.environ["ROUTER_KEY"]


PROGRAM = """
while [ -e slow ]; do sleep 0.05; done
n=${EVAC_PARAMETER_REPLICAS:-0}; [ "$EVAC_VERB" = stop ] && n=0
to=${EVAC_PARAMETER_TO:-$EVAC_PARAMETER_SITE}
again() { echo "$1"; exit 75; }
never() { echo "$1"; exit 64; }
case $EVAC_VERB:$to in
*:pangyo|*:anyang|promote:*|demote:*|rejoin:*|start:*|scale:*|stop:*|verify:*) ;;
*) never "there is no site $to" ;;
esac
case $EVAC_WHAT:$EVAC_VERB in
role:*)           printf '{"role": "%s", "lag_ms": 0, "confirms": []}' "$(cat role.$EVAC_SITE)" ;;
check:promote)    [ "$(cat role.pangyo)" != primary ] || again "pangyo takes writes" ;;
execute:promote)  echo primary > role.anyang ;;
observe:promote)  [ "$(cat role.anyang)" = primary ] ;;
execute:demote)   echo none > role.pangyo ;;
observe:demote)   [ "$(cat role.pangyo)" = none ] ;;
check:rejoin)     [ "$(cat role.pangyo)" = primary ] || again "$EVAC_PARAMETER_PRIMARY_HOST is no primary" ;;
execute:rejoin)   echo replica > role.anyang ;;
observe:rejoin)   [ "$(cat role.anyang)" = replica ] ;;
check:demote|check:start|check:scale|check:stop) ;;
execute:start|execute:scale|execute:stop)
    [ -e before ] || cp count before
    [ $EVAC_VERB = start ] && [ "$(cat count)" -ge "$n" ] || echo $n > count ;;
undo:start|undo:scale|undo:stop) [ ! -e before ] || cp before count ;;
observe:start)    [ "$(cat count)" -ge "$n" ] ;;
observe:scale|observe:stop) [ "$(cat count)" = "$n" ] ;;
check:shift|check:drain|check:ready)
    [ $EVAC_VERB != drain ] || [ "$(cat traffic)" != $to ] || never "$to is the last site" ;;
execute:shift|execute:ready) [ -e before ] || cp traffic before; echo "$to" > traffic ;;
execute:drain)    [ -e before ] || cp traffic before; echo anyang > traffic ;;
undo:shift|undo:drain|undo:ready) [ ! -e before ] || cp before traffic ;;
observe:shift|observe:ready) [ "$(cat traffic)" = "$to" ] ;;
observe:drain)    [ "$(cat traffic)" = anyang ] ;;
execute:verify)   [ -e good ] || again "it answers 500" ;;
observe:verify)   [ -e good ] ;;
*)                never "no such order" ;;
esac
"""
"""A company's own program: one for every question and every verb, as the documentation shows it."""
REFUSED = frozenset({"promote", "demote", "rejoin", "verify"})
"""Verbs that nothing takes back."""


def _settings(folder: Path, verb: Verb) -> dict[str, Value]:
    program = script(folder, "program", f"cd {folder} || exit 70", PROGRAM)
    settings: dict[str, Value] = {
        "does": tuple(CommandDriver.verbs),
        "argv": (program,),
        "observe_argv": (program,),
        "role_argv": (program,),
        "host": "10.0.0.1",
    }
    if verb != "verify":
        settings["check_argv"] = (program,)
    return settings if verb in REFUSED else {**settings, "undo_argv": (program,)}


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    for name, text in (
        ("role.pangyo", "none" if verb == "rejoin" else "primary"),
        ("role.anyang", "none" if verb == "rejoin" else "replica"),
        ("count", "1"),
        ("traffic", "pangyo"),
    ):
        (folder / name).write_text(f"{text}\n")
    parameters: dict[str, Value] = {"candidate": "anyang"}
    match verb:
        case "rejoin":
            parameters = {"primary_host": "10.0.0.1"}
        case "start" | "scale":
            parameters = {"replicas": 3}
        case "shift":
            parameters = {"to": ("anyang",), "away": ("pangyo",), "share": 1_000}
        case "drain":
            parameters = {"site": "pangyo"}
        case "ready":
            parameters = {"site": "anyang"}
    at = "pangyo" if verb == "demote" else "anyang"
    watched = {"promote": "role.anyang", "demote": "role.pangyo", "rejoin": "role.anyang", "verify": "good"}
    traffic = "traffic" if verb in ("shift", "drain", "ready") else "count"
    file = folder / watched.get(verb, traffic)
    wanted = {"promote": "primary", "demote": "none", "rejoin": "replica", "start": "3", "scale": "3"}
    done = wanted.get(verb, "0" if verb == "stop" else "anyang")

    async def state() -> object:
        names = ("role.pangyo", "role.anyang", "count", "traffic")
        return [(folder / name).read_text() for name in names]

    async def is_done() -> bool:
        return file.exists() and file.read_text().strip() == done

    async def prepare() -> None:
        if verb == "promote":
            (folder / "role.pangyo").write_text("none\n")
        elif verb == "rejoin":
            (folder / "role.pangyo").write_text("primary\n")
        elif verb == "drain":
            (folder / "traffic").write_text("pangyo anyang\n")
        elif verb == "verify":
            (folder / "good").touch()

    async def silence() -> None:
        (folder / "slow").touch()

    async def speak() -> None:
        (folder / "slow").unlink()

    yield Case(
        CommandDriver(),
        Action(verb, "router", "command", at, _settings(folder, verb), parameters),
        state,
        is_done,
        prepare=prepare,
        silence=silence,
        speak=speak,
        undo="refused" if verb in REFUSED else "done",
        undo_is_theirs=True,
        silent_codes=("command-unknown", "command-again"),
    )


@contextmanager
def _roles(folder: Path) -> Iterator[AskedRole]:
    for name in ("pangyo", "anyang"):
        (folder / f"role.{name}").write_text("primary" if name == "pangyo" else "replica")
    settings = _settings(folder, "verify")

    def asks(site: str) -> Action:
        return Action("verify", "carts", "command", site, settings)

    def through(action: Action, program: str) -> Action:
        return replace(action, settings={**action.settings, "role_argv": (program,)})

    async def silence() -> None:
        (folder / "slow").touch()

    async def speak() -> None:
        (folder / "slow").unlink()

    (folder / "hostile").mkdir()
    wire = ProgramWire(str(folder / "program"), folder / "hostile", through)
    yield AskedRole(CommandDriver(), asks("pangyo"), silence, speak, wires=(wire,), replica=asks("anyang"))


ADAPTER = Adapter(
    DRIVER,
    acts={Fences: _fence} | dict.fromkeys((Promotes, Follows, RunsUnits, RoutesTraffic, Verifies), _acts),
    asks={ReportsRole: _roles},
    marks=(),
)
