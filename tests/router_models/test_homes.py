"""Of drafters that a prompt surprises equally little, the specialist is at home there."""

from router_models.contexts import path_of
from router_models.homes import TIE, HomeModel
from router_models.planner import PlannerPolicy
from router_models.policy import RoundContext

MATH = {"math": 0.60, "mixed": 0.59, "docs": 5.0}
DOCS = {"math": 9.0, "mixed": 2.5, "docs": 2.4}
EDIT = {"math": 4.0, "mixed": 0.7, "docs": 4.0}


def taught(*prompts: dict[str, float]) -> HomeModel:
    homes = HomeModel()
    for surprisal in prompts:
        homes.learn(surprisal)
    return homes


def context(request_id: str, surprisal: dict[str, float]) -> RoundContext:
    return RoundContext(
        request_id=request_id,
        round=0,
        drafters=tuple(surprisal),
        prompt_tokens=9,
        emitted_tokens=0,
        remaining_tokens=60,
        prompt_surprisal=surprisal,
    )


def test_before_any_prompt_was_read_the_least_surprised_drafter_is_at_home() -> None:
    assert HomeModel().home("r", MATH) == "mixed"
    assert HomeModel().home("r", {}) == ""


def test_of_two_that_are_equally_surprised_the_one_that_seldom_is_so_little_surprised() -> None:
    homes = taught(MATH, DOCS, EDIT)

    assert homes.home("one", MATH) == "math"
    assert homes.home("two", DOCS) == "docs"


def test_a_drafter_that_is_clearly_less_surprised_needs_no_such_advantage() -> None:
    homes = taught(MATH, DOCS, EDIT)

    assert homes.home("one", EDIT) == "mixed"
    assert homes.home("two", {"math": 0.6 + 1.1 * TIE, "mixed": 0.6, "docs": 5.0}) == "mixed"


def test_a_request_stays_at_home_while_nobody_else_reads_its_prompt() -> None:
    homes = taught(EDIT)
    before = homes.home("r", MATH)
    for _ in range(5):
        homes.learn(DOCS)

    assert (before, homes.home("r", MATH), homes.home("s", MATH)) == ("math", "math", "math")
    assert homes.home("r", {"mixed": 0.59}) == "mixed"


def test_whoever_is_at_home_is_in_a_company_of_its_own() -> None:
    seen = context("r", MATH)
    at_home = path_of(seen, "math", "math")

    assert at_home[0] == path_of(context("s", DOCS), "docs", "docs")[0]
    assert at_home[0] not in [path_of(seen, name, "math")[0] for name in ("mixed", "docs")]


def test_what_is_usual_outlives_a_restart() -> None:
    planner = PlannerPolicy()
    planner._knowledge.homes = taught(MATH, DOCS, EDIT)
    restored = PlannerPolicy()
    restored.restore(planner.state())

    assert restored._knowledge.homes.home("r", MATH) == "math"
    assert planner._knowledge.path(context("r", MATH), "math") == restored._knowledge.path(context("r", MATH), "math")
