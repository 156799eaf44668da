"""Another system, asked by HTTP: services as users see them, fences, and whatever speaks a small contract."""

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
    "asks another system, signed as Standard Webhooks; a verify only looks",
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
            "what is asked; it holds no user and no password",
            needed=("service", "site", "store"),
            reaches="host",
        ),
        Setting(
            DOES,
            "list",
            "the verbs that the other system does; every question is then a POST to `url`",
            needed=("store",),
        ),
        Setting("method", "text", "of what is asked without `does`; a verify does not use it", "`POST`"),
        Setting("secret", "secret", "reference to the key; without it nothing is signed"),
        Setting(
            "observe_url",
            "text",
            'answers GET by `{"outcome": "done"}`, or `absent`, or `unclear`',
            reaches="host",
        ),
        Setting("undo_url", "text", "what is asked to undo it", reaches="host"),
        Setting("probe", "flag", "`false`: the witness does not ask it as users do", "`true`"),
        Setting(
            "metrics", "text", 'answers `{"requests": N, "errors": N}`, counted without end', reaches="host"
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
