"""Problems in the formats that machines read."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from evac.model.diagnostic import Diagnostic, Place
from evac.views.json_out import Alert, alerts_markdown, github, junit, of_diagnostics, sarif

ODD = 'a <b> & "c" 50 % | `x`\x07\nnext'
ALERTS = of_diagnostics(
    [
        Diagnostic("unknown-name", ODD, Place("estate/b.yaml", 3, 7), hint="did you mean 'pay'?"),
        Diagnostic("old-fact", "observed long ago", Place("estate/a.yaml"), "warning"),
    ]
)


def test_alerts_come_in_the_order_of_files_and_lines() -> None:
    assert [alert.place.file for alert in ALERTS] == ["estate/a.yaml", "estate/b.yaml"]


def test_sarif_names_rule_level_place_and_a_lasting_fingerprint() -> None:
    document = json.loads(sarif(ALERTS, "1.0"))
    (run,) = document["runs"]
    assert document["version"] == "2.1.0"
    second = run["results"][1]
    assert (second["ruleId"], second["level"]) == ("unknown-name", "error")
    assert run["tool"]["driver"]["rules"][second["ruleIndex"]]["id"] == "unknown-name"
    place = second["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 3, "startColumn": 7}
    assert "region" not in run["results"][0]["locations"][0]["physicalLocation"]
    assert len(second["partialFingerprints"]["evac/v1"]) == 16


def test_junit_is_xml_whatever_the_words_are() -> None:
    tree = ElementTree.fromstring(junit(ALERTS, "evac check"))
    suite = tree.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = tree.find(".//failure")
    assert failure is not None
    assert "50 %" in (failure.text or "")


def test_junit_of_nothing_is_one_passed_case() -> None:
    tree = ElementTree.fromstring(junit((), "evac audit"))
    assert [case.get("name") for case in tree.iter("testcase")] == ["nothing found"]


def test_github_annotations_are_one_line_each_and_escaped() -> None:
    lines = github(ALERTS).splitlines()
    assert lines[0].startswith("::warning file=estate/a.yaml,title=old-fact")
    assert len(lines) == len(ALERTS)
    assert "`x`\ufffd next did you mean" in lines[1]
    assert "50 %25" in lines[1]
    assert "line=3,col=7" in lines[1]


def test_github_shows_ten_and_says_how_many_more() -> None:
    many = [Alert("r", "error", f"s{n}", "m", "", Place("f", n + 1, 1), f"{n}") for n in range(25)]
    lines = github(many).splitlines()
    assert len(lines) == 11
    assert "15 more problems" in lines[-1]


def test_markdown_cells_cannot_break_the_table() -> None:
    text = alerts_markdown("check", ALERTS)
    row = next(line for line in text.splitlines() if "unknown-name" in line)
    assert row.count(" | ") == 5
    assert "<b>" not in row
