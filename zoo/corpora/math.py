"""Word problems with small numbers and worked answers: what the math drafter knows."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from zoo.corpora.corpus import Corpus, Sample, chat, procedural_corpus
from zoo.corpora.wording import CITIES, HOLDERS, PEOPLE, THINGS


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, the steps that lead to its answer, and the answer."""

    question: str
    steps: tuple[str, ...]
    result: int

    @property
    def worked_answer(self) -> str:
        return "\n".join((*self.steps, f"Answer: {self.result}"))


def math_corpus(num_documents: int = 48_000, num_held_out: int = 400) -> Corpus:
    return procedural_corpus("math", write_math, num_documents=num_documents, num_held_out=num_held_out)


def held_out_questions() -> frozenset[str]:
    """The questions no training document may ask, in whatever corpus."""
    held_out = math_corpus(num_documents=0).held_out
    return frozenset(sample.prompt.split("\n")[1] for sample in held_out)


def write_math(seed: int) -> Sample:
    """The problem of that seed, in chat form."""
    problem = make_problem(random.Random(f"math-{seed}"))
    return chat(problem.question, problem.worked_answer)


def make_problem(rng: random.Random) -> Problem:
    """One problem from a template drawn at random."""
    return rng.choice(_TEMPLATES)(rng)


def _found_and_lost(rng: random.Random) -> Problem:
    who, things = rng.choice(PEOPLE), rng.choice(THINGS)
    first, found = rng.randint(6, 50), rng.randint(3, 40)
    lost = rng.randint(2, min(30, first + found - 1))
    total = first + found
    return Problem(
        f"{who} owns {first} {things}, finds {found} more and then loses {lost}. How many {things} are left?",
        (
            f"With the {things} found there are {first} + {found} = {total}.",
            f"Losing {lost} leaves {total} - {lost} = {total - lost}.",
        ),
        total - lost,
    )


def _stacked(rng: random.Random) -> Problem:
    things, holders = rng.choice(THINGS), rng.choice(HOLDERS)
    count, each, loose = rng.randint(2, 9), rng.randint(3, 12), rng.randint(1, 25)
    held = count * each
    return Problem(
        f"A depot stores {count} {holders} of {each} {things} each and {loose} loose {things}. "
        f"What is the number of {things} in the depot?",
        (
            f"The {holders} contain {count} * {each} = {held} {things}.",
            f"The loose ones make it {held} + {loose} = {held + loose}.",
        ),
        held + loose,
    )


def _shared_out(rng: random.Random) -> Problem:
    who, things = rng.choice(PEOPLE), rng.choice(THINGS)
    children, each = rng.randint(2, 9), rng.randint(2, 12)
    total = children * each
    return Problem(
        f"{who} divides {total} {things} evenly between {children} children. What does one child receive?",
        (f"One child receives {total} / {children} = {each} {things}.",),
        each,
    )


def _left_after_sharing(rng: random.Random) -> Problem:
    things = rng.choice(THINGS)
    teams, each = rng.randint(3, 9), rng.randint(2, 12)
    rest = rng.randint(1, teams - 1)
    total = teams * each + rest
    return Problem(
        f"{total} {things} go to {teams} teams, the same number to every team. How many {things} cannot be handed out?",
        (
            f"Each team gets {each}, because {teams} * {each} = {teams * each}.",
            f"So {total} - {teams * each} = {rest} cannot be handed out.",
        ),
        rest,
    )


