"""What operators are shown of a running controller: counts and forms, and texts only where the log may hold them."""

import json
from pathlib import Path

import pytest
import yaml

from controller import curve
from controller.curve import LearningCurve
from controller.event_log import without_password
from controller.rounds_sum import RoundsSum
from controller.settings import PrivacySettings, RedisSettings, Settings
from speculation.v1 import log_pb2, router_pb2
from tests.controller.house import DRAFT, DRAFT_TOO, VERIFY, house, run, write_settings


def test_recent_requests_are_listed_the_newest_first() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, policy="merged") as home:
            await home.answer(request_id="first", task="code", tenant="acme", speculation={"off": True})
            answer = await home.answer(request_id="second")
            listed = (await home.router.ListRequests(router_pb2.ListRequestsRequest())).requests
            newest = (await home.router.ListRequests(router_pb2.ListRequestsRequest(limit=1))).requests

            second, first = listed
            assert (second.request_id, first.request_id) == ("second", "first")
            assert [one.request_id for one in newest] == ["second"]
            assert (first.task, first.tenant, list(first.drafters)) == ("code", "acme", [])
            assert second.outcome == log_pb2.OUTCOME_STATUS_OK
            assert second.drafters == ["alpha", "beta"]
            acceptance = answer.summary.acceptance
            assert second.rounds == len(acceptance.per_step_drafted) < first.rounds == 40
            assert second.completion_tokens == len(answer.token_ids)
            assert second.num_accepted_draft_tokens == acceptance.num_accepted_draft_tokens

    run(scenario())


def test_traffic_adds_up_to_what_the_answers_said() -> None:
    async def scenario() -> None:
        async with house() as home:
            answers = [await home.answer(task=task) for task in ("code", "math")]
            answers.append(await home.answer(speculation={"off": True}))
            shown = await home.router.ShowTraffic(router_pb2.ShowTrafficRequest())

            arms = {(arm.drafters, arm.task): arm for arm in shown.arms}
            assert arms.keys() == {("alpha", "code"), ("alpha", "math"), ("none", "none")}
            accepted = sum(answer.summary.acceptance.num_accepted_draft_tokens for answer in answers)
            assert sum(arm.accepted_tokens for arm in shown.arms) == accepted > 0
            assert sum(arm.emitted_tokens for arm in shown.arms) == sum(len(answer.token_ids) for answer in answers)
            assert sum(ended.requests for ended in shown.ended) == shown.first_rounds == 3
            assert shown.in_flight == 0 < shown.capacity

    run(scenario())


def test_texts_are_withheld_where_the_log_may_not_hold_them() -> None:
    async def scenario() -> None:
        more = {"privacy": PrivacySettings(log_tokens_of=("open",))}
        async with house(more=more) as home:
            for tenant in ("open", "closed"):
                await home.answer(request_id=tenant, tenant=tenant)
            shown = {
                (tenant, asked): await home.router.Explain(
                    router_pb2.ExplainRequest(request_id=tenant, respect_privacy=asked)
                )
                for tenant in ("open", "closed")
                for asked in (False, True)
            }

            withheld = shown.pop(("closed", True))
            assert withheld.texts_withheld
            assert not any(report.node_texts or report.extra_text for report in withheld.rounds)
            for whole in shown.values():
                assert not whole.texts_withheld
                assert all(len(report.node_texts) == len(report.tree.token_ids) for report in whole.rounds)
            true = shown["closed", False].rounds
            assert [report.tree.parents for report in withheld.rounds] == [report.tree.parents for report in true]
            assert [report.accepted for report in withheld.rounds] == [report.accepted for report in true]
            assert [list(report.tree.token_ids) for report in withheld.rounds] != [
                list(report.tree.token_ids) for report in true
            ]

    run(scenario())


