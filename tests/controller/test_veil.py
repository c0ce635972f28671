"""What the decision log holds of texts: nothing, unless the operator says so for the tenant; it teaches the same."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from controller.experience import round_lesson
from controller.records import round_record
from controller.settings import PrivacySettings, RedisSettings
from controller.veil import Veil
from router_models.planner import PlannerPolicy
from speculation.v1 import log_pb2, router_pb2
from tests.controller.house import DRAFT, DRAFT_TOO, PROMPT, VERIFY, Answer, house, run
from tests.controller.shared import FULL


def record_of_a_round() -> log_pb2.RoundRecord:
    return round_record(FULL, decision_event_id="d")


def test_within_a_round_equal_tokens_stay_equal_and_others_do_not() -> None:
    true, veiled = record_of_a_round(), record_of_a_round()
    Veil().over_round(veiled)

    def tokens(record: Any) -> list[int]:
        trees = (record.tree, *(draft.tree for draft in record.drafts))
        return [token for ids in (*(tree.token_ids for tree in trees), record.token_ids) for token in ids]

    pairs = set(zip(tokens(true), tokens(veiled), strict=True))
    assert veiled.veiled
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def test_no_number_means_the_same_in_two_rounds() -> None:
    veil = Veil()
    first, second = record_of_a_round(), record_of_a_round()
    veil.over_round(first)
    veil.over_round(second)

    assert not set(first.tree.token_ids) & set(second.tree.token_ids)
    assert not set(first.token_ids) & set(second.token_ids)


async def logged(redis: Redis, *answers: Answer) -> None:
    """Wait until every round and every end of these is in the log."""

    async def length(stream: str) -> int:
        return int(await redis.xlen(f"forerun:ns:{stream}"))

    rounds = sum(answer.summary.acceptance.num_spec_steps for answer in answers)
    async with asyncio.timeout(10):
        while await length("rounds") < rounds or await length("outcomes") < len(answers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("policy", ["planner", "merged-trie"])
def test_the_log_holds_no_token_of_prompt_or_answer_unless_it_may(tmp_path: Path, policy: str) -> None:
    """Every byte that was written is looked through."""

    async def scenario() -> None:
        settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace="ns")
        more = {"privacy": PrivacySettings(log_tokens_of=("open-*",))}
        async with (
            house(VERIFY, DRAFT, DRAFT_TOO, redis=settings, more=more, policy=policy) as home,
            Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")) as redis,
        ):
            bias = {"seed": 7, "logit_bias": {3: 0.5}}
            veiled = await home.answer(request_id="veiled", tenant="acme", sampling=bias)
            opened = await home.answer(request_id="opened", tenant="open-one", sampling=bias)
            await logged(redis, veiled, opened)

            async def records(kind: Any, stream: str, of: str) -> list[Any]:
                found = [kind.FromString(e[b"record"]) for _, e in await redis.xrange(f"forerun:ns:{stream}")]
                return [record for record in found if record.request_id == of]

            (outcome,) = await records(log_pb2.OutcomeRecord, "outcomes", "veiled")
            assert outcome.veiled
            assert not [*outcome.token_ids, *outcome.prompt_token_ids, *outcome.sampling.logit_bias]
            rounds = await records(log_pb2.RoundRecord, "rounds", "veiled")
            assert all(record.veiled for record in rounds)
            numbers = [set(record.token_ids) for record in rounds]
            assert len(set.union(*numbers)) == sum(map(len, numbers)), "a number comes again in another round"
            assert sum(record.tokens_emitted for record in rounds) == 40
            assert sum(record.num_accepted_draft_tokens for record in rounds) > 0

            (outcome,) = await records(log_pb2.OutcomeRecord, "outcomes", "opened")
            assert (list(outcome.prompt_token_ids), list(outcome.token_ids)) == (list(PROMPT), opened.token_ids)
            rounds = await records(log_pb2.RoundRecord, "rounds", "opened")
            assert [token for record in rounds for token in record.token_ids][:40] == opened.token_ids

            # Operators see the trees of recent requests in words; they are remembered, and never written.
            explained = await home.router.Explain(router_pb2.ExplainRequest(request_id="veiled"), timeout=10)
            assert explained.rounds[0].extra_text in veiled.text

    run(scenario())


def test_a_policy_learns_the_same_from_veiled_rounds(tmp_path: Path) -> None:
    """Bit by bit, from rounds with one drafter and with several."""

    async def rounds_of(policy: str) -> list[bytes]:
        more = {"privacy": PrivacySettings(log_tokens_of=("*",))}
        settings = RedisSettings(url=f"embedded://{tmp_path}/{policy}", namespace="ns")
        async with (
            house(VERIFY, DRAFT, DRAFT_TOO, redis=settings, more=more, policy=policy) as home,
            Redis(unix_socket_path=str(tmp_path / policy / "redis.sock")) as redis,
        ):
            await logged(redis, *[await home.answer(sampling={"seed": seed}) for seed in range(4)])
            return [entry[b"record"] for _, entry in await redis.xrange("forerun:ns:rounds")]

    for policy in ("planner", "merged-trie", "confidence"):
        open_eyed, veiled = PlannerPolicy(seed=1), PlannerPolicy(seed=1)
        veil = Veil()
        for data in run(rounds_of(policy)):
            record = log_pb2.RoundRecord.FromString(data)
            assert not record.veiled
            round_lesson(data).teach(open_eyed)
            veil.over_round(record)
            round_lesson(record.SerializeToString()).teach(veiled)

        assert veiled.state().to_bytes() == open_eyed.state().to_bytes() != PlannerPolicy(seed=1).state().to_bytes()
