"""RouterService: what operators see and overrule."""

from time import time_ns
from typing import Any

import grpc

from controller.acts import Acts
from controller.chronicle import Chronicle
from controller.event_log import EventLog
from controller.metrics import ControllerFacts
from controller.operator_view import (
    config,
    config_state,
    curve_point,
    operator_act,
    recent_request,
    traffic,
)
from controller.roster import Health, Worker
from controller.scorer import Scorer
from controller.shared_learning import SharedLearning
from controller.terms import Mode
from controller.text import Tokenizer
from controller.veil import Veil
from controller.worker_client import description_to_proto
from speculation.rpc import errors_to_status
from speculation.v1 import router_pb2, router_pb2_grpc
from speculation.wire import shape_to_proto

SERVICE_NAME = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name

LISTED_REQUESTS = 100
"""Where the caller does not say how many."""

CallContext = grpc.aio.ServicerContext[Any, Any]

_HEALTH = {
    Health.SERVING: router_pb2.WORKER_HEALTH_SERVING,
    Health.NOT_SERVING: router_pb2.WORKER_HEALTH_NOT_SERVING,
    Health.REFUSED: router_pb2.WORKER_HEALTH_REFUSED,
}

_MODES = {
    Mode.OFF: router_pb2.ROUTER_MODE_OFF,
    Mode.OBSERVE: router_pb2.ROUTER_MODE_OBSERVE,
    Mode.APPLY: router_pb2.ROUTER_MODE_APPLY,
    Mode.FROZEN: router_pb2.ROUTER_MODE_FROZEN,
}


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """Shows and steers the choice of drafters and trees."""

    def __init__(self, facts: ControllerFacts, *, chronicle: Chronicle, tokenizer: Tokenizer, acts: Acts) -> None:
        """
        Args:
            facts: Of the controller: what is shown, and what is steered.
            chronicle: What its requests did.
            tokenizer: The target's.
            acts: Where what operators do is noted.
        """
        self._facts = facts
        self._chronicle = chronicle
        self._tokenizer = tokenizer
        self._acts = acts
        self._since_ms = time_ns() // 1_000_000

    def add_to(self, server: grpc.aio.Server) -> None:
        """Offer the service."""
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Show(  # noqa: N802
        self, request: router_pb2.ShowRequest, context: CallContext
    ) -> router_pb2.ShowResponse:
        """The fleet, the policies and what they have decided so far."""
        return router_pb2.ShowResponse(
            policy=self._facts.steering.policy,
            known_policies=sorted(self._facts.steering.policies),
            kill_switch=self._facts.steering.kill_switch,
            workers=[_worker_state(worker) for worker in self._facts.fleet.workers],
            arms=self._arms(),
            log=_log_state(self._facts.log),
            config=config_state(self._facts.configuration),
            mode=_MODES[self._facts.steering.orders.default.mode],
            kill_switch_in_config=self._facts.steering.orders.kill_switch,
            learning=_learning_state(self._facts.learning),
            scoring=_scoring_state(self._facts.scorer),
        )

    async def Explain(  # noqa: N802
        self, request: router_pb2.ExplainRequest, context: CallContext
    ) -> router_pb2.ExplainResponse:
        """What was decided for one request, round by round."""
        async with errors_to_status(context):
            remembered = self._chronicle.remembered(request.request_id)
            withheld = request.respect_privacy and remembered.veiled
            rounds = self._chronicle.explain(remembered, self._tokenizer.decode, veil=Veil() if withheld else None)
            return router_pb2.ExplainResponse(
                rounds=rounds, texts_withheld=withheld, request=recent_request(remembered)
            )

    async def ListRequests(  # noqa: N802
        self, request: router_pb2.ListRequestsRequest, context: CallContext
    ) -> router_pb2.ListRequestsResponse:
        """The requests that can be explained."""
        recent = self._chronicle.recent(request.limit or LISTED_REQUESTS)
        return router_pb2.ListRequestsResponse(requests=[recent_request(remembered) for remembered in recent])

    async def ShowTraffic(  # noqa: N802
        self, request: router_pb2.ShowTrafficRequest, context: CallContext
    ) -> router_pb2.ShowTrafficResponse:
        """What requests have come to."""
        return traffic(self._facts.meter, self._facts.reception, since_ms=self._since_ms)

    async def ShowLearningCurve(  # noqa: N802
        self, request: router_pb2.ShowLearningCurveRequest, context: CallContext
    ) -> router_pb2.ShowLearningCurveResponse:
        """How fast requests were, one after another."""
        points = self._chronicle.curve.points
        return router_pb2.ShowLearningCurveResponse(points=[curve_point(point) for point in points])

    async def ShowConfig(  # noqa: N802
        self, request: router_pb2.ShowConfigRequest, context: CallContext
    ) -> router_pb2.ShowConfigResponse:
        """The configuration in force, and those before it."""
        return config(self._facts.configuration)

    async def ListActs(  # noqa: N802
        self, request: router_pb2.ListActsRequest, context: CallContext
    ) -> router_pb2.ListActsResponse:
        """What operators did."""
        return router_pb2.ListActsResponse(acts=[operator_act(act) for act in reversed(self._acts.done)])

    async def SetPolicy(  # noqa: N802
        self, request: router_pb2.SetPolicyRequest, context: CallContext
    ) -> router_pb2.SetPolicyResponse:
        """Put another policy in charge."""
        async with errors_to_status(context):
            previous = self._facts.steering.set_policy(request.policy)
            self._acts.note(context, "policy put in charge", f"{request.policy}, in place of {previous}")
            return router_pb2.SetPolicyResponse(previous_policy=previous)

    async def SetKillSwitch(  # noqa: N802
        self, request: router_pb2.SetKillSwitchRequest, context: CallContext
    ) -> router_pb2.SetKillSwitchResponse:
        """Stop or allow all speculation."""
        was_engaged = self._facts.steering.set_kill_switch(request.engaged)
        self._acts.note(context, "kill switch engaged" if request.engaged else "kill switch released")
        return router_pb2.SetKillSwitchResponse(was_engaged=was_engaged, engaged=self._facts.steering.kill_switch)

    async def ReloadConfig(  # noqa: N802
        self, request: router_pb2.ReloadConfigRequest, context: CallContext
    ) -> router_pb2.ReloadConfigResponse:
        """Read the configuration file now."""
        async with errors_to_status(context):
            changed = await self._facts.configuration.reload()
            return router_pb2.ReloadConfigResponse(config=config_state(self._facts.configuration), changed=changed)

    def _arms(self) -> list[router_pb2.ArmCount]:
        return [
            router_pb2.ArmCount(
                drafters=drafters,
                shape=shape_to_proto(shape) if shape is not None else None,
                rounds=rounds.rounds,
                drafted_tokens=rounds.drafted_tokens,
                accepted_tokens=rounds.accepted_tokens,
            )
            for (drafters, shape), rounds in self._chronicle.arms.items()
        ]


