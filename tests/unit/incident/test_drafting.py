"""Drafts of status updates: only what records say, in the words users know."""

from __future__ import annotations

import re
from dataclasses import replace

from evac.incident.components import _WORDS, LANGUAGES, draft
from evac.incident.incident import Dossier, summary
from evac.model.wall_clock import wall_clock
from tests.unit.incident.stories import OUTCOMES, T0, carried_out, fire, note, plan_of

NAMES = {"web": "Web shop", "ads": "Adverts", "cart": "Web shop"}


def story(until: int) -> Dossier:
    """The fire as far as its first records go."""
    return fire(events=carried_out(plan_of())[:until])


def said(dossier: Dossier, names: dict[str, str] = NAMES) -> tuple[str, str, str]:
    made = draft(dossier, summary(dossier), names, T0 + 60_000)
    return made.title, made.text, made.basis


def test_what_is_down_and_what_is_back_is_said_by_its_public_name() -> None:
    title, text, basis = said(story(3))
    assert (title, basis) == ("Problems with Web shop", "records")
    assert "Web shop has been unavailable" in text
    assert "UTC" in text
    whole = said(story(10_000))
    assert "Web shop has been restored as of" in whole[1]
    assert "Adverts has been unavailable" in whole[1]
    for inside in ("web", "cart", "pangyo", "anyang", "fence"):
        assert inside not in text.replace("Web shop", "")


def test_nothing_is_drafted_where_users_know_nothing_of_it() -> None:
    assert said(story(3), {}) == ("", "", "nothing")
    assert said(story(3), {"fine": "Fine"}) == ("", "", "nothing")


def test_a_draft_of_a_person_goes_first_until_it_is_published() -> None:
    begun = story(3)
    mine = note("draft", 10, "We look into it.", name="Trouble")
    assert said(replace(begun, notes=(mine,))) == ("Trouble", "We look into it.", "person")
    told = note("update", 11, "We look into it.", name="Trouble")
    assert said(replace(begun, notes=(mine, told)))[2] == "records"


def test_an_end_is_said_as_one() -> None:
    resolved = (note("resolved", 50),)
    title, text, _ = said(replace(story(10_000), notes=resolved))
    assert "Adverts has been unavailable" in text, "it is still down, whoever resolved the incident"
    assert "over" not in title
    whole = plan_of(outcomes=[one for one in OUTCOMES if one.state == "restored"])
    title, text, _ = said(fire(resolved, whole))
    assert title.endswith(" restored")
    assert "has been working again since" in text


def test_a_later_update_is_about_what_is_still_affected() -> None:
    first, later = story(10_000), (note("update", 50, "words", name="Trouble", value="identified"),)
    assert said(first)[0] == "Problems with Adverts and Web shop"
    title, text, _ = said(replace(first, notes=later))
    assert title == "Problems with Adverts"
    assert "a fix for Adverts and" in text


def test_every_sentence_has_words_in_each_language_with_the_same_facts() -> None:
    plain = {key for key in _WORDS["en"] if not key.endswith("_many")}
    for language in LANGUAGES:
        words = _WORDS[language]
        assert {key for key in words if not key.endswith("_many")} == plain
        for key, text in words.items():
            wanted = set(re.findall(r"{(\w+)}", _WORDS["en"][key.removesuffix("_many")]))
            assert set(re.findall(r"{(\w+)}", text)) == wanted, (language, key)


def test_a_korean_draft_says_what_the_english_one_says_at_every_moment_of_a_fire() -> None:
    """The same components, the same number of sentences; a moment in Korean form with the zone."""
    seoul = wall_clock("Asia/Seoul")
    for until in range(len(carried_out(plan_of())) + 1):
        told = story(until)
        about = summary(told)
        english, korean = (draft(told, about, NAMES, T0 + 60_000, seoul, language) for language in LANGUAGES)
        assert korean.basis == english.basis
        assert korean.text.count("니다.") == len(re.findall(r"\.(?: |$)", english.text))
        for name in set(NAMES.values()):
            assert (name in korean.text) == (name in english.text)
            assert (name in korean.title) == (name in english.title)
        moments = re.findall(r"\d+월 \d+일 (?:오전|오후) \d+시 \d\d분\(KST\)", korean.text)
        assert len(moments) == english.text.count(" KST (")


def test_a_korean_end_is_said_as_one() -> None:
    whole = fire(
        (note("resolved", 50),), plan_of(outcomes=[one for one in OUTCOMES if one.state == "restored"])
    )
    made = draft(whole, summary(whole), NAMES, T0 + 60_000, wall_clock("Asia/Seoul"), "ko")
    assert made.title == "Web shop 서비스 장애 복구 완료 안내"
    assert made.text.startswith("Web shop 서비스가 11월 25일 오전 1시")
    assert made.text.endswith("정상적으로 제공되고 있습니다.")
