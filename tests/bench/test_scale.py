"""Scale: what is asked at each point, and what is made of the rounds."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from bench.fleet import Bench
from bench.scale import DRAFTERS, NAMES, NODES, PROMPT_TOKENS, SESSIONS, choosing_among, excerpt, measure_scale, tree_of
from forerun.client import AcceptanceRecord, Decision, FinishReason, Generation, RequestTimings, RoundReport, Usage
from forerun.workload import tasks
from router_models.policy import RoundTimings
from speculation.tree import EMPTY_TREE, TokenTree, chain
from zoo.catalog import model_folder

MS = 1_000_000


class GrowingClient:
    """The target takes 20 ms and 1 ms a node, the controller 2 ms whatever is asked; the first round takes long."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0

    async def generate(self, **options: Any) -> Generation:
        self.asked.append(options)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        tree = chain(tuple(range(options["shape"].budget))) if "shape" in options else EMPTY_TREE
        prompt_ns = len(options["token_ids"]) * MS
        rounds = (report(tree, first_ns=prompt_ns), report(tree), report(tree), report(EMPTY_TREE))
        return Generation(
            request_id="r",
            text="",
            token_ids=(1, 2),
            finish_reason=FinishReason.LENGTH,
            usage=Usage(prompt_tokens=1, completion_tokens=2),
            seed=0,
            acceptance=AcceptanceRecord(),
            decision=Decision(policy="static"),
            timings=RequestTimings(time_to_first_token_ns=prompt_ns, total_ns=1, rounds=RoundTimings()),
            rounds=rounds,
        )


def report(tree: TokenTree, first_ns: int = 0) -> RoundReport:
    verify_ns = (20 + len(tree)) * MS + first_ns
    timings = RoundTimings(
        draft_ns=3 * MS,
        verify_ns=verify_ns,
        round_ns=verify_ns + 5 * MS,
        draft_worker_ns=3 * MS,
        verify_worker_ns=verify_ns,
    )
    return RoundReport(
        round=0,
        decision=Decision(policy="static"),
        tree=tree,
        accepted=(),
        node_texts=(),
        extra_text="",
        timings=timings,
    )


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, float], GrowingClient]:
    client = GrowingClient()
    bench = Bench(client, str(model_folder("target")), NAMES)  # type: ignore[arg-type]
    figures = asyncio.run(measure_scale(bench, tasks(("code",), 30), max_new_tokens=8, seed=1, turns=2))
    return {figure.name: figure.value for figure in figures}, client


def test_only_rounds_after_the_prompt_with_whole_trees_count(measured: tuple[dict[str, float], GrowingClient]) -> None:
    figures, _ = measured

    assert [figures[f"scale.verify_ms.nodes_{nodes}"] for nodes in NODES] == [20 + nodes for nodes in NODES]
    assert figures["scale.verify_ms.nodes_64_over_1"] == pytest.approx(84 / 21)


def test_what_stays_flat_has_a_ratio_of_one(measured: tuple[dict[str, float], GrowingClient]) -> None:
    figures, _ = measured
    ends = [f"{name}_{row[-1]}_over_{row[0]}" for name, row in POINTS.items()]

    assert [figures[f"scale.controller_ms.{end}"] for end in ends] == [1.0] * len(ends)
    assert figures["scale.ttft_ms.prompt_896_over_64"] == 14.0


def test_every_point_is_asked_for_what_it_says(measured: tuple[dict[str, float], GrowingClient]) -> None:
    _, client = measured

    assert {len(request["token_ids"]) for request in client.asked} >= set(PROMPT_TOKENS)
    assert {request["shape"].budget for request in client.asked if "shape" in request} >= set(NODES)
    assert {request.get("task") for request in client.asked} >= {f"{drafters} drafters" for drafters in DRAFTERS}
    assert client.most_at_once == max(SESSIONS)


def test_no_prompt_is_asked_twice_at_a_point(measured: tuple[dict[str, float], GrowingClient]) -> None:
    _, client = measured
    longest = [request["token_ids"] for request in client.asked if len(request["token_ids"]) == max(PROMPT_TOKENS)]

    assert len(longest) == 3
    assert len(set(longest)) == 3


def test_a_label_says_among_how_many_drafters_the_planner_chooses() -> None:
    allowed = {rule.task: rule.allowed_drafters for rule in choosing_among().rules}

    assert allowed == {f"{drafters} drafters": NAMES[:drafters] for drafters in DRAFTERS}


@pytest.mark.parametrize("nodes", NODES)
def test_a_tree_has_room_for_its_budget(nodes: int) -> None:
    shape = tree_of(nodes)

    assert shape.budget == nodes
    assert shape.branching**2 * (shape.depth - 1) + shape.branching >= nodes


@pytest.mark.parametrize(
    ("length", "number", "expected"),
    [(3, 0, (0, 1, 2)), (3, 1, (3, 4, 0)), (5, 7, (0, 1, 2, 3, 4))],
    ids=["from the beginning", "beyond the end", "all of it"],
)
def test_an_excerpt_goes_on_at_the_beginning(length: int, number: int, expected: Sequence[int]) -> None:
    assert excerpt(range(5), length, number) == expected


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="6 are wanted"):
        excerpt(range(5), 6, 0)


POINTS = {"prompt": PROMPT_TOKENS, "nodes": NODES, "sessions": SESSIONS, "drafters": DRAFTERS}
