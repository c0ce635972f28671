"""From an exported log back to what can be learnt from it. A log that contradicts itself is refused."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from controller.experience import RoundLesson, ScoreLesson, round_lesson, score_lesson
from controller.log_columns import ENTRY_ID, ONLINE, RECORD, TABLES, Row
from controller.log_folder import Manifest, Part, file_of, read_rows
from router_models.offline.logged import LoggedLesson, LoggedRound, LoggedScores
from router_models.plan import is_propensity
from speculation.errors import InvalidLogError, InvalidRequestError
from speculation.tree import ROOT

MOST_UNREADABLE = 0.01
"""Share of a stream's records that may be damaged or of another release; with more the log is not to be trusted."""

LONGEST_ROUND_NS = 3_600_000_000_000
CLOCK_SLACK_MS = 1000
"""By so much a controller's clock may have been set back in the middle of a request."""

CLOCKS_APART_MS = 24 * 3_600_000
"""By so much the clocks of controllers and of whoever exported may differ."""

Step = Callable[[], None]
Lesson = TypeVar("Lesson", RoundLesson, ScoreLesson)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedHistory:
    """A log that can be learnt from.

    Attributes:
        manifest: What was exported.
        lessons: In the order of the log.
        remarks: What was left out and why, a sentence each.
    """

    manifest: Manifest
    lessons: tuple[LoggedLesson, ...]
    remarks: tuple[str, ...]


def read_log(folder: Path, *, step: Step = lambda: None) -> LoggedHistory:
    """Read an exported log, and hold it against itself.

    Args:
        folder: Where `forerun router export` wrote it.
        step: Called for each row.

    Raises:
        InvalidLogError: It cannot be trusted; the message names file, row and column.
    """
    manifest = Manifest.load(folder)
    files = {stream: _Checked(folder, stream, manifest) for stream in TABLES}
    decisions = {row["event_id"]: _decision(place, row) for place, row in files["decisions"].rows(step)}
    rounds = [(row, _logged_round(place, row, decisions)) for place, row in _in_time(files["rounds"].rows(step))]
    scores = [(row, _logged_scores(place, row)) for place, row in files["scores"].rows(step)]
    for _ in files["outcomes"].rows(step):
        pass
    newest = _newest_revisions([*decisions.values(), *(row for row, _ in scores)])
    current: list[tuple[Row, LoggedLesson]] = [entry for entry in rounds if not _outdated(entry[0], decisions, newest)]
    remarks = [file.remark for file in files.values() if file.remark]
    if left := len(rounds) - len(current):
        remarks.append(f"{left} rounds were drafted or verified by models that have been replaced since; left out")
    outdated = {row["request_id"] for row, _ in rounds} - {row["request_id"] for row, _ in current}
    current += [
        (row, entry)
        for row, entry in scores
        if row["request_id"] not in outdated and _revisions(row).items() <= newest.items()
    ]
    current.sort(key=lambda entry: _written(entry[0])[0])  # numbers count within a millisecond of one stream alone
    return LoggedHistory(manifest=manifest, lessons=tuple(lesson for _, lesson in current), remarks=tuple(remarks))


@dataclass(frozen=True, slots=True)
class _Place:
    """A row of a file, as an error names it."""

    file: str
    row: int

    def refuse(self, column: str, problem: str) -> InvalidLogError:
        """The error of one of its columns."""
        return InvalidLogError(f"{self.file}, row {self.row}, column {column}", problem)


class _Checked:
    """Rows of one file, each held against its record.

    Attributes:
        remark: What was passed over, in words; empty if nothing was.
    """

    def __init__(self, folder: Path, stream: str, manifest: Manifest) -> None:
        self.remark = ""
        self._folder, self._stream, self._part = folder, stream, manifest.parts.get(stream, Part())
        self._latest_ms = manifest.exported_ms + CLOCKS_APART_MS
        self._table = TABLES[stream]
        self._is_there = stream in manifest.parts

    def rows(self, step: Step) -> Iterator[tuple[_Place, Row]]:
        """Those that can be read, in their order.

        Raises:
            InvalidLogError: A row is not what its record says, or too many records cannot be read.
        """
        file = file_of(self._folder, self._stream).name
        unreadable, why = 0, ""
        known: set[str] = set()
        last = (0, 0)
        for number, row in enumerate(self._read(), 1):
            step()
            place = _Place(file, number)
            last = _after(place, row, last)
            try:
                self._compare(place, row)
            except InvalidRequestError as error:
                unreadable, why = unreadable + 1, why or f"row {number}: {error}"
                continue
            self._check_event(place, row, known)
            yield place, row
        if unreadable > MOST_UNREADABLE * self._part.rows:
            share = unreadable / self._part.rows
            raise InvalidLogError(file, f"{share:.1%} of its records cannot be read, the first in {why}")
        if unreadable:
            self.remark = f"{file}: {unreadable} records cannot be read; passed over"

    def _read(self) -> Iterator[Row]:
        """Nothing of a stream that was not exported: earlier releases left out one that was not there."""
        return read_rows(self._folder, self._stream, self._part) if self._is_there else iter(())

    def _compare(self, place: _Place, row: Row) -> None:
        """Hold a row against its record; raises InvalidRequestError if the record cannot be read."""
        for name, said in self._table.row(row[RECORD.name] or b"").items():
            if row[name] != said:
                raise place.refuse(name, f"is {_short(row[name])}, but the record says {_short(said)}")

    def _check_event(self, place: _Place, row: Row, known: set[str]) -> None:
        if row["event_id"] in known:
            raise place.refuse("event_id", f"{row['event_id']} was there before: the record would count twice")
        known.add(row["event_id"])
        if not 0 < row["ts_ms"] <= self._latest_ms:
            raise place.refuse("ts_ms", f"{row['ts_ms']} is no time before the export")