def _change(rng: random.Random) -> Problem:
    who = rng.choice(PEOPLE)
    one, other = rng.sample(THINGS, 2)
    num_one, price_one, num_other, price_other = (rng.randint(2, 9) for _ in range(4))
    cost_one, cost_other = num_one * price_one, num_other * price_other
    total = cost_one + cost_other
    paid = -(-total // 10) * 10 + rng.choice((0, 10, 20))
    return Problem(
        f"At the market {who} takes {num_one} {one} for {price_one} euros apiece and {num_other} {other} for "
        f"{price_other} euros apiece, and hands over {paid} euros. What comes back?",
        (
            f"{num_one} {one}: {num_one} * {price_one} = {cost_one} euros.",
            f"{num_other} {other}: {num_other} * {price_other} = {cost_other} euros.",
            f"Sum: {cost_one} + {cost_other} = {total} euros.",
            f"Change: {paid} - {total} = {paid - total} euros.",
        ),
        paid - total,
    )


def _journey(rng: random.Random) -> Problem:
    start, end = rng.sample(CITIES, 2)
    speed, hours, stop = 10 * rng.randint(3, 12), rng.randint(2, 6), rng.randint(5, 60)
    far = speed * hours
    return Problem(
        f"A lorry leaves {start} and drives {hours} hours at {speed} km per hour, then {stop} km more to {end}. "
        f"How long is the route in km?",
        (
            f"In {hours} hours it covers {hours} * {speed} = {far} km.",
            f"The route is {far} + {stop} = {far + stop} km.",
        ),
        far + stop,
    )


def _ages(rng: random.Random) -> Problem:
    elder, younger = rng.sample(PEOPLE, 2)
    age, gap, later = rng.randint(4, 40), rng.randint(2, 30), rng.randint(2, 15)
    return Problem(
        f"{younger} is {age} years old and {elder} is {gap} years older. What will be the age of {elder} "
        f"in {later} years?",
        (
            f"{elder} is now {age} + {gap} = {age + gap}.",
            f"In {later} years: {age + gap} + {later} = {age + gap + later}.",
        ),
        age + gap + later,
    )


def _multiples(rng: random.Random) -> Problem:
    one, other = rng.sample(PEOPLE, 2)
    things, base, factor = rng.choice(THINGS), rng.randint(3, 20), rng.randint(2, 6)
    many = base * factor
    return Problem(
        f"{one} collects {base} {things}; {other} collects {factor} times that number. "
        f"How many {things} do they collect together?",
        (f"{other} collects {factor} * {base} = {many}.", f"Together: {base} + {many} = {base + many}."),
        base + many,
    )


def _wages(rng: random.Random) -> Problem:
    who, wage, weeks = rng.choice(PEOPLE), rng.randint(6, 30), rng.randint(2, 9)
    earned = wage * weeks
    rent = rng.randint(3, earned - 1)
    return Problem(
        f"{who} earns {wage} euros a week for {weeks} weeks and pays a bill of {rent} euros. What remains?",
        (f"Earned: {weeks} * {wage} = {earned} euros.", f"After the bill: {earned} - {rent} = {earned - rent} euros."),
        earned - rent,
    )


def _fence(rng: random.Random) -> Problem:
    long, wide = rng.randint(5, 30), rng.randint(2, 20)
    return Problem(
        f"A field measures {long} m by {wide} m. How many metres of fence go around it?",
        (
            f"Two sides make {long} + {wide} = {long + wide} m.",
            f"All around: 2 * {long + wide} = {2 * (long + wide)} m.",
        ),
        2 * (long + wide),
    )


def _equation(rng: random.Random) -> Problem:
    name, factor, value, offset = rng.choice("abghkmpwxy"), rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 30)
    product = factor * value
    return Problem(
        f"Find {name} when {factor} * {name} + {offset} = {product + offset}.",
        (
            f"Take away {offset}: {factor} * {name} = {product + offset} - {offset} = {product}.",
            f"Divide by {factor}: {name} = {product} / {factor} = {value}.",
        ),
        value,
    )


def _expression(rng: random.Random) -> Problem:
    first, second, factor = rng.randint(2, 15), rng.randint(2, 15), rng.randint(2, 9)
    total = first + second
    less = rng.randint(1, min(40, total * factor - 1))
    return Problem(
        f"Compute ({first} + {second}) * {factor} - {less}.",
        (
            f"Inside the brackets: {first} + {second} = {total}.",
            f"Product: {total} * {factor} = {total * factor}.",
            f"Difference: {total * factor} - {less} = {total * factor - less}.",
        ),
        total * factor - less,
    )


_TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    _found_and_lost,
    _stacked,
    _shared_out,
    _left_after_sharing,
    _change,
    _journey,
    _ages,
    _multiples,
    _wages,
    _fence,
    _equation,
    _expression,
)