def _worker_state(worker: Worker) -> router_pb2.WorkerState:
    return router_pb2.WorkerState(
        address=worker.address,
        worker=description_to_proto(worker.description) if worker.description is not None else None,
        health=_HEALTH[worker.health],
        problem=worker.problem,
        open_sessions=worker.open_sessions,
    )


def _log_state(log: EventLog | None) -> router_pb2.LogState:
    if log is None:
        return router_pb2.LogState()
    return router_pb2.LogState(
        url=log.url, connected=log.connected, written=log.written, dropped=log.dropped, namespace=log.namespace
    )


def _scoring_state(scorer: Scorer) -> router_pb2.ScoringState:
    return router_pb2.ScoringState(
        share=scorer.share, scored=scorer.scored, waiting=scorer.waiting, dropped=scorer.dropped
    )


def _learning_state(learning: SharedLearning | None) -> router_pb2.LearningState:
    if learning is None:
        return router_pb2.LearningState()
    state = router_pb2.LearningState(
        policy=learning.policy.name,
        leads=learning.leads,
        follows=not learning.problem,
        problem=learning.problem,
    )
    if learning.snapshot is not None:
        state.base_version = learning.snapshot.base
        state.folded = learning.snapshot.folded
        state.missed = learning.snapshot.missed
        state.unreadable = learning.snapshot.unreadable
        state.written_ms = learning.snapshot.written_ms
    return state
