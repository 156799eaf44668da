"""The public status: components in the words users know, their state now, 90 days of it, and a first draft
of an update. Pure.

A component is all services with one public name; services without one are never published. A state set by a
person holds until the journal shows another change or a person sets another one. Before the very first record
nothing is known, and such days are marked so. A draft states what is unavailable, what is restored, and since
when; causes, promises and apologies are left to the person who edits and publishes it. Internal names are
never published.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Final, Literal, get_args

from evac.incident.incident import Dossier, Summary
from evac.incident.records import DAY_MS, ComponentState, Note, in_order, open_draft
from evac.incident.services import Fate, Level
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.records import dataclass
from evac.model.wall_clock import WallClock

DAYS: Final = 90
NAMED_MOST: Final = 5
DayState = Literal["operational", "degraded", "partial outage", "major outage", "maintenance", "unknown"]
GRAVITY: Final[Mapping[str, int]] = {
    "unknown": 0,
    "operational": 1,
    "maintenance": 2,
    "degraded": 3,
    "partial outage": 4,
    "major outage": 5,
}
_OUTAGE: Final = frozenset({"partial outage", "major outage"})


@dataclass(frozen=True, slots=True)
class Span:
    """A state of a component from `from_ms` (inclusive) to `to_ms` (exclusive)."""

    from_ms: int
    to_ms: int
    state: ComponentState


@dataclass(frozen=True, slots=True)
class Day:
    """One day, UTC. `state`: the most severe of the day; the minutes of each kind, rounded up."""

    day: date
    state: DayState
    outage_minutes: int = 0
    """Minutes of both kinds of outage."""
    partial_minutes: int = 0
    """Minutes of these in which only a part was down."""
    degraded_minutes: int = 0
    maintenance_minutes: int = 0


@dataclass(frozen=True, slots=True)
class Component:
    """`state`, `since_ms`: now. `days`: oldest first, the last one is today. `spans`: everything known."""

    name: str
    state: ComponentState
    since_ms: int
    days: tuple[Day, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Update:
    at_ms: int
    title: str
    text: str
    phase: str = ""
    """`investigating`, `identified`, `monitoring` or `resolved`; empty if the person named none."""
    due_ms: int = 0
    """When the next update is promised; 0: none is."""
    other_title: str = ""
    other_text: str = ""
    """The same in another language; empty if its author wrote one."""


@dataclass(frozen=True, slots=True)
class PublicIncident:
    """As users see it: only components and published updates, newest first. `ended_ms` None: still open."""

    incident: str
    title: str
    begun_ms: int
    ended_ms: int | None
    components: tuple[str, ...]
    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class StatusPage:
    """What a status page says at `made_ms`. known_ms: before it nothing is known; 0: nothing is known at
    all. Until a person publishes an update or a state, an incident changes nothing here.
    """

    title: str
    made_ms: int
    known_ms: int
    components: tuple[Component, ...]
    incidents: tuple[PublicIncident, ...]
    recorded: tuple[Component, ...] = ()
    """The components according to the records, published or not. For internal use only."""
    unpublished: tuple[PublicIncident, ...] = ()
    """Incidents that users noticed and that have no published update. For internal use only."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all components."""
        return tuple(one.name for one in self.components)

    @property
    def current(self) -> tuple[PublicIncident, ...]:
        """Incidents that are still open."""
        return tuple(one for one in self.incidents if one.ended_ms is None)

    @property
    def past(self) -> tuple[PublicIncident, ...]:
        return tuple(one for one in self.incidents if one.ended_ms is not None)

    @property
    def overall(self) -> ComponentState | Literal["unknown"]:
        """The most severe state of any component; unknown without components."""
        states = [component.state for component in self.components]
        return max(states, key=lambda state: GRAVITY[state]) if states else "unknown"


def public_names(estate: Estate) -> dict[str, str]:
    """Service -> public name, for services that have one."""
    return {service.id: service.public_name for service in estate.services if service.public_name}


