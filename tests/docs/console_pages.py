"""Reads the documentation as a script: which commands a page shows, and what it says they answer.

A page is run top to bottom in one empty folder. What a page may hold:

- a ``console`` fence: lines that start with ``$ `` are commands (a trailing backslash continues one), the
  lines below a command are the output it promises. A line ``...`` stands for any lines, ``...`` inside a line
  for any text. A command without lines below promises only its exit code: 0, or N where the command ends in
  ``# exit N``.
- any other fence right after ``<!-- file: PATH -->`` is written to PATH before the commands that follow it.
- ``<!-- needs: PATH -->`` says that the rest of the page reads PATH (relative to the project root).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<info>.*)$")
FILE_MARK = re.compile(r"^\s*<!--\s*file:\s*(?P<path>\S+)\s*-->\s*$")
NEEDS_MARK = re.compile(r"^\s*<!--\s*needs:\s*(?P<path>\S+)\s*-->\s*$")
EXIT_MARK = re.compile(r"#\s*exit\s+(?P<code>\d+)\s*$")
SHELL_FENCES = frozenset({"sh", "bash", "shell", "zsh", "shell-session", "text-console"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page with what the page says about it."""

    line_number: int
    text: str
    exit_code: int
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file that the page asks its reader to write."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class Needs:
    """Input that does not come with the project; what follows cannot run without it."""

    path: str


@dataclass(frozen=True, slots=True)
class WrongFence:
    """Commands that this reader would have passed over in silence."""

    line_number: int
    info: str


Item = Command | PageFile | Needs | WrongFence


@dataclass(frozen=True, slots=True)
class _Fence:
    line_number: int
    info: str
    lines: tuple[str, ...]
    file_path: str | None


def read_page(text: str) -> tuple[Item, ...]:
    """Everything that running the page must do, in order."""
    items: list[Item] = []
    for piece in _pieces(text.splitlines()):
        if isinstance(piece, Needs):
            items.append(piece)
        elif piece.file_path is not None:
            items.append(PageFile(piece.file_path, "\n".join(piece.lines) + "\n"))
        elif piece.info == "console":
            items.extend(_commands(piece))
        elif piece.info in SHELL_FENCES or any(line.startswith("$ ") for line in piece.lines):
            items.append(WrongFence(piece.line_number, piece.info))
    return tuple(items)


def _pieces(lines: list[str]) -> Iterator[_Fence | Needs]:
    position, file_path = 0, None
    while position < len(lines):
        line = lines[position]
        if mark := NEEDS_MARK.match(line):
            yield Needs(mark["path"])
        if mark := FILE_MARK.match(line):
            file_path = mark["path"]
        elif opening := FENCE.match(line):
            end = _closing(lines, position, opening["marks"])
            indent = len(opening["indent"])
            body = tuple(
                text[indent:] if text[:indent].isspace() else text for text in lines[position + 1 : end]
            )
            yield _Fence(position + 1, opening["info"].strip(), body, file_path)
            position, file_path = end, None
        elif line.strip():
            file_path = None
        position += 1


def _closing(lines: list[str], start: int, marks: str) -> int:
    for position in range(start + 1, len(lines)):
        text = lines[position].strip()
        if text.startswith(marks) and not text.strip(marks[0]):
            return position
    return len(lines)


def _commands(fence: _Fence) -> Iterator[Command]:
    position, lines = 0, fence.lines
    while position < len(lines):
        if not lines[position].startswith("$ "):
            position += 1
            continue
        first, text = position, lines[position][2:]
        while text.endswith("\\") and position + 1 < len(lines):
            position += 1
            text = text[:-1] + lines[position].lstrip("> ")
        position += 1
        below = position
        while position < len(lines) and not lines[position].startswith("$ "):
            position += 1
        mark = EXIT_MARK.search(text)
        yield Command(
            fence.line_number + 1 + first,
            text,
            int(mark["code"]) if mark else 0,
            _trimmed(lines[below:position]),
        )


def _trimmed(lines: tuple[str, ...]) -> tuple[str, ...]:
    kept = [line.rstrip() for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    while kept and not kept[0]:
        kept.pop(0)
    return tuple(kept)


def output_matches(expected: tuple[str, ...], actual: str) -> bool:
    """Whether the promised lines describe the output; trailing blanks and outer empty lines do not count."""
    pattern = []
    for line in expected:
        if line.strip() == "...":
            pattern.append(r"(?:.*\n)*?")
        else:
            pattern.append(".*?".join(re.escape(part) for part in line.split("...")) + r"\n")
    lines = _trimmed(tuple(actual.splitlines()))
    return re.fullmatch("".join(pattern), "".join(line + "\n" for line in lines)) is not None


def pages(root: Path) -> tuple[Path, ...]:
    """README.md and every page under docs, sorted."""
    found = [path for path in (root / "docs").rglob("*.md") if "_build" not in path.parts]
    return (root / "README.md", *sorted(found))