def test_configurations_are_remembered_with_what_they_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = tmp_path / "controller.yaml"
        async with house(file=file) as home:
            before = await home.router.ShowConfig(router_pb2.ShowConfigRequest())
            settings = Settings.load(file)
            router = settings.router.model_copy(update={"exploration": 0.25, "drafter": "beta"})
            write_settings(file, settings.model_copy(update={"router": router}))
            await home.router.ReloadConfig(router_pb2.ReloadConfigRequest())
            after = await home.router.ShowConfig(router_pb2.ShowConfigRequest())

            assert not before.history
            (replacement,) = after.history
            assert (replacement.old_hash, replacement.new_hash) == (before.config.hash, after.config.hash)
            (change,) = replacement.changes
            assert change.field == "router.exploration"
            assert (json.loads(change.old_value), json.loads(change.new_value)) == (1.0, 0.25)
            assert [(one.field, one.old_value, one.new_value) for one in after.waiting] == [
                ("router.drafter", "", '"beta"')
            ]
            assert yaml.safe_load(after.in_force)["router"]["exploration"] == 0.25

    run(scenario())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param("redis://:sesame@127.0.0.1:1/0", "redis://127.0.0.1:1/0", id="before the host"),
        pytest.param("rediss://me:sesame@[::1]:1", "rediss://[::1]:1", id="with a name"),
        pytest.param("redis://127.0.0.1:1/0?password=sesame", "redis://127.0.0.1:1/0", id="among the options"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    async def scenario() -> None:
        async with house(redis=RedisSettings(url=url), settle=False) as home:
            config = await home.router.ShowConfig(router_pb2.ShowConfigRequest())
            state = await home.router.Show(router_pb2.ShowRequest())

            assert "sesame" not in str(config) + str(state)
            assert yaml.safe_load(config.in_force)["redis"]["url"] == state.log.url == shown

    run(scenario())


@pytest.mark.parametrize("url", ["unix:///run/redis.sock", "embedded:///var/lib/redis"])
def test_a_redis_on_a_socket_is_shown_as_it_was_written(url: str) -> None:
    assert without_password(url) == url


def test_acts_are_remembered_and_told_to_the_log() -> None:
    async def scenario() -> None:
        async with house() as home:
            await home.router.SetPolicy(router_pb2.SetPolicyRequest(policy="none"))
            await home.router.SetKillSwitch(router_pb2.SetKillSwitchRequest(engaged=True))
            acts = (await home.router.ListActs(router_pb2.ListActsRequest())).acts

            assert [(act.act, act.detail) for act in acts] == [
                ("kill switch engaged", ""),
                ("policy put in charge", "none, in place of static"),
            ]
            assert all(act.peer.startswith("ipv4:127.0.0.1:") for act in acts)

    run(scenario())


def test_the_learning_curve_of_a_house_has_a_point_a_request() -> None:
    async def scenario() -> None:
        async with house() as home:
            await home.answer()
            await home.answer(speculation={"off": True})
            points = (await home.router.ShowLearningCurve(router_pb2.ShowLearningCurveRequest())).points

            drafted, plain = points
            assert (drafted.requests, plain.requests) == (1, 1)
            assert drafted.drafting.emitted_tokens > drafted.drafting.rounds > 0
            assert plain.plain.emitted_tokens == plain.plain.rounds == 40
            assert plain.drafting.rounds == 0

    run(scenario())


def test_a_curve_keeps_every_request_in_few_points() -> None:
    kept = LearningCurve()
    for number in range(5000):
        kept.add(RoundsSum(rounds=1, emitted_tokens=number, seconds=0.5), RoundsSum(rounds=2, emitted_tokens=2))

    assert len(kept.points) <= curve.MOST_POINTS
    assert sum(point.requests for point in kept.points) == 5000
    assert len({point.requests for point in kept.points[:-1]}) == 1
    assert sum(point.drafting.emitted_tokens for point in kept.points) == sum(range(5000))
    means = [point.drafting.emitted_tokens / point.drafting.rounds for point in kept.points]
    assert means == sorted(means), "in the order in which they ended"
