"""What every driver of backups keeps: TakesBackups, RestoresData, AsksRestored."""

from __future__ import annotations

from collections.abc import Sequence

from evac.drivers.capabilities import (
    PARTS_PER_MILLION,
    READ,
    STRUCTURE,
    AsksRestored,
    CopyReport,
    Listing,
    Proof,
    Reply,
    RestoresData,
    Taken,
    TakesBackups,
)
from evac.model.errors import ActionError, OutcomeUnknown, Permanent, Retryable
from tests.contract.capabilities.asked import ask, refuses_hostile_answers, silently, unrecorded
from tests.contract.capabilities.story import Case, assert_keeps_contract, order
from tests.contract.capabilities.suites import AskedBackups, AskedRequest, AskedRestore, acting, asking

LONG_S = 60.0
OTHERS = frozenset({"backup_command", "backup_reader"})
"""These drivers run programs of others, which name their own troubles."""


@asking(TakesBackups)
def test_copies(asked: AskedBackups) -> None:
    """What is listed is what was taken; what lacks a part says so; silence and nonsense are no listing."""

    async def story() -> None:
        first = await ask(asked, "list_copies", LONG_S)
        assert isinstance(first, Listing), first
        assert first.deletable == asked.deletable
        assert [one.failed for one in first.copies] == [False]
        await asked.change()
        taken = await ask(asked, "take", LONG_S)
        listed = await ask(asked, "list_copies", LONG_S)
        assert listed.repository == first.repository
        proof = await ask(asked, "prove", LONG_S, READ, 1, 1)
        if isinstance(proof, Proof) and proof.outcome == "passed" and asked.takes:
            assert proof.repository == listed.repository, "another repository would pass for this one"
        if asked.takes:
            assert isinstance(taken, Taken), taken
            assert taken.missing == ()
            assert taken.bytes_read > 0
            assert taken.took_ms > 0
            assert [one.id for one in listed.copies] == [first.copies[0].id, taken.copy.id]
            assert listed.copies[-1].tree == taken.copy.tree
        else:
            assert isinstance(taken, Permanent), taken
            assert [one.id for one in listed.copies][:1] == [first.copies[0].id]
            assert len(listed.copies) == 2, "the copy that its own tool took"
        if asked.lacking is not None:
            lacking = await ask(asked, "take", LONG_S, action=asked.lacking)
            if not isinstance(lacking, ActionError):
                assert lacking.missing, "a copy without all of its paths was called whole"
        for code, action in asked.wrong.items():
            error = await ask(asked, "list_copies", LONG_S, action=action)
            assert isinstance(error, ActionError), f"{code}: {error}"
            assert error.code == code, error
            assert error.hint, f"{error} does not say what to do"
            unproven = await ask(asked, "prove", LONG_S, READ, 1, 1, action=action)
            if isinstance(unproven, ActionError):
                assert unproven.hint, f"{unproven} does not say what to do"
            elif asked.action.driver not in OTHERS:  # these judge the program of others
                assert (unproven.outcome, unproven.code) == ("could-not-run", code), unproven
                assert unproven.detail.endswith(f"; {error.hint}"), unproven.detail
        await refuses_hostile_answers(asked, "list_copies")
        async with silently(asked) as within_s:
            for question in ("list_copies", "take") if asked.takes else ("list_copies",):
                error = await ask(asked, question, within_s)
                assert isinstance(error, Retryable | OutcomeUnknown), error

    asked.run(story())


@asking(TakesBackups)
def test_proofs(asked: AskedBackups) -> None:
    """A rotation reads every byte once; nothing passes unread; one flipped byte is found in one rotation."""

    async def rotation() -> list[str]:
        found = []
        for part in range(1, asked.parts + 1):
            proof = await ask(asked, "prove", LONG_S, READ, part, asked.parts)
            assert proof.level == READ
            assert proof.outcome != "passed" or proof.bytes_read > 0
            shares.append(proof.share_read)
            found.append(proof.outcome)
        return found

    async def story() -> None:
        if STRUCTURE in asked.levels:
            assert (await ask(asked, "prove", LONG_S, STRUCTURE, 1, 1)).outcome == "passed"
        assert isinstance(await ask(asked, "prove", LONG_S, 9, 1, 1), Permanent)
        if READ not in asked.levels:
            found = await ask(asked, "prove", LONG_S, READ, 1, 1)
            assert isinstance(found, Permanent) or found.level < READ
            return
        found = await rotation()
        assert set(found) <= {"passed", "could-not-run"}
        assert "passed" in found
        assert abs(sum(shares) - PARTS_PER_MILLION) <= asked.parts
        await asked.spoil()
        if STRUCTURE in asked.levels:
            seen = (await ask(asked, "prove", LONG_S, STRUCTURE, 1, 1)).outcome
            assert seen == ("passed" if asked.blind else "damaged")
        assert "damaged" in await rotation()
        async with silently(asked) as within_s:
            assert (await ask(asked, "prove", within_s, READ, 1, 1)).outcome == "could-not-run"

    shares: list[int] = []
    asked.run(story())


