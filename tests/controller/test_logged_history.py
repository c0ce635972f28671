"""What is exported is all that was logged, and a log that contradicts itself is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller import log_export, log_folder
from controller.embedded_redis import embedded_redis
from controller.event_log import redis_client
from controller.experience import round_lesson, score_lesson
from controller.log_columns import TABLES
from controller.log_export import export_log
from controller.log_folder import MANIFEST, columns_of, file_of
from controller.logged_history import MOST_UNREADABLE, read_log
from router_models.offline.logged import rounds_of, scores_of
from router_models.planner import PlannerPolicy
from speculation.errors import ConfigurationError, InvalidLogError
from tests.controller.house import run
from tests.logs import BEGAN_MS, NAMESPACE, Records, changed, cold_run, having, in_redis, renamed, scored_run, write

REQUESTS = 36


@pytest.fixture(scope="module")
def records() -> Records:
    return cold_run(REQUESTS)


@pytest.fixture(scope="module")
def scored() -> Records:
    return scored_run(8)


Exported = Callable[..., Path]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Writes records into a real Redis and exports them from there."""

    def export(*records: Records) -> Path:
        folder = tmp_path / "log"
        run(in_redis(tmp_path / "r", records, folder))
        return folder

    return export


def test_lessons_from_parquet_are_lessons_from_the_stream(
    exported: Exported, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_export, "ENTRIES_PER_READ", 100)  # several pages
    monkeypatch.setattr(log_folder, "ROWS_AT_ONCE", 70)  # several row groups
    assert len(records["rounds"]) > 200

    history = read_log(exported(records))

    online = [round_lesson(record) for record in records["rounds"]]
    offline = rounds_of(history.lessons)
    assert [(one.context, one.plan, one.outcome, one.frozen) for one in offline] == [
        (one.context, one.plan, one.outcome, one.frozen) for one in online
    ]
    assert history.remarks == ()


def test_a_policy_taught_from_parquet_knows_what_one_taught_from_the_stream_knows(
    exported: Exported, records: Records
) -> None:
    from_stream, from_parquet = PlannerPolicy(), PlannerPolicy()
    for record in records["rounds"]:
        round_lesson(record).teach(from_stream)

    for lesson in read_log(exported(records)).lessons:
        lesson.teach(from_parquet)

    assert from_parquet.state().to_bytes() == from_stream.state().to_bytes()


def test_scores_are_taught_from_parquet_as_from_the_stream(exported: Exported, scored: Records) -> None:
    from_stream, from_parquet = PlannerPolicy(), PlannerPolicy()
    online = [score_lesson(record) for record in scored["scores"]]
    for lesson in (*map(round_lesson, scored["rounds"]), *online):
        lesson.teach(from_stream)

    lessons = read_log(exported(scored)).lessons
    for lesson in lessons:
        lesson.teach(from_parquet)

    assert [(one.context, one.drafter, one.scores, one.frozen) for one in scores_of(lessons)] == [
        (one.context, one.drafter, one.scores, one.frozen) for one in online
    ]
    assert {one.frozen for one in online} == {True, False}
    assert from_parquet.state().to_bytes() == from_stream.state().to_bytes()


def test_an_export_of_an_earlier_release_has_no_scores_and_can_be_read(exported: Exported, records: Records) -> None:
    folder = exported(records)
    file_of(folder, "scores").unlink()
    about = json.loads((folder / MANIFEST).read_text())
    del about["parts"]["scores"]
    (folder / MANIFEST).write_text(json.dumps(about))

    assert len(read_log(folder).lessons) == len(records["rounds"])


SCORE_CORRUPTIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "of nobody": (lambda record: record.ClearField("drafter"), "drafter"),
    "a rank before the first": (lambda record: record.ranks.__setitem__(3, 0), "ranks"),
    "of a longer answer": (lambda record: record.ranks.append(1), "ranks"),
    "of a part of the answer": (lambda record: record.confidences.pop(), "confidences"),
    "more than certain": (lambda record: record.confidences.__setitem__(3, 1.5), "confidences"),
    "no number": (lambda record: record.confidences.__setitem__(3, float("nan")), "confidences"),
    "without a context": (lambda record: record.ClearField("context"), "context"),
    "of a time to come": (lambda record: setattr(record, "ts_ms", 99_999_999_999_999), "ts_ms"),
}


