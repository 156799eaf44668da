"""The agent of a site: runs evac's orders locally. It never connects to the store, never leads, and obeys
only signed orders.

GET  /v1/health          liveness; if signed, also loop lag, wanted instances and permits
POST /v1/unit            start, stop, scale, check a unit of this site
POST /v1/act             an action of a local driver
POST /v1/permit          mark, grant, release: the permission to hold the primary of a store;
                         resume: units that may run again after a restart of the agent
POST /v1/anchors         keep the head of a journal; /v1/anchors/heads reads them back
POST /v1/generation      announce a generation; returns the newest one known

Every POST is signed with a key of the agent, and so is its response (`evac.agent.gate`). Orders, anchors and
permits of a generation before the newest one known are refused. With `[tls]` in its file the agent ignores
clients without a certificate that it trusts.

Loop lag: a sleep that takes longer than requested shows a starved or blocked process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from evac.agent import memory
from evac.agent.acting import Acting
from evac.agent.config import LOOK_S, AgentConfig, Door, read_config
from evac.agent.fencing import FenceHand, Permits
from evac.agent.gate import Gate, Identity, Keys, NotBelieved
from evac.agent.memory import Anchors, Head, TokenLedger
from evac.agent.units import Units
from evac.drivers.process import client, driver
from evac.drivers.process.client import error_values
from evac.drivers.process.driver import PATH as UNIT_PATH
from evac.drivers.registry import Drivers, create
from evac.model.errors import ActionError, EvacError, OutcomeUnknown, Permanent, Retryable
from evac.net.listening import Listener, Reserve, Unread, connections_most

PERIOD_S: Final = 0.1
KEPT: Final = 50
"""Number of measurements kept: five seconds."""


class LoopLag:
    """Measures the lag of the event loop it is started in."""

    def __init__(self) -> None:
        self._late_ms: deque[int] = deque(maxlen=KEPT)
        self._due: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._measure())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def worst_ms(self) -> int:
        """The worst lag of the last seconds, including the measurement in progress."""
        late = 0 if self._due is None else int((time.monotonic() - self._due) * 1_000)
        return max([0, late, *self._late_ms])

    async def _measure(self) -> None:
        while True:
            self._due = time.monotonic() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self._late_ms.append(int((time.monotonic() - self._due) * 1_000))


MAX_REQUEST_BYTES: Final = 1 << 20
BODY_S: Final = 15.0
"""Time limit for the body of a request."""
KEEPALIVE_S: Final = 60.0
LINGER_S: Final = 1.0
HEALTH_PATH: Final = "/v1/health"
_STATUS: Final[Mapping[type[ActionError], int]] = {Retryable: 503, Permanent: 409, OutcomeUnknown: 504}
_Handler = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]

_log = logging.getLogger("evac.agent")
_http_log = logging.getLogger("evac.agent.http")
_http_log.addFilter(Unread())


class Agent:
    """One running agent. Closing or killing it stops nothing that it started."""

    def __init__(self, config: AgentConfig, drivers: Drivers | None = None) -> None:
        self.config = config
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.keys = Keys(config.secrets)
        self._gate = Gate(
            self.keys,
            Identity(config.site, self._addresses, config.older_orders),
            config.window_ms,
            memory.wall_ms,
            memory.boot_ms,
            config.state / "newest.json",
        )
        self._ledger = TokenLedger(config.state / "token.json")
        self._permits = Permits(
            config.fences, config.state / "permits.json", memory.boot_id(), memory.boot_ms
        )
        self._anchors = Anchors(config.state / "anchors")
        self._units = Units(config)
        self._drivers = drivers or Drivers()
        self._acting = Acting(config, self._units, self._permits, self._ledger, self._drivers)
        self._reserve = Reserve()
        self._hand = FenceHand(self._permits, self._units, create, config.site, self._reserve)
        self._lag = LoopLag()
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._looking: asyncio.Task[None] | None = None
        self.door = None if config.tls is None else Door(config.tls, memory.wall_ms)
        self._routes: Mapping[str, _Handler] = {
            UNIT_PATH: self._acting.unit,
            driver.ACT_PATH: self._acting.act,
            driver.PERMIT_PATH: self._permit,
            driver.ANCHOR_PATH: self._anchor,
            driver.HEADS_PATH: self._heads,
            driver.GENERATION_PATH: self._generation,
        }

    def _addresses(self) -> frozenset[str]:
        names = () if self.door is None else self.door.names
        return frozenset(self.config.named(names))

    @property
    def url(self) -> str:
        return f"http{'s' if self.door else ''}://{self.config.host}:{self.config.port}"

    async def start(self) -> None:
        """Restore the state of an earlier agent, run due fences, then listen. Raises `OSError` if the port is
        in use.
        """
        await self._units.start()
        self._hand.start()
        self._lag.start()
        self._looking = asyncio.create_task(self._look(), name="keys")
        if self.door is not None:
            self.door.start()
        doors = [] if self.door is None else [self.door.middleware]
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[self._noted(), *doors])
        app.router.add_get(HEALTH_PATH, self._health)
        for path in self._routes:
            app.router.add_post(path, self._answer)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_http_log,
            handle_signals=False,
            shutdown_timeout=2.0,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
        )
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        context = None if self.door is None else self.door.context
        self._listener = Listener(server, context, self._reserve, connections_most())
        await self._listener.start(self.config.host, self.config.port)

    def _noted(self) -> Any:
        """Report to the listener that a whole head arrived."""

        @web.middleware
        async def noted(
            request: web.Request, handler: Callable[..., Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            assert self._listener is not None
            self._listener.asked(request.transport)
            return await handler(request)

        return noted

    async def close(self) -> None:
        """Stop listening. Units keep running; permits stay on disk for the next agent."""
        if self._listener is not None:
            await self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self.door is not None:
            await self.door.close()
        await self._lag.close()
        self._hand.close()
        self._reserve.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        with contextlib.suppress(OSError):  # the time on disk is later, which is sufficient
            self._gate.close()
        await self._units.close()
        await self._drivers.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.keys.read_again()

    def read_again(self, path: Path | None = None) -> None:
        """Reload certificates and keys. path: the agent's file, for its keys and `[allow]`."""
        if self.door is not None:
            self.door.read_again(always=True)
        try:
            config = None if path is None else read_config(path)
            self.keys.read_again(None if config is None else config.secrets)
            self._acting.allow = self._acting.allow if config is None else config.allow
        except EvacError as error:
            _log.error("the agent's file was not reloaded: %s", error.message)

    async def _health(self, request: web.Request) -> web.Response:
        """Health, answered by the event loop that does the work. Without a certificate or a signature the
        response says only that this is an agent.
        """
        values: dict[str, Any] = {"answer": "evac agent"}
        if self.door is not None or self._is_signed(request):
            values |= self._report()
        return web.Response(body=orjson.dumps(values), content_type="application/json")

    def _is_signed(self, request: web.Request) -> bool:
        try:
            asked = self._gate.believe(request.method, request.path_qs, b"", request.headers)
        except NotBelieved:
            return False
        return self._gate.is_from_us(asked)

    def _report(self) -> dict[str, Any]:
        return {
            "site": self.config.site,
            "lag_ms": self._lag.worst_ms(),
            "at_ms": memory.wall_ms(),
            "token": self._ledger.highest,
            "generation": self._ledger.generation,
            "units": self._units.running_now(),
            "held": self._units.held,
            "fences": self._permits.report(),
            "tls": None if self.door is None else self.door.report(),
            "connections": None if self._listener is None else self._listener.report(),
        }

    async def _answer(self, request: web.Request) -> web.Response:
        """Handle one signed order: verify, admit once, run, and sign the response."""
        try:
            async with asyncio.timeout(BODY_S):
                body = await request.read()
        except TimeoutError:
            slow = web.json_response({"error": {"code": "body-slow"}}, status=408)
            slow.force_close()
            return slow
        except (web.RequestPayloadError, ConnectionError):  # the client may be gone
            return web.json_response({"error": {"code": "body-wrong"}}, status=400)
        try:
            order = self._gate.believe(request.method, request.path_qs, body, request.headers)
        except NotBelieved as error:
            known = {client.ORDERS: client.VERSION}
            return web.json_response({"error": {"code": error.code}}, status=401, headers=known)
        if self._listener is not None:
            self._listener.proven(request.transport)
        try:
            self._gate.admit(order)
            status, values = 200, await self._routes[request.path](_table(body))
        except ActionError as error:
            status, values = _refusal(error)
            values["error"]["now_ms"] = self._gate.now_ms()
        except (EvacError, OSError) as error:
            _log.exception("an order failed")
            status, values = _refusal(OutcomeUnknown("agent-failed", str(error)[:200], "observe it first"))
        data = orjson.dumps(values)
        headers = {client.SIGNATURE: self._gate.sign(status, data, order)}
        return web.Response(body=data, status=status, headers=headers, content_type="application/json")

    async def _permit(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """mark: grants nothing and returns the current moment. All other requests need the leader's token."""
        what, store = values.get("what"), str(values.get("store", ""))
        epoch, ttl, token = (_number(values, key) for key in ("epoch", "ttl_ms", "token"))
        mark = self._permits.mark()
        if what == "grant":
            self._acting.obey(token)
            self._permits.grant(store, epoch, ttl, str(values.get("mark", "")))
        elif what == "release":
            self._acting.obey(token)
            self._permits.release(store, epoch)
        elif what == "resume":
            self._acting.obey(token)
            self._units.resume(_names(values, "units"), _names(values, "stores"))
        elif what != "mark":
            raise Permanent(
                "order-wrong", "a permit can be marked, granted or released, and units can be resumed"
            )
        return {"mark": mark, "fences": self._permits.report(), "held": self._units.held}

    async def _anchor(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the head of a journal of the newest generation; older ones are refused."""
        head = Head(_number(values, "segment"), _number(values, "records"), str(values.get("hash", "")))
        generation = _number(values, "generation")
        self._ledger.refuse_older(generation)
        self._ledger.heed(generation, "")
        kept = self._anchors.add(str(values.get("stream", "")), head, generation)
        return {"segment": kept.segment, "records": kept.records}

    async def _heads(self, values: Mapping[str, Any]) -> dict[str, Any]:
        stream, generation = str(values.get("stream", "")), _number(values, "generation")
        return {"anchors": self._anchors.heads(stream, generation)}

    async def _generation(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Exchange generations: the caller sends its own; the response is the newest and who opened it."""
        self._ledger.heed(_number(values, "generation"), str(values.get("opener", "")))
        known = self._ledger
        return {"generation": known.generation, "opener": known.opener, "token": known.highest}


async def start_agent(config: AgentConfig, drivers: Drivers | None = None) -> Agent:
    """Start an agent; the caller closes it. Raises `EvacError`, and `OSError` if the port is in use."""
    agent = Agent(config, drivers)
    try:
        await agent.start()
    except BaseException:
        await agent.close()
        raise
    return agent


async def run_agent(config: AgentConfig, stop: asyncio.Event | None = None, path: Path | None = None) -> None:
    """Run an agent until `stop` is set or the task is cancelled. SIGHUP reloads certificates and keys; they
    are also reloaded shortly after their files change. path: of its file, from which SIGHUP takes key
    references added since.
    """
    agent = await start_agent(config)
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # only for the main thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, agent.read_again, path)
    _log.info("the agent of %s is listening at %s", config.site, agent.url)
    try:
        await (stop or asyncio.Event()).wait()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await agent.close()


def _refusal(error: ActionError) -> tuple[int, dict[str, Any]]:
    status = next((found for known, found in _STATUS.items() if isinstance(error, known)), 504)
    return status, {"error": error_values(error)}


def _table(body: bytes) -> Mapping[str, Any]:
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Permanent("order-wrong", "the order is not JSON") from error
    if not isinstance(values, dict):
        raise Permanent("order-wrong", "the order is not an object")
    return values


def _names(values: Mapping[str, Any], key: str) -> Collection[str]:
    found = values.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Permanent("order-wrong", f"{key} must be a list of names")
    return found


def _number(values: Mapping[str, Any], key: str) -> int:
    found = values.get(key, 0)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**63:
        raise Permanent("order-wrong", f"{key} must be a number")
    return found
