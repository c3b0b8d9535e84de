import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sonant.chat.messages import Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.data import manifest
from sonant.generate.assistant import Assistant
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.parts import resolve_part
from sonant.recipes.tiny_llm import TextLM, TinyLLM, architecture, main, make_stream, save_part, scores
from sonant.synth.world.facts import facts
from sonant.synth.world.german import random_pair
from sonant.synth.world.make import text_rows

LLM = Path(resolve_part("tiny/llm"))


@pytest.fixture(scope="module")
def shipped() -> Assistant:
    return Assistant(TextLM(load_llm(LLMConfig(path="tiny/llm"))), ChatTokenizer.from_folder(LLM))


def settings(folder: Path, *, rows: int = 24, steps: int = 2) -> TinyLLM:
    train = folder / "train.jsonl"
    manifest.write(train, text_rows("train", rows))
    values = {"train_manifest": str(train), "dev_manifests": (str(train),), "tokenizer": str(LLM)}
    small = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16}
    return TinyLLM.model_validate({**values, **small, "train": {"steps": steps}})


def test_the_shipped_model_knows_facts_of_held_out_entities_too(shipped: Assistant):
    asked = random.Random(0).sample(facts(), 12)
    replies = shipped.replies([Conversation((user(fact.questions[0]),)) for fact in asked])
    assert [reply.text for reply in replies] == [fact.statement for fact in asked]
    assert all(reply.finished for reply in replies)


def test_the_shipped_model_translates_and_repeats_words_it_never_met(shipped: Assistant):
    english, german = random_pair(random.Random(5))
    prompts = [f"translate to german: {english}", "repeat: plovdin dog zarp"]
    replies = shipped.replies([Conversation((user(prompt),)) for prompt in prompts])
    assert replies[0].text == german
    assert "dog" in replies[1].text


def test_the_shipped_model_understands_a_misspelt_question(shipped: Assistant):
    fact = next(fact for fact in facts() if fact.entity == "elephant" and fact.relation == "food")
    assert shipped.reply(Conversation((user("what does the elefant eat?"),))).text == fact.statement


def test_the_shipped_folder_is_small_and_says_where_it_comes_from():
    assert sum(path.stat().st_size for path in LLM.iterdir()) < 4.5e6
    said = json.loads((LLM / "provenance.json").read_text())
    assert {"command", "seed", "data_sha256", "versions", "settings", "scores"} <= set(said)


def test_a_batch_holds_rows_whose_prompts_weigh_a_tenth(tmp_path: Path):
    config = settings(tmp_path)
    stream = make_stream(config, ChatTokenizer.from_folder(LLM))
    (batch,) = next(stream.steps(0, 0)).batches
    assert set(batch.loss_mask.unique().tolist()) == {0.0, np.float32(0.1).item(), 1.0}
    assert batch.num_audio == 0


def test_the_architecture_takes_its_ids_from_the_tokenizer(tmp_path: Path):
    tokenizer = ChatTokenizer.from_folder(LLM)
    values = architecture(settings(tmp_path), tokenizer)
    assert values["vocab_size"] == tokenizer.vocab_size
    assert {values["eos_token_id"]} == tokenizer.stop_ids


def test_scores_are_per_cent_of_right_answers(tmp_path: Path, shipped: Assistant):
    fact = facts()[0]
    right = Conversation((user(fact.questions[0]), assistant(fact.statement)), id="a", task="text_question")
    wrong = replace(right, id="b", messages=(right.messages[0], assistant("nobody knows")))
    manifest.write(tmp_path / "rows.jsonl", [right, wrong])
    found = scores(shipped.model, shipped.tokenizer, [str(tmp_path / "rows.jsonl")])
    assert found == {"text_question": 50.0}


def test_a_part_is_a_folder_that_loads_again(tmp_path: Path):
    tokenizer = ChatTokenizer.from_folder(LLM)
    llm = load_llm(LLMConfig(architecture=architecture(settings(tmp_path), tokenizer)))
    save_part(llm, tokenizer, tmp_path / "part", provenance={"part": "x"})
    again = load_llm(LLMConfig(path=str(tmp_path / "part")))
    expected = {name: p.half().float() for name, p in llm.state_dict().items()}
    assert all(p.equal(expected[name]) for name, p in again.state_dict().items())
    assert ChatTokenizer.from_folder(tmp_path / "part").vocab_size == tokenizer.vocab_size


@pytest.mark.recipe
def test_the_world_still_draws_the_texts_the_shipped_model_was_trained_on(tmp_path: Path):
    # Without what no model reads: since it was trained, translations also say which language they are in.
    manifest.write(tmp_path / "train.jsonl", (replace(row, extra={}) for row in text_rows("train", 80_000)))
    found = hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()
    assert found == json.loads((LLM / "provenance.json").read_text())["data_sha256"]


@pytest.mark.recipe
def test_the_recipe_runs_to_a_finished_part(tmp_path: Path):
    found = main(settings(tmp_path, steps=3), tmp_path / "run", say=lambda text: None)
    assert set(found) >= {"text_question", "text_repeat"}
    said = json.loads((tmp_path / "run" / "model" / "provenance.json").read_text())
    assert said["scores"]["dev"] == found


def test_an_llm_without_ears_goes_to_a_device() -> None:
    """What keeps an adapter's table shared looked for an adapter: `sonant world build` failed."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
    llm = load_llm(LLMConfig(architecture={"model_type": "llama", **shape}))
    assert next(TextLM(llm).to("meta").parameters()).is_meta
