"""What operators are shown, as messages: what a controller remembers, read when somebody asks."""

import json
from collections.abc import Iterator
from time import time_ns
from typing import Any

import yaml

from controller.acts import Act
from controller.chronicle import RememberedRequest
from controller.configuration import Configuration, Replacement
from controller.curve import CurvePoint
from controller.event_log import without_password
from controller.meter import Meter
from controller.reception import Reception
from controller.rounds_sum import RoundsSum
from controller.settings import Change, Section, Settings, changes
from speculation.v1 import log_pb2, router_pb2


def recent_request(remembered: RememberedRequest) -> router_pb2.RecentRequest:
    """A request in one line."""
    outcome = remembered.outcome
    return router_pb2.RecentRequest(
        request_id=remembered.request_id,
        started_ms=remembered.started_ms,
        task=remembered.task,
        tenant=remembered.tenant,
        policy=remembered.policy,
        outcome=outcome.value if outcome is not None else log_pb2.OUTCOME_STATUS_UNSPECIFIED,
        prompt_tokens=remembered.prompt_tokens,
        completion_tokens=remembered.emitted_tokens,
        rounds=len(remembered.rounds),
        num_draft_tokens=remembered.drafting.drafted_tokens,
        num_accepted_draft_tokens=remembered.drafting.accepted_tokens,
        rounds_ns=int(remembered.seconds * 1e9),
        drafters=sorted(remembered.drafters),
    )


def traffic(meter: Meter, reception: Reception, *, since_ms: int) -> router_pb2.ShowTrafficResponse:
    """What requests have come to until now."""
    first = meter.first_token
    return router_pb2.ShowTrafficResponse(
        now_ms=time_ns() // 1_000_000,
        since_ms=since_ms,
        arms=_arms(meter),
        ended=_ended(meter),
        refused=meter.refused.total(),
        in_flight=reception.inside,
        waiting=meter.waiting,
        capacity=reception.capacity,
        first_rounds=sum(first.counts),
        first_rounds_s=first.sum,
    )


def _arms(meter: Meter) -> Iterator[router_pb2.ArmTraffic]:
    for (drafters, shape, task, policy), rounds in meter.arms.items():
        yield router_pb2.ArmTraffic(
            drafters=drafters,
            shape=shape,
            task=task,
            policy=policy,
            rounds=rounds.rounds,
            drafted_tokens=rounds.drafted_tokens,
            accepted_tokens=rounds.accepted_tokens,
            emitted_tokens=rounds.emitted_tokens,
            rounds_s=rounds.seconds,
        )


def _ended(meter: Meter) -> Iterator[router_pb2.EndedRequests]:
    """By outcome, task and policy; the tenants are for metrics, where the operator asked for them."""
    sums: dict[tuple[str, str, str], int] = {}
    for (outcome, task, policy, _), number in meter.requests.items():
        sums[outcome, task, policy] = sums.get((outcome, task, policy), 0) + number
    for (outcome, task, policy), number in sums.items():
        yield router_pb2.EndedRequests(outcome=outcome, task=task, policy=policy, requests=number)


def curve_point(point: CurvePoint) -> router_pb2.CurvePoint:
    """Requests that ended one after another."""
    return router_pb2.CurvePoint(
        requests=point.requests,
        until_ms=point.until_ms,
        drafting=_rounds_sum(point.drafting),
        plain=_rounds_sum(point.plain),
        learnt_records=point.learnt_records,
        base_version=point.base_version,
    )


def _rounds_sum(rounds: RoundsSum) -> router_pb2.RoundsSum:
    return router_pb2.RoundsSum(rounds=rounds.rounds, emitted_tokens=rounds.emitted_tokens, rounds_s=rounds.seconds)


def operator_act(act: Act) -> router_pb2.OperatorAct:
    """What an operator did."""
    return router_pb2.OperatorAct(ts_ms=act.ts_ms, act=act.act, detail=act.detail, token=act.token, peer=act.peer)


def config_state(configuration: Configuration) -> router_pb2.ConfigState:
    """The configuration in one line."""
    return router_pb2.ConfigState(
        file=str(configuration.file or ""),
        hash=configuration.settings.content_hash,
        problem=configuration.problem,
        waiting_for_restart=configuration.waiting_for_restart,
        reloads=configuration.reloads,
    )


def config(configuration: Configuration) -> router_pb2.ShowConfigResponse:
    """The whole of it, what waits, and what was before."""
    settings = _without_secrets(configuration.settings)
    waiting = set(configuration.waiting_for_restart)
    differing = _changes(configuration.settings, configuration.wanted)
    return router_pb2.ShowConfigResponse(
        config=config_state(configuration),
        in_force=yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False),
        waiting=[change for change in differing if change.field in waiting],
        history=[_replacement(replacement) for replacement in reversed(configuration.history)],
    )


def _replacement(replacement: Replacement) -> router_pb2.ConfigReplacement:
    return router_pb2.ConfigReplacement(
        ts_ms=replacement.ts_ms,
        old_hash=replacement.old.content_hash,
        new_hash=replacement.new.content_hash,
        changes=_changes(replacement.old, replacement.new),
    )


def _changes(old: Settings, new: Settings) -> Iterator[router_pb2.ConfigChange]:
    return map(_change, changes(_without_secrets(old), _without_secrets(new)))


def _change(change: Change) -> router_pb2.ConfigChange:
    return router_pb2.ConfigChange(field=change.field, old_value=_as_json(change.old), new_value=_as_json(change.new))


def _as_json(value: Any) -> str:
    """A value of the settings; empty for one that is not there."""
    if value is None:
        return ""
    return json.dumps(value.model_dump(mode="json") if isinstance(value, Section) else value, default=str)


def _without_secrets(settings: Settings) -> Settings:
    """Settings that may be shown: tokens and keys are files, so that a password of Redis is all there is."""
    if settings.redis is None:
        return settings
    redis = settings.redis.model_copy(update={"url": without_password(settings.redis.url)})
    return settings.model_copy(update={"redis": redis})
