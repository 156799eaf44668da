"""The rules, one file each, in the order of their codes."""

from __future__ import annotations

from typing import Final

from evac.audit.context import Rule
from evac.audit.rules import (
    backup_never_verified,
    bmc_unreachable,
    capacity_short,
    clock_needs_certificates,
    cold_start_cycle,
    contradicting_objectives,
    dark_site_alone,
    data_loss_above_rpo,
    expires_where_we_go,
    feed_trips_unseen,
    hidden_single_site,
    links_too_small,
    margin_too_small,
    never_rehearsed,
    no_copy_outside,
    no_reachable_primary,
    power_budget_exceeded,
    purges_by_itself,
    quorum_in_one_domain,
    quorum_lost,
    quorum_without_witness,
    recovery_above_rto,
    recovery_group_apart,
    recovery_tool_lost,
    replicas_together,
    rival_automation,
    serve_cycle,
    servers_by_hand,
    service_lost,
    shed_never_rehearsed,
    single_site_service,
    sites_share_fate,
    tier_inversion,
    tool_role_unfilled,
    traffic_cannot_move,
    trips_when_power_returns,
    unknown_facts,
)

_MODULES: Final = (
    service_lost, single_site_service, hidden_single_site, recovery_tool_lost, tool_role_unfilled,
    data_loss_above_rpo, no_copy_outside, no_reachable_primary, quorum_in_one_domain, quorum_lost,
    quorum_without_witness, capacity_short, power_budget_exceeded, recovery_above_rto, traffic_cannot_move,
    cold_start_cycle, serve_cycle, tier_inversion, sites_share_fate, replicas_together,
    contradicting_objectives, expires_where_we_go, links_too_small, rival_automation, servers_by_hand,
    never_rehearsed, backup_never_verified, recovery_group_apart, shed_never_rehearsed, unknown_facts,
    trips_when_power_returns, dark_site_alone, bmc_unreachable, clock_needs_certificates, purges_by_itself,
    margin_too_small, feed_trips_unseen,
)  # fmt: skip

RULES: Final[tuple[Rule, ...]] = tuple(module.RULE for module in _MODULES)
"""Every rule that looks at an estate. Suppressions have two more, EV190 and EV191."""
