"""Records in sentences, CSV, JSON and YAML, to be turned into one another or made up: what the json drafter knows."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from zoo.corpora.corpus import Corpus, Sample, chat, procedural_corpus
from zoo.corpora.invention import Inventor
from zoo.corpora.wording import CITIES, DAYS, GOODS, JOBS, PEOPLE, SUBJECTS, SURNAMES

Record = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class RecordKind:
    """What several are called, how to make one, and the sentences that may tell of one."""

    plural: str
    make: Callable[[random.Random], Record]
    sentences: tuple[str, ...]

    def tell(self, rng: random.Random, record: Record) -> str:
        return rng.choice(self.sentences).format(**record)


def json_corpus(num_documents: int = 32_000, num_held_out: int = 400) -> Corpus:
    return procedural_corpus("json", write_json, num_documents=num_documents, num_held_out=num_held_out)


def write_json(seed: int) -> Sample:
    """The task of that seed, in chat form."""
    rng = random.Random(f"json-{seed}")
    return rng.choices(_TASKS, weights=(4, 2, 2, 1, 1, 5))[0](rng, rng.choice(KINDS))


def as_json(record: Record) -> str:
    return json.dumps(record)


def as_json_list(records: list[Record]) -> str:
    return "[\n" + ",\n".join("  " + as_json(record) for record in records) + "\n]"


def _member(rng: random.Random) -> Record:
    first, last = rng.choice(PEOPLE), rng.choice(SURNAMES)
    return {
        "name": f"{first} {last}",
        "age": rng.randint(18, 79),
        "city": rng.choice(CITIES),
        "job": rng.choice(JOBS),
        "email": f"{first.lower()}@{last.lower()}.example",
    }


def _order(rng: random.Random) -> Record:
    return {
        "order": f"{rng.choice('ABCDEFGH')}{rng.randint(100, 999)}",
        "item": rng.choice(GOODS),
        "quantity": rng.randint(1, 20),
        "price": rng.randint(2, 99),
        "city": rng.choice(CITIES),
        "state": rng.choice(("open", "packed", "sent", "returned")),
    }


def _meeting(rng: random.Random) -> Record:
    return {
        "subject": rng.choice(SUBJECTS),
        "day": rng.choice(DAYS),
        "hour": rng.randint(7, 20),
        "room": f"{rng.choice('ABCDEF')}{rng.randint(1, 40)}",
        "chair": f"{rng.choice(PEOPLE)} {rng.choice(SURNAMES)}",
        "seats": rng.randint(4, 60),
    }


def _log_line(rng: random.Random) -> Record:
    return {
        "time": f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
        "level": rng.choice(("debug", "info", "warning", "error")),
        "service": rng.choice(("catalog", "checkout", "inbox", "login", "reports", "uploads")),
        "status": rng.choice((200, 204, 302, 400, 404, 409, 429, 500, 503)),
        "millis": rng.randint(1, 999),
    }


MEMBER = RecordKind(
    "members of a club",
    _member,
    (
        "{name} from {city} is {age} and earns a living as {job}; letters go to {email}.",
        "We welcome {name}, {job}, {age} years of age, who moves here from {city} ({email}).",
        "Member card: {name}, {city}. Age {age}. Trade: {job}. Mail: {email}.",
    ),
)
ORDER = RecordKind(
    "orders",
    _order,
    (
        "Under number {order} somebody in {city} asked for {quantity} of the {item} at {price} euros; it is {state}.",
        "{order}: {item}, {quantity} pieces, {price} euros a piece, for {city}, now {state}.",
        "The {state} parcel {order} for {city} holds {quantity} times {item}, priced {price} euros.",
    ),
)
MEETING = RecordKind(
    "meetings",
    _meeting,
    (
        "{day} at {hour} o'clock {chair} opens the {subject} in {room}, which has {seats} seats.",
        "The {subject} ({chair} in the chair) is on {day}, {hour} h, room {room}, {seats} seats.",
        "Room {room} with {seats} seats is kept for the {subject} on {day} at {hour}; ask {chair}.",
    ),
)
LOG_LINE = RecordKind(
    "log lines",
    _log_line,
    (
        "[{time}] {level} {service}: status {status} after {millis} ms",
        "{time} {service} {level} status={status} millis={millis}",
    ),
)
KINDS = (MEMBER, ORDER, MEETING, LOG_LINE)


def _extract(rng: random.Random, kind: RecordKind) -> Sample:
    record = kind.make(rng)
    fields = list(record)
    if rng.random() < 0.4:
        fields = rng.sample(fields, rng.randint(3, len(fields)))
    wanted = {field: record[field] for field in fields}
    return chat(f"Return {', '.join(fields)} as JSON.\n{kind.tell(rng, record)}", as_json(wanted))


def _extract_list(rng: random.Random, kind: RecordKind) -> Sample:
    records = [kind.make(rng) for _ in range(rng.randint(2, 3))]
    fields = list(records[0])[: rng.randint(2, 4)]
    told = "\n".join(kind.tell(rng, record) for record in records)
    wanted = [{field: record[field] for field in fields} for record in records]
    return chat(f"Return {', '.join(fields)} of every line as a JSON list.\n{told}", as_json_list(wanted))


def _from_csv(rng: random.Random, kind: RecordKind) -> Sample:
    records = [kind.make(rng) for _ in range(rng.randint(2, 3))]
    fields = rng.sample(list(records[0]), rng.randint(3, 4))
    rows = [",".join(str(record[field]) for field in fields) for record in records]
    table = "\n".join([",".join(fields), *rows])
    wanted = [{field: record[field] for field in fields} for record in records]
    return chat(f"Turn this table into a JSON list.\n{table}", as_json_list(wanted))


def _set_field(rng: random.Random, kind: RecordKind) -> Sample:
    record, other = kind.make(rng), kind.make(rng)
    field = rng.choice(list(record))
    question = f"In this record, set {field} to {json.dumps(other[field])}.\n{as_json(record)}"
    return chat(question, as_json({**record, field: other[field]}))


def _to_yaml(rng: random.Random, kind: RecordKind) -> Sample:
    record = kind.make(rng)
    lines = "\n".join(f"{field}: {value}" for field, value in record.items())
    return chat(f"Write this JSON record as YAML.\n{as_json(record)}", lines)


def _invent(rng: random.Random, kind: RecordKind) -> Sample:
    inventor = Inventor(rng.getrandbits(64))
    records = [kind.make(inventor) for _ in range(rng.randint(2, 3))]
    fields = rng.sample(list(records[0]), rng.randint(3, len(records[0])))
    wanted = [{field: record[field] for field in fields} for record in records]
    question = f"Make up {len(records)} {kind.plural} with {', '.join(fields)} as a JSON list."
    return chat(question, as_json_list(wanted), is_open=True)


_TASKS = (_extract, _extract_list, _from_csv, _set_field, _to_yaml, _invent)
