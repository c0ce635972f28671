"""A wrong configuration is refused with file, line and field."""

from pathlib import Path

import pytest

from controller.settings import RedisSettings, Settings, changes, without_restart
from controller.settings_file import examined
from controller.terms import DraftPin, Mode, Orders
from router_models.plan import RUN
from speculation.errors import ConfigurationError
from speculation.tree import MAX_DEPTH, MAX_NODES, TreeShape

GOOD = """\
listen: 127.0.0.1:0
tokenizer: models/target
workers:
  - {role: verify, address: 127.0.0.1:50061}
  - {role: draft, address: 127.0.0.1:50071}
redis:
  url: embedded://.forerun/redis
router:
  policy: merged-trie
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
    assert settings.router.shape.shape.budget == 12
    assert settings.timeouts.draft_timeout_s == 0.25
    assert settings.timeouts.verify_wait_s == 10
    assert settings.tokenizer == "models/target", "no such folder: a hub id"


def test_a_tokenizer_folder_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "target").mkdir(parents=True)

    assert Settings.load(written(tmp_path, GOOD)).tokenizer == str(tmp_path / "models" / "target")


def test_a_log_of_the_usual_length_fits_where_it_is_kept() -> None:
    """An embedded Redis has half a gigabyte, for three streams of some 400 bytes an entry, and half of it to spare."""
    shared, own = (RedisSettings(url=url) for url in ("redis://host", "embedded://folder"))

    assert own.kept_entries < shared.kept_entries
    assert 3 * own.kept_entries * 400 < 2**28
    assert RedisSettings(url="embedded://folder", log_entries=7).kept_entries == 7


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
        pytest.param("budget: 12", "budget: 1200", 10, "router.shape.budget", id="a budget too large"),
        pytest.param("merged-trie", "psychic", 9, "router.policy", id="no such policy"),
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


ROUTER = """\
tokenizer: some/model
router:
  policy: planner
  mode: apply
  exploration: 0.5
  rules:
    - task: code
      tenant: "acme-*"
      max_nodes: 16
      max_depth: 6
      allowed_drafters: [code, docs]
      allowed_shapes:
        - {depth: 4, branching: 1, budget: 4}
        - {depth: 4, branching: 4, budget: 12}
      pin: {drafter: code, shape: {depth: 4, branching: 1, budget: 4}}
    - task: "chat*"
      mode: off
      policy: static
      denied_drafters: [json]
      exploration: 0
    - max_depth: 8
