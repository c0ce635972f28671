"""Identifiers of records sort by time, and log lines are one line each."""

import io
import json
import logging
import uuid

from controller.records import uuid7
from speculation.logs import JsonLines


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [uuid7(now_ms=milliseconds) for milliseconds in (0, 1, 10**12, 2**48 - 1)]

    parsed = [uuid.UUID(text) for text in ids]
    assert [(one.version, one.variant) for one in parsed] == [(7, uuid.RFC_4122)] * 4
    assert ids == sorted(ids)
    assert parsed[2].int >> 80 == 10**12


def test_no_two_ids_are_equal() -> None:
    assert len({uuid7(now_ms=5) for _ in range(1000)}) == 1000


def test_a_log_line_is_one_object_with_all_it_was_told() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("test")
    logger.addHandler(handler)

    logger.warning("worker %s", "lost", extra={"request_id": "r1", "problem": "two\nlines"})

    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert (told["message"], told["level"], told["request_id"]) == ("worker lost", "warning", "r1")
