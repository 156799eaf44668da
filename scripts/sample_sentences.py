"""Prints random sentences of the docs and of the program's strings, for a person to judge their English.

`python scripts/sample_sentences.py --count 100 --seed 1` prints both samples, each line with its place.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("docs/reference/cli/", "docs/_build/")
CODE = re.compile(r"```[\s\S]*?^ *```|<!--[\s\S]*?-->|^\|.*$|^ {4,}.*$|^#.*$", re.MULTILINE)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
SENTENCE = re.compile(r"(?<=[.?!:])\s+(?=[A-Z`*])")
FEWEST_WORDS = 5


def sentences_of_docs() -> Iterator[str]:
    """Prose sentences of README and docs, without tables, code and headings."""
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        name = page.relative_to(ROOT).as_posix()
        if name.startswith(GENERATED):
            continue
        text = LINK.sub(r"\1", CODE.sub("", page.read_text(encoding="utf-8")))
        for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s+", text):
            for sentence in SENTENCE.split(" ".join(block.split())):
                if len(sentence.split()) >= FEWEST_WORDS:
                    yield f"{name}: {sentence}"


def strings_of_the_program() -> Iterator[str]:
    """Strings with several words, without docstrings and templates of code."""
    for source in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)) if id(node) not in notes:
                    words = text.split()
                    if len(words) >= FEWEST_WORDS and sum(word.isalpha() for word in words) > len(words) // 2:
                        yield f"{source.relative_to(ROOT).as_posix()}: {' '.join(words)}"


def main() -> None:
    """Print both samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    for title, found in (("docs", sentences_of_docs()), ("strings", strings_of_the_program())):
        every = list(found)
        chosen = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
        print(f"\n{title}: {len(chosen)} of {len(every)}")
        for number, one in enumerate(chosen, 1):
            print(f"{number:3} {one}")


if __name__ == "__main__":
    main()
