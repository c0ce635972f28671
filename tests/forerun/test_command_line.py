"""The command line: it teaches, it answers programs in JSON, and its errors are one line."""

import importlib.metadata
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from controller.tokens import Role, Tokens
from forerun.__main__ import app, main
from forerun.commands import worker
from forerun.commands.fleet_options import drafters_of, fleet_settings
from forerun.commands.generate import shape_of
from forerun.local_fleet import CONTROLLER_FILE, FleetSettings
from forerun.models import model_folder
from speculation.errors import CapacityError, ConfigurationError, InvalidRequestError
from speculation.tree import TreeShape
from tests.forerun.fake_service import WORDS, FakeGenerationService, serving

COMMANDS = (
    *("up", "demo", "generate", "diagnose", "top", "health", "worker", "controller", "gateway", "page"),
    *("bench", "router", "config", "token", "zoo"),
)


@pytest.fixture
def service() -> FakeGenerationService:
    return FakeGenerationService()


@pytest.fixture
def address(service: FakeGenerationService) -> Iterator[str]:
    with serving(service) as address:
        yield address


def forerun(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["forerun", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_help_names_every_command_and_shows_how_to_begin() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output

    for command in COMMANDS:
        assert command in shown
    assert "forerun demo" in shown


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert forerun(monkeypatch, "--version") == 0

    assert capsys.readouterr().out == f"forerun {importlib.metadata.version('forerun')}\n"


@pytest.mark.parametrize(
    "command",
    [
        *("up", "demo", "generate", "diagnose", "top", "health", "worker"),
        *(f"router {name}" for name in ("show", "explain", "arms", "policy", "kill", "reload")),
        *(f"config {name}" for name in ("check", "diff", "schema")),
        "token new",
    ],
)
def test_the_help_of_a_command_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output

    assert f"forerun {command}" in shown


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running the code."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['forerun', '--help']\n"
        "from forerun.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass"
    )

    assert not {"torch", "transformers", "grpc", "numpy", "redis", "tokenizers"} & loaded_by(code)


def test_a_model_of_the_zoo_is_found_without_loading_torch() -> None:
    """Loading it takes seconds, and whoever starts a fleet waits for them before its workers even begin."""
    code = "from forerun.models import model_folder; model_folder('zoo:code')"

    assert not {"torch", "transformers"} & loaded_by(code)


def test_generate_streams_the_text_to_stdout_and_all_else_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert forerun(monkeypatch, "generate", "what?", "--target", address) == 0

    assert capsys.readouterr().out == "".join(WORDS) + "\n"


def test_generate_answers_programs_with_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert forerun(monkeypatch, "generate", "what?", "--target", address, "--json", "--explain") == 0

    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["text"] == "".join(WORDS)
    assert answer["finish_reason"] == "length"
    assert answer["acceptance"]["num_draft_tokens"] == 6
    assert answer["derived"]["mean_acceptance_length"] == pytest.approx(2.0)
    assert answer["rounds"][0]["accepted"] == [0, 2]


def test_explain_draws_the_tree_of_every_round(
    monkeypatch: pytest.MonkeyPatch, address: str, service: FakeGenerationService
) -> None:
    from rich.console import Console

    import forerun.commands.generate as command

    recorder = Console(record=True, width=120, file=io.StringIO())
    monkeypatch.setattr(command, "PEOPLE", recorder)
    assert forerun(monkeypatch, "generate", "what?", "--target", address, "--explain") == 0

    shown = recorder.export_text()
    assert "static: code, tree 2 deep, 2 wide, 3 nodes" in shown
    assert "kept 2 of 3" in shown
    assert "area" in shown
    assert "volume" in shown


def test_options_of_generate_reach_the_service(
    monkeypatch: pytest.MonkeyPatch, address: str, service: FakeGenerationService
) -> None:
    options = ["--temperature", "0.8", "--seed", "3", "--drafters", "code, math", "--shape", "4x1x4", "--chat"]
    assert forerun(monkeypatch, "generate", "what?", "--target", address, *options) == 0

    request = service.requests[0]
    assert request.chat.messages[0].content == "what?"
    assert request.sampling.seed == 3
    assert list(request.speculation.drafters) == ["code", "math"]
    assert request.speculation.shape.depth == 4


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(["generate", "x", "--temperature", "-1"], 2, "temperature", id="negative temperature"),
        pytest.param(["generate", "x", "--shape", "big"], 2, "DEPTHxBRANCHINGxBUDGET", id="no shape"),
        pytest.param(["generate", "x", "--shape", "99x1x4"], 2, "between 1 and 64", id="an over-deep tree"),
        pytest.param(["generate", "x", "--target", "127.0.0.1:1"], 1, "forerun up", id="no controller"),
        pytest.param(["up", "--drafters", "psychic"], 2, "psychic", id="unknown zoo model"),
        pytest.param(["up", "--drafters", "=x"], 2, "NAME=MODEL", id="a drafter without a name"),
        pytest.param(["up", "--listen", "nowhere"], 2, "--listen", id="no address"),
        pytest.param(["up", "--listen", "127.0.0.1:99999"], 2, "99999", id="no port"),
        pytest.param(["up", "--dtype", "int3"], 2, "--dtype", id="unknown number format"),
        pytest.param(["up", "--exact"], 2, "is for bfloat16", id="exact in float32"),
        pytest.param(["up", "--prepack", "on", "--dtype", "float16"], 2, "is for float32", id="packed in float16"),
        pytest.param(["up", "--prepack", "perhaps"], 2, "--prepack", id="neither packed nor not"),
        pytest.param(["up", "--drafters", "controller=x"], 2, "another process", id="a name that is taken"),
        pytest.param(["up", "--config", "/no/such/file.yaml"], 2, "/no/such/file.yaml", id="no configuration"),
        pytest.param(["worker", "draft", "--model", "zoo:psychic"], 2, "psychic", id="unknown model of a worker"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert forerun(monkeypatch, *arguments) == status

    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_an_error_of_the_service_is_told_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, service: FakeGenerationService
) -> None:
    service.failures = [CapacityError("256 requests in flight; call again after a pause")]

    assert forerun(monkeypatch, "generate", "what?", "--target", address, "--json") == 1

    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["reason"] == "CAPACITY"
    assert "call again after a pause" in shown.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("drafters: {code: zoo:code}\nverify_workers: none\n", ":2: verify_workers", id="wrong type"),
        pytest.param("target: zoo:target\nspeed: 11\n", ":2: speed", id="unknown field"),
        pytest.param("router:\n  policy: psychic\n", ":2: router.policy", id="unknown policy"),
        pytest.param("listen: [", "is no YAML", id="no YAML"),
    ],
)
def test_a_malformed_configuration_is_told_with_line_and_field(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(content)

    with pytest.raises(ConfigurationError) as caught:
        fleet_settings(file, {})

    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_address_in_use_is_told_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str
) -> None:
    monkeypatch.chdir(tmp_path)

    assert forerun(monkeypatch, "up", "--listen", address) == 2

    assert f"{address}: is in use" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.log"))


