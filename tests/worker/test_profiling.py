"""An engine is timed when it starts, and is as new afterwards."""

from math import isfinite

from tests.worker.tiny_worker import tiny_engine
from worker.profiling import PROMPT_TOKENS, profile_of


def test_forwards_take_time_and_leave_nothing_behind() -> None:
    engine = tiny_engine(slots=1)

    profile = profile_of(engine)

    assert profile.forward_ms > 0 < profile.prompt_token_ms
    assert isfinite(profile.node_ms)
    assert profile.node_ms >= 0
    assert engine.num_free == 1
    assert engine.length(engine.open()) == 0


def test_an_engine_that_holds_less_than_a_prompt_is_timed_with_what_it_holds() -> None:
    engine = tiny_engine(slots=1)
    engine.max_length = PROMPT_TOKENS // 2

    assert profile_of(engine).forward_ms > 0
