"""Facts of the overlay win over those of other files, one by one, and slips in it are named."""

from fractions import Fraction
from pathlib import Path

from evac.estate import check, load
from evac.model.diagnostic import Place
from evac.model.estate import Dependency, Estate

BASE = """
evac: 1
name: imported
sites: {east: {}, west: {}}
pools: {east-k8s: {site: east}}
services:
  pay: {tier: 3, demand: {cpu: 2 cores, memory: 4 GiB}, replicas: {east-k8s: unknown, west: 2},
        needs: [sso, {store: ledger}], share: {value: 50 %, source: measured}}
  sso: {sites: [east, west]}
stores:
  ledger: {engine: postgresql, members: [{at: east, mode: primary}, {at: west, mode: async}]}
limits: {starts: 100 per minute}
tools: {identity: sso}
"""


def merged(tmp_path: Path, overlay: str) -> tuple[Estate | None, dict[str, str]]:
    """The estate, and what its diagnostics say by code."""
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "overlay.yaml").write_text(overlay)
    result = check(tmp_path)
    return result.estate, {d.code: f"{d.place} {d.message} ({d.hint})" for d in result.diagnostics}


def test_mappings_are_merged_key_by_key(tmp_path: Path) -> None:
    estate, problems = merged(
        tmp_path,
        "services: {pay: {tier: 0, demand: {memory: 8 GiB}, replicas: {east-k8s: 5}, owner: team-pay}}\n"
        "limits: {hands_at_once: 3}\ntools: {deploy: pay}\n",
    )
    assert problems == {}
    assert estate is not None
    pay = estate.services[0]
    assert (pay.tier, pay.owner, pay.replicas) == (0, "team-pay", 7)
    assert pay.demand == (2_000, 8_192, None, None)
    assert estate.limits.hands_at_once == 3
    assert estate.limits.starts is not None
    assert dict(estate.tools) == {"deploy": ("pay",), "identity": ("sso",)}


def test_needs_and_members_are_merged_by_what_they_name(tmp_path: Path) -> None:
    estate, _ = merged(
        tmp_path,
        "services: {pay: {needs: [{service: sso, hard: false}, {store: ledger, needed_to: start}]}}\n"
        "stores: {ledger: {members: [{at: east, mode: primary}, {at: west, mode: async, lag: 2 s}]}}\n",
    )
    assert estate is not None
    assert estate.services[0].needs == (
        Dependency("sso", "service", hard=False),
        Dependency("ledger", "store", needed_to="start"),
    )
    assert [(m.at, m.mode, m.lag_ms) for m in estate.stores[0].members] == [
        ("east", "primary", None),
        ("west", "async", 2_000),
    ]


def test_a_value_is_replaced_together_with_where_it_is_from(tmp_path: Path) -> None:
    estate, _ = merged(tmp_path, "services: {pay: {share: 80 %}}\n")
    assert estate is not None
    assert estate.services[0].share == Fraction(4, 5)
    assert estate.facts == ()


def test_the_overlay_can_say_that_something_is_not_known(tmp_path: Path) -> None:
    estate, _ = merged(tmp_path, "services: {pay: {tier: unknown}, sso: }\n")
    assert estate is not None
    assert estate.services[0].tier is None
    assert estate.services[1].sites == ("east", "west")


def test_heads_are_replaced(tmp_path: Path) -> None:
    estate, problems = merged(tmp_path, "evac: 1\nname: mine\nas_of: 2026-11-25\n")
    assert estate is not None
    assert (estate.name, str(estate.as_of), problems) == ("mine", "2026-11-25", {})


def test_new_entries_that_stand_by_themselves_are_welcome(tmp_path: Path) -> None:
    estate, problems = merged(
        tmp_path,
        "sites: {annex: {role: witness}}\npools: {west-k8s: {site: west}}\n"
        "services: {payx: {replicas: {west-k8s: 1}}}\n"
        "stores: {ledgers: {members: [{at: west, mode: primary}]}}\n",
    )
    assert problems == {}
    assert estate is not None
    assert [s.id for s in estate.services] == ["pay", "payx", "sso"]


def test_a_slip_in_an_id_is_named(tmp_path: Path) -> None:
    _, problems = merged(tmp_path, "services:\n  pya: {tier: 1}\n")
    assert problems == {
        "overlay-only": "overlay.yaml:2:3 only the overlay describes 'pya' in services (did you mean 'pay'?)"
    }
    _, problems = merged(tmp_path, "sites: {esat: {power_budget: 2 MW}}\nservices: {zzzzzz: {tier: 1}}\n")
    assert problems["overlay-only"].endswith("(remove it, or add external or replicas or sites)")


def test_problems_of_merged_entries_stand_where_they_were_written(tmp_path: Path) -> None:
    _, problems = merged(tmp_path, "services:\n  pay: {tier: high}\n  sso: {sites: [north]}\n")
    assert problems["not-a-number"].startswith("overlay.yaml:2:15 ")
    assert problems["name-unknown"].startswith("overlay.yaml:3:17 ")


def test_places_tell_the_files_apart(tmp_path: Path) -> None:
    merged(tmp_path, "services:\n  pay: {owner: me}\n")
    places = load(tmp_path).places
    assert places["services/pay/owner"] == Place("overlay.yaml", 2, 16)
    assert places["services/pay/tier"].file == "base.yaml"


def test_a_repeated_id_in_other_files_is_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("services: {pay: {}}\n")
    _, problems = merged(tmp_path, "services: {pay: {tier: 1}}\n")
    assert "id-twice" in problems


def test_an_overlay_of_another_shape_is_reported_as_such(tmp_path: Path) -> None:
    _, problems = merged(tmp_path, "services: [pay]\nsites: east\n")
    assert "wrong-type" in problems
    _, problems = merged(tmp_path, "- 1\n")
    assert "wrong-type" in problems


def test_an_overlay_that_repeats_everything_changes_nothing(tmp_path: Path) -> None:
    alone, twice = tmp_path / "alone", tmp_path / "twice"
    small = Path(__file__).resolve().parents[3] / "fixtures" / "estates" / "small" / "estate.yaml"
    for folder in (alone, twice):
        folder.mkdir()
        (folder / "estate.yaml").write_text(small.read_text())
    text = small.read_text()
    (twice / "overlay.yaml").write_text(
        text[: text.index("links:")] + text[text.index("limits:") : text.index("rehearsals:")]
    )
    result = check(twice)
    assert result.diagnostics == ()
    assert result.estate is not None
    one, other = load(alone), result.estate
    for section in (
        "sites",
        "groups",
        "classes",
        "pools",
        "links",
        "services",
        "stores",
        "limits",
        "expiring",
        "facts",
    ):
        assert getattr(one, section) == getattr(other, section)
    assert one.tools == other.tools
    assert one.replicas.count.tolist() == other.replicas.count.tolist()


def test_a_need_that_is_stated_again_is_hard_unless_the_overlay_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "evac: 1\nsites: {east: {}}\nservices:\n  cards: {external: true}\n  mail: {external: true}\n"
        "  pay: {sites: [east], needs: [{service: cards, hard: false}, {service: mail, hard: false}]}\n"
    )
    overlay = tmp_path / "overlay.yaml"
    for needs, hard in (
        ("[cards]", (True, False)),
        ("[{service: cards}]", (True, False)),
        ("[{service: cards, needed_to: start}, mail]", (True, True)),
        ("[{service: cards, hard: false}]", (False, False)),
    ):
        overlay.write_text(f"services: {{pay: {{needs: {needs}}}}}\n")
        assert tuple(need.hard for need in load(tmp_path).services[2].needs) == hard, needs
