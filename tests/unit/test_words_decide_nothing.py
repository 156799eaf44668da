"""Nothing is decided by the words of a message: a sentence is made of data, and never read back.

Looks at every place that asks how a text begins or ends, what is in it, or cuts it, and at what the text is
called. What is on the list reads what people or other programs wrote, and says so.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "src" / "evac", ROOT / "lab" / "src")

ASKS = frozenset(
    {
        "startswith",
        "endswith",
        "partition",
        "rpartition",
        "split",
        "rsplit",
        "removeprefix",
        "removesuffix",
        "find",
        "index",
        "match",
        "fullmatch",
        "search",
    }
)
MESSAGES = re.compile(
    r"(^|_)(words?|messages?|text|texts|reason|reasons|sentence|sentences|headline|hint|title|label|labels|why|"
    r"detail|told|said|warning|warnings|problem|problems|summary|note|notes)$"
)
WORDS_MADE = re.compile(r"(^|[._])words$|^evac\.views\b")
"""Modules whose functions make words: what they return is not cut, but made without what is not wanted."""

# Room or file -> why what it reads is no message of ours, or why nothing is decided by it.
NO_MESSAGES_OF_OURS = {
    "drivers": "reads what databases, controllers and other servers say, and settings of an estate",
    "estate": "reads the files of an estate, and of what is imported",
    "net": "reads what etcd and TLS libraries say, and references of secrets",
    "app/planner/plans.py": "reads an option",
    "app/status_export.py": "reads the arguments of a command",
    "bundle/making.py": "finds references of secrets in settings",
    "bundle/sealing.py": "reads the shares that people type",
    "cli/bundle_command.py": "reads an option",
    "cli/console.py": "completes commands in a finished screen, and ends a text with a line break",
    "cli/target.py": "reads an option",
    "engine/runs/open_runs.py": "asks for a key of a document",
    "evac_lab/fleet/ground.py": "reads an option",
    "evac_lab/fleet_command.py": "reads an option",
    "evac_lab/october/booting.py": "asks for a parameter of an action",
    "evac_lab/process.py": "reads what the kernel says of processes",
    "evac_lab/status.py": "asks for a site among those without a plan",
    "incident/records.py": "reads what people type",
    "office/notices/overview.py": "asks for a number among messages",
    "office/notices/sending.py": "the title of an update that a person wrote without one is its first line",
    "store/etcd.py": "reads what etcd says",
    "views/quarantine.py": "sorts names by the numbers in them",
    "views/sheet.py": "never breaks a line that is a command to copy",
    "web/api/requests.py": "refuses a reason that looks like that of a break-glass credential",
    "web/access/guarding.py": "reads an address",
    "web/access/people.py": "reads a credential",
    "web/pages/what_if_graph.py": "asks for a column of a table",
    "web/setting.py": "reads an option",
}


def _name(node: ast.expr) -> str:
    """What a text is called where it is asked about: the last name of it."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Subscript(value=value):
            return _name(value)
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name
        case ast.Call(
            func=ast.Attribute(value=value, attr="strip" | "lower" | "upper" | "lstrip" | "rstrip")
        ):
            return _name(value)
        case ast.Call(func=ast.Name(id="str"), args=[value]):
            return _name(value)
    return ""


def _makers_of_words(nodes: Sequence[ast.AST]) -> set[str]:
    """Functions of ours that make words of values, by the names under which they are imported."""
    return {
        one.asname or one.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and WORDS_MADE.search(node.module or "")
        for one in node.names
    }


def _asked_about(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str]]:
    """(line, name) of each text that something is decided by."""
    makers = _makers_of_words(nodes)
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(attr=asks, value=ast.Call(func=ast.Name(id=maker)))) if (
                asks in ASKS and maker in makers
            ):
                yield node.lineno, f"{maker}_words"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re")), args=[_, text, *_]):
                yield node.lineno, _name(text)
            case ast.Call(func=ast.Attribute(attr="split"), args=[]):
                pass  # one line of many
            case ast.Call(func=ast.Attribute(value=text, attr=asks)) if asks in ASKS:
                yield node.lineno, _name(text)
                if asks in ("match", "fullmatch", "search") and node.args:
                    yield node.lineno, _name(node.args[0])
            case ast.Compare(
                left=ast.Constant(value=str()) | ast.Name(), ops=[ast.In() | ast.NotIn()], comparators=[text]
            ):
                yield node.lineno, _name(text)


