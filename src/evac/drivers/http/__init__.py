"""Other systems over HTTP: services as users see them, fences, and systems that implement a small
contract.
"""

from types import MappingProxyType

from evac.drivers.capabilities import (
    AnswersProbe,
    Fences,
    Follows,
    Promotes,
    ReportsHealth,
    ReportsRole,
    RoutesTraffic,
    RunsUnits,
    Verifies,
)
from evac.drivers.spec import DOES, OF_A_COPY, DriverSpec, Setting

DRIVER = DriverSpec(
    "http",
    "calls another system, signed as Standard Webhooks; a verify only reads",
    (
        Verifies,
        ReportsHealth,
        AnswersProbe,
        Fences,
        ReportsRole,
        Promotes,
        Follows,
        RunsUnits,
        RoutesTraffic,
    ),
    (
        Setting(
            "url",
            "text",
            "the URL to call, without user and password",
            needed=("service", "site", "store"),
            reaches="host",
        ),
        Setting(
            DOES,
            "list",
            "the verbs that the other system supports; every request is then a POST to `url`",
            needed=("store",),
        ),
        Setting("method", "text", "HTTP method if `does` is not set; not used for a verify", "`POST`"),
        Setting("secret", "secret", "reference to the signing key; without it, requests are not signed"),
        Setting(
            "observe_url",
            "text",
            'answers GET with `{"outcome": "done"}`, or `absent`, or `unclear`',
            reaches="host",
        ),
        Setting("undo_url", "text", "the URL to call to undo the step", reaches="host"),
        Setting("probe", "flag", "`false`: the witness does not probe it", "`true`"),
        Setting(
            "metrics", "text", 'answers `{"requests": N, "errors": N}`, as running totals', reaches="host"
        ),
        *OF_A_COPY,
    ),
    "evac.drivers.http.driver:HttpDriver",
    proofs=("network", "power"),
    probe="user",
    only_with=MappingProxyType(
        dict.fromkeys((ReportsRole, Promotes, Follows, RunsUnits, RoutesTraffic), DOES)
    ),
    not_with=MappingProxyType(dict.fromkeys((AnswersProbe, ReportsHealth), DOES)),
)
