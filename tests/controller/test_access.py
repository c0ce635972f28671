"""Who may call what, and on whose behalf."""

import asyncio
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from controller.tokens import Role, Tokens, new_token
from forerun.client import Client, RouterClient
from speculation.errors import AccessDeniedError, ConfigurationError, UnauthenticatedError
from speculation.logs import JsonLines
from speculation.rpc import error_info
from speculation.v1 import router_pb2
from tests.controller.house import House, eventually, house, plain, read, request, run

UNKNOWN = "forerun_" + "x" * 43


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.yaml"


def made(file: Path, role: Role = Role.CALL, tenant: str = "acme", *, days: float | None = None) -> str:
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    return new_token(file, role=role, tenant=tenant, expires=expires)


def content(file: Path) -> str:
    return file.read_text()


def write(file: Path, text: str) -> None:
    file.write_text(text)


def remove(file: Path) -> None:
    file.unlink()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def answer(home: House, token: str, **fields: Any) -> list[int]:
    call = home.generation.Generate(request(**fields), timeout=10, metadata=bearer(token))
    return (await read(call)).token_ids


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = error_info(caught.value)
    assert info is not None
    assert info.domain == "forerun"
    return caught.value


def test_answers_need_a_token_that_is_valid_now(file: Path) -> None:
    async def scenario() -> None:
        valid, expired = made(file), made(file, days=-1)
        async with house(more={"tokens": file}) as home:
            assert await answer(home, valid) == plain()

            strangers: list[tuple[tuple[str, str], ...]] = [
                (),
                bearer(UNKNOWN),
                bearer(expired),
                bearer(""),
                (("authorization", f"Basic {valid}"),),
                (*bearer(valid), *bearer(UNKNOWN)),
            ]
            for metadata in strangers:
                error = await refusal(read(home.generation.Generate(request(), timeout=10, metadata=metadata)))
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert home.controller.access.refusals.counts == {"UNAUTHENTICATED": len(strangers)}
            assert home.sessions() == 0

    run(scenario())


def test_operating_needs_the_role(file: Path) -> None:
    async def scenario() -> None:
        caller, operator = made(file), made(file, Role.OPERATE, "")
        async with house(more={"tokens": file}) as home:
            shown = await home.router.Show(router_pb2.ShowRequest(), timeout=10, metadata=bearer(operator))
            assert shown.policy == "static"
            assert await answer(home, operator) == plain()

            error = await refusal(home.router.SetKillSwitch(router_pb2.SetKillSwitchRequest(engaged=True), timeout=10))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            error = await refusal(home.router.Show(router_pb2.ShowRequest(), timeout=10, metadata=bearer(caller)))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert home.controller.access.refusals.counts == {"UNAUTHENTICATED": 1, "ACCESS_DENIED": 1}

    run(scenario())


def test_nobody_speaks_for_another_tenant(file: Path) -> None:
    """What workers share is shared by the tenant of the token."""

    async def scenario() -> None:
        acme, nameless = made(file), made(file, tenant="")
        async with house(more={"tokens": file}) as home:
            await answer(home, acme)
            await answer(home, acme, tenant="acme")
            await answer(home, nameless)
            for token, tenant in ((acme, "other"), (nameless, "acme")):
                error = await refusal(answer(home, token, tenant=tenant))
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
                assert error_info(error).metadata["field"] == "tenant"  # type: ignore[union-attr]

            assert home.workers[0].worker.cache_salts == ["acme", "acme", ""]

    run(scenario())


def test_without_a_file_the_door_is_open() -> None:
    async def scenario() -> None:
        async with house() as home:
            assert await answer(home, UNKNOWN, tenant="anybody") == plain()
            assert (await home.router.Show(router_pb2.ShowRequest(), timeout=10)).policy == "static"

    run(scenario())


