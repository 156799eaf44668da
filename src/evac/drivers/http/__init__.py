"""Another system, asked by HTTP: services as users see them, and fences."""

from evac.drivers.capabilities import AnswersProbe, Fences, ReportsHealth, Verifies
from evac.drivers.spec import DriverSpec, Setting

DRIVER = DriverSpec(
    "http",
    "asks another system, signed as Standard Webhooks; a verify only looks, by GET",
    (Verifies, ReportsHealth, AnswersProbe, Fences),
    (
        Setting(
            "url",
            "text",
            "what is asked; it holds no user and no password",
            needed=("service", "site"),
            reaches="host",
        ),
        Setting("method", "text", "of what is asked; a verify does not use it", "`POST`"),
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
    ),
    "evac.drivers.http.driver:HttpDriver",
    proofs=("network", "power"),
    probe="user",
)
