"""A peer is measured at its best, on the same text."""

from math import isnan

import pytest

from bench.peers import LEAST_TOKENS, Profile, _comparable, _figures
from bench.timed import Timed, decode_rate
from bench.transformers_peer import LOOKUPS, SCHEDULES, TransformersPeer
from forerun.models import model_folder
from forerun.workload import Task, tasks


def task(prompt_set: str, number: int) -> Task:
    return Task(prompt_set, number, "")


def test_a_peer_stands_for_its_best_variant_on_each_set() -> None:
    code, docs = [task("code", number) for number in range(3)], [task("docs", number) for number in range(3)]
    rates = {
        "planner": dict.fromkeys(code, 60.0) | dict.fromkeys(docs, 90.0),
        "generate": dict.fromkeys([*code, *docs], 20.0),
        "assisted, mixed, constant 4": dict.fromkeys(code, 40.0) | dict.fromkeys(docs, 15.0),
        "assisted, the right drafter, constant 8": dict.fromkeys(code, 10.0) | dict.fromkeys(docs, 30.0),
        "prompt lookup, 4": dict.fromkeys([*code, *docs], 30.0),
    }

    figures = {figure.name: figure for figure in _figures(rates, seed=1, profile="deep")}

    assert figures["peers.over_generate"].value == pytest.approx((3.0 + 4.5) / 2)
    assert figures["peers.over_assisted"].value == pytest.approx((1.5 + 3.0) / 2)
    assert figures["peers.over_assisted.code"].unit == "x assisted, mixed, constant 4"
    assert figures["peers.over_assisted.docs"].unit == "x assisted, the right drafter, constant 8"
    assert figures["peers.over_prompt_lookup"].value == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("profile", "name", "goal"),
    [("deep", "peers.over_llamacpp_deep", 1.0), ("wide", "peers.over_llamacpp", 1.5)],
)
def test_llama_cpp_has_a_goal_for_each_profile(profile: Profile, name: str, goal: float) -> None:
    code = [task("code", number) for number in range(3)]
    rates = {
        "planner": dict.fromkeys(code, 60.0),
        "llamacpp, plain": dict.fromkeys(code, 20.0),
        "llamacpp, the right drafter, 3": dict.fromkeys(code, 40.0),
    }

    figures = {figure.name: figure for figure in _figures(rates, seed=1, profile=profile)}

    assert (figures[name].value, figures[name].goal) == (pytest.approx(1.5), goal)
    assert figures[f"{name}.code"].unit == "x llamacpp, the right drafter, 3"


def test_a_prompt_counts_if_every_variant_said_enough() -> None:
    long, short = (Timed(token_ids=(1,) * length, decode_rate=50.0) for length in (LEAST_TOKENS, LEAST_TOKENS - 1))
    at_once = Timed(token_ids=(1,) * LEAST_TOKENS, decode_rate=float("nan"))

    assert _comparable({"planner": long, "generate": long})
    assert not _comparable({"planner": long, "generate": short})
    assert not _comparable({"planner": at_once, "generate": long})


def test_decoding_is_timed_from_the_first_tokens_that_came() -> None:
    assert decode_rate([(10.0, 5), (11.0, 3), (12.0, 4)]) == pytest.approx(3.5)
    assert isnan(decode_rate([(10.0, 5)]))


def test_every_way_of_transformers_gives_the_same_text() -> None:
    """Else their speeds could not be compared."""
    peer = TransformersPeer(model_folder("zoo:target"), {"code": model_folder("zoo:code")})
    (prompt,) = (entry.prompt for entry in tasks(("code",), 1))

    plain = peer.generate(prompt, 20)

    assert 4 < len(plain.token_ids) <= 20
    assert plain.decode_rate > 0
    for schedule in SCHEDULES.values():
        assert peer.assisted(prompt, 20, "code", schedule).token_ids == plain.token_ids
    for tokens in LOOKUPS:
        assert peer.looked_up(prompt, 20, tokens).token_ids == plain.token_ids
