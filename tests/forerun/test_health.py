"""`forerun health`: what probes are told about real controllers, real workers, and whoever else answers."""

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from forerun.__main__ import main
from forerun.connection import Connection
from forerun.health import KINDS, State, health_of
from speculation.v1 import draft_pb2, generation_pb2, verify_pb2
from tests import fakes
from tests.certificates import Authority
from tests.controller.house import eventually, house, run
from tests.forerun.fake_service import FakeGenerationService, serving
from worker import serve as worker_serve
from worker.settings import WorkerSettings
from zoo.catalog import model_folder


def forerun(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["forerun", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def closed_port() -> str:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_kinds_are_told_by_the_services_of_the_contract() -> None:
    contract = (generation_pb2, verify_pb2, draft_pb2)

    assert set(KINDS) == {
        service.full_name for file in contract for service in file.DESCRIPTOR.services_by_name.values()
    }


def test_a_controller_serves_while_it_has_a_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with house(fakes.description()) as running:
            address = running.controller.address
            await eventually(lambda: running.controller.fleet.serves)

            assert (await asyncio.to_thread(health_of, Connection.to(address), timeout_s=10)).state is State.SERVING
            assert await asyncio.to_thread(forerun, monkeypatch, "health", address) == 0

            await running.workers[0].kill()
            await eventually(lambda: not running.controller.fleet.serves)
            assert await asyncio.to_thread(forerun, monkeypatch, "health", address) == 1
            assert await asyncio.to_thread(forerun, monkeypatch, "health", address, "--alive") == 0

    run(scenario())

    states = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert states == ["controller serving", "controller not serving", "controller not serving"]


def test_a_worker_says_which_kind_it_is() -> None:
    settings = WorkerSettings(role="draft", model=f"suffix:{model_folder('target')}", name="suffix")

    async def scenario() -> None:
        async with worker_serve.running(settings) as ready:
            answer = await asyncio.to_thread(health_of, Connection.to(ready.address), timeout_s=10)

        assert (answer.kind, answer.state) == ("draft worker", State.SERVING)

    run(scenario())


def test_programs_are_told_of_every_process_and_the_worst_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(FakeGenerationService()) as stranger:
        addresses = (stranger, closed_port())

        assert forerun(monkeypatch, "health", *addresses, "--alive", "--json") == 1

    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert [process["address"] for process in told["processes"]] == list(addresses)
    assert [process["state"] for process in told["processes"]] == ["no answer", "no answer"]
    assert [process["problem"].partition(":")[0] for process in told["processes"]] == ["UNIMPLEMENTED", "UNAVAILABLE"]


def test_whoever_never_answers_keeps_a_probe_no_longer_than_it_allows() -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        answer = health_of(Connection.to(f"127.0.0.1:{frozen.getsockname()[1]}"), timeout_s=0.2)

    assert answer.state is State.SILENT
    assert answer.problem.startswith("DEADLINE_EXCEEDED")


@pytest.mark.parametrize("address", ["localhost", ":50050", "host:", "host:http"])
def test_what_is_no_address_is_the_callers_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert forerun(monkeypatch, "health", address) == 2

    assert "is not host:port" in capsys.readouterr().err


def test_a_worker_with_tls_is_asked_with_a_certificate_as_probes_of_kubernetes_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def scenario() -> None:
        fleet = Authority("fleet")
        (cert, key), ca = fleet.pair("worker.forerun").write(tmp_path, "worker"), fleet.write(tmp_path)
        settings = WorkerSettings(
            role="draft",
            model=f"suffix:{model_folder('target')}",
            name="suffix",
            tls_cert=cert,
            tls_key=key,
            tls_client_ca=ca,
        )
        async with worker_serve.running(settings) as ready:
            known = ("--ca", str(ca), "--server-name", "worker.forerun")
            shown = ("--cert", str(cert), "--key", str(key))
            asked = {
                (): 1,
                known: 1,
                (*shown, "--ca", str(ca)): 1,
                (*known, *shown): 0,
                (*known, *shown, "--alive"): 0,
            }
            for options, status in asked.items():
                assert await asyncio.to_thread(forerun, monkeypatch, "health", ready.address, *options) == status, (
                    options
                )

    run(scenario())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--server-name", "a"), "server_name: is for TLS: name the ca"),
        (("--cert", "a"), "cert: is for TLS: name the ca"),
        (("--key", "a"), "key: is for TLS: name the ca"),
        (("--ca", "nowhere.pem"), "ca: "),
    ],
)
def test_what_lacks_for_tls_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], told: str
) -> None:
    assert forerun(monkeypatch, "health", closed_port(), *options) == 2

    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1
