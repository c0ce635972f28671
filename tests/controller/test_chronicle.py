"""Rounds are written down some at a time, in their order, and none later than somebody could miss it."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from controller.account import Account
from controller.chronicle import GATHER_NS, Chronicle, RequestChronicle
from controller.generation import FleetSession, Round
from controller.records import Outcome
from controller.request import GenerationRequest, Pins
from controller.sequence import Sequence
from controller.steering import SteeredPolicy, Steering
from router_models.planner import PlannerPolicy
from speculation.v1 import log_pb2
from tests.controller.shared import FULL
from tests.logs import AUTHOR, Written


class Desk:
    """A chronicle of one request, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.log = Written()
        self.chronicle = Chronicle(AUTHOR, self.log, clock_ns=lambda: self.now_ns)
        self.session = SimpleNamespace(model_revisions={"good": "1"}, ineligible_drafters=(), failovers=0)
        self.policy: SteeredPolicy = Steering({"planner": PlannerPolicy()}, "planner").for_request(Pins())
        self.request = GenerationRequest(request_id="r", prompt=(1, 2, 3), max_new_tokens=8)

    def open(self) -> RequestChronicle:
        return self.chronicle.open(self.request, self.policy, cast(FleetSession, self.session))

    @property
    def rounds(self) -> list[int]:
        """Numbers of the rounds in the log."""
        return [log_pb2.RoundRecord.FromString(data).round for data in self.log.records["rounds"]]


def numbered(number: int) -> Round:
    return replace(FULL, context=replace(FULL.context, request_id="r", round=number))


def test_rounds_are_written_down_together_once_the_oldest_has_waited() -> None:
    desk = Desk()
    request = desk.open()
    for number in range(3):
        request.add(numbered(number))
        desk.now_ns += GATHER_NS // 4
    assert desk.rounds == []

    desk.now_ns += GATHER_NS // 4
    request.add(numbered(3))

    assert desk.rounds == [0, 1, 2, 3]


def test_when_a_request_ends_all_of_it_is_in_the_log() -> None:
    desk = Desk()
    request = desk.open()
    request.add(numbered(0))

    request.end(Outcome.OK, Account(), Sequence(desk.request.prompt, max_new_tokens=8))

    assert desk.rounds == [0]
    assert len(desk.log.records["outcomes"]) == 1


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda desk: desk.chronicle.remembered("r").rounds, id="to explain a request"),
        pytest.param(lambda desk: desk.chronicle.recent(1)[0].emitted_tokens, id="for recent requests"),
        pytest.param(lambda desk: desk.chronicle.arms, id="for arms"),
    ],
)
def test_whoever_asks_is_told_of_every_round(ask: Callable[[Desk], object]) -> None:
    desk = Desk()
    desk.open().add(numbered(0))

    assert ask(desk)
    assert desk.rounds == [0]


def test_a_record_says_what_was_so_when_its_round_was_over() -> None:
    desk = Desk()
    request = desk.open()
    request.add(numbered(0))
    desk.session.model_revisions["good"] = "2"
    desk.session.ineligible_drafters = ("good: away",)

    desk.chronicle.write_down()

    (data,) = desk.log.records["decisions"]
    decision = log_pb2.DecisionRecord.FromString(data)
    assert dict(decision.model_revisions) == {"good": "1"}
    assert not decision.ineligible_drafters
    (written,) = desk.log.records["rounds"]
    assert log_pb2.RoundRecord.FromString(written).decision_event_id == decision.event_id


def test_a_round_that_cannot_be_written_down_takes_no_other_along() -> None:
    desk = Desk()
    request = desk.open()
    for number in (0, 2**40, 1):
        request.add(numbered(number))

    with pytest.raises(ValueError, match="out of range"):
        desk.chronicle.write_down()
    desk.chronicle.write_down()

    assert desk.rounds == [0, 1]
