"""Long passages to be repeated with one change: the set on which looking up the prompt beats every model."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from zoo.corpora.corpus import Corpus, Sample, chat, procedural_corpus
from zoo.corpora.json_records import KINDS, as_json_list
from zoo.corpora.wording import CITIES, DAYS, GOODS, HOLDERS, PEOPLE, SUBJECTS, THINGS


@dataclass(frozen=True, slots=True)
class Function:
    """A small Python function, as the parts an edit may change."""

    name: str
    argument: str
    local: str
    limit: int
    step: int

    def source(self) -> str:
        return (
            f"def {self.name}({self.argument}):\n"
            f"    {self.local} = 0\n"
            f"    for value in {self.argument}:\n"
            f"        if value > {self.limit}:\n"
            f"            {self.local} += value * {self.step}\n"
            f"        else:\n"
            f"            {self.local} -= {self.step}\n"
            f"    return {self.local}"
        )


def edit_corpus(num_documents: int = 12_000, num_held_out: int = 400) -> Corpus:
    return procedural_corpus("edit", write_edit, num_documents=num_documents, num_held_out=num_held_out)


def write_edit(seed: int) -> Sample:
    """The edit of that seed, in chat form."""
    rng = random.Random(f"edit-{seed}")
    return rng.choice(_EDITS)(rng)


def make_function(rng: random.Random) -> Function:
    verb = rng.choice(("sum", "score", "weigh", "rate", "tally", "grade"))
    thing = rng.choice(THINGS)
    local = rng.choice(("total", "result", "score", "amount", "balance"))
    return Function(f"{verb}_{thing}", thing, local, rng.randint(2, 90), rng.randint(2, 9))


def _edit_records(rng: random.Random) -> Sample:
    kind = rng.choice(KINDS)
    records = [kind.make(rng) for _ in range(rng.randint(2, 3))]
    index = rng.randrange(len(records))
    field = rng.choice(list(records[0]))
    value = kind.make(rng)[field]
    changed = [dict(record) for record in records]
    changed[index][field] = value
    question = f"Repeat the list; only the {field} of record {index + 1} becomes {value}.\n{as_json_list(records)}"
    return chat(question, as_json_list(changed))


def _edit_function(rng: random.Random) -> Sample:
    before, other = make_function(rng), make_function(rng)
    after, request = rng.choice(
        (
            (replace(before, name=other.name), f"Rename the function to {other.name}."),
            (replace(before, limit=other.limit), f"Change the limit to {other.limit}."),
            (replace(before, step=other.step), f"Change the step to {other.step}."),
        )
    )
    return chat(f"{request} Keep all other lines.\n{before.source()}", after.source())


def _edit_letter(rng: random.Random) -> Sample:
    who, other = rng.sample(PEOPLE, 2)
    city, day, hour = rng.choice(CITIES), rng.choice(DAYS), rng.randint(7, 20)
    goods, subject = rng.choice(GOODS), rng.choice(SUBJECTS)
    things, holders = rng.choice(THINGS), rng.choice(HOLDERS)
    letter = (
        f"Dear {who},\n"
        f"the {subject} in {city} starts on {day} at {hour} o'clock. Please bring the {goods} "
        f"and the {holders} of {things}, and tell the people at the door that the hall in {city} is booked "
        f"until the evening.\n"
        f"Kind regards,\n{other}"
    )
    old, new = rng.choice(
        ((city, rng.choice(CITIES)), (day, rng.choice(DAYS)), (goods, rng.choice(GOODS)), (who, rng.choice(PEOPLE)))
    )
    return chat(f"Copy the letter, but put {new} wherever it says {old}.\n{letter}", letter.replace(old, new))


def _edit_settings(rng: random.Random) -> Sample:
    names = rng.sample(THINGS, 8)
    values = {name: rng.randint(1, 99) for name in names}
    chosen, value = rng.choice(names), rng.randint(1, 99)
    before = "\n".join(f"{name} = {values[name]}" for name in names)
    after = "\n".join(f"{name} = {value if name == chosen else values[name]}" for name in names)
    question = f"Set {chosen} to {value} in this file and print the whole file.\n[stock]\n{before}"
    return chat(question, f"[stock]\n{after}")


_EDITS: tuple[Callable[[random.Random], Sample], ...] = (_edit_records, _edit_function, _edit_letter, _edit_settings)
