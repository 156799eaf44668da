"""What changed between two plans, by step id and by service: lines for people, sorted."""

from __future__ import annotations

from evac.model.plan import Plan, Step


def diff(old: Plan, new: Plan) -> tuple[str, ...]:
    """Lines: `+` only in the new plan, `-` only in the old, `~` changed. Empty where nothing changed."""
    lines = [*_header(old, new), *_outcomes(old, new)]
    before, after = {s.id: s for s in old.steps}, {s.id: s for s in new.steps}
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"+ {name} at {after[name].start_ms // 1000} s")
        elif name not in after:
            lines.append(f"- {name}")
        else:
            lines += _step(before[name], after[name])
    return tuple(lines)


def _header(old: Plan, new: Plan) -> list[str]:
    lines = []
    for name in ("estate_digest", "objective", "bound", "seed", "work", "planner_version"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            lines.append(f"~ plan: {name} {was} -> {now}")
    return lines


def _outcomes(old: Plan, new: Plan) -> list[str]:
    before, after = {o.service: o for o in old.outcomes}, {o.service: o for o in new.outcomes}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            lines.append(
                f"{'-' if now is None else '+'} {name}: {'no longer' if now is None else 'now'} affected"
            )
        elif (was.state, was.recovery_ms) != (now.state, now.recovery_ms):
            lines.append(
                f"~ {name}: {was.state} {_back(was.recovery_ms)} -> {now.state} {_back(now.recovery_ms)}"
            )
    return lines


def _back(recovery_ms: int | None) -> str:
    return "never" if recovery_ms is None else f"after {recovery_ms // 1000} s"


def _step(was: Step, now: Step) -> list[str]:
    changes = []
    if was.start_ms != now.start_ms:
        changes.append(f"at {was.start_ms // 1000} s -> {now.start_ms // 1000} s")
    if was.end_ms - was.start_ms != now.end_ms - now.start_ms:
        changes.append(
            f"takes {(was.end_ms - was.start_ms) // 1000} s -> {(now.end_ms - now.start_ms) // 1000} s"
        )
    if was.servers != now.servers:
        changes.append("other servers")
    for name in ("candidate", "manual", "count"):
        if getattr(was, name) != getattr(now, name):
            changes.append(f"{name} {getattr(was, name)} -> {getattr(now, name)}")
    return [f"~ {now.id}: {', '.join(changes)}"] if changes else []