def nodes_of(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def asked_in(nodes: Sequence[ast.AST]) -> list[str]:
    """`line: name` of each text that is called like a message and is asked about its words."""
    found = {(line, name) for line, name in _asked_about(nodes) if MESSAGES.search(name)}
    return [f"{line}: {name}" for line, name in sorted(found)]


@dataclass(frozen=True)
class Module:
    """What was found in a module of ours: reading all of them takes seconds, so they are read once."""

    source: Path
    path: Path
    asked: list[str]
    bare_words: list[str]
    messages: list[int]
    strings: tuple[list[tuple[int, str]], set[str]]

    @property
    def name(self) -> str:
        return self.path.relative_to(self.source).as_posix()


@cache
def modules() -> list[Module]:
    return [_module(source, path) for source in SOURCES for path in sorted(source.rglob("*.py"))]


def _module(source: Path, path: Path) -> Module:
    nodes = nodes_of(path.read_text(encoding="utf-8"))
    asked, bare_words, messages = asked_in(nodes), bare_words_in(nodes), messages_asked_in(nodes)
    return Module(source, path, asked, bare_words, messages, _strings(nodes))


def _allowed(name: str) -> str:
    """What allows a file; empty for what is not allowed."""
    room = name.partition("/")[0]
    return next((one for one in (name, room) if one in NO_MESSAGES_OF_OURS), "")


def test_nothing_is_decided_by_the_words_of_a_message() -> None:
    found, used = {}, set()
    for one in modules():
        if one.asked:
            used.add(_allowed(one.name))
            found.update({} if _allowed(one.name) else {one.name: one.asked})
    assert found == {}, "a decision by words: make it by data, and the words of it at the edge"
    assert set(NO_MESSAGES_OF_OURS) - used == set(), "what is allowed and not there any more"


@pytest.mark.parametrize(
    "source",
    [
        "if words.startswith('approval'): pass",
        "step, _, rest = one.words.partition(': ')",
        "verb = reason.split(' ')[0]",
        "if BREAK_GLASS in words: pass",
        "if str(told['hint']).startswith('GET /'): pass",
        "found = PATTERN.fullmatch(outcome.reason)",
        "if re.match('no room', message): pass",
        "text = loss.headline.removesuffix(', because')",
        "from evac.views.words import user_minutes\nn = user_minutes(1, 2).removesuffix(' user-minutes')",
        "from evac.audit.words import amount\nn = amount('cpu', 2).split(' ')[0]",
    ],
)
def test_a_decision_by_words_is_seen(source: str) -> None:
    assert asked_in(nodes_of(source))


@pytest.mark.parametrize(
    "source", ["key.removeprefix('run/')", "' '.join(text.split())", "if step in steps: pass"]
)
def test_what_decides_by_no_message_is_left_alone(source: str) -> None:
    assert not asked_in(nodes_of(source))


BARE = re.compile(r"[A-Za-z]{4,}")
READS_WORDS = {
    "drivers": "reads what other programs say",
    "estate": "reads files that people and other programs wrote",
    "planning/compiled.py": "reads what the system says of the processor",
}


def bare_words_in(nodes: Sequence[ast.AST]) -> list[str]:
    """`line: word` of each text that is asked whether it begins or ends with a word: no prefix of a key or a
    name has letters alone, so the text is a sentence, or a name that says more than it should.
    """
    found = set()
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(attr=asks), args=args) if asks in CUTS:
                parts = [part for arg in args for part in (arg.elts if isinstance(arg, ast.Tuple) else [arg])]
                words = (part.value for part in parts if isinstance(part, ast.Constant))
                found |= {(node.lineno, word) for word in words if BARE.fullmatch(str(word).strip())}
    return [f"{line}: {word}" for line, word in sorted(found)]


