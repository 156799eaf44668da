"""A zone in files of octoDNS's own YAML provider, for the suites: a real octoDNS reads and writes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evac.drivers.capabilities import RoutesTraffic
from evac.drivers.octodns import DRIVER
from evac.drivers.octodns.driver import OctoDnsDriver
from evac.drivers.port import Action, Value, Verb
from tests.contract.capabilities.hostile import ProgramWire
from tests.contract.capabilities.story import Case
from tests.contract.capabilities.suites import Adapter

ZONE = "evac.test"
PANGYO, ANYANG = "192.0.2.1", "192.0.2.2"


class Files:
    """A configuration with one local provider, and the zone that it holds."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.config, self.zone = folder / "octodns.yaml", folder / "zones" / f"{ZONE}.yaml"
        self.zone.parent.mkdir()
        local = {
            "class": "octodns.provider.yaml.YamlProvider",
            "directory": str(self.zone.parent),
        }
        self.config.write_text(yaml.safe_dump({"providers": {"local": {**local, **more}}, "zones": {}}))
        chat = {"type": "A", "ttl": 7, "value": PANGYO}
        mail = {"type": "MX", "value": {"exchange": f"mail.{ZONE}.", "preference": 10}}
        self.zone.write_text(yaml.safe_dump({"": mail, "chat0": chat, "chat1": chat, "old": chat}))

    def held(self) -> Any:
        return yaml.safe_load(self.zone.read_text())

    def answer(self, name: str) -> tuple[str, ...]:
        found = self.held().get(name, {})
        return tuple(sorted(found.get("values", [found["value"]] if "value" in found else [])))

    def action(self, verb: Verb, **parameters: Value) -> Action:
        settings: dict[str, Value] = {
            "config": str(self.config),
            "provider": "local",
            "zone": ZONE,
            "records": tuple(f"chat{n}=pangyo:{PANGYO},anyang:{ANYANG}" for n in range(2)),
        }
        return Action(verb, ZONE, "octodns", "anyang", settings, parameters)


@contextmanager
def _acts(folder: Path, verb: Verb) -> Iterator[Case]:
    files = Files(folder)
    after = {"shift": (ANYANG,), "drain": (ANYANG,), "ready": (PANGYO, ANYANG)}[verb]
    site = "pangyo" if verb == "drain" else "anyang"
    given: dict[str, Value] = {"to": "anyang", "away": "pangyo", "share": 1_000}
    kept = folder / "kept.yaml"

    async def prepare() -> None:
        if verb == "drain":
            zone = files.held()
            for name in ("chat0", "chat1"):
                zone[name] = {"type": "A", "ttl": 7, "values": [PANGYO, ANYANG]}
            files.zone.write_text(yaml.safe_dump(zone))

    async def state() -> object:
        return files.held()

    async def is_done() -> bool:
        return [files.answer(f"chat{n}") for n in range(2)] == [after, after]

    async def silence() -> None:
        """Opening a pipe waits for its other end."""
        files.zone.rename(kept)
        os.mkfifo(files.zone.with_name("pipe"))
        files.zone.write_text("chat0: !include pipe\n")

    async def speak() -> None:
        files.zone.with_name("pipe").unlink()
        kept.rename(files.zone)

    def through(action: Action, program: str) -> Action:
        return replace(action, settings={**action.settings, "python": (program,)})

    hostile = folder / "hostile"
    hostile.mkdir()
    yield Case(
        OctoDnsDriver(),
        files.action(verb, **(given if verb == "shift" else {"site": site})),
        state,
        is_done,
        prepare,
        silence,
        speak,
        tokens=True,
        undo="done",
        silent_codes=("octodns-silent",),
        wires=(ProgramWire(sys.executable, hostile, through, turns=1, bounded=True),),
    )


ADAPTER = Adapter(DRIVER, acts={RoutesTraffic: _acts}, marks=())
