"""A wrong configuration is refused with file, line and field."""

from pathlib import Path

import pytest

from controller.settings import Settings
from speculation.errors import ConfigurationError

GOOD = """\
listen: 127.0.0.1:0
tokenizer: models/target
workers:
  - {role: verify, address: 127.0.0.1:50061}
  - {role: draft, address: 127.0.0.1:50071}
redis:
  url: embedded://.forerun/redis
policy:
  name: merged-trie
  shape: {depth: 5, branching: 2, budget: 12}
limits:
  concurrent_requests: 8
timeouts:
  draft_timeout_s: 0.25
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "controller.yaml"
    path.write_text(text)
    return path


def test_what_is_written_is_what_is_meant(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, GOOD))

    assert [worker.role for worker in settings.workers] == ["verify", "draft"]
    assert settings.policy.shape.shape.budget == 12
    assert settings.timeouts.draft_timeout_s == 0.25
    assert settings.timeouts.verify_wait_s == 10
    assert settings.tokenizer == "models/target", "no such folder: a hub id"


def test_a_tokenizer_folder_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "target").mkdir(parents=True)

    assert Settings.load(written(tmp_path, GOOD)).tokenizer == str(tmp_path / "models" / "target")


def test_only_a_tokenizer_must_be_named(tmp_path: Path) -> None:
    settings = Settings.load(written(tmp_path, "tokenizer: some/model\n"))

    assert settings.listen == "127.0.0.1:50050"
    assert settings.redis is None


@pytest.mark.parametrize(
    ("was", "becomes", "line", "field"),
    [
        pytest.param("role: draft", "role: drafter", 5, "workers.1.role", id="a role that does not exist"),
        pytest.param("role: draft,", "", 5, "workers.1.role", id="a worker without a role"),
        pytest.param("127.0.0.1:50071", "127.0.0.1", 5, "workers.1.address", id="no port"),
        pytest.param("127.0.0.1:50071", "127.0.0.1:50061", 3, "workers", id="a worker listed twice"),
        pytest.param("tokenizer: models/target\n", "", 1, "tokenizer", id="no tokenizer"),
        pytest.param("budget: 12", "budget: 1200", 10, "policy.shape.budget", id="a budget too large"),
        pytest.param("merged-trie", "psychic", 9, "policy.name", id="no such policy"),
        pytest.param("concurrent_requests: 8", "concurrent_request: 8", 12, "concurrent_request", id="a typing error"),
        pytest.param("concurrent_requests: 8", "concurrent_requests: many", 12, "concurrent_requests", id="no number"),
        pytest.param("0.25", "-1", 14, "timeouts.draft_timeout_s", id="a negative time"),
        pytest.param("embedded://", "mysql://", 7, "redis.url", id="no Redis"),
        pytest.param("listen: 127.0.0.1:0", "listen: [", 3, "YAML", id="no YAML"),
        pytest.param(GOOD, "just words\n", 1, "mapping", id="no mapping"),
        pytest.param(GOOD, "", 1, "mapping", id="an empty file"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, was: str, becomes: str, line: int, field: str) -> None:
    path = written(tmp_path, GOOD.replace(was, becomes))

    with pytest.raises(ConfigurationError) as caught:
        Settings.load(path)

    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert field in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml: cannot be read"):
        Settings.load(tmp_path / "nothing.yaml")


def test_the_hash_is_of_what_was_decided_not_of_how_it_was_written(tmp_path: Path) -> None:
    one = Settings.load(written(tmp_path, GOOD))
    other = Settings.load(written(tmp_path, "# a comment\n" + GOOD.replace("0.25", "0.250")))
    different = Settings.load(written(tmp_path, GOOD.replace("0.25", "0.5")))

    assert one.content_hash == other.content_hash != different.content_hash