def status_page(
    title: str,
    names: Mapping[str, str],
    told: Sequence[tuple[Dossier, Summary]],
    known_ms: int,
    now_ms: int,
) -> StatusPage:
    """`names`: service -> public name. `told`: every incident, including those that consist of notes only."""
    public = [row for row in told if is_published(row[0].notes)]
    components = _components(names, public, known_ms, now_ms)
    recorded = components if len(public) == len(told) else _components(names, told, known_ms, now_ms)
    found = [
        (dossier, one)
        for dossier, about in told
        if (one := _public(dossier, about, names)) is not None
        and (one.ended_ms or now_ms) > now_ms - DAYS * DAY_MS
    ]
    found.sort(key=lambda row: (-row[1].begun_ms, row[1].incident))
    shown = tuple(one for dossier, one in found if is_published(dossier.notes))
    unpublished = tuple(one for dossier, one in found if not is_published(dossier.notes))
    return StatusPage(title, now_ms, known_ms, components, shown, recorded, unpublished)


def is_published(notes: Iterable[Note]) -> bool:
    """Whether a person published anything about an incident."""
    return any(note.kind in ("update", "state") for note in notes)


def _components(
    names: Mapping[str, str], told: Sequence[tuple[Dossier, Summary]], known_ms: int, now_ms: int
) -> tuple[Component, ...]:
    changes = _changes(names, told)
    said: dict[str, list[Note]] = {}
    for note in in_order(note for dossier, _ in told for note in dossier.notes):
        if note.kind == "state" and note.at_ms <= now_ms:
            said.setdefault(note.name, []).append(note)
    sizes: dict[str, int] = {}
    for name in names.values():
        sizes[name] = sizes.get(name, 0) + 1
    return tuple(
        _component(name, sizes[name], changes.get(name, []), said.get(name, []), known_ms, now_ms)
        for name in sorted(sizes)
    )


_Change = tuple[int, str, Level]


def _changes(names: Mapping[str, str], told: Sequence[tuple[Dossier, Summary]]) -> dict[str, list[_Change]]:
    """Component -> (moment, incident and service, level) of its services."""
    rows: dict[str, list[_Change]] = {}
    for dossier, about in told:
        for fate in about.fates:
            name = names.get(fate.service)
            if name is not None:
                who = f"{dossier.incident}\0{fate.service}"
                rows.setdefault(name, []).extend((c.at_ms, who, c.level) for c in fate.changes)
    return rows


def _component(
    name: str, size: int, changes: list[_Change], said: list[Note], known_ms: int, now_ms: int
) -> Component:
    points = [(at_ms, state) for at_ms, state in _computed(size, changes) if at_ms <= now_ms]
    points += [(note.at_ms, note.value) for note in said]  # type: ignore[misc]
    points.sort(key=lambda point: point[0])  # stable: of one moment, what a person says comes last
    since_ms = known_ms or now_ms
    spans: list[Span] = []
    steps: list[tuple[int, ComponentState]] = [(min([since_ms, *(at for at, _ in points)]), "operational")]
    for at_ms, state in points:
        if state != steps[-1][1]:
            steps.append((at_ms, state))
    for (at_ms, state), (next_ms, _) in pairwise([*steps, (now_ms, "operational")]):
        if next_ms > at_ms:
            spans.append(Span(at_ms, next_ms, state))
    today = now_ms // DAY_MS
    days = tuple(_day(spans, number, now_ms) for number in range(today - DAYS + 1, today + 1))
    return Component(name, steps[-1][1], steps[-1][0], days, tuple(spans))


def _computed(size: int, changes: list[_Change]) -> list[tuple[int, ComponentState]]:
    """The combined state of a component's services, at each moment at which one of them changed."""
    levels: dict[str, Level] = {}
    found: list[tuple[int, ComponentState]] = []
    for at_ms, who, level in sorted(changes):
        levels[who] = level
        state = _state(size, levels)
        if found and found[-1][0] == at_ms:
            found[-1] = (at_ms, state)
        elif not found or found[-1][1] != state:
            found.append((at_ms, state))
    return found


