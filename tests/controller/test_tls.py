"""The controller behind TLS, and the way from it to its workers, with real certificates."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.serve import running
from controller.settings import Settings
from forerun.client import Client
from speculation.errors import ConfigurationError
from speculation.tls import Certificates, PemFile
from speculation.v1 import generation_pb2_grpc
from tests.certificates import Authority, Pair
from tests.controller.house import (
    House,
    LetterTokenizer,
    eventually,
    house,
    plain,
    read,
    request,
    run,
    until,
)


def tls_settings(folder: Path, pair: Pair, *, client_ca: Authority | None = None) -> dict[str, Any]:
    """The section of the settings, and its files."""
    certificate, key = pair.write(folder, "controller")
    section: dict[str, Any] = {"certificate": certificate, "key": key}
    return {"tls": section | ({"client_ca": client_ca.write(folder, "callers")} if client_ca else {})}


async def answered(channel: grpc.aio.Channel) -> list[int]:
    """The tokens of an answer over a channel that is used for it alone."""
    async with channel:
        stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)  # type: ignore[no-untyped-call]
        return (await read(stub.Generate(request(), timeout=10))).token_ids


async def refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_callers_are_served_over_tls_and_in_plain_text_no_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours = Authority()
        async with house(more=tls_settings(tmp_path, ours.pair())) as home:
            address = home.controller.address

            assert await answered(ours.channel(address)) == plain()
            await refused(grpc.aio.insecure_channel(address))

    run(scenario())


def test_a_caller_does_not_believe_a_foreign_or_an_expired_controller(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours = Authority()
        async with house(more=tls_settings(tmp_path, ours.pair())) as home:
            await refused(Authority().channel(home.controller.address))
        async with house(more=tls_settings(tmp_path, ours.pair(expired=True))) as home:
            await refused(ours.channel(home.controller.address))
        async with house(more=tls_settings(tmp_path, ours.pair("elsewhere.example"))) as home:
            await refused(ours.channel(home.controller.address))

    run(scenario())


def test_with_a_client_ca_callers_must_show_a_certificate_that_it_signed(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, callers = Authority(), Authority("callers")
        async with house(more=tls_settings(tmp_path, ours.pair(), client_ca=callers)) as home:
            address = home.controller.address

            assert await answered(ours.channel(address, callers.pair("caller"))) == plain()
            await refused(ours.channel(address))
            await refused(ours.channel(address, Authority("callers").pair("caller")))
            await refused(ours.channel(address, callers.pair("caller", expired=True)))

    run(scenario())


def test_certificates_are_replaced_while_streams_run(tmp_path: Path) -> None:
    """The old stream goes on to its end, and whoever comes now meets the new certificate."""

    async def scenario() -> None:
        before, after = Authority("before"), Authority("after")
        async with (
            house(more=tls_settings(tmp_path, before.pair())) as home,
            before.channel(home.controller.address) as old,
        ):
            stub: Any = generation_pb2_grpc.GenerationServiceStub(old)  # type: ignore[no-untyped-call]
            home.workers[0].worker.faults.delay_s = 0.02
            under_way = asyncio.create_task(read(stub.Generate(request(), timeout=20)))
            await eventually(lambda: home.sessions() > 0)

            after.pair().write(tmp_path, "controller")

            assert await answered(after.channel(home.controller.address)) == plain()
            await refused(before.channel(home.controller.address))
            assert (await under_way).token_ids == plain()

    run(scenario())


def test_files_that_do_not_fit_together_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Between the replacement of the certificate and that of its key, callers are served by the old pair."""

    async def scenario() -> None:
        ours = Authority()
        async with house(more=tls_settings(tmp_path, ours.pair())) as home:
            new = ours.pair()
            (tmp_path / "controller.pem").write_bytes(new.certificate)

            assert await answered(ours.channel(home.controller.address)) == plain()
            assert "certificates refused" in caplog.text

            (tmp_path / "controller.key").unlink()
            assert await answered(ours.channel(home.controller.address)) == plain()

            with caplog.at_level(logging.INFO):
                (tmp_path / "controller.key").write_bytes(new.key)
                assert await answered(ours.channel(home.controller.address)) == plain()
            assert "certificates read" in caplog.text

    run(scenario())


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_file_that_is_missing_at_the_start_is_named_by_its_setting(tmp_path: Path, missing: str) -> None:
    async def scenario() -> None:
        more = tls_settings(tmp_path, Authority().pair(), client_ca=Authority())
        more["tls"][missing].unlink()
        with pytest.raises(ConfigurationError, match=rf"tls\.{missing}: .* cannot be read"):
            async with house(more=more):
                pass

    run(scenario())


def test_a_key_that_is_encrypted_or_of_another_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    ours = Authority()
    certificate, _ = ours.pair().write(tmp_path, "one")
    _, key = ours.pair().write(tmp_path, "other")

    with pytest.raises(ConfigurationError, match=r"tls\.key: .*other\.key is not the unencrypted key of .*one\.pem"):
        Certificates(certificate=PemFile("tls.certificate", certificate), key=PemFile("tls.key", key))