def test_the_command_line_overrules_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("target: zoo:target\nverify_workers: 2\nlisten: 127.0.0.1:6000\n")

    settings = fleet_settings(file, {"listen": "127.0.0.1:0", "target": None}, redis="none")

    assert (settings.target, settings.verify_workers, settings.listen) == ("zoo:target", 2, "127.0.0.1:0")
    assert settings.redis is None


@pytest.mark.parametrize(
    ("given", "processors", "threads"),
    [
        ({}, 2, 1),
        ({}, 32, 26),
        ({"verify_workers": 2}, 32, 13),
        ({"tensor_parallel": 2}, 32, 13),
        ({"target_threads": 3}, 2, 3),
    ],
)
def test_targets_share_the_processors_that_others_leave(given: dict[str, int], processors: int, threads: int) -> None:
    settings = FleetSettings(**given)

    assert settings.threads("verify", processors=processors) == threads
    assert settings.threads("draft", processors=processors) == 1


def test_a_memory_needs_a_drafter_without_a_model() -> None:
    assert fleet_settings(None, {"drafters": drafters_of("code,suffix"), "remember": 5000}).remember == 5000
    assert fleet_settings(None, {"drafters": drafters_of("copy=suffix:./mine"), "remember": 5000}).remember == 5000
    with pytest.raises(ConfigurationError, match="--remember: is for drafters without a model"):
        fleet_settings(None, {"remember": 5000})
    with pytest.raises(ConfigurationError, match="--remember"):
        fleet_settings(None, {"drafters": drafters_of("suffix"), "remember": -1})