def test_health_is_open_to_all_and_can_be_watched(file: Path) -> None:
    """A trap of interceptors: a watch that is wrapped ends at once, and a balancer sends nothing."""

    async def scenario() -> None:
        made(file)
        async with house(more={"tokens": file}) as home:
            health = health_pb2_grpc.HealthStub(home.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING

            await home.workers[0].kill()

            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()

    run(scenario())


def test_reflection_needs_a_token_and_says_so_before_it_is_asked(file: Path) -> None:
    """A refusal waits for no message: a stream without one would hang."""

    async def scenario() -> None:
        token = made(file)
        async with house(more={"tokens": file}) as home:
            stub = reflection_pb2_grpc.ServerReflectionStub(home.channel)
            error = await refusal(stub.ServerReflectionInfo(timeout=10).read())
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED

            call = stub.ServerReflectionInfo(timeout=10, metadata=bearer(token))
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await call.read()).list_services_response.service
            await call.done_writing()

    run(scenario())


def test_an_unknown_call_is_unknown_with_or_without_a_token(file: Path) -> None:
    async def scenario() -> None:
        made(file)
        async with house(more={"tokens": file}) as home:
            call = home.channel.unary_unary("/speculation.v1.Nobody/Nothing")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(scenario())


def test_a_cancellation_passes_the_door(file: Path) -> None:
    """A trap of interceptors: one that awaits the call keeps its cancellation, and workers go on for nobody."""

    async def scenario() -> None:
        token = made(file)
        async with house(more={"tokens": file}) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            call = home.generation.Generate(request(max_new_tokens=2000), timeout=20, metadata=bearer(token))
            await call.read()
            assert home.sessions() > 0

            call.cancel()

            await eventually(lambda: home.sessions() == 0)
            await eventually(lambda: home.controller.generation.reception.inside == 0)

    run(scenario())


def test_a_deadline_passes_the_door(file: Path) -> None:
    async def scenario() -> None:
        token = made(file)
        async with house(more={"tokens": file}) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            call = home.generation.Generate(request(max_new_tokens=2000), timeout=0.5, metadata=bearer(token))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)

            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await eventually(lambda: home.sessions() == 0)

    run(scenario())


def test_the_file_is_followed_and_a_wrong_one_changes_nothing(file: Path) -> None:
    async def scenario() -> None:
        first = made(file)
        async with house(more={"tokens": file}) as home:
            second = made(file)
            assert await answer(home, second) == plain()

            good = content(file)
            write(file, "tokens: [nonsense")
            assert await answer(home, second) == plain()
            remove(file)
            assert await answer(home, second) == plain()

            write(file, "\n".join(line for line in good.splitlines() if line != good.splitlines()[1]))
            assert await answer(home, second) == plain()
            assert (await refusal(answer(home, first))).code() is grpc.StatusCode.UNAUTHENTICATED
            write(file, "tokens: []")
            assert (await refusal(answer(home, second))).code() is grpc.StatusCode.UNAUTHENTICATED

    run(scenario())


