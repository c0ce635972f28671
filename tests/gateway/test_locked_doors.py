"""Doors that are locked, over gRPC and HTTP, with real certificates: who is refused, and what is told of it."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.settings import MetricsSettings, QuotaSettings
from forerun.__main__ import main
from forerun.client import AsyncClient, Client, RouterClient
from forerun.connection import Connection
from forerun.health import State, health_of
from forerun.local_fleet import FleetSettings, HttpTlsSettings, local_fleet
from gateway.serve import running
from gateway.settings import GatewaySettings
from speculation.errors import ConfigurationError, WorkerUnavailableError
from speculation.exposure import is_loopback
from speculation.v1 import router_pb2
from tests.certificates import Authority
from tests.controller.house import eventually, house, plain, read, request, run
from tests.controller.test_access import UNKNOWN, bearer, everything_logged, made, refusal
from tests.controller.test_tls import refused, tls_settings
from tests.gateway.front import MODEL, PROMPT, front, front_of
from tests.scraping import scrape
from worker.settings import WorkerSettings

NAME = "controller.forerun"
"""In the controller's certificate: not the address by which it is called."""


class Tls:
    """A controller that shows a certificate and demands one, and what callers need for it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.settings = tls_settings(folder, self.authority.pair(NAME), client_ca=self.authority)
        self.ca = str(self.authority.write(folder, "ca"))
        pair = self.authority.pair("caller")
        (folder / "caller.pem").write_bytes(pair.certificate + pair.key)
        self.cert = str(folder / "caller.pem")
        self.key = pair.key.decode()

    @property
    def way(self) -> dict[str, Any]:
        """How one calls it."""
        return {"ca": self.ca, "cert": self.cert, "server_name": NAME}

    @property
    def flags(self) -> list[str]:
        """The same on the command line."""
        return ["--ca", self.ca, "--cert", self.cert, "--server-name", NAME]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["forerun", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_whoever_is_refused_is_counted_by_reason_and_logged_without_secrets(tmp_path: Path) -> None:
    """No token, an unknown one, an expired one, another role, another tenant, over quota, a foreign certificate, an
    expired one, none: over gRPC, and what HTTP can bring of it over HTTP."""
    tls, file = Tls(tmp_path), tmp_path / "tokens.yaml"
    caller, expired = made(file), made(file, days=-1)
    settings: dict[str, Any] = {
        **tls.settings,
        "tokens": file,
        "quotas": (QuotaSettings(tenant="acme", requests_per_minute=2),),
        "metrics": MetricsSettings(listen="127.0.0.1:0"),
    }
    metrics = settings.pop("metrics")

    async def scenario() -> None:
        async with house(more=settings, metrics=metrics, settle=False) as home:
            address = home.controller.address
            await eventually(lambda: home.controller.fleet.serves)
            ours = tls.authority.pair("caller")
            for shown in (None, Authority().pair("caller"), tls.authority.pair("caller", expired=True)):
                await refused(tls.authority.channel(address, shown))
            async with Connection.to(address, **tls.way).aio_channel() as channel:
                generation, router = type(home.generation)(channel), type(home.router)(channel)

                def asked(token: str | None, **fields: Any) -> Any:
                    metadata = bearer(token) if token else ()
                    return read(generation.Generate(request(**fields), timeout=10, metadata=metadata))

                assert (await asked(caller)).token_ids == plain()
                codes = [
                    (await refusal(call)).code()
                    for call in (
                        asked(None),
                        asked(UNKNOWN),
                        asked(expired),
                        router.Show(router_pb2.ShowRequest(), timeout=10, metadata=bearer(caller)),
                        asked(caller, tenant="other"),
                    )
                ]
                async with front_of(address, **tls.way) as gateway:
                    good = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4}

                    async def status(token: str | None, **fields: Any) -> int:
                        headers = {"authorization": f"Bearer {token}"} if token else {}
                        body = good | fields
                        return (await gateway.http.post("/v1/completions", json=body, headers=headers)).status_code

                    over_http = [
                        await status(None),
                        await status(expired),
                        await status(caller, speculation={"tenant": "other"}),
                        await status(caller),
                        await status(caller),
                    ]
                over_quota = (await refusal(asked(caller))).code()
            told = await asyncio.to_thread(scrape, home.controller.metrics_address)

        status_code = grpc.StatusCode
        assert codes == [status_code.UNAUTHENTICATED] * 3 + [status_code.PERMISSION_DENIED] * 2
        assert over_quota is status_code.RESOURCE_EXHAUSTED
        assert over_http[:4] == [401, 401, 403, 200]
        assert over_http[4] == 429
        counted = "forerun_calls_refused_total"
        assert told.value(counted, reason="UNAUTHENTICATED") >= 5
        assert told.value(counted, reason="ACCESS_DENIED") == 3
        assert told.value(counted, reason="QUOTA") == 2
        secrets = (caller, expired, UNKNOWN, tls.key.splitlines()[1], ours.key.decode().splitlines()[1])
        assert not [secret for secret in secrets if secret in logged.getvalue() + told.text]
        assert logged.getvalue().count("call refused") >= 3

    with everything_logged() as logged:
        run(scenario())


def test_every_client_of_ours_can_show_a_certificate_and_meet_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = Tls(tmp_path)

    async def scenario() -> None:
        async with house(more=tls.settings, settle=False) as home:
            address = home.controller.address
            await eventually(lambda: home.controller.fleet.serves)

            def calls() -> None:
                with Client(address, **tls.way) as client:
                    assert client.generate("abc", max_new_tokens=3).token_ids
                with RouterClient(address, **tls.way) as router:
                    assert router.show().policy == "static"
                for lacking in ("cert", "server_name"):
                    way = tls.way | {lacking: None}
                    with RouterClient(address, **way) as router, pytest.raises(WorkerUnavailableError):
                        router.show()
                assert health_of(Connection.to(address, **tls.way), timeout_s=10).state is State.SERVING
                assert health_of(Connection.to(address), timeout_s=10).state is State.SILENT
                assert command(monkeypatch, "health", address, *tls.flags) == 0
                assert command(monkeypatch, "health", address, "--ca", tls.ca, "--server-name", NAME) == 1
                assert command(monkeypatch, "generate", "abc", "-n", "3", "--target", address, *tls.flags) == 0
                assert command(monkeypatch, "router", "show", "--target", address, *tls.flags) == 0

            await asyncio.to_thread(calls)
            async with AsyncClient(address, **tls.way) as client:
                assert await client.serves()

    run(scenario())
    assert "controller serving" in capsys.readouterr().out


def test_a_gateway_reaches_a_controller_over_tls(tmp_path: Path) -> None:
    tls = Tls(tmp_path)

    async def scenario() -> None:
        async with front(tls.way, more=tls.settings, settle=False) as (gateway, home):
            await eventually(lambda: home.controller.fleet.serves)
            assert (await gateway.http.get("/health")).status_code == 200
            assert (await gateway.post()).status_code == 200
            async with front_of(home.controller.address) as in_plain_text:
                assert (await in_plain_text.post()).status_code == 503

    run(scenario())


@pytest.mark.parametrize(
    ("way", "told"),
    [
        pytest.param({"cert": "caller.pem"}, "cert: is for TLS", id="a certificate in plain text"),
        pytest.param({"server_name": NAME}, "server_name: is for TLS", id="a name in plain text"),
        pytest.param({"ca": "system", "cert": "nowhere.pem"}, "cert: nowhere.pem cannot be read", id="no file"),
        pytest.param({"ca": "nowhere.pem"}, "ca: nowhere.pem cannot be read", id="no authority"),
    ],
)
def test_what_cannot_be_a_way_is_told_by_its_name(way: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Connection.to("127.0.0.1:50050", **way)


def test_a_certificate_without_its_key_is_told(tmp_path: Path) -> None:
    alone = tmp_path / "alone.pem"
    alone.write_bytes(Authority().pair().certificate)

    with pytest.raises(ConfigurationError, match=r"cert: .*is not the unencrypted key of"):
        Connection.to("127.0.0.1:50050", ca="system", cert=alone)

    async def scenario() -> None:
        given: Any = {"controller": "127.0.0.1:1", "listen": "127.0.0.1:0", "ca": "system", "cert": alone}
        with pytest.raises(ConfigurationError, match="cert: "):
            async with running(GatewaySettings(**given)):
                pass

    run(scenario())


def test_what_nobody_set_listens_on_the_loopback_or_not_at_all() -> None:
    """What then really listens is scanned in tests/end_to_end/test_fleet_on_this_machine.py."""
    fleet, gateway = FleetSettings(), GatewaySettings()

    assert is_loopback(fleet.listen)
    assert is_loopback(gateway.listen)
    assert is_loopback(WorkerSettings(role="draft", model="m", name="n").listen)
    assert (fleet.http, fleet.metrics.listen) == (None, None)
    assert fleet.redis is not None
    assert fleet.redis.url.startswith("embedded://"), "a unix socket"


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"tls": {"certificate": "c.pem", "key": "c.key"}}, id="the gateway would not know the controller"),
        pytest.param({"http_tls": HttpTlsSettings(ca=Path("ca.pem"))}, id="the controller speaks plain text"),
    ],
)
def test_a_fleet_whose_gateway_could_not_reach_it_does_not_start(settings: dict[str, Any], tmp_path: Path) -> None:
    async def scenario() -> None:
        given = FleetSettings(listen="127.0.0.1:0", http="127.0.0.1:0", **settings)
        with pytest.raises(ConfigurationError, match="http_tls: "):
            async with local_fleet(given, tmp_path):
                pass

    run(scenario())
