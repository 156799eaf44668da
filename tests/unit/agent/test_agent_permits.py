"""Permits by the agent's own clock: what is due, when, and what never makes a permit longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from evac.agent.config import FenceConfig
from evac.agent.fencing import Permits
from evac.model.errors import Permanent

FENCE = FenceConfig("chat-store", margin_ms=3_000, units=("postgres",))


class Book:
    """Permits of one store on a clock that the test sets."""

    def __init__(self, folder: Path, boot: str = "boot-1", now: int = 100_000) -> None:
        self.path, self.now = folder / "permits.json", now
        self.permits = Permits([FENCE], self.path, boot, lambda: self.now)

    def again(self, boot: str = "boot-1") -> Permits:
        """The permits of the next agent on the same machine."""
        self.permits = Permits([FENCE], self.path, boot, lambda: self.now)
        return self.permits

    def state(self) -> str:
        return str(self.permits.report()[0]["state"])

    def due(self) -> list[str]:
        return [fence.store for fence in self.permits.due()]


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


def test_without_a_first_permit_nothing_is_ever_fenced(book: Book) -> None:
    book.now += 10_000_000
    assert book.due() == []
    assert book.again().report()[0]["state"] == "unwatched"
    assert book.due() == []


def test_a_fence_begins_a_margin_before_the_end_and_is_said_once(book: Book) -> None:
    book.permits.grant("chat-store", 1, 15_000, book.permits.mark())
    book.now += 11_999
    assert book.due() == []
    book.now += 1
    assert book.due() == ["chat-store"]
    assert book.due() == []
    book.permits.settle("chat-store")
    book.now += 60_000
    assert (book.due(), book.state()) == ([], "fenced")


def test_a_permit_held_up_on_its_way_grants_nothing_more(book: Book) -> None:
    mark = book.permits.mark()
    book.now += 10_000
    book.permits.grant("chat-store", 1, 15_000, mark)
    assert book.permits.report()[0]["left_ms"] == 5_000
    book.now += 2_000
    with pytest.raises(Permanent, match="has expired"):
        book.permits.grant("chat-store", 1, 15_000, mark)
    assert book.due() == ["chat-store"]


@pytest.mark.parametrize("mark", ["", "boot-1:", "boot-2:100000", "boot-1:100001", "boot-1:-5", "100000"])
def test_a_mark_that_is_not_ours_or_of_the_future_is_refused(book: Book, mark: str) -> None:
    with pytest.raises(Permanent) as caught:
        book.permits.grant("chat-store", 1, 15_000, mark)
    assert caught.value.code == "mark-unknown"
    assert book.state() == "unwatched"


def test_an_older_epoch_neither_grants_nor_releases(book: Book) -> None:
    book.permits.grant("chat-store", 5, 15_000, book.permits.mark())
    for act in (
        lambda: book.permits.grant("chat-store", 4, 60_000, book.permits.mark()),
        lambda: book.permits.release("chat-store", 4),
    ):
        with pytest.raises(Permanent, match="the epoch 5; 4 is older"):
            act()
    assert book.permits.report()[0]["left_ms"] == 15_000


def test_an_older_message_of_the_same_epoch_makes_a_permit_no_shorter(book: Book) -> None:
    old = book.permits.mark()
    book.now += 5_000
    book.permits.grant("chat-store", 1, 15_000, book.permits.mark())
    book.permits.grant("chat-store", 1, 15_000, old)
    assert book.permits.report()[0]["left_ms"] == 15_000


def test_a_permit_goes_on_over_the_agents_own_restart(book: Book) -> None:
    book.permits.grant("chat-store", 3, 15_000, book.permits.mark())
    book.now += 11_000
    book.again()
    assert book.due() == []
    book.now += 1_000
    book.again()
    assert book.due() == ["chat-store"]
    assert book.permits.epoch("chat-store") == 3


def test_after_a_restart_of_the_machine_nothing_is_permitted(book: Book) -> None:
    book.permits.grant("chat-store", 3, 600_000, book.permits.mark())
    book.now = 500
    book.again("boot-2")
    assert book.due() == ["chat-store"]


def test_a_fence_nobody_saw_end_is_begun_again(book: Book) -> None:
    book.permits.grant("chat-store", 1, 15_000, book.permits.mark())
    book.now += 12_000
    assert book.due() == ["chat-store"]
    book.again()
    assert book.due() == ["chat-store"]
    book.permits.settle("chat-store")
    book.permits.write()
    book.again()
    assert book.due() == []


def test_a_fence_that_failed_is_tried_again_after_a_pause(book: Book) -> None:
    book.permits.grant("chat-store", 1, 15_000, book.permits.mark())
    book.now += 12_000
    book.due()
    book.permits.settle("chat-store", "the disk is full")
    assert (book.due(), book.state()) == ([], "failed")
    book.now += FENCE.again_ms
    assert book.due() == ["chat-store"]
    assert book.permits.report()[0]["tries"] == 2


def test_what_was_permitted_while_a_fence_ran_stays_watched(book: Book) -> None:
    book.permits.grant("chat-store", 1, 15_000, book.permits.mark())
    book.now += 12_000
    book.due()
    book.permits.grant("chat-store", 2, 15_000, book.permits.mark())
    book.permits.settle("chat-store")
    assert (book.state(), book.due()) == ("permitted", [])
    book.now += 12_000
    assert book.due() == ["chat-store"]


def test_a_release_ends_the_watch(book: Book) -> None:
    book.permits.grant("chat-store", 1, 15_000, book.permits.mark())
    book.permits.release("chat-store", 1)
    book.now += 60_000
    assert (book.due(), book.state()) == ([], "unwatched")


def test_a_store_without_a_fence_cannot_be_permitted(book: Book) -> None:
    with pytest.raises(Permanent, match="no fence for other"):
        book.permits.grant("other", 1, 15_000, book.permits.mark())
