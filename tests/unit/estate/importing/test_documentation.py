"""The page on imports lists the names and words that the importer knows, all of them and no others."""

from pathlib import Path

from evac.estate.importers.host_words import NAMES, STATE_WORDS

PAGE = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "import.md"


def _row(meaning: str, names: list[str]) -> str:
    return f"| {meaning} | {', '.join(f'`{name}`' for name in names)} |"


def test_the_page_lists_every_name_of_a_column() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for meaning, names in NAMES.items():
        assert _row(meaning, list(names)) in text


def test_the_page_lists_every_word_for_a_state() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for state, words in STATE_WORDS.items():
        assert _row(state, words.split()) in text
