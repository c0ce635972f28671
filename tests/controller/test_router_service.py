"""What operators see, and how they overrule."""

import grpc
import pytest

from controller import chronicle
from speculation.v1 import router_pb2
from tests import fakes
from tests.controller.house import DRAFT, DRAFT_TOO, VERIFY, house, plain, run


def test_show_tells_workers_policies_and_arms() -> None:
    async def scenario() -> None:
        stranger = fakes.description("draft", "stranger", fingerprint="0" * 64)
        async with house(VERIFY, DRAFT, stranger) as home:
            await home.answer()
            await home.answer(speculation={"off": True}, max_new_tokens=3)
            shown = await home.router.Show(router_pb2.ShowRequest())

            assert shown.policy == "static"
            assert "merged" in shown.known_policies
            assert [worker.worker.name for worker in shown.workers[:2]] == ["target", "alpha"]
            assert shown.workers[2].health == router_pb2.WORKER_HEALTH_REFUSED
            assert "tokenizer" in shown.workers[2].problem
            arms = {tuple(arm.drafters): arm for arm in shown.arms}
            assert arms[()].rounds == 3
            assert arms[("alpha",)].accepted_tokens > 0
            assert arms[("alpha",)].shape.depth > 0
            assert shown.log.url == ""

    run(scenario())


def test_explain_tells_a_request_round_by_round() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, policy="merged") as home:
            answer = await home.answer(request_id="mine", explain=True)
            explained = await home.router.Explain(router_pb2.ExplainRequest(request_id="mine"))

            assert list(explained.rounds) == answer.rounds

    run(scenario())


def test_only_recent_requests_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chronicle, "REMEMBERED_REQUESTS", 3)

    async def scenario() -> None:
        async with house(VERIFY) as home:
            for number in range(4):
                await home.answer(request_id=f"request-{number}", max_new_tokens=1)

            await home.router.Explain(router_pb2.ExplainRequest(request_id="request-1"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await home.router.Explain(router_pb2.ExplainRequest(request_id="request-0"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    run(scenario())


def test_another_policy_can_be_put_in_charge() -> None:
    async def scenario() -> None:
        async with house() as home:
            reply = await home.router.SetPolicy(router_pb2.SetPolicyRequest(policy="none"))
            answer = await home.answer()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await home.router.SetPolicy(router_pb2.SetPolicyRequest(policy="psychic"))

            assert reply.previous_policy == "static"
            assert answer.summary.decision.policy == "none"
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    run(scenario())


def test_the_kill_switch_changes_no_text() -> None:
    async def scenario() -> None:
        async with house() as home:
            was = await home.router.SetKillSwitch(router_pb2.SetKillSwitchRequest(engaged=True))
            answer = await home.answer()
            again = await home.router.SetKillSwitch(router_pb2.SetKillSwitchRequest(engaged=False))
            lively = await home.answer()

            assert (was.was_engaged, again.was_engaged) == (False, True)
            assert answer.summary.acceptance.num_draft_tokens == 0
            assert "kill switch" in answer.summary.decision.explanation
            assert lively.summary.acceptance.num_draft_tokens > 0
            assert answer.token_ids == lively.token_ids == plain()

    run(scenario())
