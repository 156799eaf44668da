"""What the war room answers to a what-if: chains, edges, and room before and after."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest

from evac import estate as estates
from evac.audit import AuditReport, audit
from evac.office.reckoning import WhatIf, what_if_of
from tests.web.rooms import ESTATE

LOSSES = (("south",), ("north",), ("hill",), ("river-utility",), ("north", "south"))


@cache
def report() -> AuditReport:
    return audit(estates.load(ESTATE), digest="x")


def ask(*lost: str) -> WhatIf:
    return what_if_of(report(), lost)


@pytest.mark.parametrize("lost", LOSSES)
def test_every_service_that_is_touched_has_a_chain_that_begins_with_it(lost: tuple[str, ...]) -> None:
    for one in ask(*lost).services:
        assert one.chain[0] == one.service
        assert len(one.chain) > 1 or one.fate in ("unknown", "not proved")


@pytest.mark.parametrize("lost", LOSSES)
def test_each_link_of_a_chain_is_an_edge_that_is_told(lost: tuple[str, ...]) -> None:
    fates = {one.service: one for one in ask(*lost).services}
    for one in fates.values():
        names = one.chain[:-1]
        for name, needed in pairwise(names):
            assert needed in fates[name].needs or needed in fates[name].wants


@pytest.mark.parametrize("lost", LOSSES)
def test_room_after_is_what_was_there_less_what_is_lost(lost: tuple[str, ...]) -> None:
    answer = ask(*lost)
    for row in answer.capacity:
        assert 0 <= row.total_left <= row.total
        assert 0 <= row.used_left <= row.used
        assert 0 <= row.moved_in <= max(0, row.total_left - row.used_left)
        if row.site in lost:
            assert row.total_left == row.moved_in == 0
    assert any(row.moved_in for row in answer.capacity) == (answer.loss.placed > 0)


def test_what_moves_in_takes_what_its_replicas_take() -> None:
    """One service is lost with a rack's worth of replicas and nothing else asks for room."""
    answer, services = ask("south"), {s.id: s for s in report().impacts.estate.services}
    cpu = {row.site: row.moved_in for row in answer.capacity if row.resource == "cpu_millicores"}
    most = max(service.demand[0] or 0 for service in services.values()) * answer.loss.placed
    assert 0 < sum(cpu.values()) <= most


def test_who_serves_less_because_of_another_says_so() -> None:
    """web can do without search; where search alone is down, the chain of web leads to it."""
    found = {one.service: one for one in ask("north", "south").services}
    assert "search" in found["web"].wants
