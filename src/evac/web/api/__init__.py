"""The API under /v1, one module a subject. `ROUTERS` is the register: a new subject adds its router there."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from evac.web.api import (
    estate,
    health,
    hold,
    incidents,
    me,
    notices,
    papers,
    plan_journal,
    plans,
    proofs,
    proposals,
    requests,
    runbooks,
    runs,
    situation,
    status,
    what_if,
)

ROUTERS: Sequence[APIRouter] = (
    situation.router,
    estate.router,
    plans.router,
    runs.router,
    requests.router,
    hold.router,
    what_if.router,
    incidents.router,
    notices.router,
    plan_journal.router,
    runbooks.router,
    status.router,
    proposals.router,
    proofs.router,
    papers.router,
    me.router,
    health.router,
)