@pytest.mark.parametrize("kind", SCORE_CORRUPTIONS)
def test_corrupted_scores_are_refused_by_file_row_and_column(kind: str, exported: Exported, scored: Records) -> None:
    change, column = SCORE_CORRUPTIONS[kind]

    folder = exported(having(scored, "scores", 5, change))

    with pytest.raises(InvalidLogError, match=rf"scores\.parquet, row 5, column {column}"):
        read_log(folder)


def test_only_scores_of_the_newest_models_count(exported: Exported, scored: Records) -> None:
    """The last of them tells what is newest, though its drafter never drafts again."""
    last = score_lesson(scored["scores"][-1])

    replaced = having(scored, "scores", len(scored["scores"]), lambda record: setattr(record, "model_revision", "2"))

    kept = scores_of(read_log(exported(replaced)).lessons)
    assert [one.request_id for one in kept if one.drafter == last.drafter] == [last.context.request_id]
    assert len({one.request_id for one in kept}) == len(
        {score_lesson(data).context.request_id for data in scored["scores"]}
    )


def test_a_round_of_a_free_choice_can_be_weighed_and_a_forced_one_cannot(exported: Exported, records: Records) -> None:
    forced = records
    for row in range(1, len(records["decisions"]) + 1, 2):
        forced = having(forced, "decisions", row, lambda record: setattr(record, "mode", 2))

    weighed = [entry.weighed for entry in rounds_of(read_log(exported(forced)).lessons)]

    assert any(weighed)
    assert not all(weighed)


def test_every_byte_of_every_stream_is_in_its_file(exported: Exported, records: Records) -> None:
    folder = exported(records)

    for stream, logged in records.items():
        assert pq.read_table(file_of(folder, stream))["record"].to_pylist() == logged


def in_time(entry_id: str) -> tuple[int, int]:
    """Redis' ids in the order in which entries were written: milliseconds, and a number within them."""
    at_ms, number = entry_id.split("-")
    return int(at_ms), int(number)


def test_the_manifest_says_what_there_is_and_what_is_missing(tmp_path: Path, records: Records) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, redis_client(url) as redis:
            await write(redis, records)
            key = f"forerun:{NAMESPACE}:rounds"
            await redis.xtrim(key, maxlen=len(records["rounds"]) - 7, approximate=False)
            twice = records["rounds"][-1]
            for dropped in (5, 3):  # what was written again tells of two more, and came before what a line held back
                await redis.xadd(key, {"record": twice, "dropped": dropped})

            manifest = await export_log(redis, NAMESPACE, tmp_path / "log")

        part = manifest.parts["rounds"]
        assert part.rows == len(records["rounds"]) - 7
        assert (part.trimmed, part.dropped, part.written_twice) == (5, 5, 2), (
            "the copies were not counted by its writer"
        )
        assert in_time(part.first_id) < in_time(part.last_id)
        assert sum(manifest.config_hashes.values()) == len(records["decisions"])
        assert set(manifest.schema_versions) == {"1"}
        assert len(read_log(tmp_path / "log").lessons) == part.rows

    run(scenario())


def test_a_time_span_can_be_chosen(tmp_path: Path, records: Records) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, redis_client(url) as redis:
            for number, record in enumerate(records["rounds"][:10]):
                await redis.xadd(f"forerun:{NAMESPACE}:rounds", {"record": record}, id=f"{BEGAN_MS + number}-0")

            manifest = await export_log(
                redis, NAMESPACE, tmp_path / "log", since_ms=BEGAN_MS + 2, until_ms=BEGAN_MS + 5
            )

        assert manifest.parts["rounds"].rows == 3
        assert manifest.parts["rounds"].first_id == f"{BEGAN_MS + 2}-0"

    run(scenario())


