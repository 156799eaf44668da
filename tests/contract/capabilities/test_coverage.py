"""Every driver that declares a capability is in its suite, real and simulated, for every verb of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from evac.drivers.capabilities import ABOUT
from evac.drivers.registry import DRIVERS
from tests.contract.capabilities.suites import adapters, questions
from tests.sim.drivers import SPECS


def test_every_declared_capability_has_an_adapter_and_none_has_another() -> None:
    """One that fails here lacks an entry in `tests/contract/adapters/NAME.py`."""
    specs = {("real", name): spec for name, spec in DRIVERS.items() if spec.capabilities}
    specs |= {("simulated", name): spec for name, spec in SPECS.items()}
    declared = {
        (*key, one.__name__, how)
        for key, spec in specs.items()
        for one in spec.capabilities
        for how in ways(one)
    }
    joined = {
        (one.world, one.spec.name, capability.__name__, how)
        for one in adapters()
        for how, by_capability in (("acts", one.acts), ("asks", one.asks))
        for capability in by_capability
    }
    assert joined == declared


def ways(capability: type) -> set[str]:
    """By verbs of the port, by questions of its own, or by both."""
    found = {"acts"} if ABOUT[capability].verbs else set()
    return found | {"asks"} if questions(capability) else found


def test_every_capability_has_a_suite_for_every_verb_and_question(project_root: Path) -> None:
    found: set[tuple[str, str]] = set()
    for path in (project_root / "tests" / "contract" / "capabilities").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                match mark:
                    case ast.Call(func=ast.Name("acting"), args=[ast.Name(capability), *verbs]):
                        found |= {(capability, ast.literal_eval(verb)) for verb in verbs}
                    case ast.Call(func=ast.Name("asking"), args=[ast.Name(capability)]):
                        found.add((capability, "?"))
    wanted = {(one.__name__, verb) for one, about in ABOUT.items() for verb in about.verbs}
    wanted |= {(one.__name__, "?") for one in ABOUT if questions(one)}
    assert found == wanted


def test_a_simulated_driver_declares_no_more_than_the_real_one() -> None:
    for name, spec in SPECS.items():
        real = DRIVERS[name]
        assert spec.capabilities
        assert set(spec.capabilities) <= set(real.capabilities)
        module, _, kind = spec.make.partition(":")
        made = getattr(__import__(module, fromlist=[kind]), kind)
        assert made.name == name
        assert (
            made.verbs
            <= getattr(
                __import__(real.make.partition(":")[0], fromlist=["x"]), real.make.partition(":")[2]
            ).verbs
        )


def test_codes_of_silence_are_in_the_reference(project_root: Path) -> None:
    page = (project_root / "docs" / "reference" / "drivers.md").read_text(encoding="utf-8")
    for path in (project_root / "tests" / "contract" / "adapters").glob("*.py"):
        if path.stem != "simulated":
            for codes in re.findall(r"silent_codes=\(([^)]+)\)", path.read_text(encoding="utf-8")):
                for code in re.findall(r'"([^"]+)"', codes):
                    assert f"`{code}`" in page, f"{path.stem}: {code}"
