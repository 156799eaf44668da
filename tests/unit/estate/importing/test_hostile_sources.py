"""Every reader of sources refuses or skips what is broken, in time, and never ends in a traceback."""

from bench.hostile_sources import broken, outcomes, samples
from evac.estate.importers import KINDS


def test_broken_sources_of_every_kind_are_read_or_refused() -> None:
    found = outcomes(seed=20_261_129, count=1_100)
    assert not found.wrong, "\n".join(found.wrong)
    kinds = {kind for kind, _, _ in samples()}
    assert kinds == {*KINDS, "recipe", "kubeconfig"} - {"wikimedia"}
    assert set(found.refused) == kinds, "each kind refuses some"
    assert set(found.read) == kinds, "and reads some"


def test_a_seed_gives_the_same_sources() -> None:
    assert list(broken(3, 60)) == list(broken(3, 60))
    assert list(broken(3, 60)) != list(broken(4, 60))