def test_a_folder_with_something_in_it_is_not_exported_to(exported: Exported, records: Records) -> None:
    folder = exported(records)

    with pytest.raises(ConfigurationError, match="is not empty"):
        exported(records)

    assert len(read_log(folder).lessons) == len(records["rounds"])


def test_an_export_that_did_not_end_is_refused(exported: Exported, records: Records) -> None:
    folder = exported(records)
    (folder / MANIFEST).unlink()

    with pytest.raises(InvalidLogError, match="not to its end"):
        read_log(folder)


def test_every_column_is_described_in_its_file_and_in_the_guide(exported: Exported, records: Records) -> None:
    folder = exported(records)
    guide = (Path(__file__).parent.parent.parent / "docs" / "retraining.md").read_text()

    for stream in TABLES:
        for field in pq.read_schema(file_of(folder, stream)):
            assert field.metadata[b"about"]
            assert f"`{field.name}`" in guide, f"{stream}: {field.name}"


def _set(**values: Any) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for name, value in values.items():
            setattr(record, name, value)

    return change


def _first_speculated(records: Records) -> int:
    return next(row for row, data in enumerate(records["rounds"], 1) if round_lesson(data).outcome.verdict.accepted)


def _wrong_node(record: Any) -> None:
    record.accepted[0] = len(record.tree.token_ids) + 5


def _wrong_token(record: Any) -> None:
    record.token_ids[0] += 1


def _wrong_path(record: Any) -> None:
    record.accepted.append(record.accepted[-1])
    record.token_ids.append(record.token_ids[-1])


def _slow_draft(record: Any) -> None:
    record.timings.draft_ns = record.timings.round_ns + 1


CORRUPTIONS: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "a propensity above 1": ("rounds", _set(propensity=1.5), "propensity"),
    "a propensity of nothing": ("rounds", _set(propensity=0.0), "propensity"),
    "a node that is not in the tree": ("rounds", _wrong_node, "accepted"),
    "a node whose token was not emitted": ("rounds", _wrong_token, "accepted"),
    "nodes that are no path": ("rounds", _wrong_path, "accepted"),
    "a draft that is longer than its round": ("rounds", _slow_draft, "draft_ns"),
    "a round that took no time": ("rounds", lambda record: record.timings.Clear(), "round_ns"),
    "more tokens than were emitted": ("rounds", _set(tokens_emitted=99), "tokens_emitted"),
    "a time before all time": ("rounds", _set(ts_ms=0), "ts_ms"),
    "a time to come": ("rounds", _set(ts_ms=99_999_999_999_999), "ts_ms"),
    "a number that is none": (
        "rounds",
        lambda record: record.context.prompt_surprisal.update({"good": float("inf")}),
        "context",
    ),
    "a decision without a chance": ("decisions", lambda record: record.decision.ClearField("propensity"), "propensity"),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corrupted_record_is_refused_by_file_row_and_column(kind: str, exported: Exported, records: Records) -> None:
    stream, change, column = CORRUPTIONS[kind]
    row = _first_speculated(records)

    folder = exported(having(records, stream, row, change))

    with pytest.raises(InvalidLogError, match=rf"{stream}\.parquet, row {row}, column {column}"):
        read_log(folder)


def test_an_event_that_is_there_twice_is_refused(exported: Exported, records: Records) -> None:
    """Not the copy of a record, which the export leaves out: another record under the same id."""
    first = records["rounds"][0]

    folder = exported({**records, "rounds": [*records["rounds"], _renumbered(first)]})

    with pytest.raises(InvalidLogError, match=rf"row {len(records['rounds']) + 1}, column event_id"):
        read_log(folder)


def _renumbered(data: bytes) -> bytes:
    return changed("rounds", data, round=77)


def test_rounds_of_a_request_that_run_backwards_are_refused(exported: Exported, records: Records) -> None:
    row = _first_speculated(records) + 1

    folder = exported(having(records, "rounds", row, lambda record: setattr(record, "ts_ms", BEGAN_MS - 60_000)))

    with pytest.raises(InvalidLogError, match=rf"row {row}, column ts_ms: is earlier"):
        read_log(folder)


