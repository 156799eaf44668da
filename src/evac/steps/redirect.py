"""Redirect: name servers and proxies of a site that came back send users to where a service runs now. While
the site was lost no one could change them, so they still name the old place. A run adds it to a restore, and
to a failback where proxies still keep the site out.
"""

from __future__ import annotations

from evac.steps.kind import Capability, Entry, StepKind


class Redirect(StepKind):
    name = "redirect"
    is_planned = False
    target = "service"
    title = "send users of a restored site to where the service runs"
    work = "redirect users of restored sites"
    sentence = "send users of {target}{where} to where it runs"
    entry = Entry("redirected", "users of {target}{where} were redirected to where it runs", "detail")
    performed_by = Capability.ROUTES_TRAFFIC
