"""Commands with which people do by hand what a driver does, for printed runbooks. Each driver declares
them.
"""

from __future__ import annotations

from evac.drivers.port import Value, Verb
from evac.drivers.registry import spec_of
from evac.drivers.spec import NOTHING, ByHand
from evac.model.estate import Endpoint


def promote(endpoint: Endpoint) -> ByHand:
    """Make the copy at this endpoint the primary."""
    return _typed(endpoint, "promote")


def scale(endpoint: Endpoint, replicas: int) -> ByHand:
    """Scale a service to this many replicas."""
    return _typed(endpoint, "scale", replicas=replicas)


def move_traffic(endpoint: Endpoint, to: str) -> ByHand:
    """Point the names of a service at a site."""
    return _typed(endpoint, "shift", to=to)


def _typed(endpoint: Endpoint, verb: Verb, **parameters: Value) -> ByHand:
    spec = spec_of(endpoint.driver)
    make = None if spec is None else spec.by_hand.get(verb)
    return NOTHING if make is None else make(endpoint.settings, parameters)
