"""What an operator calls: see what the router of a controller does, and overrule it."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from forerun.client.generation import RoundReport
from forerun.client.messages import round_report_of
from forerun.connection import Connection
from speculation.rpc import status_to_errors
from speculation.tree import TreeShape
from speculation.v1 import common_pb2, router_pb2, router_pb2_grpc
from speculation.wire import shape_from_proto

TIMEOUT_S = 10.0


class WorkerHealth(Enum):
    """Whether a controller can ask a worker."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class RouterMode(Enum):
    """How much say a policy has."""

    OFF = "off"
    OBSERVE = "observe"
    APPLY = "apply"
    FROZEN = "frozen"
    UNKNOWN = "unknown"


_HEALTH = {
    router_pb2.WORKER_HEALTH_SERVING: WorkerHealth.SERVING,
    router_pb2.WORKER_HEALTH_NOT_SERVING: WorkerHealth.NOT_SERVING,
    router_pb2.WORKER_HEALTH_REFUSED: WorkerHealth.REFUSED,
}
_ROLES = {common_pb2.WORKER_ROLE_DRAFT: "draft", common_pb2.WORKER_ROLE_VERIFY: "verify"}
_MODES = {
    router_pb2.ROUTER_MODE_OFF: RouterMode.OFF,
    router_pb2.ROUTER_MODE_OBSERVE: RouterMode.OBSERVE,
    router_pb2.ROUTER_MODE_APPLY: RouterMode.APPLY,
    router_pb2.ROUTER_MODE_FROZEN: RouterMode.FROZEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as the controller sees it; what it has not said yet is empty. `problem` tells why it does not serve."""

    address: str
    name: str
    role: str
    model: str
    health: WorkerHealth
    problem: str
    open_sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmView:
    """What came of one combination of drafters and tree; no drafters is plain decoding."""

    drafters: tuple[str, ...]
    shape: TreeShape | None
    rounds: int
    drafted_tokens: int
    accepted_tokens: int

    @property
    def acceptance_rate(self) -> float:
        """Share of the drafted tokens that was kept; 0 if none was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Tokens a round emitted: those accepted and the target's own."""
        return 1.0 + self.accepted_tokens / self.rounds if self.rounds else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """The decision log; no URL: there is none."""

    url: str
    connected: bool
    written: int
    dropped: int
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringView:
    """Passes of idle drafters over answers that others drafted.

    Attributes:
        share: Of finished requests that are scored, where no rule says otherwise.
        scored: Passes that told how a drafter would have drafted an answer.
        waiting: Passes that wait for their drafter to be idle.
        dropped: Passes given up.
    """

    share: float
    scored: int
    waiting: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningView:
    """What this controller shares with the others of its namespace.

    Attributes:
        policy: Whose learning is shared; empty if none is.
        leads: Whether this controller learns for all.
        follows: Whether it serves by what is shared; if not, it learns for itself until it can.
        problem: Why it does not, in words.
        base_version: The promoted version that the learning went on from; 0 if it began with nothing.
        folded: Records that were learnt from since then.
        written_ms: When that was last written down, Unix time; 0 if it never was.
    """

    policy: str
    leads: bool
    follows: bool
    problem: str
    base_version: int
    folded: int
    written_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigView:
    """The configuration in force.

    Attributes:
        file: Empty if the controller was started without one.
        hash: Of what is in force, as in the decision log.
        problem: Why the file as it is now is not in force; empty if it is.
        waiting_for_restart: Fields that the file changes and that only a restart can.
        reloads: How often it was replaced.
    """

    file: str
    hash: str
    problem: str
    waiting_for_restart: tuple[str, ...]
    reloads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    """All that a controller shows of its router."""

    policy: str
    known_policies: tuple[str, ...]
    mode: RouterMode
    kill_switch: bool
    kill_switch_in_config: bool
    workers: tuple[WorkerView, ...]
    arms: tuple[ArmView, ...]
    log: LogView
    scoring: ScoringView
    learning: LearningView
    config: ConfigView


class RouterClient:
    """Calls the router of a controller.

    Every method raises WorkerUnavailableError if no controller answers.

    Example:
        >>> with RouterClient("127.0.0.1:50050") as router:  # doctest: +SKIP
        ...     router.set_kill_switch(True)
        ...     print(router.show().kill_switch)

    Args:
        address: host:port of a controller.
        token: As for `Client`, with the role operate.
        ca: As for `Client`, like the rest.
        cert: Of the operator.
        server_name: Of the controller.
        credentials: In place of these.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        server_name: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._connection = Connection.to(
            address, token=token, ca=ca, cert=cert, server_name=server_name, credentials=credentials
        )
        self._channel = self._connection.channel()
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def show(self) -> RouterView:
        """The fleet, the policies, the configuration, and what was decided so far."""
        return _router_view(self._call(self._stub.Show, router_pb2.ShowRequest()))

    def explain(self, request_id: str) -> tuple[RoundReport, ...]:
        """What was decided for a recent request, round by round.

        Raises:
            UnknownNameError: The controller does not remember it.
        """
        response = self._call(self._stub.Explain, router_pb2.ExplainRequest(request_id=request_id))
        return tuple(round_report_of(report) for report in response.rounds)

    def set_policy(self, name: str) -> str:
        """Put a policy in charge of requests for which neither they nor a rule name one; the previous one's name.

        Raises:
            UnknownNameError: No policy is called that.
        """
        response = self._call(self._stub.SetPolicy, router_pb2.SetPolicyRequest(policy=name))
        return str(response.previous_policy)

    def set_kill_switch(self, engaged: bool) -> bool:
        """Stop or allow all speculation; whether it is stopped now: what a configuration stops no call can allow."""
        response = self._call(self._stub.SetKillSwitch, router_pb2.SetKillSwitchRequest(engaged=engaged))
        return bool(response.engaged)

    def reload_config(self) -> tuple[tuple[str, ...], ConfigView]:
        """Have the configuration file read now: the fields that changed, and the state after it.

        Raises:
            ConfigurationError: There is no file, or something in it is wrong; nothing has changed.
        """
        response = self._call(self._stub.ReloadConfig, router_pb2.ReloadConfigRequest())
        return tuple(response.changed), _config_view(response.config)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any) -> Any:
        with status_to_errors(self._connection.address):
            return method(request, timeout=TIMEOUT_S, metadata=self._connection.metadata)


def _router_view(shown: router_pb2.ShowResponse) -> RouterView:
    return RouterView(
        policy=shown.policy,
        known_policies=tuple(shown.known_policies),
        mode=_MODES.get(shown.mode, RouterMode.UNKNOWN),
        kill_switch=shown.kill_switch,
        kill_switch_in_config=shown.kill_switch_in_config,
        workers=tuple(_worker_view(state) for state in shown.workers),
        arms=tuple(_arm_view(arm) for arm in shown.arms),
        log=LogView(
            url=shown.log.url,
            connected=shown.log.connected,
            written=shown.log.written,
            dropped=shown.log.dropped,
            namespace=shown.log.namespace,
        ),
        scoring=ScoringView(
            share=shown.scoring.share,
            scored=shown.scoring.scored,
            waiting=shown.scoring.waiting,
            dropped=shown.scoring.dropped,
        ),
        learning=_learning_view(shown.learning),
        config=_config_view(shown.config),
    )


def _worker_view(state: router_pb2.WorkerState) -> WorkerView:
    return WorkerView(
        address=state.address,
        name=state.worker.name,
        role=_ROLES.get(state.worker.role, ""),
        model=state.worker.model,
        health=_HEALTH.get(state.health, WorkerHealth.UNKNOWN),
        problem=state.problem,
        open_sessions=state.open_sessions,
    )


def _arm_view(arm: router_pb2.ArmCount) -> ArmView:
    return ArmView(
        drafters=tuple(arm.drafters),
        shape=shape_from_proto(arm.shape) if arm.HasField("shape") else None,
        rounds=arm.rounds,
        drafted_tokens=arm.drafted_tokens,
        accepted_tokens=arm.accepted_tokens,
    )


def _learning_view(state: router_pb2.LearningState) -> LearningView:
    return LearningView(
        policy=state.policy,
        leads=state.leads,
        follows=state.follows,
        problem=state.problem,
        base_version=state.base_version,
        folded=state.folded,
        written_ms=state.written_ms,
    )


def _config_view(state: router_pb2.ConfigState) -> ConfigView:
    return ConfigView(
        file=state.file,
        hash=state.hash,
        problem=state.problem,
        waiting_for_restart=tuple(state.waiting_for_restart),
        reloads=state.reloads,
    )