"""


def orders_of(folder: Path, text: str = ROUTER) -> Orders:
    return Settings.load(written(folder, text)).router.orders("hash")


def test_rules_are_read_as_they_are_written(tmp_path: Path) -> None:
    orders = orders_of(tmp_path)
    code, chat, rest = (rule.terms for rule in orders.rules)

    assert (orders.policy, orders.config_hash) == ("planner", "hash")
    assert code.pin == DraftPin(drafter="code", shape=TreeShape(depth=4, branching=1, budget=4))
    assert [shape.budget for shape in code.allowed_shapes] == [4, 12]
    assert (code.mode, code.exploration) == (Mode.APPLY, 0.5)
    assert (chat.mode, chat.policy, chat.exploration) == (Mode.OFF, "static", 0.0)
    assert rest.max_depth == 8


def test_a_rule_s_latency_objective_stands_in_for_the_router_s(tmp_path: Path) -> None:
    text = "      latency_objective_ms: 25.5\n  latency_objective_ms: 50\n"

    orders = orders_of(tmp_path, ROUTER + text)

    assert [rule.terms.latency_objective_ms for rule in orders.rules] == [50.0, 50.0, 25.5]
    assert orders.default.latency_objective_ms == 50.0
    assert orders_of(tmp_path).default.latency_objective_ms == 0.0


def test_how_far_the_target_may_run_on_is_the_rule_s_word_else_the_router_s(tmp_path: Path) -> None:
    orders = orders_of(tmp_path, ROUTER + "      max_run: 0\n  max_run: 16\n")

    assert [rule.terms.max_run for rule in orders.rules] == [16, 16, 0]
    assert orders.default.max_run == 16
    assert orders_of(tmp_path).default.max_run == RUN


@pytest.mark.parametrize(
    ("task", "tenant", "source"),
    [
        pytest.param("code", "acme-1", "router.rules.0", id="both patterns match"),
        pytest.param("code", "other", "router.rules.2", id="one does not"),
        pytest.param("Code", "acme-1", "router.rules.2", id="case matters"),
        pytest.param("chatty", "acme-1", "router.rules.1", id="a pattern that says nothing of the tenant"),
        pytest.param("", "", "router.rules.2", id="no labels"),
    ],
)
def test_the_first_rule_that_matches_holds(tmp_path: Path, task: str, tenant: str, source: str) -> None:
    assert orders_of(tmp_path).terms_for(task=task, tenant=tenant).source == source


def test_where_no_rule_matches_the_router_s_own_terms_hold(tmp_path: Path) -> None:
    orders = orders_of(
        tmp_path, "tokenizer: some/model\nrouter: {mode: observe, rules: [{task: code, max_nodes: 2}]}\n"
    )

    assert orders.terms_for(task="docs", tenant="").mode is Mode.OBSERVE
    assert orders.terms_for(task="docs", tenant="").max_nodes == MAX_NODES


def test_a_rule_says_all_there_is_to_say(tmp_path: Path) -> None:
    """Rules do not add up: what matches first holds alone."""
    terms = orders_of(tmp_path).terms_for(task="chat", tenant="acme-1")

    assert (terms.max_depth, terms.max_nodes) == (MAX_DEPTH, MAX_NODES)


@pytest.mark.parametrize(
    ("was", "becomes", "line", "field"),
    [
        pytest.param("policy: planner", "policy: psychic", 3, "router.policy", id="no such policy"),
        pytest.param("mode: apply", "mode: on", 4, "router.mode", id="no such mode"),
        pytest.param("exploration: 0.5", "exploration: 1.5", 5, "router.exploration", id="a share above one"),
        pytest.param("task: code", "tasks: code", 7, "router.rules.0.tasks", id="a typing error in a rule"),
        pytest.param("max_nodes: 16", "max_nodes: 257", 9, "router.rules.0.max_nodes", id="too many nodes"),
        pytest.param("max_depth: 6", "max_depth: 0", 10, "router.rules.0.max_depth", id="no level"),
        pytest.param("[code, docs]", "[docs]", 15, "router.rules.0.pin", id="a pin that is not allowed"),
        pytest.param(
            "max_nodes: 16", "max_nodes: 8", 12, "router.rules.0.allowed_shapes", id="a shape beyond the limit"
        ),
        pytest.param(
            "depth: 4, branching: 1, budget: 4}}", "depth: 3}}", 15, "rules.0.pin", id="a pin of another shape"
        ),
        pytest.param("policy: static", "policy: psychic", 18, "router.rules.1.policy", id="a rule's policy"),
        pytest.param("[json]", "json", 19, "router.rules.1.denied_drafters", id="a name where a list belongs"),
        pytest.param(
            "[json]", "[json]\n      allowed_drafters: [json]", 19, "denied_drafters", id="allowed and denied"
        ),
        pytest.param('task: "chat*"', 'task: "*"', 6, "router.rules", id="rules that are never reached"),
        pytest.param("mode: off", "mode: off\n      mode: apply", 18, "mode", id="a field given twice"),
        pytest.param("exploration: 0.5", "exploration: 2001-13-41", 0, "is no YAML", id="a date that is none"),
    ],
)
def test_an_error_in_the_router_s_section_names_line_and_field(
    tmp_path: Path, was: str, becomes: str, line: int, field: str
) -> None:
    assert was in ROUTER
    path = written(tmp_path, ROUTER.replace(was, becomes, 1))

    with pytest.raises(ConfigurationError) as caught:
        Settings.load(path)

    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert field in str(caught.value)


def test_everything_that_is_wrong_is_told_in_the_file_s_order() -> None:
    text = ROUTER.replace("planner", "psychic").replace("max_depth: 6", "max_depth: 99").replace("mode: off", "mode: 7")

    settings, problems = examined(text, Settings)

    assert settings is None
    assert [problem.line for problem in problems] == [3, 10, 17]


def test_a_file_that_refers_to_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Settings.load(written(tmp_path, "tokenizer: x\nrouter: &again\n  rules: [*again]\n"))


def test_a_bare_off_is_a_mode_and_no_boolean(tmp_path: Path) -> None:
    """YAML 1.1 reads it as false."""
    assert Settings.load(written(tmp_path, "tokenizer: x\nrouter:\n  mode: off\n")).router.mode is Mode.OFF


def test_a_difference_is_told_to_the_field_with_what_it_needs(tmp_path: Path) -> None:
    old = Settings.load(written(tmp_path, ROUTER))
    text = ROUTER.replace("max_nodes: 16", "max_nodes: 12").replace("some/model", "another")
    new = Settings.load(written(tmp_path, text.replace("policy: planner", "drafter: code")))

    told = {change.field: change for change in changes(old, new)}

    assert told.keys() == {"tokenizer", "router.policy", "router.drafter", "router.rules.0.max_nodes"}
    assert (told["router.rules.0.max_nodes"].old, told["router.rules.0.max_nodes"].new) == (16, 12)
    assert {name for name, change in told.items() if change.needs_restart} == {"tokenizer", "router.drafter"}


def test_a_rule_that_comes_or_goes_is_one_change(tmp_path: Path) -> None:
    old = Settings.load(written(tmp_path, ROUTER))
    new = Settings.load(written(tmp_path, ROUTER.replace("    - max_depth: 8\n", "")))

    (change,) = changes(old, new)

    assert (change.field, change.new) == ("router.rules.2", None)


def test_what_needs_a_restart_stays_as_it_is(tmp_path: Path) -> None:
    old = Settings.load(written(tmp_path, GOOD))
    new = Settings.load(written(tmp_path, GOOD.replace("budget: 12", "budget: 6").replace("merged-trie", "none")))

    taken = without_restart(old, new)

    assert taken.router.policy == "none"
    assert taken.router.shape.budget == 12
    assert all(change.needs_restart for change in changes(taken, new))