def _after(place: _Place, row: Row, last: tuple[int, int]) -> tuple[int, int]:
    """The row's place in the stream, which is behind the last one's."""
    try:
        written = _written(row)
    except (ValueError, AttributeError):
        raise place.refuse(ENTRY_ID.name, f"{row[ENTRY_ID.name]!r} is no id of a stream's entry") from None
    if written <= last:
        raise place.refuse(ENTRY_ID.name, "is not later than in the row before: the rows are out of order")
    return written


def _written(row: Row) -> tuple[int, int]:
    """When Redis took it in, the same clock for all streams: milliseconds, and a number."""
    ms, number = (int(part) for part in row[ENTRY_ID.name].split("-"))
    return ms, number


def _decision(place: _Place, row: Row) -> Row:
    if not is_propensity(row["propensity"], speculates=bool(row["drafters"])):
        raise place.refuse("propensity", f"{row['propensity']} is not in (0, 1]")
    return row


def _logged_round(place: _Place, row: Row, decisions: Mapping[str, Row]) -> LoggedRound:
    lesson = _lesson(place, row, round_lesson)
    _check_times(place, row)
    _check_path(place, lesson)
    if row["tokens_emitted"] > len(row["token_ids"]):
        raise place.refuse("tokens_emitted", f"is {row['tokens_emitted']} of {len(row['token_ids'])} tokens")
    decision = decisions.get(row["decision_event_id"])
    return LoggedRound(
        context=lesson.context,
        plan=lesson.plan,
        outcome=lesson.outcome,
        tokens=row["tokens_emitted"],
        at_ms=row["ts_ms"],
        weighed=decision is not None and decision["mode"] == ONLINE and lesson.plan.propensity > 0.0,
        frozen=lesson.frozen,
    )


def _logged_scores(place: _Place, row: Row) -> LoggedScores:
    lesson = _lesson(place, row, score_lesson)
    return LoggedScores(
        context=lesson.context,
        drafter=lesson.drafter,
        scores=lesson.scores,
        at_ms=row["ts_ms"],
        frozen=lesson.frozen,
    )


def _lesson(place: _Place, row: Row, read: Callable[[bytes], Lesson]) -> Lesson:
    try:
        return read(row[RECORD.name])
    except InvalidRequestError as error:
        raise place.refuse(error.field.removeprefix("record."), str(error)) from error


def _check_times(place: _Place, row: Row) -> None:
    if not 0 < row["round_ns"] <= LONGEST_ROUND_NS:
        raise place.refuse("round_ns", f"{row['round_ns']} is no duration of a round")
    for name in ("draft_ns", "verify_ns"):
        if row[name] > row["round_ns"]:
            raise place.refuse(name, f"{row[name]} is longer than its whole round, {row['round_ns']}")


def _check_path(place: _Place, lesson: RoundLesson) -> None:
    """Accepted nodes are a path from the root, and their tokens are those that were emitted."""
    tree, verdict = lesson.outcome.tree, lesson.outcome.verdict
    before = ROOT
    for node, token in zip(verdict.accepted, verdict.token_ids, strict=False):
        if tree.parents[node] != before or tree.token_ids[node] != token:
            raise place.refuse("accepted", f"node {node} does not fit the tree and the emitted tokens")
        before = node


def _in_time(rows: Iterable[tuple[_Place, Row]]) -> Iterator[tuple[_Place, Row]]:
    """The rounds, if none is earlier than one before it of the same request."""
    last: dict[str, int] = {}
    for place, row in rows:
        before_ms = last.get(row["request_id"], 0)
        if row["ts_ms"] < before_ms - CLOCK_SLACK_MS:
            raise place.refuse("ts_ms", "is earlier than a round before it of the same request")
        last[row["request_id"]] = max(row["ts_ms"], before_ms)
        yield place, row


def _newest_revisions(rows: Iterable[Row]) -> Mapping[str, str]:
    """Of each worker's model, the last that the log names."""
    newest: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row["ts_ms"]):
        newest.update(_revisions(row))
    return newest


def _revisions(row: Row) -> Mapping[str, str]:
    """Of models, as a decision or a drafter's scores name them."""
    if "model_revisions" in row:
        revisions: Mapping[str, str] = row["model_revisions"]
        return revisions
    return {row["drafter"]: row["model_revision"]} if row["model_revision"] else {}


def _outdated(row: Row, decisions: Mapping[str, Row], newest: Mapping[str, str]) -> bool:
    """Whether one of its drafters, or the target, has been replaced since."""
    decision = decisions.get(row["decision_event_id"])
    if decision is None:
        return False
    revisions = decision["model_revisions"]
    idle = set(row["on_offer"]) | set(decision["eligible_drafters"])
    concerned = [name for name in revisions if name in row["drafters"] or name not in idle]
    return any(revisions[name] != newest[name] for name in concerned)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
