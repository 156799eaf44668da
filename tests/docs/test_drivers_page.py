"""The reference of drivers names every driver, each of its verbs, and every setting that its modules read."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from evac.drivers.registry import DRIVERS
from evac.model.estate import ENDPOINT_DRIVERS

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


def settings_of(root: Path, driver: str) -> set[str]:
    """What the modules of a driver read of an endpoint's settings."""
    modules = (root / "src" / "evac" / "actions").glob(f"{driver}*.py")
    texts = [module.read_text(encoding="utf-8") for module in modules]
    return {one or other for text in texts for one, other in READ.findall(text)}


@pytest.fixture(scope="module")
def sections(project_root: Path) -> dict[str, set[str]]:
    folder = project_root / "docs" / "reference"
    return sections_of([(folder / page).read_text(encoding="utf-8") for page in PAGES])


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_section_names_verbs_and_settings(
    driver: str, sections: dict[str, set[str]], project_root: Path
) -> None:
    assert driver in sections, "no heading names it"
    known = DRIVERS[driver]
    verbs = getattr(import_module(known.module), known.maker).verbs
    assert set(verbs) - sections[driver] == set(), "verbs that the page does not name"
    assert settings_of(project_root, driver) - sections[driver] == set(), "settings that it does not name"


def test_an_estate_may_name_every_driver_and_nothing_else() -> None:
    assert tuple(sorted({*DRIVERS, "etcd"})) == ENDPOINT_DRIVERS


def test_what_is_missing_is_found(project_root: Path) -> None:
    assert sections_of(["# A\n`b`\n## `dns`, `x`\n`port`\n```yaml\n`zone`\n```\n## Other\n`ttl`\n"]) == {
        "dns": {"port"},
        "x": {"port"},
    }
    assert {"host", "user", "data", "archive_rows", "start"} <= settings_of(project_root, "postgres")
    assert {"label", "insecure", "login"} <= settings_of(project_root, "redfish")
