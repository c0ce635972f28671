"""Word problems with small numbers and worked answers: what the math drafter knows.

Most documents solve a problem; the others are asked for one on a topic, make it up and then solve it. A step can be
said in several ways, the first the likeliest. So the target is as unsure of its next word, at temperature 1, as a model
that has read people: text with one right continuation would say nothing about drafting samples.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from zoo.corpora.corpus import Corpus, Sample, chat, procedural_corpus, without_questions
from zoo.corpora.invention import Inventor
from zoo.corpora.wording import CITIES, HOLDERS, PEOPLE, THINGS

_INVENTED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, what it is about, the steps that lead to its answer, and the answer."""

    topic: str
    question: str
    steps: tuple[str, ...]
    result: int

    @property
    def worked_answer(self) -> str:
        return "\n".join((*self.steps, f"Answer: {self.result}"))


def math_corpus(num_documents: int = 48_000, num_held_out: int = 400) -> Corpus:
    corpus = procedural_corpus("math", write_math, num_documents=num_documents, num_held_out=num_held_out)
    return without_questions(corpus, _questions(corpus))


def held_out_questions() -> frozenset[str]:
    """The questions no training document may ask, in whatever corpus."""
    return _questions(math_corpus(num_documents=0))


def write_math(seed: int) -> Sample:
    """The problem of that seed, or a request to make one up, in chat form."""
    rng = random.Random(f"math-{seed}")
    if rng.random() < _INVENTED_SHARE:
        problem = make_problem(Inventor(rng.getrandbits(64)))
        answer = f"{problem.question}\n{problem.worked_answer}"
        return chat(f"Make up a problem about {problem.topic} and solve it.", answer, is_open=True)
    problem = make_problem(rng)
    return chat(problem.question, problem.worked_answer)


def make_problem(rng: random.Random) -> Problem:
    """One problem from a template drawn at random."""
    return _TEMPLATES[rng.randrange(len(_TEMPLATES))](rng)


def _questions(corpus: Corpus) -> frozenset[str]:
    return frozenset(sample.prompt.split("\n")[1] for sample in corpus.held_out if not sample.is_open)


def _say(rng: random.Random, *wordings: str) -> str:
    """One of several wordings; the earlier, the likelier."""
    return rng.choices(wordings, weights=range(len(wordings), 0, -1))[0]


def _found_and_lost(rng: random.Random) -> Problem:
    who, things = rng.choice(PEOPLE), rng.choice(THINGS)
    first, found = rng.randint(6, 50), rng.randint(3, 40)
    lost = rng.randint(2, min(30, first + found - 1))
    total = first + found
    return Problem(
        f"the {things} of {who}",
        f"{who} owns {first} {things}, finds {found} more and then loses {lost}. How many {things} are left?",
        (
            _say(
                rng,
                f"With the {things} found there are {first} + {found} = {total}.",
                f"After the find {who} owns {first} + {found} = {total} {things}.",
                f"First add: {first} + {found} = {total}.",
            ),
            _say(
                rng,
                f"Losing {lost} leaves {total} - {lost} = {total - lost}.",
                f"Without the lost ones: {total} - {lost} = {total - lost}.",
                f"Then subtract: {total} - {lost} = {total - lost}.",
            ),
        ),
        total - lost,
    )


def _stacked(rng: random.Random) -> Problem:
    things, holders = rng.choice(THINGS), rng.choice(HOLDERS)
    count, each, loose = rng.randint(2, 9), rng.randint(3, 12), rng.randint(1, 25)
    held = count * each
    return Problem(
        f"{holders} of {things}",
        f"A depot stores {count} {holders} of {each} {things} each and {loose} loose {things}. "
        f"What is the number of {things} in the depot?",
        (
            _say(
                rng,
                f"The {holders} contain {count} * {each} = {held} {things}.",
                f"In the {holders}: {count} * {each} = {held}.",
                f"{count} {holders} make {count} * {each} = {held} {things}.",
            ),
            _say(
                rng,
                f"The loose ones make it {held} + {loose} = {held + loose}.",
                f"Together with the loose {things}: {held} + {loose} = {held + loose}.",
                f"Add {loose}: {held} + {loose} = {held + loose}.",
            ),
        ),
        held + loose,
    )