def _state(size: int, levels: Mapping[str, Level]) -> ComponentState:
    worst: dict[str, Level] = {}
    rank: Mapping[Level, int] = {"up": 0, "moving": 1, "degraded": 2, "down": 3}
    for who, level in levels.items():
        service = who.partition("\0")[2]
        if service not in worst or rank[level] > rank[worst[service]]:
            worst[service] = level
    down = sum(1 for level in worst.values() if level == "down")
    if down:
        return "major outage" if down >= size else "partial outage"
    if "degraded" in worst.values():
        return "degraded"
    return "maintenance" if "moving" in worst.values() else "operational"


def _day(spans: Sequence[Span], number: int, now_ms: int) -> Day:
    begin, end = number * DAY_MS, min((number + 1) * DAY_MS, now_ms)
    lasted: dict[DayState, int] = {}
    for span in spans:
        overlap = min(span.to_ms, end) - max(span.from_ms, begin)
        if overlap > 0:
            lasted[span.state] = lasted.get(span.state, 0) + overlap
    day = datetime.fromtimestamp(begin / 1000, UTC).date()
    if not lasted:
        return Day(day, "unknown")
    state = max(lasted, key=lambda one: GRAVITY[one])
    outage = sum(ms for one, ms in lasted.items() if one in _OUTAGE)
    return Day(
        day,
        state,
        _minutes(outage),
        _minutes(lasted.get("partial outage", 0)),
        _minutes(lasted.get("degraded", 0)),
        _minutes(lasted.get("maintenance", 0)),
    )


