"""The reference of drivers names every driver, its verbs and settings; a driver reads no other setting."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from evac.drivers.registry import DRIVERS
from evac.drivers.spec import COMMON

PAGES = ("drivers.md", "boot-drivers.md")
QUOTED = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
READ = re.compile(
    r"""\b(?:text|whole|many|flag|one_of)\(\s*(?:action\.)?(?:settings|values),\s*["'](\w+)["']"""
    r"""|\bsettings(?:\.get\(|\[)["'](\w+)["']"""
)
"""A setting that is read: `text(action.settings, "host")`, `settings.get("label")`. `values` are settings
too, of the endpoint or of another member.
"""


def sections_of(pages: list[str]) -> dict[str, set[str]]:
    """Name in a heading of the second level -> what is quoted below it; examples do not count."""
    found: dict[str, set[str]] = {}
    for page in pages:
        for part in re.split(r"^## ", FENCE.sub("", page), flags=re.MULTILINE)[1:]:
            heading, _, body = part.partition("\n")
            for name in QUOTED.findall(heading):
                found.setdefault(name, set()).update(QUOTED.findall(body))
    return found


def read_by(root: Path, driver: str) -> set[str]:
    """Settings that the modules of a driver read."""
    module = root.joinpath("src", *DRIVERS[driver].make.partition(":")[0].split(".")).with_suffix(".py")
    modules = list(module.parent.glob("*.py")) if module.parent.name == driver else [module]
    texts = [module.read_text(encoding="utf-8") for module in modules]
    return {one or other for text in texts for one, other in READ.findall(text)}


@pytest.fixture(scope="module")
def sections(project_root: Path) -> dict[str, set[str]]:
    folder = project_root / "docs" / "reference"
    return sections_of([(folder / page).read_text(encoding="utf-8") for page in PAGES])


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_section_names_verbs_proofs_and_settings(driver: str, sections: dict[str, set[str]]) -> None:
    assert driver in sections, "no heading names it"
    spec = DRIVERS[driver]
    module, _, maker = spec.make.partition(":")
    verbs = getattr(getattr(import_module(module), maker), "verbs", frozenset())
    named = {*verbs, *spec.proofs, *(one.key for one in spec.settings)}
    assert named - sections[driver] == set(), "what the page does not name"


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_reads_no_setting_that_it_does_not_declare(driver: str, project_root: Path) -> None:
    module = DRIVERS[driver].make.partition(":")[0]  # two drivers may share one
    sharing = [one for one in DRIVERS.values() if one.make.partition(":")[0] == module]
    declared = {setting.key for one in sharing for setting in one.settings}
    assert read_by(project_root, driver) - declared == set()


def test_settings_of_every_driver_are_named(project_root: Path) -> None:
    page = (project_root / "docs" / "reference" / "drivers.md").read_text(encoding="utf-8")
    assert {one.key for one in COMMON} <= set(QUOTED.findall(page))


def test_what_is_missing_is_found(project_root: Path) -> None:
    assert sections_of(["# A\n`b`\n## `dns`, `x`\n`port`\n```yaml\n`zone`\n```\n## Other\n`ttl`\n"]) == {
        "dns": {"port"},
        "x": {"port"},
    }
    assert {"host", "user", "data", "archive_rows", "start"} <= read_by(project_root, "postgres")
    assert {"label", "insecure", "login"} <= read_by(project_root, "redfish")