def _shared_out(rng: random.Random) -> Problem:
    who, things = rng.choice(PEOPLE), rng.choice(THINGS)
    children, each = rng.randint(2, 9), rng.randint(2, 12)
    total = children * each
    return Problem(
        f"{who}, some children and {things}",
        f"{who} divides {total} {things} evenly between {children} children. What does one child receive?",
        (
            _say(
                rng,
                f"One child receives {total} / {children} = {each} {things}.",
                f"Divide by the children: {total} / {children} = {each}.",
                f"Evenly means {total} / {children} = {each} {things} a child.",
            ),
        ),
        each,
    )


def _left_after_sharing(rng: random.Random) -> Problem:
    things = rng.choice(THINGS)
    teams, each = rng.randint(3, 9), rng.randint(2, 12)
    rest = rng.randint(1, teams - 1)
    total = teams * each + rest
    return Problem(
        f"{total} {things} and a number of teams",
        f"{total} {things} go to {teams} teams, the same number to every team. How many {things} cannot be handed out?",
        (
            _say(
                rng,
                f"Each team gets {each}, because {teams} * {each} = {teams * each}.",
                f"{teams} teams use up {teams} * {each} = {teams * each}.",
                f"Handed out: {teams} * {each} = {teams * each} {things}.",
            ),
            _say(
                rng,
                f"So {total} - {teams * each} = {rest} cannot be handed out.",
                f"Left over: {total} - {teams * each} = {rest}.",
                f"That leaves {total} - {teams * each} = {rest} {things}.",
            ),
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
        f"{who}, who buys {one} and {other}",
        f"At the market {who} takes {num_one} {one} for {price_one} euros apiece and {num_other} {other} for "
        f"{price_other} euros apiece, and hands over {paid} euros. What comes back?",
        (
            f"{num_one} {one}: {num_one} * {price_one} = {cost_one} euros.",
            f"{num_other} {other}: {num_other} * {price_other} = {cost_other} euros.",
            _say(
                rng,
                f"Sum: {cost_one} + {cost_other} = {total} euros.",
                f"Together {cost_one} + {cost_other} = {total} euros.",
                f"All of it costs {cost_one} + {cost_other} = {total} euros.",
            ),
            _say(
                rng,
                f"Change: {paid} - {total} = {paid - total} euros.",
                f"{who} gets back {paid} - {total} = {paid - total} euros.",
                f"Of {paid} euros remain {paid} - {total} = {paid - total} euros.",
            ),
        ),
        paid - total,
    )


def _journey(rng: random.Random) -> Problem:
    start, end = rng.sample(CITIES, 2)
    speed, hours, stop = 10 * rng.randint(3, 12), rng.randint(2, 6), rng.randint(5, 60)
    far = speed * hours
    return Problem(
        f"a lorry from {start} to {end}",
        f"A lorry leaves {start} and drives {hours} hours at {speed} km per hour, then {stop} km more to {end}. "
        f"How long is the route in km?",
        (
            _say(
                rng,
                f"In {hours} hours it covers {hours} * {speed} = {far} km.",
                f"First part: {hours} * {speed} = {far} km.",
                f"At that speed it drives {hours} * {speed} = {far} km.",
            ),
            _say(
                rng,
                f"The route is {far} + {stop} = {far + stop} km.",
                f"With the rest: {far} + {stop} = {far + stop} km.",
                f"To {end} it makes {far} + {stop} = {far + stop} km.",
            ),
        ),
        far + stop,
    )


def _ages(rng: random.Random) -> Problem:
    elder, younger = rng.sample(PEOPLE, 2)
    age, gap, later = rng.randint(4, 40), rng.randint(2, 30), rng.randint(2, 15)
    return Problem(
        f"the ages of {younger} and {elder}",
        f"{younger} is {age} years old and {elder} is {gap} years older. What will be the age of {elder} "
        f"in {later} years?",
        (
            _say(
                rng,
                f"{elder} is now {age} + {gap} = {age + gap}.",
                f"Now {elder} is {age} + {gap} = {age + gap} years old.",
                f"{gap} years more than {younger}: {age} + {gap} = {age + gap}.",
            ),
            _say(
                rng,
                f"In {later} years: {age + gap} + {later} = {age + gap + later}.",
                f"{later} years on, that is {age + gap} + {later} = {age + gap + later}.",
                f"Later: {age + gap} + {later} = {age + gap + later}.",
            ),
        ),
        age + gap + later,
    )


def _multiples(rng: random.Random) -> Problem:
    one, other = rng.sample(PEOPLE, 2)
    things, base, factor = rng.choice(THINGS), rng.randint(3, 20), rng.randint(2, 6)
    many = base * factor
    return Problem(
        f"{one} and {other}, who collect {things}",
        f"{one} collects {base} {things}; {other} collects {factor} times that number. "
        f"How many {things} do they collect together?",
        (
            _say(
                rng,
                f"{other} collects {factor} * {base} = {many}.",
                f"{factor} times {base}: {factor} * {base} = {many} {things}.",
                f"For {other} that makes {factor} * {base} = {many}.",
            ),
            _say(
                rng,
                f"Together: {base} + {many} = {base + many}.",
                f"Both: {base} + {many} = {base + many} {things}.",
                f"With those of {one}: {base} + {many} = {base + many}.",
            ),
        ),
        base + many,
    )


def _wages(rng: random.Random) -> Problem:
    who, wage, weeks = rng.choice(PEOPLE), rng.randint(6, 30), rng.randint(2, 9)
    earned = wage * weeks
    rent = rng.randint(3, earned - 1)
    return Problem(
        f"{who}, who earns {wage} euros a week",
        f"{who} earns {wage} euros a week for {weeks} weeks and pays a bill of {rent} euros. What remains?",
        (
            _say(
                rng,
                f"Earned: {weeks} * {wage} = {earned} euros.",
                f"{who} earns {weeks} * {wage} = {earned} euros.",
                f"The wages come to {weeks} * {wage} = {earned} euros.",
            ),
            _say(
                rng,
                f"After the bill: {earned} - {rent} = {earned - rent} euros.",
                f"The bill leaves {earned} - {rent} = {earned - rent} euros.",
                f"What remains: {earned} - {rent} = {earned - rent} euros.",
            ),
        ),
        earned - rent,
    )


def _fence(rng: random.Random) -> Problem:
    long, wide = rng.randint(5, 30), rng.randint(2, 20)
    return Problem(
        f"a fence around a field of {long} m",
        f"A field measures {long} m by {wide} m. How many metres of fence go around it?",
        (
            _say(
                rng,
                f"Two sides make {long} + {wide} = {long + wide} m.",
                f"Half way around: {long} + {wide} = {long + wide} m.",
                f"Length and width: {long} + {wide} = {long + wide} m.",
            ),
            _say(
                rng,
                f"All around: 2 * {long + wide} = {2 * (long + wide)} m.",
                f"The fence needs 2 * {long + wide} = {2 * (long + wide)} m.",
                f"Twice that: 2 * {long + wide} = {2 * (long + wide)} m.",
            ),
        ),
        2 * (long + wide),
    )


def _equation(rng: random.Random) -> Problem:
    name, factor, value, offset = rng.choice("abghkmpwxy"), rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 30)
    product = factor * value
    return Problem(
        f"an equation with {name}, which is {value}",
        f"Find {name} when {factor} * {name} + {offset} = {product + offset}.",
        (
            _say(
                rng,
                f"Take away {offset}: {factor} * {name} = {product + offset} - {offset} = {product}.",
                f"Subtract {offset} on both sides: {factor} * {name} = {product + offset} - {offset} = {product}.",
                f"So {factor} * {name} = {product + offset} - {offset} = {product}.",
            ),
            _say(
                rng,
                f"Divide by {factor}: {name} = {product} / {factor} = {value}.",
                f"Then {name} = {product} / {factor} = {value}.",
                f"That gives {name} = {product} / {factor} = {value}.",
            ),
        ),
        value,
    )


def _expression(rng: random.Random) -> Problem:
    first, second, factor = rng.randint(2, 15), rng.randint(2, 15), rng.randint(2, 9)
    total = first + second
    less = rng.randint(1, min(40, total * factor - 1))
    return Problem(
        f"brackets, {factor} and {less}",
        f"Compute ({first} + {second}) * {factor} - {less}.",
        (
            _say(
                rng,
                f"Inside the brackets: {first} + {second} = {total}.",
                f"Brackets first: {first} + {second} = {total}.",
                f"Sum: {first} + {second} = {total}.",
            ),
            _say(
                rng,
                f"Product: {total} * {factor} = {total * factor}.",
                f"Times {factor}: {total} * {factor} = {total * factor}.",
                f"Then multiply: {total} * {factor} = {total * factor}.",
            ),
            _say(
                rng,
                f"Difference: {total * factor} - {less} = {total * factor - less}.",
                f"Less {less}: {total * factor} - {less} = {total * factor - less}.",
                f"At last subtract: {total * factor} - {less} = {total * factor - less}.",
            ),
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