CUTS = ASKS - {"find", "index", "match", "fullmatch", "search"}


def test_no_text_is_asked_whether_it_begins_or_ends_with_a_word() -> None:
    found, used = {}, set()
    for one in modules():
        if one.bare_words:
            names = one.name, one.name.partition("/")[0]
            allowed = next((name for name in names if name in READS_WORDS), "")
            used.add(allowed)
            found.update({} if allowed else {one.name: one.bare_words})
    assert found == {}, "a decision by words: make it by data, and the words of it at the edge"
    assert set(READS_WORDS) == used


@pytest.mark.parametrize(
    "source",
    [
        "unclear = row['back'].endswith('unknown')",
        "style = 'bold' if role.startswith('primary') else ''",
        "mended = name.endswith('mended')",
        "if event.kind.startswith(('undo', 'redo')): pass",
        "site = place.partition(' after ')[0]",
    ],
)
def test_a_word_at_the_end_of_a_text_is_seen(source: str) -> None:
    assert bare_words_in(nodes_of(source))


@pytest.mark.parametrize(
    "source", ["key.removeprefix('run/')", "url.startswith('https:')", "FAULTS.index('dead')"]
)
def test_prefixes_of_keys_are_left_alone(source: str) -> None:
    assert not bare_words_in(nodes_of(source))


RAISED_ELSEWHERE = {"store/etcd.py": "etcd has one code for several refusals"}


def messages_asked_in(nodes: Sequence[ast.AST]) -> list[int]:
    """Lines on which the message of an error is asked for words. All rooms raise errors of ours."""
    found = []
    for node in nodes:
        match node:
            case ast.Compare(
                ops=[ast.In() | ast.NotIn()], comparators=[ast.Attribute(attr="message" | "hint")]
            ):
                found.append(node.lineno)
            case ast.Call(func=ast.Attribute(attr=asks, value=ast.Attribute(attr="message" | "hint"))) if (
                asks in ASKS
            ):
                found.append(node.lineno)
    return found


def test_no_room_asks_the_message_of_an_error() -> None:
    asked = {one.name for one in modules() if one.messages}
    assert asked == RAISED_ELSEWHERE.keys(), "give the error a code, or a class of its own"


@pytest.mark.parametrize(
    "source", ["if 'NoSuch' in error.message: pass", "known = not refused.hint.startswith('start')"]
)
def test_a_question_about_the_message_of_an_error_is_seen(source: str) -> None:
    assert messages_asked_in(nodes_of(source))


def _strings(nodes: Sequence[ast.AST]) -> tuple[list[tuple[int, str]], set[str]]:
    """(line, words) of each text that something is asked for, and every other text."""
    asked: list[tuple[int, str]] = []
    inside: set[int] = set()
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(attr=asks), args=args) if asks in ASKS:
                found = [part for arg in args for part in ast.walk(arg)]
            case ast.Compare(left=ast.Constant() as left, ops=[ast.In() | ast.NotIn()]):
                found = [left]
            case _:
                continue
        for part in found:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                asked.append((node.lineno, part.value))
                inside.add(id(part))
    inside |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    others = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside
    }
    return asked, others


WORDS = re.compile(r"[A-Za-z]{2,}\W* \W*[A-Za-z]{2,}|\W [A-Za-z]{3,}$")


def test_no_room_asks_for_words_that_it_writes_itself() -> None:
    """Rooms that read what other programs say are on the list as a whole: what they ask for is not what they
    say themselves.
    """
    rooms: dict[Path, list[Module]] = {}
    for one in modules():
        if len(one.path.relative_to(one.source).parts) > 1:
            rooms.setdefault(one.source / one.path.relative_to(one.source).parts[0], []).append(one)
    found = []
    for room in rooms.values():
        ours = {text for one in room for text in one.strings[1]}
        found += [
            f"{one.name}:{line}: {words!r}"
            for one in room
            for line, words in one.strings[0]
            if WORDS.search(words) and any(words in text for text in ours)
        ]
    assert found == []