def test_drafters_are_zoo_names_or_models_of_ones_own() -> None:
    assert drafters_of("code, small=./models/small") == {"code": "zoo:code", "small": "./models/small"}
    assert drafters_of("code,suffix") == {"code": "zoo:code", "suffix": "suffix"}
    assert drafters_of("") == {}
    with pytest.raises(ConfigurationError, match="twice"):
        drafters_of("code,code")


def test_a_shape_is_three_numbers_or_the_length_of_a_chain() -> None:
    assert shape_of("6x4x16") == TreeShape(depth=6, branching=4, budget=16)
    assert shape_of("5") == TreeShape(depth=5, branching=1, budget=5)
    with pytest.raises(InvalidRequestError):
        shape_of("6x4")


def test_a_worker_is_told_folders_and_never_zoo_names(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(worker, "become", lambda module, arguments: became.append((module, list(arguments))))

    assert forerun(monkeypatch, "worker", "draft", "--model", "zoo:code", "--listen", "127.0.0.1:0") == 0

    ((module, arguments),) = became
    assert module == "worker"
    assert arguments[:3] == ["--role", "draft", "--model"]
    assert Path(arguments[3]).is_dir()
    assert arguments[4:] == ["--name", "code", "--listen", "127.0.0.1:0"]


def test_a_drafter_without_a_model_is_told_the_folder_of_its_target() -> None:
    prefix, _, folder = model_folder("suffix:zoo:code").partition(":")

    assert prefix == "suffix"
    assert Path(folder).is_dir()
    assert model_folder("suffix:./mine") == "suffix:./mine"


@pytest.mark.parametrize(
    ("role", "model", "name"),
    [
        pytest.param("verify", "zoo:target@deep", "target", id="the target"),
        pytest.param("draft", "zoo:code", "code", id="of the zoo"),
        pytest.param("draft", "./models/small/", "small", id="a folder"),
        pytest.param("draft", "somebody/tiny-llama", "tiny-llama", id="a hub id"),
        pytest.param("draft", "suffix:zoo:target", "suffix", id="no model"),
    ],
)
def test_a_worker_has_a_name_even_if_none_is_given(role: Literal["draft", "verify"], model: str, name: str) -> None:
    assert worker.default_name(role, model) == name


def test_a_token_is_shown_once_and_its_hash_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens.yaml"
    main_of = ["forerun", "token", "new", "--role", "call", "--tenant", "acme", "--days", "30", "--file", str(file)]

    made = set()
    for arguments in (main_of, [*main_of, "--json"]):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        made.add(capsys.readouterr().out.strip())

    tokens = {json.loads(line)["token"] if line.startswith("{") else line for line in made}
    principals = [Tokens(file).principal([("authorization", f"Bearer {token}")]) for token in tokens]
    assert [(one.role, one.tenant) for one in principals] == [(Role.CALL, "acme")] * 2
    assert not [token for token in tokens if token in file.read_text()]


def test_a_fleet_in_plain_text_for_other_machines_must_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told before any model is loaded."""
    arguments = ("up", "--listen", "0.0.0.0:0", "--state-folder", str(tmp_path))

    assert forerun(monkeypatch, *arguments) == 2
    assert "listen: other machines can reach 0.0.0.0:0" in capsys.readouterr().err
    assert fleet_settings(None, {"listen": "0.0.0.0:0", "insecure": True}).insecure


@pytest.mark.parametrize(
    ("redis", "url"),
    [
        pytest.param("{url: 'redis://host:6379', namespace: prod}", "redis://host:6379", id="a server"),
        pytest.param("{url: 'embedded:///srv/fleet/redis', namespace: prod}", "unix:///srv/fleet/redis/redis.sock"),
    ],
)
def test_a_worker_joins_the_fleet_of_a_folder(tmp_path: Path, redis: str, url: str) -> None:
    (tmp_path / CONTROLLER_FILE).write_text(f"tokenizer: some/model\nredis: {redis}\n")

    assert worker.registry_of(tmp_path) == {"redis": url, "namespace": "prod"}


def test_a_fleet_that_cannot_be_joined_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no controller"):
        worker.registry_of(tmp_path)

    (tmp_path / CONTROLLER_FILE).write_text("tokenizer: some/model\n")
    with pytest.raises(ConfigurationError, match="add the worker to workers in"):
        worker.registry_of(tmp_path)
