"""Redirect: name servers and proxies of a site that came back send users to where a service runs now. While
the site was lost no one could change them, so they still name the old place. A run adds it to a restore, to a
failback where proxies still keep the site out, and to an evacuation, where those of the site that is left
still answer: the shift does not wait for them.
"""

from __future__ import annotations

from evac.model.plan import Step
from evac.model.situation import Draft
from evac.steps.kind import Capability, Entry, StepKind


class Redirect(StepKind):
    name = "redirect"
    is_planned = False
    target = "service"
    title = "send users of a restored or evacuated site to where the service runs"
    work = "redirect users of restored and evacuated sites"
    sentence = "send users of {target}{where} to where it runs"
    entry = Entry("redirected", "users of {target}{where} were redirected to where it runs", "detail")
    performed_by = Capability.ROUTES_TRAFFIC

    def after(self, now: Draft, step: Step, to: tuple[str, ...] = ()) -> None:
        """to: sites that users are let into again, next to those that they are sent to."""
        if to:
            now.traffic[step.target] = tuple(
                sorted({*(now.traffic.get(step.target) or now.sent.get(step.target, ())), *to})
            )
