"""A worker that knows its controllers by their certificates."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from speculation.errors import ConfigurationError
from speculation.v1 import common_pb2, draft_pb2_grpc
from tests.certificates import Authority
from tests.worker.grpc_session import DraftTalk, open_draft, propose, save_tiny_model
from tests.worker.tiny_worker import PROMPT, run
from worker.__main__ import main
from worker.serve import running
from worker.settings import WorkerSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def settings(model: Path, **fields: Any) -> WorkerSettings:
    return WorkerSettings(role="draft", model=f"suffix:{model}", name="tiny", grace_s=0.2, **fields)


async def described(channel: grpc.aio.Channel) -> str:
    """What the worker calls itself, over a channel that is used for it alone."""
    async with channel:
        stub: Any = draft_pb2_grpc.DraftServiceStub(channel)  # type: ignore[no-untyped-call]
        reply = await stub.Describe(common_pb2.DescribeRequest(), timeout=10)
        return str(reply.name)


async def refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await described(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_only_controllers_with_a_certificate_of_the_ca_are_served(model: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        fleet = Authority("fleet")
        certificate, key = fleet.pair().write(tmp_path, "worker")
        tls = {"tls_cert": certificate, "tls_key": key, "tls_client_ca": fleet.write(tmp_path)}
        async with running(settings(model, **tls)) as ready:
            assert await described(fleet.channel(ready.address, fleet.pair("controller"))) == "tiny"
            await refused(fleet.channel(ready.address))
            await refused(fleet.channel(ready.address, Authority("fleet").pair("controller")))
            await refused(fleet.channel(ready.address, fleet.pair("controller", expired=True)))
            await refused(grpc.aio.insecure_channel(ready.address))

    run(scenario())


def test_a_worker_takes_up_new_certificates_while_sessions_run(model: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        before, after = Authority("before"), Authority("after")
        certificate, key = before.pair().write(tmp_path, "worker")
        tls = {"tls_cert": certificate, "tls_key": key, "tls_client_ca": before.write(tmp_path)}
        async with (
            running(settings(model, **tls)) as ready,
            before.channel(ready.address, before.pair("controller")) as old,
        ):
            talk = DraftTalk(old)
            await talk.ask(open_draft())

            after.pair().write(tmp_path, "worker")
            after.write(tmp_path)

            assert await described(after.channel(ready.address, after.pair("controller"))) == "tiny"
            await refused(after.channel(ready.address, before.pair("controller")))
            reply = await talk.ask(propose(PROMPT))
            assert reply.status == common_pb2.SESSION_STATUS_OK
            await talk.call.done_writing()

    run(scenario())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        pytest.param(["--listen", "0.0.0.0:0"], "listen: other machines can reach 0.0.0.0:0", id="plain text"),
        pytest.param(
            ["--listen", "0.0.0.0:0", "--tls-cert", "c", "--tls-key", "k"], "listen: other", id="callers unknown"
        ),
        pytest.param(["--tls-cert", "c"], "tls_key: is missing", id="no key"),
        pytest.param(["--tls-key", "k"], "tls_cert: is missing", id="no certificate"),
        pytest.param(["--tls-client-ca", "c"], "tls_cert: is missing", id="a demand alone"),
        pytest.param(["--tls-cert", "no/c", "--tls-key", "no/k"], "tls_cert: no/c cannot be read", id="no file"),
    ],
)
def test_what_would_leave_a_worker_unprotected_is_refused_by_name(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--role", "draft", "--name", "tiny", "--model", "suffix:unused", *flags])

    assert status == 1
    assert told in capsys.readouterr().err


def test_plain_text_for_other_machines_can_be_meant() -> None:
    assert WorkerSettings(role="draft", model="m", name="n", listen="0.0.0.0:0", insecure=True).insecure


def test_the_loopback_needs_no_word() -> None:
    for listen in ("127.0.0.1:0", "127.8.8.8:0", "[::1]:0", "localhost:0"):
        WorkerSettings(role="draft", model="m", name="n", listen=listen)
    with pytest.raises(ConfigurationError, match="listen"):
        WorkerSettings(role="draft", model="m", name="n", listen="worker.example:0")
