"""Streams at once: as many as asked for, both policies the same requests."""

import asyncio
from collections import Counter
from typing import Any

from bench.fleet import Bench
from bench.load_of_none import measure_load
from forerun.client import AcceptanceRecord, Decision, FinishReason, Generation, RequestTimings, Usage
from forerun.workload import Task
from router_models.policy import RoundTimings

TASKS = [Task("code", number, f"code {number}") for number in range(3)]


class BusyClient:
    """Answers after others had their turn, and counts how many ask at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.at_once, self.most_at_once = 0, 0

    async def generate(self, prompt: str, **options: Any) -> Generation:
        self.asked.append((options["policy"], prompt, options["seed"]))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        self.at_once -= 1
        return Generation(
            request_id="r",
            text="",
            token_ids=(1, 2),
            finish_reason=FinishReason.LENGTH,
            usage=Usage(prompt_tokens=1, completion_tokens=2),
            seed=options["seed"],
            acceptance=AcceptanceRecord(),
            decision=Decision(policy=options["policy"]),
            timings=RequestTimings(time_to_first_token_ns=1, total_ns=2, rounds=RoundTimings()),
        )


def test_every_number_of_streams_is_reached_and_has_its_figure() -> None:
    client = BusyClient()
    bench = Bench(client, "", ("code",))  # type: ignore[arg-type]

    figures = asyncio.run(measure_load(bench, TASKS, max_new_tokens=2, seed=1, repeats=2, streams=(1, 5)))

    assert {figure.name for figure in figures} == {
        "router.load_of_none",
        "router.load_of_none.1",
        "router.load_of_none.5",
    }
    assert figures[0].value == min(figure.value for figure in figures)
    assert client.most_at_once == 5


def test_both_policies_serve_the_same_requests() -> None:
    client = BusyClient()
    bench = Bench(client, "", ("code",))  # type: ignore[arg-type]

    asyncio.run(measure_load(bench, TASKS, max_new_tokens=2, seed=1, repeats=1, streams=(2,)))

    warm_up = 4
    served = client.asked[warm_up:]
    by_policy = {name: Counter(entry[1:] for entry in served if entry[0] == name) for name in ("none", "planner")}
    assert by_policy["none"] == by_policy["planner"]
