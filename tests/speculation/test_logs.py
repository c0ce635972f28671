"""Log lines: one an event, about a request where there is one, and nothing in them can pass for another line."""

import asyncio
import io
import json
import logging
import os

import pytest

from speculation.correlation import NO_REQUEST, Correlation, correlate, correlated, correlation
from speculation.errors import ConfigurationError
from speculation.logs import FORMAT_VARIABLE, JsonLines, TextLines, log_to_stderr
from tests.controller.house import run

FORGED = "lost\n2026-01-01 critical forged: line"


def written(formatter: logging.Formatter, message: str, **extra: object) -> str:
    """What a logger writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("house.part")
    logger.addHandler(handler)
    logger.warning(message, extra=extra)
    return stream.getvalue()


def test_json_has_the_fields_that_programs_look_for() -> None:
    with correlated(Correlation(request_id="r1", trace_id="t1")):
        line = json.loads(written(JsonLines(), "worker lost", problem="two\nlines", nothing=""))

    assert list(line) == ["time", "level", "logger", "message", "request_id", "trace_id", "problem"]
    assert (line["level"], line["logger"], line["message"]) == ("warning", "house.part", "worker lost")
    assert (line["request_id"], line["trace_id"]) == ("r1", "t1")
    assert line["time"].endswith("+00:00")


def test_lines_about_no_request_name_none() -> None:
    assert not {"request_id", "trace_id"} & json.loads(written(JsonLines(), "ready")).keys()


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_whatever_was_said_stays_within_its_line(formatter: logging.Formatter) -> None:
    with correlated(Correlation(request_id=FORGED)):
        lines = written(formatter, FORGED, peer=FORGED).splitlines()

    assert len(lines) == 1


def test_text_is_for_people_and_values_end_where_they_end() -> None:
    with correlated(Correlation(request_id="r1")):
        line = written(TextLines(), "call refused", reason="QUOTA", peer="a b", formula="a=b")

    assert line.endswith(' warning house.part: call refused request_id=r1 reason=QUOTA peer="a b" formula="a=b"\n')


def test_a_traceback_follows_the_line_of_text_and_is_within_that_of_json() -> None:
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, ValueError("wrong"), None)})

    assert json.loads(JsonLines().format(record))["exception"] == "ValueError: wrong"
    assert TextLines().format(record).splitlines()[1] == "ValueError: wrong"


def test_the_request_of_a_task_is_that_of_the_tasks_it_begins_and_of_no_other() -> None:
    async def scenario() -> None:
        async def child() -> Correlation:
            return correlation()

        async def request(name: str) -> Correlation:
            correlate(Correlation(request_id=name))
            return await asyncio.create_task(child())

        one, other = await asyncio.gather(request("one"), request("other"))
        assert (one.request_id, other.request_id) == ("one", "other")
        assert correlation() is NO_REQUEST

    run(scenario())


def test_the_format_is_the_options_else_the_variables_and_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv(FORMAT_VARIABLE, "text")
    try:
        log_to_stderr()
        logging.getLogger("house").info("one")
        log_to_stderr("json")
        logging.getLogger("house").info("two")
    finally:
        root.handlers, root.level = handlers, level

    one, two = capsys.readouterr().err.splitlines()
    assert one.endswith("info house: one")
    assert json.loads(two)["message"] == "two"
    assert os.environ[FORMAT_VARIABLE] == "json"


def test_an_unknown_format_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "xml")

    with pytest.raises(ConfigurationError, match="FORERUN_LOG_FORMAT: 'xml' is neither json nor text"):
        log_to_stderr()
