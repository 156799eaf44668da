"""The public status page: one self-contained file that survives any site, the same as JSON, and its feed
(RSS 2.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final
from xml.sax.saxutils import escape

from markupsafe import Markup

from evac.incident.components import (
    DAYS,
    Component,
    Day,
    Language,
    PublicIncident,
    StatusPage,
    Update,
    in_language,
    korean_moment,
    language_of,
    listed,
    listed_in,
    title_in,
)
from evac.model.wall_clock import WallClock
from evac.views import rendered
from evac.views.sheet import utc
from evac.views.words import duration, wall_clock_here

ITEMS_MOST: Final = 200
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def status_feed(page: StatusPage, link: str, language: Language = "en") -> str:
    """link: the URL of the page. Newest first, at most ITEMS_MOST. Same input, same bytes."""
    wall, page = wall_clock_here(), in_language(page, language)
    items = [
        (update.at_ms, _titled(update, title_in(one, language), language), _with_due(update, wall, language))
        for one in page.incidents
        for update in one.updates
    ]
    items.sort(key=lambda item: (-item[0], item[1], item[2]))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<rss version="2.0">',
        "<channel>",
        f"<title>{_text(page.title)}</title>",
        f"<link>{_text(link)}</link>",
        f"<description>{_text(said_in(language, '{0}: published updates', page.title))}</description>",
        f"<language>{language}</language>",
        f"<lastBuildDate>{_date(page.made_ms)}</lastBuildDate>",
    ]
    for at_ms, title, text in items[:ITEMS_MOST]:
        guid = sha256(f"{at_ms}\0{title}\0{text}".encode()).hexdigest()
        lines += [
            "<item>",
            f"<title>{_text(title)}</title>",
            f"<description>{_text(text)}</description>",
            f'<guid isPermaLink="false">{guid}</guid>',
            f"<pubDate>{_date(at_ms)}</pubDate>",
            "</item>",
        ]
    return "\n".join([*lines, "</channel>", "</rss>", ""])


def _with_due(update: Update, wall: WallClock, language: Language) -> str:
    if not update.due_ms:
        return update.text
    due = _moment(wall, language, update.due_ms, update.at_ms)
    return f"{update.text}\n\n{said_in(language, 'Next update by {0}.', due)}"


def _moment(wall: WallClock, language: Language, at_ms: int, now_ms: int) -> str:
    return wall.both(at_ms, now_ms) if language == "en" else korean_moment(wall, at_ms, now_ms)


def _titled(update: Update, title: str, language: Language) -> str:
    """`Identified: Problems with Pay`."""
    words = update.title or title
    return f"{said_in(language, update.phase.capitalize())}: {words}" if update.phase else words


def _text(words: str) -> str:
    return escape(_CONTROL.sub(" ", words))


def _date(at_ms: int) -> str:
    """In RFC 822 format, which RSS requires."""
    return format_datetime(datetime.fromtimestamp(at_ms // 1000, UTC))


SCHEMA_VERSION: Final = 1
OVERALL: Final = {
    "unknown": "No services listed yet",
    "operational": "All systems operational",
    "maintenance": "Under maintenance",
    "degraded": "Degraded performance",
    "partial outage": "Partial outage",
    "major outage": "Major outage",
}


LANGUAGE_NAMES: Final[Mapping[Language, str]] = {"en": "English", "ko": "한국어"}
KOREAN: Final[Mapping[str, str]] = {
    "{0}: published updates": "{0}: 게시된 안내",
    "Next update by {0}.": "다음 안내 예정: {0}.",
    "Investigating": "원인 조사 중",
    "Identified": "원인 확인",
    "Monitoring": "경과 관찰 중",
    "Resolved": "해결됨",
    "Update": "안내",
    "Operational": "정상",
    "Maintenance": "점검 중",
    "Degraded": "성능 저하",
    "Partial outage": "부분 장애",
    "Major outage": "전면 장애",
    "No services listed yet": "등록된 서비스가 없습니다",
    "All systems operational": "모든 서비스 정상",
    "Under maintenance": "점검 중",
    "Degraded performance": "성능 저하",
    "Incident in progress": "장애 대응 중",
    "{0} status": "{0} 서비스 상태",
    "Get updates by RSS": "RSS로 받아보기",
    "Updated {0}": "{0} 기준",
    "Skip to the current status": "현재 상태로 건너뛰기",
    "All times are UTC.": "모든 시각은 UTC입니다.",
    "Times are {0} with UTC next to them. Days are UTC days.": "시각은 {0} 기준이며 날짜는 UTC 기준입니다.",
    "Since {0}.": "{0}부터.",
    "Since {0}. Affects {1}.": "{0}부터. 영향을 받는 서비스: {1}.",
    "Not restored yet": "아직 복구되지 않은 서비스",
    "{0} since {1}.": "{1}부터 {0}.",
    "The incident is resolved, so no update is due.": "장애 대응이 종료되어 예정된 안내가 없습니다.",
    "Services": "서비스",
    "Last {0} days": "최근 {0}일",
    "{0}, last {1} days: {2}": "{0}, 최근 {1}일: {2}",
    "{0}, last {1} day: {2}": "{0}, 최근 {1}일: {2}",
    "{0} days ago": "{0}일 전",
    "No data before {0}": "{0} 이전 자료 없음",
    "Today": "오늘",
    "No services are listed here yet.": "아직 등록된 서비스가 없습니다.",
    "No outage": "장애 없음",
    "Degraded, partial, or under 30 min": "성능 저하, 부분 장애 또는 30분 미만",
    "30 min or longer, or ongoing": "30분 이상 또는 진행 중",
    "Past incidents": "지난 장애",
    "{0}, lasted {1}.": "{0}, {1} 동안 지속.",
    "{0}, lasted {1}. {2}.": "{0}, {1} 동안 지속. {2}.",
    "Resolved, so no further update is due.": "해결되어 예정된 안내가 없습니다.",
    "{0} update": "안내 {0}건",
    "{0} updates": "안내 {0}건",
    "None in the last 90 days.": "최근 90일 동안 없습니다.",
    "{0} minute of {1}": "{1} {0}분",
    "{0} minutes of {1}": "{1} {0}분",
    "outage": "장애",
    "partial outage": "부분 장애",
    "degraded performance": "성능 저하",
    "maintenance": "점검",
    "no data": "자료 없음",
    "no outage": "장애 없음",
    "no data yet": "아직 자료 없음",
    "no outage in {0} day": "{0}일 동안 장애 없음",
    "no outage in {0} days": "{0}일 동안 장애 없음",
    "{1} of outage in {0} day": "{0}일 동안 장애 {1}",
    "{1} of outage on {2} of {0} days": "{0}일 중 {2}일, 장애 {1}",
    "Get updates by email": "이메일로 받아보기",
    "Status updates by email": "이메일 상태 안내",
    "Status page": "서비스 상태 페이지",
    "You get an email whenever something is published here. Every email has a link to unsubscribe. Your "
    "address is used for nothing else.": (
        "안내가 게시되면 메일로 보내 드리며, 모든 메일에 수신 거부 링크가 있습니다. "
        "주소는 다른 용도로 쓰지 않습니다."
    ),
    "Email address": "이메일 주소",
    "Subscribe": "구독",
    "Unsubscribe": "구독 해지",
    "Subscribe to status updates?": "상태 안내를 구독하시겠습니까?",
    "Unsubscribe from status updates?": "상태 안내 구독을 해지하시겠습니까?",
    "Check your mailbox: if the address is right, an email with a link to confirm comes within "
    "minutes. You can ask once a day.": (
        "메일함을 확인하세요. 주소가 맞으면 몇 분 안에 확인 링크가 담긴 메일이 "
        "도착합니다. 요청은 하루에 한 번만 할 수 있습니다."
    ),
    "You are subscribed.": "구독되었습니다.",
    "You are unsubscribed. Your address has been erased.": "구독이 해지되었고 주소를 삭제했습니다.",
    "This is not an email address. Use the form name@example.com.": (
        "이메일 주소가 아닙니다. name@example.com처럼 입력하세요."
    ),
    "This link is not valid. Use the link in the latest email.": (
        "유효하지 않은 링크입니다. 최근 메일의 링크를 사용하세요."
    ),
    "This link has expired. Subscribe again.": "만료된 링크입니다. 다시 구독하세요.",
    "Too many requests. Try again later.": "요청이 너무 많습니다. 나중에 다시 시도하세요.",
    "No more people can subscribe. Follow the RSS feed instead.": (
        "더 이상 구독할 수 없습니다. RSS를 이용하세요."
    ),
    "This is not possible now. Try again later.": "지금은 처리할 수 없습니다. 나중에 다시 시도하세요.",
    "You get this email because you subscribed to status updates.": (
        "상태 안내를 구독하셔서 이 메일을 보내 드립니다."
    ),
    "Unsubscribe: {0}": "구독 해지: {0}",
    "Someone, probably you, asked for status updates by email at this address.": (
        "이 주소로 상태 안내 메일을 보내 달라는 요청이 있었습니다."
    ),
    "To get them, open this link within 24 hours and press Subscribe:": (
        "받으시려면 24시간 안에 이 링크를 열고 구독을 누르세요."
    ),
    "If it was not you, ignore this email. You will get no updates.": (
        "요청하지 않으셨다면 그대로 두세요. 안내를 보내지 않습니다."
    ),
    "Confirm your subscription to status updates": "상태 안내 구독 확인",
    "degraded on {0} day": "{0}일 성능 저하",
    "degraded on {1} of {0} days": "{0}일 중 {1}일 성능 저하",
}
"""English words of the public page -> the same in Korean. What people wrote stays in their language."""


def said_in(language: Language, words: str, *values: object) -> str:
    """Fixed words of the page in one of its languages, with values in their places."""
    return (words if language == "en" else KOREAN[words]).format(*values)


def _counted(language: Language, count: int, one: str, many: str, *values: object) -> str:
    return said_in(language, one if count == 1 else many, f"{count:,}", *values)


def _lasted(milliseconds: int, language: Language) -> str:
    if language == "en":
        return duration(milliseconds)
    hours, minutes = divmod(milliseconds // 60_000, 60)
    return " ".join([f"{hours:,}시간"] * bool(hours) + [f"{minutes}분"] * bool(minutes or not hours))


SHORT_MINUTES: Final = 30
"""A day with less outage than this counts as a day with a short outage."""


def status_html(
    page: StatusPage,
    wall: WallClock | None = None,
    languages: Sequence[Language] = ("en",),
    shown: int = 0,
    join: str = "",
) -> str:
    """No script and no external request. Same input, same bytes. languages: that the page exists in; shown:
    the number of the one that this is; join: where users subscribe by email, empty if nowhere.
    """
    wall, language = wall or wall_clock_here(), languages[shown]
    return rendered(
        "status.html.j2",
        page=page,
        overall=headline(page, language),
        body=status_body(page, wall, language),
        made=_moment(wall, language, page.made_ms, page.made_ms),
        language=language,
        feed=file_name("feed.xml", languages, shown),
        join=f"{join}?language={language}" if join else "",
        others=[
            (one, LANGUAGE_NAMES[one], file_name("index.html", languages, number))
            for number, one in enumerate(languages)
            if number != shown
        ],
        say=partial(said_in, language),
        zone=f"{wall.label(page.made_ms)} ({wall.offset(page.made_ms)})",
        wall=wall,
    )


def file_name(name: str, languages: Sequence[Language], number: int) -> str:
    """`index.html` of the first language, `index.ko.html` of others."""
    stem, _, ending = name.partition(".")
    return f"{stem}.{languages[number]}.{ending}" if number else name


def status_body(page: StatusPage, wall: WallClock | None = None, language: Language = "en") -> Markup:
    """Ongoing incidents, components, past incidents: the same for users and for the people who publish."""
    wall, page = wall or wall_clock_here(), in_language(page, language)
    components = component_rows(page, language)
    return Markup(
        rendered(
            "status_body.html.j2",
            page=page,
            components=components,
            care=any(look == "care" for *_, bars in components for _, look, _ in bars),
            language=language,
            say=partial(said_in, language),
            counted=partial(_counted, language),
            title_of=lambda one: title_in(one, language),
            foreign=lambda text: "" if (own := language_of(text, page.names)) == language else own,
            left_down=left_down(page),
            days=DAYS,
            moment=lambda at_ms: (
                wall.local(at_ms, page.made_ms)
                if language == "en"
                else korean_moment(wall, at_ms, page.made_ms)
            ),
            utc=lambda at_ms: "" if wall.is_utc else wall.beside(at_ms, page.made_ms),
            both=lambda at_ms: _moment(wall, language, at_ms, page.made_ms),
            iso=lambda at_ms: datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds"),
            lasted=lambda one: _lasted((one.ended_ms - one.begun_ms) // 60_000 * 60_000 or 60_000, language),
        )
    )


def left_down(page: StatusPage) -> list[Component]:
    """What a resolved incident left down: it is not operational, and no open incident affects it."""
    told = {name for one in page.current for name in one.components}
    left = {name for one in page.past for name in one.components} - told
    states = ("operational", "maintenance")
    return [one for one in page.components if one.state not in states and one.name in left]


def headline(page: StatusPage, language: Language = "en") -> str:
    """`Major outage: Mail and Maps`; `All systems operational`."""
    if not page.components and page.current:
        return said_in(language, "Incident in progress")
    words = said_in(language, OVERALL[page.overall])
    named = [one.name for one in page.components if one.state == page.overall]
    return words if not named or page.overall == "operational" else f"{words}: {listed_in(named, language)}"


def preview_headline(page: StatusPage) -> str:
    """For the people who publish: what is affected and not public, then what users read."""
    public = {one.name: one.state for one in page.components}
    hidden = [
        one.name
        for one in page.recorded
        if one.state != "operational" and public.get(one.name) == "operational"
    ]
    if not hidden:
        return headline(page)
    are = "is" if len(hidden) == 1 else "are"
    return f"{listed(hidden)} {are} affected, but users see: {headline(page)}"


Bars = list[tuple[int, str, str]]


def component_rows(page: StatusPage, language: Language = "en") -> list[tuple[Component, str, str, Bars]]:
    """Return (component, its state as a CSS class, its days in words, a bar for each known day)."""
    return [
        (one, one.state.replace(" ", "-"), summary_words(one, language), _bars(one, language))
        for one in page.components
    ]


def _bars(component: Component, language: Language) -> Bars:
    """Return (position among all days, style, words)."""
    known = known_days(component)
    states = ["operational"] * (len(known) - 1) + [component.state]
    places = range(DAYS - len(known), DAYS)
    return [
        (place, day_look(day, state), day_words(day, language))
        for place, day, state in zip(places, known, states, strict=False)
    ]


def known_days(component: Component) -> list[Day]:
    """From the first day with records; earlier ones are left out."""
    first = next((n for n, day in enumerate(component.days) if day.state != "unknown"), DAYS)
    return list(component.days[first:])


def day_look(day: Day, now: str = "operational") -> str:
    """The style of a bar. A full outage is `out` from half an hour on, or while it lasts."""
    if day.outage_minutes - day.partial_minutes >= SHORT_MINUTES or now == "major outage":
        return "out"
    if day.outage_minutes or day.degraded_minutes or now in ("partial outage", "degraded"):
        return "part"
    if day.state == "unknown":
        return "none"
    return "care" if day.maintenance_minutes or now == "maintenance" else ""


def day_words(day: Day, language: Language = "en") -> str:
    """The tooltip of a bar."""
    whole = day.outage_minutes - day.partial_minutes
    parts = [
        _counted(language, minutes, "{0} minute of {1}", "{0} minutes of {1}", said_in(language, words))
        for minutes, words in (
            (whole, "outage"),
            (day.partial_minutes, "partial outage"),
            (day.degraded_minutes, "degraded performance"),
            (day.maintenance_minutes, "maintenance"),
        )
        if minutes
    ]
    state = said_in(language, "no data" if day.state == "unknown" else "no outage")
    return f"{day.day.isoformat()}: {', '.join(parts) or state}"


def summary_words(component: Component, language: Language = "en") -> str:
    """The days in one sentence, also for people who do not see the bars."""
    known = [day for day in component.days if day.state != "unknown"]
    bad = [day for day in known if day.outage_minutes or day.degraded_minutes]
    minutes = sum(day.outage_minutes for day in known)
    if not known:
        return said_in(language, "no data yet")
    if not bad:
        return _counted(language, len(known), "no outage in {0} day", "no outage in {0} days")
    if not minutes:
        words = "degraded on {0} day", "degraded on {1} of {0} days"
        return _counted(language, len(known), *words, len(bad))
    words = "{1} of outage in {0} day", "{1} of outage on {2} of {0} days"
    return _counted(language, len(known), *words, _lasted(minutes * 60_000, language), len(bad))


def status_json(page: StatusPage) -> str:
    """The documented JSON of a status page."""
    body: dict[str, Any] = {
        "kind": "evac-status",
        "schema_version": SCHEMA_VERSION,
        "title": page.title,
        "made_at": utc(page.made_ms),
        "time_zone": wall_clock_here().name,
        "known_since": utc(page.known_ms) if page.known_ms else None,
        "state": page.overall,
        "components": [
            {
                "name": one.name,
                "state": one.state,
                "since": utc(one.since_ms),
                "days": [
                    {
                        "day": day.day.isoformat(),
                        "state": day.state,
                        "outage_minutes": day.outage_minutes,
                        "partial_minutes": day.partial_minutes,
                        "degraded_minutes": day.degraded_minutes,
                        "maintenance_minutes": day.maintenance_minutes,
                    }
                    for day in one.days
                ],
            }
            for one in page.components
        ],
        "incidents": [_incident(one, page.names) for one in page.incidents],
    }
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _incident(one: PublicIncident, names: Sequence[str]) -> dict[str, Any]:
    return {
        "title": one.title,
        "begun_at": utc(one.begun_ms),
        "ended_at": None if one.ended_ms is None else utc(one.ended_ms),
        "components": list(one.components),
        "updates": [
            {
                "at": utc(u.at_ms),
                "phase": u.phase,
                "title": u.title,
                "text": u.text,
                "language": language_of(u.text, names),
                "other": [
                    {"language": language_of(text, names), "title": title, "text": text}
                    for title, text in [(u.other_title, u.other_text)]
                    if text
                ],
                "next_by": utc(u.due_ms) if u.due_ms else None,
            }
            for u in one.updates
        ],
    }


def status_files(
    page: StatusPage, url: str, languages: Sequence[Language] = ("en",), join: str = ""
) -> dict[str, str]:
    """File name -> content, in the order in which they are written: a page comes after what it links to. url:
    the URL of the page, for the feeds; join: where users subscribe by email.
    """
    feeds = {
        file_name("feed.xml", languages, number): status_feed(page, url, language)
        for number, language in enumerate(languages)
    }
    pages = {
        file_name("index.html", languages, number): status_html(page, None, languages, number, join)
        for number in range(len(languages))
    }
    return {"status.json": status_json(page), **feeds, **dict(reversed(pages.items()))}
