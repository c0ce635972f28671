"""The demonstration's book-keeping: what it adds up, and that it notices a wrong token."""

import asyncio
from typing import Any

import pytest

from forerun.client import AcceptanceRecord, Decision, FinishReason, Generation, RequestTimings, Usage
from forerun.demo import POLICIES, Board, Run, first_difference, options_of, result, run_workload
from forerun.demo_screen import final_table, verdict
from forerun.workload import PLAIN_DOMAINS, PROMPT_SETS, Task, tasks
from router_models.policy import RoundTimings

CODE = Task("code", 0, "def area")
HYBRID = Task("hybrid", 1, "Explain")


def answer(*token_ids: int, rounds: int = 1) -> Generation:
    return Generation(
        request_id="r",
        text="",
        token_ids=token_ids,
        finish_reason=FinishReason.LENGTH,
        usage=Usage(prompt_tokens=1, completion_tokens=len(token_ids)),
        seed=0,
        acceptance=AcceptanceRecord(num_spec_steps=rounds, per_step_accepted=(0,) * rounds),
        decision=Decision(policy="none"),
        timings=RequestTimings(time_to_first_token_ns=1, total_ns=1, rounds=RoundTimings()),
    )


def run(policy: str, *token_ids: int, task: Task = CODE, rounds: int = 1) -> Run:
    return Run(task=task, policy=policy, answer=answer(*token_ids, rounds=rounds), seconds=2.0)


class FakeClient:
    """Gives the same four tokens whatever is asked, in fewer rounds when speculating; remembers the order."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def generate(self, prompt: str, **options: Any) -> Generation:
        self.asked.append(options["policy"])
        return answer(1, 2, 3, 4, rounds=4 if options["policy"] == "none" else 2)


def test_a_wrong_token_is_noticed_and_spoils_its_cell_alone() -> None:
    board = Board()
    for one in (run("none", 1, 2, 3), run("static", 1, 2, 3), run("merged", 1, 9, 3)):
        board.add(one)

    (difference,) = board.differences
    assert (difference.policy, difference.first_differing_token) == ("merged", 1)
    assert board.cell("code", "static").identical
    assert not board.cell("code", "merged").identical


def test_transformers_may_contradict_every_policy() -> None:
    board = Board()
    board.add(run("none", 1, 2))
    board.add(run("static", 1, 2))

    board.judge(CODE, (1, 2), judge="transformers")
    assert not board.differences

    board.judge(CODE, (1, 3), judge="transformers")
    assert {entry.policy for entry in board.differences} == {"none", "static"}
    assert {entry.judge for entry in board.differences} == {"transformers"}


def test_a_cell_adds_up_its_answers() -> None:
    board = Board()
    board.add(run("static", 1, 2, 3, 4, rounds=1))
    board.add(run("static", 1, 2, 3, 4, task=Task("code", 1, "x"), rounds=3))

    cell = board.cell("code", "static")

    assert (cell.answers, cell.tokens, cell.rounds) == (2, 8, 4)
    assert cell.tokens_per_second == pytest.approx(2.0)
    assert cell.tokens_per_round == pytest.approx(2.0)
    assert cell.passes_saved == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        pytest.param((1, 2, 3), (1, 9, 3), 1, id="in the middle"),
        pytest.param((1, 2), (1, 2, 3), 2, id="one is shorter"),
        pytest.param((), (1,), 0, id="nothing at all"),
    ],
)
def test_the_first_difference(one: tuple[int, ...], other: tuple[int, ...], place: int) -> None:
    assert first_difference(one, other) == place


def test_every_task_meets_every_policy_and_plain_decoding_first() -> None:
    client, board = FakeClient(), Board()

    asyncio.run(run_workload(client, [CODE, HYBRID], board, max_new_tokens=4))  # type: ignore[arg-type]

    assert len(board.runs) == 2 * len(POLICIES)
    first, second = client.asked[: len(POLICIES)], client.asked[len(POLICIES) :]
    assert first[0] == second[0] == "none"
    assert sorted(first) == sorted(second) == sorted(POLICIES)
    assert first != second
    assert not board.differences


def test_the_result_has_one_row_for_each_set_and_policy() -> None:
    client, board = FakeClient(), Board()
    asyncio.run(run_workload(client, [CODE, HYBRID], board, max_new_tokens=4))  # type: ignore[arg-type]

    rows = result(board, ["code", "hybrid"], POLICIES)["results"]

    assert isinstance(rows, list)
    assert len(rows) == 2 * len(POLICIES)
    assert rows[1] == {
        "set": "code",
        "policy": "static",
        "answers": 1,
        "tokens": 4,
        "tokens_per_second": rows[1]["tokens_per_second"],
        "tokens_per_round": 2.0,
        "target_passes_saved": 0.5,
        "identical_to_plain_decoding": True,
    }


def test_static_gets_the_drafter_made_for_the_set_and_odd_prompts_are_sampled() -> None:
    assert options_of(CODE, "static", max_new_tokens=4)["drafters"] == ["code"]
    assert options_of(HYBRID, "static", max_new_tokens=4)["drafters"] == ["mixed"]
    assert "temperature" not in options_of(CODE, "none", max_new_tokens=4)
    assert options_of(HYBRID, "none", max_new_tokens=4)["seed"] == 1
    assert options_of(HYBRID, "none", max_new_tokens=4) == {
        **options_of(HYBRID, "merged", max_new_tokens=4),
        "policy": "none",
    }


def test_the_workload_takes_the_sets_in_turn() -> None:
    work = tasks(PROMPT_SETS, 2)

    assert [task.prompt_set for task in work[:6]] == list(PROMPT_SETS)
    assert [task.number for task in work] == [0] * 6 + [1] * 6
    assert {task.number for task in tasks(PLAIN_DOMAINS, 3, skip=20)} == {20, 21, 22}


def test_the_final_words_name_every_difference() -> None:
    board = Board()
    board.add(run("none", 1, 2))
    assert "token for token" in verdict(board, 1, 1).plain

    board.add(run("merged", 1, 3))

    assert verdict(board, 1, 1).plain == "code 0 under merged differs from policy none at token 1"
    assert final_table(board, POLICIES).row_count == len(PROMPT_SETS) * len(POLICIES)
