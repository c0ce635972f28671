"""Streams at once: as many as asked for, both policies the same requests."""

import asyncio
from collections import Counter

from bench.fleet import Bench
from bench.load_of_none import measure_load
from forerun.workload import Task
from tests.bench.scripted_stream import FOUR_TOKENS, ScriptedClient

TASKS = [Task("code", number, f"code {number}") for number in range(3)]


class BusyClient(ScriptedClient):
    """Always the same answer; remembers who asked for what."""

    def __init__(self) -> None:
        super().__init__(FOUR_TOKENS)

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        return [(request["policy"], request["prompt"], request["seed"]) for request in self.asked]


def test_every_number_of_streams_is_reached_and_has_its_figure() -> None:
    client = BusyClient()
    bench = Bench(client, "", ("code",))  # type: ignore[arg-type]

    figures = asyncio.run(measure_load(bench, TASKS, max_new_tokens=4, seed=1, repeats=2, streams=(1, 5)))

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

    asyncio.run(measure_load(bench, TASKS, max_new_tokens=4, seed=1, repeats=1, streams=(2,)))

    warm_up = 4
    served = client.requests[warm_up:]
    by_policy = {name: Counter(entry[1:] for entry in served if entry[0] == name) for name in ("none", "planner")}
    assert by_policy["none"] == by_policy["planner"]
