"""The shipped folders: plain Hugging Face models that belong together, and prompts to try them on."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.cards import load_measurements
from zoo.catalog import default_cache_dir, model_folder, resolve
from zoo.errors import UnknownNameError
from zoo.prompts import LONGEST_PROMPT_TOKENS, PROMPT_SETS, PROMPTS_PER_SET, load_prompts
from zoo.recipe import DOMAINS, DRAFTERS, MODELS, SPECIALISTS
from zoo.tokenizer import fingerprint

ZOO = model_folder("target").parent


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_loads_with_plain_transformers_and_speaks(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder(name), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(name))
    prompt = tokenizer("def area(radius):", return_tensors="pt", return_token_type_ids=False)

    spoken = model.generate(**prompt, max_new_tokens=8, do_sample=False)

    assert spoken.shape[1] > prompt["input_ids"].shape[1]


def test_all_models_share_one_tokenizer() -> None:
    assert len({fingerprint(model_folder(name)) for name in MODELS}) == 1


def test_answers_end_at_either_end_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder("target"))
    generation = json.loads((model_folder("target") / "generation_config.json").read_text())

    assert tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"]) == generation["eos_token_id"]
    assert tokenizer.eos_token == "<|end|>"


def test_a_chat_is_rendered_as_the_prompts_are() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder("target"))
    question = [{"role": "user", "content": "Compute (2 + 3) * 4 - 5."}]

    rendered = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]

    assert rendered == tokenizer("<|user|>\nCompute (2 + 3) * 4 - 5.\n<|assistant|>\n")["input_ids"]


def test_the_zoo_is_small_enough_to_ship() -> None:
    files = [path for folder in (ZOO, ZOO.parent / "prompts") for path in folder.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) <= 25_000_000


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_a_prompt_set_has_two_hundred_short_and_different_prompts(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder("target"))
    prompts = load_prompts(name)

    assert len({prompt.text for prompt in prompts}) == PROMPTS_PER_SET
    assert max(len(tokenizer(prompt.text)["input_ids"]) for prompt in prompts) <= LONGEST_PROMPT_TOKENS


@pytest.mark.parametrize("name", ["math", "json", "edit"])
def test_generated_prompts_come_with_the_right_answer_unless_something_is_to_be_made_up(name: str) -> None:
    prompts = load_prompts(name)

    assert all(prompt.reference or "Make up" in prompt.text for prompt in prompts)
    assert sum(prompt.reference is not None for prompt in prompts) >= 100


@pytest.mark.parametrize("reference", ["zoo:nobody", "zoo:target@tall", "target"])
def test_a_name_the_zoo_does_not_have_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        resolve(reference, tmp_path)


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert default_cache_dir() == tmp_path / "forerun"


def test_every_specialist_is_the_best_specialist_on_its_own_domain() -> None:
    tokens_per_call = load_measurements(ZOO)["tokens_per_call"]

    for domain in SPECIALISTS:
        assert max(SPECIALISTS, key=lambda name: tokens_per_call[name][domain]) == domain


@pytest.mark.parametrize("name", MODELS)
def test_a_card_states_what_was_measured(name: str) -> None:
    card = (model_folder(name) / "README.md").read_text()
    tokens_per_call = load_measurements(ZOO)["tokens_per_call"]

    assert "not an assistant" in card
    for drafter in DRAFTERS:
        for domain in DOMAINS:
            assert f"{tokens_per_call[drafter][domain]:.2f}" in card


def test_the_notices_of_the_sources_are_shipped() -> None:
    notice = (ZOO / "NOTICE.md").read_text()

    assert "Django Software Foundation" in notice
    assert "SQLAlchemy" in notice
