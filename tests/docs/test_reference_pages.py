"""The reference pages say what the program does, because they are made from its tables."""

from pathlib import Path

import pytest
from scripts.reference_pages import PAGES

from evac.estate import check, schema
from evac.estate.format.problems import CODES
from tests.unit.estate.test_schema import VALIDATOR, as_json

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_docs_is_up_to_date(name: str) -> None:
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run: python scripts/reference_pages.py docs/reference"


def test_every_code_is_on_its_page() -> None:
    page = PAGES["diagnostics.md"]()
    assert all(f"| `{code}` |" in page for code in CODES)


def _keys(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*(_keys(item) for item in node)) if node else set()
    if not isinstance(node, dict):
        return set()
    named = set(node.get("properties", {})) if isinstance(node.get("properties"), dict) else set()
    return named.union(*(_keys(value) for value in node.values()))


def test_every_key_of_the_schema_is_on_the_page() -> None:
    page = PAGES["estate-format.md"]()
    assert [key for key in sorted(_keys(schema())) if f"`{key}`" not in page] == ["value"]


def test_the_examples_on_the_page_are_estates(tmp_path: Path) -> None:
    first, second = (part.split("```")[0] for part in PAGES["estate-format.md"]().split("```yaml\n")[1:])
    VALIDATOR.validate(as_json(first))
    (tmp_path / "estate.yaml").write_text(first)
    assert check(tmp_path).diagnostics == ()
    VALIDATOR.validate(as_json(second))
