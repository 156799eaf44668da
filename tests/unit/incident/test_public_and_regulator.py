"""What users are shown, and what a regulator is told: nothing is guessed, nothing inside leaks out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evac import views
from evac.incident.components import (
    DAYS,
    Component,
    Day,
    StatusPage,
    draft,
    in_language,
    language_of,
    languages_of,
    listed,
    status_page,
)
from evac.incident.dora import Classification, classify, span
from evac.incident.incident import Dossier, summary
from evac.incident.records import COMPONENT_STATES, DAY_MS, PHASES, Note, Source
from evac.incident.regulator import basics, check_fact, duties
from evac.incident.services import Change, Fate
from evac.model.errors import InvalidInput
from evac.model.plan import Plan, Step
from evac.model.step_id import target_step
from evac.model.wall_clock import wall_clock
from evac.office.notices import subscribers
from evac.steps.kind import StepKind
from evac.steps.registry import KINDS
from evac.views.incident_view import report_sheet
from evac.views.sheet import sheet_markdown
from evac.views.status_page import (
    KOREAN,
    OVERALL,
    day_look,
    day_words,
    preview_headline,
    status_feed,
    status_files,
    status_html,
    status_json,
    summary_words,
)
from evac.web import subscribing
from tests.unit.incident.stories import OUTCOMES, T0, fire, note, outcome, plan_of, step

NAMES = {"web": "Chat", "cart": "Chat", "gone": "Reports", "fine": "Mail"}
HOUR = 3_600_000


def page_of(dossier: Dossier, now_ms: int = T0 + HOUR, known_ms: int = T0 - 10 * DAY_MS) -> StatusPage:
    return status_page("Example", NAMES, [(dossier, summary(dossier))], known_ms, now_ms)


PUBLISHED = note("update", 3, "We are looking into it.", value="investigating")


def test_nothing_is_public_before_a_person_publishes() -> None:
    page = page_of(fire([note("draft", 2, "we think"), note("note", 3, "smoke")]))
    assert page.overall == "operational"
    assert page.incidents == ()
    assert not any(day.outage_minutes for one in page.components for day in one.days)
    (held,) = page.unpublished
    assert held.components == ("Chat", "Reports")
    assert {one.name: one.state for one in page.recorded}["Reports"] == "major outage"
    shown = status_html(page) + status_json(page) + status_feed(page, "https://status.example/")
    assert "outage: " not in shown
    assert "Problems with" not in shown
    assert preview_headline(page) == "Reports is affected, but users see: All systems operational"
    published = page_of(fire([PUBLISHED]))
    assert "users see" not in preview_headline(published)
    assert published.unpublished == ()
    assert published.components == page.recorded


@pytest.mark.parametrize("published", [True, False])
def test_a_page_without_services_does_not_say_that_they_work(published: bool) -> None:
    story = fire([PUBLISHED] if published else [])
    page = status_page("Example", {}, [(story, summary(story))], T0 - DAY_MS, T0 + HOUR)
    assert page.overall == "unknown"
    shown = status_html(page)
    assert "operational<" not in shown
    assert ("Incident in progress" if published else "No services listed yet") in shown
    assert '"state": "unknown"' in status_json(page)


def test_the_next_update_is_promised_as_a_moment() -> None:
    due_ms = T0 + 31 * 60_000
    promised = replace(PUBLISHED, due_ms=due_ms)
    page = page_of(fire([promised]))
    seoul = wall_clock("Asia/Seoul")
    assert f'Next update by <time datetime="{datetime.fromtimestamp(due_ms / 1000, UTC).isoformat()}' in (
        shown := status_html(page, seoul)
    )
    assert f"{seoul.both(due_ms, page.made_ms)}</time>" in shown
    assert seoul.both(due_ms, due_ms) == "01:31 KST (16:31 UTC)"
    assert '"next_by": "2025-11-24 16:31:00 UTC"' in status_json(page)
    assert "Next update by 16:31 UTC." in status_feed(page, "https://status.example/")


def test_users_read_of_a_component_that_was_only_degraded_also_after_the_end() -> None:
    plan = plan_of(steps=[step("start", "web", "top")], outcomes=[outcome("web", "restored", 9, 0, 5_000)])
    story = fire([PUBLISHED], plan)
    (shown,) = page_of(story).past
    assert shown.components == ("Chat",)
    assert draft(story, summary(story), NAMES, T0 + HOUR).title == "Chat restored"


def test_a_move_that_is_over_is_no_problem_for_users() -> None:
    story = fire(plan=plan_of("evacuate"))
    assert summary(story).ended_ms is not None
    page = page_of(story)
    assert (page.unpublished, page.incidents) == ((), ())
    assert draft(story, summary(story), NAMES, T0 + HOUR).basis == "nothing"


def test_a_day_is_red_from_half_an_hour_of_a_whole_outage_on() -> None:
    day = date(2026, 11, 14)
    assert day_look(Day(day, "operational")) == ""
    assert day_look(Day(day, "unknown")) == "none"
    assert day_look(Day(day, "major outage", 29)) == "part"
    assert day_look(Day(day, "major outage", 30)) == "out"
    assert day_look(Day(day, "partial outage", 90, 90)) == "part"
    assert day_look(Day(day, "major outage", 1), now="major outage") == "out"
    assert day_words(Day(day, "major outage", 40, 30)) == (
        "2026-11-14: 10 minutes of outage, 30 minutes of partial outage"
    )


def test_components_follow_their_services() -> None:
    found = {one.name: one for one in page_of(fire([PUBLISHED])).components}
    assert [span.state for span in found["Chat"].spans] == [
        "operational",
        "major outage",
        "partial outage",
        "degraded",
        "operational",
    ]
    assert found["Reports"].state == "major outage"
    assert found["Mail"].state == "operational"
    assert page_of(fire([PUBLISHED])).overall == "major outage"


def test_days_before_the_first_record_are_not_known() -> None:
    mail = next(one for one in page_of(fire()).components if one.name == "Mail")
    assert len(mail.days) == DAYS
    assert [day.state for day in mail.days] == ["unknown"] * (DAYS - 11) + ["operational"] * 11


def test_minutes_of_an_outage_are_split_at_midnight() -> None:
    reports = next(o for o in page_of(fire([PUBLISHED]), T0 + 24 * HOUR).components if o.name == "Reports")
    total = (T0 + 24 * HOUR - (T0 - 60_000)) // 60_000
    assert sum(day.outage_minutes for day in reports.days) == pytest.approx(total, abs=1)
    assert max(day.outage_minutes for day in reports.days) <= 1440
    assert sum(1 for day in reports.days if day.outage_minutes) == 2


def test_the_word_of_a_person_holds_until_the_next_change() -> None:
    said = fire([note("state", 600_000, name="Reports", value="operational")])
    assert next(o for o in page_of(said).components if o.name == "Reports").state == "operational"
    early = fire([note("state", -30_000, name="Chat", value="maintenance")])
    assert next(o for o in page_of(early).components if o.name == "Chat").state == "operational"


def test_what_stays_down_after_an_incident_is_said_with_its_name() -> None:
    promised = replace(PUBLISHED, due_ms=T0 + HOUR)
    going_on = status_html(page_of(fire([promised])))
    assert "Not restored yet" not in going_on
    assert "no further update is due" not in going_on
    resolved = status_html(page_of(fire([promised, note("resolved", 900_000)])))
    assert "<b>Reports</b>: major outage since" in resolved.partition("Not restored yet")[2]
    assert "<b>Chat</b>" not in resolved
    assert "The incident is resolved, so no update is due." in resolved
    assert "Resolved, so no further update is due." in resolved
    assert "All systems operational" not in resolved


STORIES = [
    [],
    [PUBLISHED],
    [replace(PUBLISHED, value=phase, due_ms=T0 + HOUR) for phase in PHASES],
    [replace(PUBLISHED, text="복구 중입니다.", name="로그인 장애"), note("resolved", 900_000)],
    [PUBLISHED, *(note("state", 5, name="Mail", value=state) for state in COMPONENT_STATES)],
]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Seoul"])
@pytest.mark.parametrize("notes", STORIES)
@pytest.mark.parametrize("known_ms", [0, T0 - 200 * DAY_MS, T0 - DAY_MS])
def test_a_korean_page_says_nothing_in_english_that_a_person_did_not_write(
    notes: list[Note], known_ms: int, zone: str
) -> None:
    page = page_of(fire(notes), known_ms=known_ms)
    shown = status_html(page, wall_clock(zone), ("en", "ko"), 1)
    assert '<html lang="ko">' in shown
    body = re.sub(r"<style>.*?</style>", "", shown, flags=re.DOTALL)
    body = re.sub(r'<(\w+)[^>]* lang="en".*?</\1>', "", body, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", re.sub(r'aria-label="([^"]*)"', r">\1<", body))
    words = set(re.findall(r"[A-Za-z]{2,}", text))
    assert words <= {"Example", "Chat", "Mail", "Reports", "JSON", "RSS", "UTC", "KST", "English"}
    said = [row.text for row in notes if row.kind == "update"]
    assert all((' lang="en">' + text in shown) == (language_of(text) == "en") for text in said)
    english = status_html(page, wall_clock(zone), ("en", "ko"))
    assert all((' lang="ko">' + text in english) == (language_of(text) == "ko") for text in said)


@pytest.mark.parametrize(
    ("outage", "count", "words"),
    [
        (0, 1, "degraded on 1 day"),
        (0, 2, "degraded on 1 of 2 days"),
        (5, 1, "5 min of outage in 1 day"),
        (5, 2, "5 min of outage on 1 of 2 days"),
    ],
)
def test_one_day_is_not_called_days(outage: int, count: int, words: str) -> None:
    first = Day(date(2026, 1, 1), "degraded", outage, degraded_minutes=5)
    days = (first, Day(date(2026, 1, 2), "operational"))[:count]
    component = Component("Chat", "operational", T0, days, ())
    assert summary_words(component) == words
    assert summary_words(component, "ko").startswith(f"{count}일 중 1일" if count > 1 else "1일 ")


def test_every_fixed_word_of_the_page_is_known_in_korean() -> None:
    folder = Path(views.__file__).parent
    sources = [folder / "templates" / name for name in ("status.html.j2", "status_body.html.j2")]
    used = {
        words for one in sources for words in re.findall(r'(?:say|counted)\([^")]*"([^"]+)"', one.read_text())
    }
    assert len(used) > 20
    asked = (folder / "templates" / "subscribe.html.j2").read_text()
    for said in re.findall(r"say\((.*?)\) ?}}", asked):
        used |= {words for words in re.findall(r'"([^"]+)"', said) if words[0].isupper()}
    used |= set(subscribing.PROBLEMS.values())
    for one in (folder / "status_page.py", Path(subscribers.__file__)):
        used |= set(re.findall(r'said_in\(\w+, "([^"]+)"', one.read_text()))
    states = {words.capitalize() for words in (*PHASES, *COMPONENT_STATES, "update")}
    assert used - {"update"} | states | set(OVERALL.values()) <= KOREAN.keys()
    for english, korean in KOREAN.items():
        assert set(re.findall(r"{\d}", english)) == set(re.findall(r"{\d}", korean)), english


def test_each_language_has_its_page_and_feed_and_links_to_the_others() -> None:
    page = page_of(fire([PUBLISHED]))
    files = status_files(page, "https://status.example/", ("en", "ko"))
    assert list(files) == ["status.json", "feed.xml", "feed.ko.xml", "index.ko.html", "index.html"]
    assert files["index.html"] == status_html(page, None, ("en", "ko"))
    assert '<a class="btn" href="index.ko.html" hreflang="ko" lang="ko">한국어</a>' in files["index.html"]
    assert 'href="index.html" hreflang="en" lang="en">English</a>' in files["index.ko.html"]
    assert 'href="feed.ko.xml"' in files["index.ko.html"]
    feeds = [ElementTree.fromstring(files[name]) for name in ("feed.xml", "feed.ko.xml")]
    assert [feed.findtext("channel/language") for feed in feeds] == ["en", "ko"]
    titles = [feed.findtext("channel/item/title") for feed in feeds]
    assert titles == [
        "Investigating: Problems with Chat and Reports",
        "원인 조사 중: Chat, Reports 서비스 장애 안내",
    ]
    assert {feed.findtext("channel/item/description") for feed in feeds} == {PUBLISHED.text}
    only = status_files(page, "https://status.example/")
    assert list(only) == ["status.json", "feed.xml", "index.html"]
    assert "hreflang" not in only["index.html"]
    assert '<html lang="ko">' in status_files(page, "https://status.example/", ("ko",))["index.html"]


@pytest.mark.parametrize("swapped", [False, True])
def test_an_english_text_with_a_korean_component_is_english(swapped: bool) -> None:
    names = {"web": "카카오 메일", "gone": "메일"}
    english = ("Problems with 카카오 메일", "카카오 메일 and 메일 have been unavailable since 03:18.")
    korean = ("메일 장애", "메일 서비스를 이용하실 수 없습니다.")
    first, second = (korean, english) if swapped else (english, korean)
    written = replace(note("update", 3, first[1], name=first[0]), other_name=second[0], other_text=second[1])
    dossier = fire([written, replace(written, id="draft", kind="draft", at_ms=T0 + 4)])
    page = status_page("Example", names, [(dossier, summary(dossier))], T0, T0 + HOUR)
    for language, (title, text) in (("en", english), ("ko", korean)):
        turned = in_language(page, language).incidents[0].updates[0]
        assert (turned.title, turned.text) == (title, text)
        kept = draft(dossier, summary(dossier), names, T0 + HOUR, language=language)
        assert (kept.title, kept.text) == (title, text)
        assert text in status_feed(page, "https://status.example/", language)
    (told,) = json.loads(status_json(page))["incidents"][0]["updates"]
    said = {told["language"]: told["text"], told["other"][0]["language"]: told["other"][0]["text"]}
    assert said == {"en": english[1], "ko": korean[1]}
    assert language_of("메일", names.values()) == "ko", "a name is all there is"


@pytest.mark.parametrize("words", ["", "en,en", "fr", "ko,", "../en", "EN"])
def test_a_language_that_the_page_does_not_have_is_refused(words: str) -> None:
    with pytest.raises(InvalidInput, match="is not a list of languages"):
        languages_of(words)
    assert languages_of("ko, en") == ("ko", "en")


def test_only_published_words_are_public() -> None:
    notes = [
        note("note", 1, "the battery room burns"),
        note("draft", 2, "we think that"),
        note("command", 3, value="lee"),
        note("update", 4, "Chat is back <soon> & whole.", name="Chat is down"),
    ]
    page = page_of(fire(notes))
    shown = status_html(page) + status_json(page) + status_feed(page, "https://status.example/")
    for inside in (
        "battery",
        "we think",
        "lee",
        "pangyo",
        "anyang",
        "run-1",
        "fire-1",
        "kim",
        "web",
        "promote",
    ):
        assert inside not in shown
    assert "Chat is back &lt;soon&gt; &amp; whole." in status_html(page)
    feed = ElementTree.fromstring(status_feed(page, "https://status.example/?a=1&b"))
    assert [item.findtext("title") for item in feed.iter("item")] == ["Chat is down"]
    assert feed.findtext("channel/item/pubDate") == "Mon, 24 Nov 2025 16:00:00 +0000"
    assert status_html(page) == status_html(page_of(fire(notes)))


def test_an_incident_keeps_the_title_of_its_first_update() -> None:
    notes = [note("update", 2, "a", name="Chat is back"), note("update", 1, "b", name="Chat is down")]
    shown = page_of(fire(notes)).incidents[0]
    assert shown.title == "Chat is down"
    assert [update.text for update in shown.updates] == ["a", "b"]


def test_a_title_that_was_drafted_is_published_as_it_was_written() -> None:
    names = {service: f"Part {service}" for service in ("web", "cart", "gone", "fine", "ads", "x", "y")}
    told = [note("update", 1, "b", name="Problems with Part ads, Part cart and 2 more")]
    told += [note("state", 2, name=name, value="degraded") for name in names.values()]
    (one,) = status_page("Example", names, [(d := fire(told), summary(d))], T0, T0 + HOUR).incidents
    assert one.title == told[0].name
    (one,) = status_page("Example", names, [(d := fire(told[1:]), summary(d))], T0, T0 + HOUR).incidents
    assert one.title == "Problems with Part ads, Part cart, Part fine, Part gone, Part web and 2 more"


def test_what_is_down_is_named_by_what_it_matters() -> None:
    assert [listed("abcdef"[:n]) for n in (1, 2, 6)] == ["a", "a and b", "a, b, c, d, e and f"]
    fates = (
        Fate("ads", 3, 0, None, (down := (Change(1, "down", Source("r", 1)),))),
        Fate("chat", 0, 5, None, down),
        Fate("login", 0, 9, None, down),
    )
    assert replace(summary(fire()), fates=fates).still_down == ("login", "chat", "ads")


def test_the_report_counts_in_words_that_can_be_read() -> None:
    dossier = fire([fact("clients_affected", "1200000")])
    report = basics(dossier, about := summary(dossier), T0 + HOUR)
    shown = sheet_markdown(report_sheet(report, classify(dossier, about, report), ()))
    assert "1,200,000" in shown
    assert "1 threshold is met so far" in shown


def restored() -> Plan:
    """A plan that leaves no service down."""
    return plan_of(outcomes=[one for one in OUTCOMES if one.state in ("restored", "running")])


def told(*notes: Note, now_ms: int = T0 + 30 * HOUR, plan: Plan | None = None) -> Classification:
    dossier = fire(notes, plan)
    about = summary(dossier)
    return classify(dossier, about, basics(dossier, about, now_ms))


def fact(name: str, value: str) -> Note:
    return check_fact(note("fact", 100_000, name=name, value=value))


def met(found: Classification, article: str) -> str:
    return next(one.met for one in found.criteria if one.article == article)


def test_what_nobody_says_is_not_known() -> None:
    found = told(note("resolved", 60_000), plan=restored())
    assert found.major == "not known"
    assert met(found, "Article 6") == met(found, "Article 9(6)") == met(found, "Article 9(4)") == "not known"
    assert met(found, "Article 9(1)") == "met", "one service alone has more than 100,000 people"
    values = {field.number: field.stated.value for field in found.fields}
    assert values["4.13"] is None
    assert values["3.4"] == "150,000 to 190,000"
    assert values["3.15"] == "00:00:02"


def test_a_major_incident_needs_critical_services_and_two_thresholds() -> None:
    assert told().criteria[4].met == "met", "it lasts longer than a day"
    assert told(fact("critical_services", "yes")).major == "met"
    assert told(fact("critical_services", "no")).major == "not met"
    short = [note("resolved", 60_000), fact("critical_services", "yes")]
    whole = restored()
    assert told(*short).major == "met", "two services are down for longer than a day, whoever resolved it"
    assert told(*short, plan=whole).major == "not known"
    assert told(*short, fact("malicious_access", "yes"), plan=whole).major == "met"
    nothing = [fact(name, "no") for name in ("malicious_access", "reputation_touched", "data_losses")]
    for costs, major in (("100000", "not met"), ("100001", "met")):
        facts = (fact("member_states", "1"), fact("costs_eur", costs))
        assert told(*short, *nothing, *facts, plan=whole).major == major


@pytest.mark.parametrize(("count", "answer"), [("100000", "not known"), ("100001", "met")])
def test_the_threshold_of_clients_is_more_than_a_hundred_thousand(count: str, answer: str) -> None:
    assert met(told(fact("clients_affected", count)), "Article 9(1)") == answer


@pytest.mark.parametrize(
    ("name", "value"),
    [("weather", "x"), ("costs_eur", "many"), ("malicious_access", "maybe"), ("occurred_at", "noon")],
)
def test_a_fact_that_does_not_fit_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidInput):
        fact(name, value)


def test_restore_times_are_of_records_and_never_of_who_resolves_it() -> None:
    dossier = fire([note("resolved", 60_000)])
    about = summary(dossier)
    report = basics(dossier, about, T0 + HOUR)
    assert {s.service: s.restored_ms for s in report.services if s.restored_ms is None} == {
        "ads": None,
        "gone": None,
    }
    (gone,) = (s for s in report.services if s.service == "gone")
    assert gone.down_ms == T0 + HOUR - gone.down_since_ms, "it is down until now"
    assert not report.end.known
    assert "ads, gone are down according to the records" in report.end.basis
    assert report.duration.basis == "until now; ongoing"


def test_korean_damages_are_due_thirty_days_after_the_last_service_is_restored() -> None:
    resolved = note("resolved", 60_000)
    cases = (([], None, None), ([resolved], None, None), ([resolved], restored(), 30 * DAY_MS))
    for notes, plan, due in cases:
        dossier = fire(notes, plan)
        about = summary(dossier)
        due = due and due + max(f.restored.at_ms for f in about.fates if f.restored is not None)
        found = duties(dossier, about, basics(dossier, about, T0 + HOUR))
        assert found[1].due_ms == due
        assert not found[1].told.known
        assert [stated.known for _, stated in found[1].content] == [False, False, False]


def test_spans_round_up_to_the_minute() -> None:
    assert [span(0), span(1), span(DAY_MS + HOUR + 60_000)] == ["00:00:00", "00:00:01", "01:01:01"]


@pytest.mark.parametrize(("minutes", "shown"), [(0, False), (30, True)])
def test_the_colour_of_maintenance_is_explained_where_it_is_used(minutes: int, shown: bool) -> None:
    day = Day(date(2026, 1, 1), "maintenance" if minutes else "operational", maintenance_minutes=minutes)
    unknown = tuple(Day(date(2025, 12, 31), "unknown") for _ in range(DAYS - 1))
    page = StatusPage("Example", T0, T0, (Component("Chat", "operational", T0, (*unknown, day), ()),), ())
    assert ('class="dot care"' in status_html(page)) is shown
    assert ("점검 중</span>" in status_html(page, languages=("ko",))) is shown


@pytest.mark.parametrize(
    "kind", [one for one in KINDS if one.entry.weight == "main"], ids=lambda one: one.name
)
def test_every_step_of_weight_is_among_the_actions_of_a_report(kind: StepKind) -> None:
    """A forced cluster or a store that goes on without its copies is what a regulator asks about."""
    fence = Step(target_step("fence", "db"), "fence", "db", 0, 1_000)
    step = Step(target_step(kind.name, "db"), kind.name, "db", 1_000, 2_000, after=(fence.id,))
    dossier = fire(plan=plan_of(steps=(fence,) if kind.fences else (fence, step)))
    report = basics(dossier, summary(dossier), T0 + HOUR)
    assert kind.entry.kind in {one.kind for one in report.actions}