def test_the_client_calls_over_tls(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours = Authority()
        ca = ours.write(tmp_path)
        async with house(more=tls_settings(tmp_path, ours.pair())) as home:

            def call() -> tuple[int, ...]:
                with Client(home.controller.address, ca=ca) as client:
                    answer = client.generate("abc", max_new_tokens=5, ignore_eos=True, seed=7)
                return answer.token_ids

            prompt = [ord(letter) - 32 for letter in "abc"]
            assert list(await asyncio.to_thread(call)) == plain(5, prompt=prompt)

    run(scenario())


# Controller and workers


def worker_files(folder: Path, pair: Pair, ca: Authority) -> dict[str, Any]:
    """The controller's section for its way to workers."""
    certificate, key = pair.write(folder, "to-workers")
    section = {"ca": ca.write(folder, "workers-ca"), "certificate": certificate, "key": key}
    return {"workers_tls": section}


def mutual(folder: Path, pair: Pair, ca: Authority) -> Certificates:
    """What a worker listens with."""
    certificate, key = pair.write(folder, "worker")
    return Certificates(
        certificate=PemFile("tls_cert", certificate),
        key=PemFile("tls_key", key),
        ca=PemFile("tls_client_ca", ca.write(folder, "worker-ca")),
    )


@asynccontextmanager
async def guarded_house(
    folder: Path, *, worker: Pair, controller: Pair, ca: Authority, **more: Any
) -> AsyncIterator[House]:
    """A controller and workers that know each other by certificates; `more` goes into the section."""
    sections = worker_files(folder, controller, ca)
    sections["workers_tls"] |= more
    async with house(more=sections, worker_certificates=mutual(folder, worker, ca)) as home:
        yield home


def test_controller_and_workers_know_each_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        fleet = Authority("fleet")
        async with guarded_house(tmp_path, worker=fleet.pair(), controller=fleet.pair("controller"), ca=fleet) as home:
            assert (await home.answer()).token_ids == plain()

    run(scenario())


def test_workers_that_come_and_go_share_a_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        fleet = Authority("fleet")
        pairs = {"worker": fleet.pair("worker.fleet"), "controller": fleet.pair("controller"), "ca": fleet}
        async with guarded_house(tmp_path, **pairs, server_name="worker.fleet") as home:
            assert (await home.answer()).token_ids == plain()
        async with guarded_house(tmp_path, **pairs) as home:
            assert not home.controller.fleet.serves

    run(scenario())


@pytest.mark.parametrize("stranger", ["controller", "worker"])
def test_a_stranger_is_not_talked_to_and_is_taken_in_once_it_has_the_right_certificate(
    tmp_path: Path, stranger: str
) -> None:
    """Neither side is started again: new connections follow the files."""

    async def scenario() -> None:
        fleet = Authority("fleet")
        pairs = {"worker": fleet.pair(), "controller": fleet.pair("controller")}
        foreign = Authority("fleet").pair("127.0.0.1")
        async with guarded_house(tmp_path, **{**pairs, stranger: foreign}, ca=fleet) as home:
            assert not home.controller.fleet.serves

            pairs[stranger].write(tmp_path, "worker" if stranger == "worker" else "to-workers")

            await until(home.controller.fleet, lambda fleet: fleet.serves and fleet.drafter_names)
            assert (await home.answer()).token_ids == plain()

    run(scenario())


def test_sessions_go_on_while_the_controller_takes_up_a_new_certificate(tmp_path: Path) -> None:
    async def scenario() -> None:
        fleet = Authority("fleet")
        async with guarded_house(tmp_path, worker=fleet.pair(), controller=fleet.pair("controller"), ca=fleet) as home:
            clients = [worker.client for worker in home.controller.fleet.workers]
            before = [client.channel for client in clients]
            home.workers[0].worker.faults.delay_s = 0.05
            under_way = asyncio.create_task(home.answer())
            await eventually(lambda: home.sessions() > 0)

            fleet.pair("controller").write(tmp_path, "to-workers")
            await eventually(lambda: all(now.channel is not old for now, old in zip(clients, before, strict=True)))

            answer = await under_way
            assert (answer.token_ids, answer.summary.failovers) == (plain(), 0)
            home.workers[0].worker.faults.delay_s = 0.0
            assert (await home.answer()).token_ids == plain()

    run(scenario())


# What is refused before anything listens


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "forerun.example:0"])
def test_plain_text_beyond_the_loopback_must_be_meant(listen: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=r"listen: other machines can reach .*insecure: true"):
            async with running(Settings(listen=listen, tokenizer="letters"), tokenizer=LetterTokenizer()):
                pass

    run(scenario())


def test_plain_text_beyond_the_loopback_can_be_meant(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        settings = Settings(listen="0.0.0.0:0", insecure=True, tokenizer="letters")
        async with running(settings, tokenizer=LetterTokenizer()) as controller:
            assert controller.address.startswith("0.0.0.0:")
        assert "whoever reaches this controller" in caplog.text

    run(scenario())