def _minutes(milliseconds: int) -> int:
    return -(-milliseconds // 60_000)


def title_in(one: PublicIncident, language: Language) -> str:
    """What a person called it, in whatever language; else a title made of what users noticed."""
    if any(update.title for update in one.updates) or language == "en":
        return one.title
    return (
        _WORDS[language]["title"].format(names=listed_in(one.components, language))
        if one.components
        else "안내"
    )


def listed(names: Sequence[str]) -> str:
    """`Mail`, `Mail and Chat`, `Mail, Chat, Pay, Maps and 7 more`. No one is left out alone."""
    shown = len(names) if len(names) <= NAMED_MOST + 1 else NAMED_MOST
    parts = [*names[:shown], *([f"{len(names) - shown:,} more"] if shown < len(names) else [])]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _public(dossier: Dossier, about: Summary, names: Mapping[str, str]) -> PublicIncident | None:
    """None if users neither noticed it nor read about it. Its internal name is never published."""
    touched = {names[fate.service] for fate in about.fates if fate.service in names and fate.noticed}
    touched |= {
        note.name for note in dossier.notes if note.kind == "state" and note.name in set(names.values())
    }
    said = [note for note in in_order(dossier.notes) if note.kind == "update"]
    updates = [Update(n.at_ms, n.name, n.text, n.value, n.due_ms, n.other_name, n.other_text) for n in said]
    if not touched and not updates:
        return None
    title = next((update.title for update in updates if update.title), "")
    title = title or (f"Problems with {listed(sorted(touched))}" if touched else "Notice")
    return PublicIncident(
        dossier.incident,
        title,
        about.begun_ms,
        about.ended_ms,
        tuple(sorted(touched)),
        tuple(reversed(updates)),
    )


_RANK: Final[Mapping[Level, int]] = {"up": 0, "moving": 1, "degraded": 2, "down": 3}


@dataclass(frozen=True, slots=True)
class Draft:
    """`basis`: `person` if someone wrote it, `records` if it was generated from the records, `nothing` if
    users noticed nothing, as far as is known.
    """

    title: str
    text: str
    basis: str


@dataclass(frozen=True, slots=True)
class _Felt:
    """One component: its worst level now, and since when that is so."""

    name: str
    level: Level
    since_ms: int


Language = Literal["en", "ko"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
"""Of drafts and of the public status page. `en` is what titles and components are named in."""


def languages_of(asked: str) -> tuple[Language, ...]:
    """Languages of a page, its own first, from `en,ko`. Raises InvalidInput."""
    named = [word.strip() for word in asked.split(",")]
    found = tuple(one for word in named for one in LANGUAGES if one == word)
    if len(found) != len(named) or len(set(found)) != len(found):
        raise InvalidInput(
            "language-unknown",
            f"{asked[:40]!r} is not a list of languages of the status page",
            f"name each once, separated by commas: {','.join(LANGUAGES)}",
        )
    return found


def language_of(text: str, names: Iterable[str] = ()) -> Language:
    """The language that a person wrote a text in: Korean if it has a letter of Hangul, else English. names:
    of components, which are the same in every language and count only if the text has nothing else.
    """
    rest = text
    for name in sorted(names, key=len, reverse=True):
        rest = rest.replace(name, " ")
    rest = rest if any(map(str.isalpha, rest)) else text
    return "ko" if any("가" <= letter <= "힣" for letter in rest) else "en"


def _prefers(text: str, other: str, language: Language, names: Collection[str]) -> bool:
    """Whether the other text is the one in that language."""
    return bool(other) and language_of(text, names) != language == language_of(other, names)


def in_language(page: StatusPage, language: Language) -> StatusPage:
    """The page with each update in that language where its author wrote it in both."""

    def turned(update: Update) -> Update:
        if not _prefers(update.text, update.other_text, language, page.names):
            return update
        title, other = update.other_title or update.title, update.title
        return replace(update, title=title, text=update.other_text, other_title=other, other_text=update.text)

    def told(one: PublicIncident) -> PublicIncident:
        updates = tuple(map(turned, one.updates))
        title = next((update.title for update in updates if update.title), one.title)
        return replace(one, title=title, updates=updates)

    return replace(page, incidents=tuple(map(told, page.incidents)))


_Sentence = Literal["down", "less", "back", "fix", "watch", "over"]
_WORDS: Final[Mapping[Language, Mapping[str, str]]] = {
    "en": {
        "title": "Problems with {names}",
        "title_over": "{names} restored",
        "down": "{names} has been unavailable since {since}.",
        "down_many": "{names} have been unavailable since {since}.",
        "less": "{names} is partially available.",
        "less_many": "{names} are partially available.",
        "back": "{names} has been restored as of {since}.",
        "back_many": "{names} have been restored as of {since}.",
        "fix": "We're working on a fix and will post updates here.",
        "fix_for": "We're working on a fix for {names} and will post updates here.",
        "watch": "We're monitoring the situation and will post updates here.",
        "over": "{names} has been working again since {since}.",
        "over_many": "{names} have been working again since {since}.",
    },
    "ko": {
        "title": "{names} 서비스 장애 안내",
        "title_over": "{names} 서비스 장애 복구 완료 안내",
        "down": "{since}부터 {names} 서비스를 이용하실 수 없습니다.",
        "less": "현재 {names} 서비스 이용이 원활하지 않습니다.",
        "back": "{names} 서비스는 {since} 기준으로 정상화되었습니다.",
        "fix": "현재 복구 중이며, 진행 상황을 이곳에 안내해 드리겠습니다.",
        "fix_for": "현재 {names} 서비스를 복구 중이며, 진행 상황을 이곳에 안내해 드리겠습니다.",
        "watch": "안정적으로 운영되는지 확인하고 있으며, 진행 상황을 이곳에 안내해 드리겠습니다.",
        "over": "{names} 서비스가 {since}부터 정상적으로 제공되고 있습니다.",
    },
}


def draft(
    dossier: Dossier,
    about: Summary,
    names: Mapping[str, str],
    now_ms: int,
    wall: WallClock = WallClock(),  # noqa: B008 (frozen)
    language: Language = "en",
) -> Draft:
    """The newest draft that a person wrote and no one published; else one made of the records.

    names: service -> public name; wall: for the moments in it. language: of a draft made of the records.
    """
    kept = open_draft(dossier.notes)
    if kept is not None and _prefers(kept.text, kept.other_text, language, names.values()):
        return Draft(kept.other_name, kept.other_text, "person")
    if kept is not None:
        return Draft(kept.name, kept.text, "person")
    felt = _felt(about.fates, names)
    if not felt:
        return Draft("", "", "nothing")
    named = (
        [one for one in felt if one.level != "up"] if any(n.kind == "update" for n in dossier.notes) else felt
    )
    said = _said(dossier, about, felt)
    title = "title_over" if said[0][0] == "over" else "title"
    words = [_in_words(*part, now_ms, wall, language) for part in said]
    return Draft(_in_words(title, named or felt, None, now_ms, wall, language), " ".join(words), "records")


def _said(
    dossier: Dossier, about: Summary, felt: list[_Felt]
) -> list[tuple[_Sentence, list[_Felt], int | None]]:
    """What the records allow to say, in any language: (sentence, about which components, since when)."""
    if about.ended_ms is not None and not about.still_down:
        return [("over", felt, about.ended_ms)]
    down = [one for one in felt if one.level == "down"]
    less = [one for one in felt if one.level in ("degraded", "moving")]
    back = [one for one in felt if one.level == "up"]
    said: list[tuple[_Sentence, list[_Felt], int | None]] = []
    if down:
        said.append(("down", down, min(one.since_ms for one in down)))
    if less:
        said.append(("less", less, None))
    if back:
        said.append(("back", back, max(one.since_ms for one in back)))
    over = bool(dossier.runs) and all(run.ended_ms is not None for run in dossier.runs)
    if down or less or not over:
        return [*said, ("fix", [*down, *less] if over else [], None)]
    return [*said, ("watch", [], None)]


def _in_words(
    key: str, felt: list[_Felt], since_ms: int | None, now_ms: int, wall: WallClock, language: Language
) -> str:
    words, names = _WORDS[language], [one.name for one in felt]
    if key == "fix" and names:
        key = "fix_for"
    if len(names) > 1:
        key = f"{key}_many" if f"{key}_many" in words else key
    since = ""
    if since_ms is not None:
        since = wall.both(since_ms, now_ms) if language == "en" else korean_moment(wall, since_ms, now_ms)
    return words[key].format(names=listed_in(names, language), since=since)


def korean_moment(wall: WallClock, at_ms: int, now_ms: int) -> str:
    """`11월 14일 오전 3시 18분(KST)`: the day is always given, and the year if it is not the present one."""
    at = wall.at(at_ms)
    year = "" if at.year == wall.at(now_ms).year else f"{at.year}년 "
    half = "오전" if at.hour < 12 else "오후"
    return (
        f"{year}{at.month}월 {at.day}일 {half} {at.hour % 12 or 12}시 {at.minute:02d}분({wall.label(at_ms)})"
    )


def listed_in(names: Sequence[str], language: Language) -> str:
    """As `listed`; `Mail, Chat, Pay, Maps, Talk 외 7개` in Korean. Instead of "and 1 more", the last name is
    shown.
    """
    if language == "en":
        return listed(names)
    shown = len(names) if len(names) <= NAMED_MOST + 1 else NAMED_MOST
    left = f" 외 {len(names) - shown:,}개" if shown < len(names) else ""
    return ", ".join(names[:shown]) + left


def _felt(fates: Iterable[Fate], names: Mapping[str, str]) -> list[_Felt]:
    """Components in which users noticed something, worst first, then by name."""
    rows: dict[str, list[Fate]] = {}
    for fate in fates:
        if fate.service in names and fate.noticed:
            rows.setdefault(names[fate.service], []).append(fate)
    found = []
    for name, parts in rows.items():
        worst = max(parts, key=lambda fate: (_RANK[fate.level], fate.changes[-1].at_ms))
        since_ms = min(f.changes[-1].at_ms for f in parts if f.level == worst.level)
        if worst.level == "up":
            since_ms = worst.changes[-1].at_ms
        found.append(_Felt(name, worst.level, since_ms))
    return sorted(found, key=lambda one: (-_RANK[one.level], one.name))