@asking(TakesBackups)
def test_copies_elsewhere(asked: AskedBackups) -> None:
    """A copy in another repository is compared with its original; a tool that cannot says so."""

    async def story() -> None:
        if asked.to is None:
            assert isinstance(await ask(asked, "copy_on", LONG_S, asked.action, unrecorded), Permanent)
            return
        (first,) = (await ask(asked, "list_copies", LONG_S)).copies
        begun: list[tuple[str, int]] = []

        async def begins(source: CopyReport, known: Sequence[CopyReport]) -> None:
            there = await ask(asked, "list_copies", LONG_S, action=asked.to)
            assert [one.id for one in known] == [one.id for one in there.copies]
            begun.append((source.id, len(there.copies)))
            if len(begun) == 1:
                raise Permanent("not-recorded", "its begin could not be recorded")

        refused = await ask(asked, "copy_on", LONG_S, asked.to, begins)
        assert getattr(refused, "code", "") == "not-recorded", refused
        copied = await ask(asked, "copy_on", LONG_S, asked.to, begins)
        assert isinstance(copied, Taken), copied
        assert begun == [(first.id, 0)] * 2, "nothing is written before its begin is recorded"
        assert copied.copy.tree == first.tree
        assert copied.copy.original == first.id
        assert copied.bytes_stored > 0
        there = await ask(asked, "list_copies", LONG_S, action=asked.to)
        assert copied.copy.id in [one.id for one in there.copies]
        again = await ask(asked, "copy_on", LONG_S, asked.to, begins)
        assert again.copy.id == copied.copy.id, "it is copied once, and known before it is copied again"
        if asked.lost is not None:
            assert isinstance(await ask(asked, "copy_on", LONG_S, asked.lost, unrecorded), ActionError)

    asked.run(story())


@asking(RestoresData)
def test_restore_into_an_empty_place(asked: AskedRestore) -> None:
    """All of it, or nothing; never over what is there; and it is cleaned up so that nothing is left."""
    place = str(asked.place)

    async def story() -> None:
        before = await asked.left()
        done = await ask(asked, "restore", LONG_S, "", place, None)
        assert not isinstance(done, Exception), done
        assert done.bytes > 0
        assert done.facts
        assert await asked.holds(asked.place)
        full = await asked.left()
        again = await ask(asked, "restore", LONG_S, "", place, None)
        assert isinstance(again, Permanent), again
        assert await asked.left() == full, "something was overwritten"
        assert await ask(asked, "clean_up", LONG_S, place) is None
        assert await asked.left() == before
        assert await ask(asked, "clean_up", LONG_S, place) is None
        unknown = await ask(asked, "restore", LONG_S, "no-such-copy", place, None)
        assert isinstance(unknown, Permanent), unknown
        assert unknown.code == "copy-unknown"
        assert isinstance(await ask(asked, "restore", LONG_S, "", place, 86_400), Permanent)
        assert await asked.left() == before

    asked.run(story())


@asking(RestoresData)
def test_what_is_damaged_or_not_ours(asked: AskedRestore) -> None:
    """A damaged copy leaves nothing; what others put there is neither filled nor removed."""
    place = str(asked.place)

    async def story() -> None:
        await asked.fill(asked.place)
        before = await asked.left()
        for question, more in (("restore", ("", place, None)), ("clean_up", (place,))):
            error = await ask(asked, question, LONG_S, *more)
            assert isinstance(error, Permanent), error
            assert await asked.left() == before, question
        await asked.spoil()
        elsewhere = asked.place.with_name("elsewhere")
        error = await ask(asked, "restore", LONG_S, "", str(elsewhere), None)
        assert isinstance(error, ActionError), "a damaged copy was called restored"
        assert not await asked.holds(elsewhere)
        assert await ask(asked, "clean_up", LONG_S, str(elsewhere)) is None
        assert await asked.left() == before

    asked.run(story())


@acting(RestoresData, "restore")
def test_restore_as_a_step(case: Case) -> None:
    """As a run does it: complete and in use, or not there; it is never rolled back. A run gives it several
    times its predicted minutes, so it has as long as every other question about backups.
    """
    assert case.undo == "refused", "users may have written to it since"
    case.order = order(timeout_s=LONG_S)
    assert_keeps_contract(case)


@asking(AsksRestored)
def test_requests_to_restored_data(asked: AskedRequest) -> None:
    """Only the expected answer, from the data in the place, matches; silence and failure are errors."""
    place = str(asked.place)

    async def story() -> None:
        reply = await ask(asked, "ask", LONG_S, place)
        assert isinstance(reply, Reply), reply
        assert reply.matches
        assert not any(secret in reply.answer for secret in asked.secrets)
        for code, action in asked.wrong.items():
            error = await ask(asked, "ask", LONG_S, place, action=action)
            assert isinstance(error, ActionError), f"{code}: {error}"
            assert error.code == code, error
        await refuses_hostile_answers(asked, "ask", place)
        async with silently(asked) as within_s:
            assert isinstance(await ask(asked, "ask", within_s, place), Retryable)
        asked.page.write_text("another page")
        other = await ask(asked, "ask", LONG_S, place)
        assert isinstance(other, Reply), other
        assert not other.matches
        assert "another page" in other.answer
        asked.page.unlink()
        assert isinstance(await ask(asked, "ask", LONG_S, place), ActionError)

    asked.run(story())
