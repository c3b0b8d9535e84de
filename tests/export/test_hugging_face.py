"""Exported for transformers: plain `generate` says what the assistant says, whatever the model is made of."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

from sonant.batch import collate
from sonant.chat.messages import Conversation
from sonant.errors import CheckpointError, ModelError, RequestError
from sonant.export.hf.configuration import SonantConfig
from sonant.export.hf.modeling import SonantForConditionalGeneration
from sonant.export.hf.processing import SonantProcessor
from sonant.export.hugging_face import export_hf
from sonant.generate.assistant import Assistant
from sonant.models import quantized

Saved = Callable[..., Path]
Said = Callable[..., list[list[int]]]


def test_plain_generate_says_what_the_assistant_says(
    both: Any, checkpoint: Path, answers: Any, said: Said, questions: Any
) -> None:
    processor, model = both
    expected = answers(checkpoint)
    assert said(model, processor(questions)) == expected
    assert len({tuple(answer) for answer in expected}) == len(questions)


@pytest.mark.parametrize("way", ["prompt_lookup_num_tokens", "prefill_chunk_size"])
@pytest.mark.parametrize("by_config", [False, True], ids=["argument", "settings"])
def test_ways_that_count_the_ids_of_a_prompt_are_refused(both: Any, questions: Any, way: str, by_config: bool) -> None:
    """Clips have no ids: prompt lookup gave other answers without a word."""
    processor, model = both
    given: dict[str, Any] = {way: 2}
    if by_config:
        given = {"generation_config": type(model.generation_config)(**given)}
    with pytest.raises(RequestError, match=way):
        model.generate(**processor(questions[:1]), max_new_tokens=4, **given)


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "apart"])
def test_logits_are_those_of_the_checkpoint(
    checkpoint: Path, loaded: Any, both: Any, questions: list[Conversation], tmp_path: Path, merge: bool
) -> None:
    if merge:
        export_hf(checkpoint, tmp_path / "out")
    processor, model = loaded(tmp_path / "out") if merge else both
    assistant = Assistant.from_folder(checkpoint)
    with torch.no_grad():
        found = model(**processor(questions)).logits
        output = assistant.model(collate([assistant.example(q) for q in questions]))
        expected = assistant.model.logits(output.hidden)
    for row, length in enumerate(output.spliced.lengths.tolist()):
        largest = float(expected[row].abs().max())
        torch.testing.assert_close(found[row, -length:], expected[row, :length], atol=2e-5 * largest, rtol=0)


def test_a_folder_that_was_loaded_and_saved_again_is_equal(
    exported: Path, loaded: Any, both: Any, said: Said, questions: Any, tmp_path: Path
) -> None:
    processor, model = both
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    for name in ("config.json", "generation_config.json", "processor_config.json", "chat_template.jinja"):
        assert (tmp_path / "again" / name).read_text() == (exported / name).read_text(), name
    first, second = (load_file(folder / "model.safetensors") for folder in (exported, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other_processor, other = loaded(tmp_path / "again")
    inputs, again = processor(questions), other_processor(questions)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert said(other, again) == said(model, inputs)


def test_the_auto_classes_find_ours(exported: Path) -> None:
    assert type(AutoConfig.from_pretrained(exported)) is SonantConfig
    assert type(AutoProcessor.from_pretrained(exported)) is SonantProcessor
    assert type(AutoModel.from_pretrained(exported)) is SonantForConditionalGeneration
    assert AutoConfig.from_pretrained(exported).get_text_config().num_hidden_layers == 4


def test_generation_keeps_what_transformers_offers(both: Any, said: Said, questions: Any) -> None:
    processor, model = both
    inputs = processor(questions)
    greedy = said(model, inputs)
    assert said(model, inputs, num_beams=2, max_new_tokens=4)
    several = model.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=2)
    assert several.shape == (2 * len(questions), inputs["input_ids"].shape[1] + 3)
    full = model.generate(**inputs, max_new_tokens=10, return_dict_in_generate=True, output_logits=True)
    assert torch.stack(full.logits, 1).argmax(-1)[0, : len(greedy[0])].tolist() == greedy[0]
    assert torch.equal(full.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert model.generation_config.do_sample is False
    assert model.generation_config.max_new_tokens == 128


def test_rows_of_a_batch_are_answered_as_alone(both: Any, said: Said, questions: list[Conversation]) -> None:
    processor, model = both
    assert said(model, processor(questions)) == [said(model, processor(question))[0] for question in questions]


def test_a_cache_is_not_needed_for_the_next_logits(both: Any, questions: list[Conversation]) -> None:
    processor, model = both
    with torch.no_grad():
        inputs = processor(questions)
        output = model(**inputs, use_cache=True)
        width = output.logits.shape[1]
        token = output.logits[:, -1:].argmax(-1)
        mask = torch.cat([model.read(**inputs)[1], torch.ones_like(token)], dim=1)
        position_ids = mask.sum(1, keepdim=True) - 1
        following = model(token, mask, position_ids=position_ids, past_key_values=output.past_key_values).logits[:, -1]
        embeds = torch.cat([model.read(**inputs)[0], model.get_input_embeddings()(token)], dim=1)
        whole = model(inputs_embeds=embeds, attention_mask=mask).logits[:, -1]
    assert width == mask.shape[1] - 1
    torch.testing.assert_close(following, whole, atol=1e-5, rtol=0)


def test_lora_that_each_prompt_scales_is_kept_apart(
    saved: Saved, loaded: Any, answers: Any, said: Said, questions: Any, tmp_path: Path
) -> None:
    folder = saved(prompt_lora={"form": "clip", "granularity": "layer"})
    with pytest.raises(ModelError, match=r"each prompt gives it another scale.*--no-merge"):
        export_hf(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_hf(folder, tmp_path / "out", merge=False)
    processor, model = loaded(tmp_path / "out")
    inputs = processor(questions)
    assert said(model, inputs) == answers(folder)
    assert said(model, inputs, num_beams=2)
    del inputs["prompt_ids"]
    with pytest.raises(RequestError, match="prompt_ids"):
        model.generate(**inputs)


@pytest.mark.parametrize("merge", [True, False])
def test_a_quantized_llm_is_refused(
    checkpoint: Path, tmp_path: Path, merge: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "is_quantized", lambda llm: True)
    with pytest.raises(ModelError, match=r"the LLM cannot be exported: .* --to peft"):
        export_hf(checkpoint, tmp_path / "out", merge=merge)
    assert not (tmp_path / "out").exists()


def test_lora_of_a_fixed_scale_is_merged_with_it(
    saved: Saved, loaded: Any, answers: Any, said: Said, questions: Any, tmp_path: Path
) -> None:
    folder = saved(prompt_lora={"form": "fixed", "scale": 0.5})
    export_hf(folder, tmp_path / "out")
    processor, model = loaded(tmp_path / "out")
    assert said(model, processor(questions)) == answers(folder)


def test_a_voice_goes_along_and_speaks(
    saved: Saved, loaded: Any, answers: Any, said: Said, questions: Any, tmp_path: Path
) -> None:
    head = {"body": "own", "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "max_seconds": 0.1}
    folder = saved(speech_head=head)
    exported = export_hf(folder, tmp_path / "out")
    spoken = Assistant.from_folder(folder)
    assert spoken.model.speech_head is not None
    assert exported.parameters["speech_head"] == sum(p.numel() for p in spoken.model.speech_head.parameters())
    assert any("the voice is inside" in remark.lower() for remark in exported.remarks)
    processor, model = loaded(tmp_path / "out")
    assert said(model, processor(questions)) == answers(folder)
    mine = Assistant(model.speech_lm, processor.chat_tokenizer).speak(questions[0])
    theirs = spoken.speak(questions[0])
    assert mine.text == theirs.text
    torch.testing.assert_close(torch.from_numpy(mine.samples), torch.from_numpy(theirs.samples), atol=1e-4, rtol=0)
    (folder / "vocoder").mkdir()
    (folder / "vocoder" / "config.json").write_text("{}")
    with_vocoder = export_hf(folder, tmp_path / "with vocoder")
    assert (with_vocoder.folder / "vocoder" / "config.json").read_text() == "{}"
    assert "/vocoder" in with_vocoder.remarks[-1]


def test_half_precision_is_that_of_the_llm_alone(
    saved: Saved, loaded: Any, answers: Any, said: Said, questions: Any, tmp_path: Path
) -> None:
    folder = saved(dtype="bfloat16")
    export_hf(folder, tmp_path / "out", merge=False)
    processor, model = loaded(tmp_path / "out")
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {d for name, d in dtypes.items() if ".llm." in name and "lora_" not in name} == {torch.bfloat16}
    assert {d for name, d in dtypes.items() if ".llm." not in name or "lora_" in name} == {torch.float32}
    assert said(model, processor(questions)) == answers(folder)
    asked = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, attn_implementation="eager")
    assert {parameter.dtype for parameter in asked.parameters()} == {torch.float32}
    assert asked.speech_lm.llm.config._attn_implementation == "eager"


def test_what_does_not_fit_the_llm_is_refused(saved: Saved, loaded: Any, questions: Any, tmp_path: Path) -> None:
    export_hf(saved(llm={"max_position_embeddings": 100}), tmp_path / "out")
    processor, model = loaded(tmp_path / "out")
    with pytest.raises(RequestError, match="this LLM holds 100"):
        model.generate(**processor(questions), max_new_tokens=100)


def test_half_a_prompt_is_refused(both: Any, questions: Any) -> None:
    processor, model = both
    inputs = processor(questions)
    del inputs["features_0"]
    with pytest.raises(RequestError, match="features_0"):
        model.generate(**inputs)


def test_the_folder_says_what_is_inside(checkpoint: Path, tmp_path: Path) -> None:
    exported = export_hf(checkpoint, tmp_path / "out")
    names = {path.name for path in exported.folder.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "processor_config.json", "tokenizer.json"),
        *("tokenizer_config.json", "chat_template.jinja", "README.md", "provenance.json"),
    }
    card = (exported.folder / "README.md").read_text()
    assert "merged into the LLM" in card
    assert all(f"| {part} | {count:,} |" in card for part, count in exported.parameters.items())
    held = sum(tensor.numel() for tensor in load_file(exported.folder / "model.safetensors").values())
    assert sum(exported.parameters.values()) <= held  # buffers are no parameters
    provenance = json.loads((exported.folder / "provenance.json").read_text())
    assert provenance["model"] == json.loads((checkpoint / "provenance.json").read_text())
    assert provenance["exported"]["merged"] is True


def test_nothing_is_replaced_and_nothing_half_done_is_left(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="never replaces"):
        export_hf(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of `exported`, to be spoiled."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def _changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("trust", [None, True])
def test_code_in_a_folder_never_runs(copied: Path, tmp_path: Path, trust: bool | None) -> None:
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name in ("tokenizer_config.json", "processor_config.json"):
        keys = {"AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
        _changed(copied, name, auto_map=keys)
        AutoProcessor.from_pretrained(copied, trust_remote_code=trust)
    _changed(copied, "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    for auto in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ModelError, match="auto_map"):
            auto.from_pretrained(copied, trust_remote_code=trust)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_is_never_read(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        AutoModelForCausalLM.from_pretrained(copied, use_safetensors=False)
    (copied / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        AutoModelForCausalLM.from_pretrained(copied)


def test_neither_exporting_nor_loading_touches_pickle(checkpoint: Path, loaded: Any, tmp_path: Path) -> None:
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _: seen.append(event) if watching[0] and event == "pickle.find_class" else None)
    try:
        export_hf(checkpoint, tmp_path / "out")
        loaded(tmp_path / "out")
    finally:
        watching[0] = False
    assert not seen


def test_weights_that_are_missing_or_too_many_are_refused(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    name = next(name for name in tensors if "adapter" in name)
    save_file({**tensors, "speech_lm.spare": torch.zeros(1)}, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"speech_lm\.spare"):
        AutoModelForCausalLM.from_pretrained(copied)
    del tensors[name]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="adapter"):
        AutoModelForCausalLM.from_pretrained(copied)