@pytest.mark.parametrize("share", [0.5 * MOST_UNREADABLE, 3 * MOST_UNREADABLE])
def test_a_few_unreadable_records_are_passed_over_and_more_are_not(
    share: float, exported: Exported, records: Records
) -> None:
    damaged = max(int(share * len(records["rounds"])), 1)
    rounds = [b"\xff\xff" if row < damaged else data for row, data in enumerate(records["rounds"])]

    folder = exported({**records, "rounds": rounds})

    if share < MOST_UNREADABLE:
        history = read_log(folder)
        assert len(history.lessons) == len(rounds) - damaged
        assert history.remarks == (f"rounds.parquet: {damaged} records cannot be read; passed over",)
    else:
        with pytest.raises(InvalidLogError, match=r"rounds\.parquet: .*% of its records cannot be read"):
            read_log(folder)


@pytest.mark.parametrize("column", ["propensity", "tokens_emitted", "task", "tree_confidences", "prompt_surprisal"])
def test_a_column_that_is_not_what_its_record_says_is_refused(
    column: str, exported: Exported, records: Records
) -> None:
    folder = exported(records)
    file = file_of(folder, "rounds")
    table = pq.read_table(file)
    other = {"task": "other", "tree_confidences": [0.1], "prompt_surprisal": [("good", 1.0)]}.get(column, 7)
    values = table[column].to_pylist()
    values[2] = other
    place = table.schema.get_field_index(column)
    pq.write_table(
        table.set_column(place, table.schema.field(column), pa.array(values, type=table.schema.field(column).type)),
        file,
    )

    with pytest.raises(InvalidLogError, match=rf"rounds\.parquet, row 3, column {column}: is .*, but the record says"):
        read_log(folder)


@pytest.mark.parametrize("kind", ["shuffled", "cut short", "damaged", "gone", "without a column"])
def test_a_file_that_is_not_the_exported_one_is_refused(kind: str, exported: Exported, records: Records) -> None:
    folder = exported(records)
    file = file_of(folder, "rounds")
    table = pq.read_table(file)
    if kind == "shuffled":
        pq.write_table(table.take(list(reversed(range(len(table))))), file)
    elif kind == "cut short":
        pq.write_table(table.slice(0, 5), file)
    elif kind == "damaged":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "gone":
        file.unlink()
    else:
        pq.write_table(table.drop_columns(["record"]), file)

    with pytest.raises(InvalidLogError, match=r"rounds\.parquet"):
        read_log(folder)


def test_a_manifest_of_another_format_is_refused(exported: Exported, records: Records) -> None:
    folder = exported(records)
    about = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(about | {"format": "of tomorrow"}))

    with pytest.raises(InvalidLogError, match="another format"):
        read_log(folder)


def test_only_rounds_of_the_newest_models_count(exported: Exported) -> None:
    """The drafters and the target were replaced between two runs."""
    old, new = cold_run(4, revision="1"), renamed(cold_run(4, revision="2"), " again", BEGAN_MS + 3_600_000)

    history = read_log(exported(old, new))

    assert {lesson.request_id for lesson in history.lessons} == {f"request {number} again" for number in range(4)}
    left = len(old["rounds"])
    assert history.remarks == (
        f"{left} rounds were drafted or verified by models that have been replaced since; left out",
    )


def test_a_drafter_that_was_replaced_leaves_the_rounds_of_the_others(exported: Exported) -> None:
    def replaced(record: Any) -> None:
        record.model_revisions["good"] = "2"

    old, new = cold_run(8), renamed(cold_run(4), " again", BEGAN_MS + 3_600_000)
    for row in range(1, len(new["decisions"]) + 1):
        new = having(new, "decisions", row, replaced)

    kept = rounds_of(read_log(exported(old, new)).lessons)

    before = [entry for entry in kept if "again" not in entry.request_id]
    assert before
    assert not any("good" in entry.plan.drafters for entry in before)
    assert any("good" in entry.plan.drafters for entry in kept)


def test_all_tables_have_an_id_and_the_record() -> None:
    for stream in TABLES:
        names = [column.name for column in columns_of(stream)]
        assert (names[0], names[-1]) == ("entry_id", "record")
        assert len(set(names)) == len(names)
