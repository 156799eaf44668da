"""Which backups lack something, or may, as parameters of a restore: an agent has no records of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson

from evac.drivers import parameters
from evac.drivers.capabilities import DOUBTS, DOUBTS_ELSEWHERE, INCOMPLETE, INCOMPLETE_ELSEWHERE
from evac.drivers.port import Value
from evac.model.backup import Doubt, Lacking
from evac.model.errors import Permanent


def parameters_of(lacks: Lacking) -> dict[str, Value]:
    """The parameters of a restore that say which backups lack something, or may; `lacking_of` reads them."""
    return {
        INCOMPLETE: tuple(sorted(lacks.own)),
        INCOMPLETE_ELSEWHERE: tuple(sorted(lacks.others)),
        DOUBTS: _shown(lacks.doubts),
        DOUBTS_ELSEWHERE: _shown(lacks.doubts_elsewhere),
    }


def lacking_of(given: Mapping[str, Value]) -> Lacking:
    """Which backups lack something, or may, from the parameters of a restore. Raises `Permanent` if they
    cannot be read: then any backup may.
    """
    own, others = (frozenset(parameters.many(given, key)) for key in (INCOMPLETE, INCOMPLETE_ELSEWHERE))
    doubts, elsewhere = (
        tuple(map(_doubt_in, parameters.many(given, key))) for key in (DOUBTS, DOUBTS_ELSEWHERE)
    )
    return Lacking(own, others, doubts, elsewhere)


def _shown(doubts: Iterable[Doubt]) -> tuple[str, ...]:
    rows = ([one.from_s, one.until_s, sorted(one.whole), sorted(one.originals)] for one in doubts)
    return tuple(sorted(orjson.dumps(row if row[3] else row[:3]).decode() for row in rows))


def _doubt_in(text: str) -> Doubt:
    try:
        from_s, until_s, *ids = orjson.loads(text)
        whole, originals = (*ids, []) if len(ids) == 1 else ids
        if (
            isinstance(from_s, int)
            and isinstance(until_s, int | None)
            and isinstance(whole + originals, list)
        ):
            return Doubt("", from_s, until_s, tuple(map(str, whole)), tuple(map(str, originals)))
    except (ValueError, TypeError):
        pass
    words = "it cannot be read which backups may be incomplete"
    raise Permanent("setting-wrong", words, "upgrade evac at this site to the version that leads the run")