def test_a_token_expires_while_the_controller_runs(file: Path) -> None:
    token = made(file, days=1)
    day_s = 86_400.0
    now = datetime.now(UTC).timestamp()
    tokens = Tokens(file, now=lambda: now)

    assert tokens.principal(bearer(token)).tenant == "acme"
    now += 2 * day_s
    with pytest.raises(UnauthenticatedError, match="expired"):
        tokens.principal(bearer(token))


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """All that the process logs, as the controller writes it, whatever the level."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_refusals_are_logged_without_secrets_and_requests_without_texts(file: Path) -> None:
    async def scenario() -> str:
        caller, expired = made(file), made(file, days=-1)
        async with house(more={"tokens": file}) as home:
            answered = await read(
                home.generation.Generate(request(text="my secret prompt"), timeout=10, metadata=bearer(caller))
            )
            for call in (
                read(home.generation.Generate(request(), timeout=10, metadata=bearer(UNKNOWN))),
                read(home.generation.Generate(request(), timeout=10, metadata=bearer(expired))),
                answer(home, caller, tenant="other"),
                home.router.Show(router_pb2.ShowRequest(), timeout=10, metadata=bearer(caller)),
            ):
                await refusal(call)
            write(file, f"tokens: [{caller}]")
            await answer(home, caller)
        secrets = (caller, expired, UNKNOWN, "my secret prompt", answered.text)
        assert not [secret for secret in secrets if secret in logged.getvalue()]
        assert str(answered.token_ids[:4])[1:-1] not in logged.getvalue()
        return logged.getvalue()

    with everything_logged() as logged:
        told = run(scenario())

    assert told.count("call refused") >= 2
    assert "tokens refused" in told
    assert "request ended" in told


def test_a_flood_of_refusals_is_told_once_a_second_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    from controller.access import Refusals

    now = 0.0
    refusals = Refusals(now=lambda: now)

    def knock() -> None:
        with pytest.raises(UnauthenticatedError), refusals.noted("/a/B", "ipv4:192.0.2.1:5"):
            raise UnauthenticatedError("no")

    for _ in range(1000):
        knock()
    now = 1.5
    knock()

    assert refusals.counts == {"UNAUTHENTICATED": 1001}
    assert [record.so_far for record in caplog.records] == [1, 1001]  # type: ignore[attr-defined]


def test_the_file_holds_hashes_only_and_only_its_owner_reads_it(file: Path) -> None:
    token = made(file, Role.OPERATE, "acme", days=30)

    assert token not in file.read_text()
    assert token.removeprefix("forerun_") not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert Tokens(file).principal(bearer(token)).role is Role.OPERATE


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("tokens:\n  - {sha256: abc, role: call}", r":2: tokens\.0\.sha256", id="no hash"),
        pytest.param("tokens:\n  - {sha256: '%s', role: admin}" % ("0" * 64), r":2: tokens\.0\.role", id="no role"),
        pytest.param(
            "tokens:\n  - {sha256: '%s', role: call, expires: '2027-01-01T00:00:00'}" % ("a" * 64),
            r"expires",
            id="a time of no zone",
        ),
        pytest.param("", "mapping", id="nothing"),
    ],
)
def test_a_wrong_file_is_named_at_the_start(file: Path, content: str, told: str) -> None:
    file.write_text(content)

    with pytest.raises(ConfigurationError, match=told):
        Tokens(file)


def test_a_missing_file_is_named_at_the_start(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tokens: .*cannot be read"):
        Tokens(file)


def test_a_token_is_added_to_no_file_that_is_wrong(file: Path) -> None:
    file.write_text("tokens: [nonsense")

    with pytest.raises(ConfigurationError):
        made(file)
    assert file.read_text() == "tokens: [nonsense"


def test_the_client_brings_a_token_and_gets_typed_errors(file: Path) -> None:
    async def scenario() -> None:
        caller, operator = made(file), made(file, Role.OPERATE)
        async with house(more={"tokens": file}) as home:
            address = home.controller.address

            def calls() -> None:
                with Client(address, token=caller) as client:
                    assert client.generate("abc", max_new_tokens=3, tenant="acme").text
                    with pytest.raises(AccessDeniedError, match="tenant"):
                        client.generate("abc", max_new_tokens=3, tenant="other")
                with Client(address) as client, pytest.raises(UnauthenticatedError):
                    client.generate("abc", max_new_tokens=3)
                with RouterClient(address, token=operator) as router:
                    assert router.show().policy == "static"
                with RouterClient(address, token=caller) as router, pytest.raises(AccessDeniedError, match="operate"):
                    router.show()

            await asyncio.to_thread(calls)

    run(scenario())


def test_a_client_sends_no_token_in_plain_text_to_another_machine() -> None:
    with pytest.raises(ConfigurationError, match="plain text"):
        Client("192.0.2.1:50050", token=UNKNOWN)
    Client("127.0.0.1:50050", token=UNKNOWN).close()
