"""The API under /v1: one module per subject, one router per tag. `ROUTERS` lists them all."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter

from evac.web.api import estate, incidents, papers, plans, requests, runs, situation

ROUTERS: Sequence[APIRouter] = (
    situation.router,
    estate.router,
    plans.router,
    runs.router,
    requests.router,
    requests.hold_router,
    requests.sites_router,
    estate.what_if_router,
    incidents.router,
    situation.notices_router,
    plans.journal_router,
    incidents.runbooks_router,
    papers.status_router,
    plans.proposals_router,
    runs.proofs_router,
    papers.router,
    situation.me_router,
    estate.backups_router,
    estate.doctor_router,
    situation.logins_router,
    situation.health_router,
)
