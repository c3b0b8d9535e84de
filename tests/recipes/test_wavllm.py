"""WavLLM: the published sizes and schedule, stages that begin where others end, arms that are settings."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from many_ranks import torchrun

from sonant.batch import collate, make_example
from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import load_config, save_config
from sonant.data.manifest import write
from sonant.errors import ConfigError
from sonant.models.build import build_speech_lm
from sonant.models.checkpoint import load_speech_lm
from sonant.models.freeze import FreezePlan
from sonant.models.parts import resolve_part
from sonant.models.speech_lm import SpeechLM, part_of
from sonant.recipes.wavllm import WavLLM, extended, main
from sonant.synth.tts import SpeechRequest, load_synthesizer, speak

PROMPT_ADAPTER = (4096 * 1024 + 1024) + (1024 * 4096 + 4096) + (4096 + 1)  # W1, W2, the attention over tokens


def preset(name: str, *overrides: str) -> WavLLM:
    return load_config(WavLLM, [preset_path("wavllm", name)], overrides=overrides)


def trained(model: SpeechLM) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            sizes[part_of(name)] = sizes.get(part_of(name), 0) + parameter.numel()
    return sizes


def test_each_stage_of_the_faithful_preset_trains_what_the_paper_counts() -> None:
    """76.64 M in stage 1 less the unused Linear 2048 -> 4096 (8.39 M); the prompt adapter adds 8.40 M."""
    config = preset("faithful")
    assert config.stage2 is not None
    with torch.device("meta"):
        model = build_speech_lm(config.model)
        FreezePlan(config.stage1.groups).apply(model)
        sizes = trained(model)
        assert sizes["lora"] == 33_554_432
        assert sizes["encoders.1"] == 13
        assert sum(sizes.values()) == pytest.approx(76.64e6 - 8.39e6, abs=0.01e6)
        total = sum(parameter.numel() for parameter in model.parameters())
        assert total == pytest.approx(7.546e9 - 8.39e6, rel=0.001)
        FreezePlan(config.stage2.groups).apply(extended(model, config.stage2))
    assert trained(model) == sizes | {"prompt_adapter": PROMPT_ADAPTER}
    assert pytest.approx(8.40e6, abs=0.005e6) == PROMPT_ADAPTER


def test_the_faithful_schedule_is_the_quoted_one() -> None:
    config = preset("faithful")
    assert config.stage2 is not None
    assert config.stage2.prompt_lora is not None
    assert (config.stage1.steps, config.stage1.warmup_steps, config.stage1.schedule) == (150_000, 15_000, "linear")
    assert {group.lr for stage in (config.stage1, config.stage2) for group in stage.groups.values()} == {1e-4}
    assert (config.stage2.prompt_lora.form, config.stage2.prompt_lora.clip) == ("clip", 3.0)
    assert config.model.lora is not None
    assert config.model.lora.alpha == config.model.lora.rank == 32
    assert config.loss_over == "prompt_and_answer"


def test_the_best_preset_begins_stage_two_where_stage_one_ended_and_guards_the_text() -> None:
    best, faithful = preset("best"), preset("faithful")
    assert best.stage2 is not None
    assert best.stage2.prompt_lora is not None
    assert faithful.stage2 is not None
    assert best.stage2.prompt_lora.form == "residual"
    assert min(best.stage1.kl_weight, best.stage2.kl_weight) > 0 == faithful.stage1.kl_weight
    assert best.loss_over == "answer"


@pytest.mark.parametrize("name", ["tiny", "faithful", "best"])
def test_every_preset_round_trips_through_its_saved_form(name: str, tmp_path: Path) -> None:
    config = preset(name)
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(WavLLM, [tmp_path / "saved.yaml"]) == config


def test_stage_two_has_all_tasks_of_stage_one_and_the_combined() -> None:
    config = preset("tiny")
    assert config.stage2 is not None
    assert set(config.stage2.data.speech) == {*config.stage1.data.speech, "combined"}


def test_a_group_of_null_is_left_out() -> None:
    config = preset("tiny", "stage2.prompt_lora=null", "stage2.groups.prompt_adapter=null")
    assert config.stage2 is not None
    assert set(config.stage2.groups) == {"adapter", "lora"}


def test_a_run_that_would_train_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing would be trained"):
        main(preset("tiny", "begin=runs/other/stage1/model", "stage2=null"), tmp_path, say=print)


def test_the_tiny_prompt_adapter_changes_nothing_at_first_and_its_last_matrix_learns_first() -> None:
    config = preset("tiny")
    assert config.stage2 is not None
    torch.manual_seed(0)
    model = build_speech_lm(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    row = Conversation((user("repeat: the dog is red"), assistant("the dog is red")))
    batch = collate([make_example(row, tokenizer, model.feature_specs)])
    before = model(batch).hidden
    FreezePlan(config.stage2.groups).apply(extended(model, config.stage2))
    after = model(batch).hidden
    assert torch.equal(before, after)
    after.square().sum().backward()
    assert model.prompt_adapter is not None
    assert model.prompt_adapter.up.weight.grad.abs().max() > 0
    assert model.prompt_adapter.down.weight.grad.abs().max() == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sentences by one voice: three asked for alone, three with a question beside."""
    folder = tmp_path_factory.mktemp("world")
    texts = [
        "the dog is red",
        "the hen is blue",
        "the cat is green",
        "the fox eats bread",
        "anna sings",
        "ben is a cook",
    ]
    clips = speak(load_synthesizer("espeak"), [SpeechRequest(text, "en+m1") for text in texts], folder=folder / "clips")

    def rows(name: str, ask: str, answer: str) -> None:
        made = [
            Conversation((user(ask, AudioPart(path=str(c))), assistant(answer.format(t))), id=f"{name}{t}", task=name)
            for c, t in zip(clips, texts, strict=True)
        ]
        write(folder / f"{name}.jsonl", made)

    rows("asr", "repeat:", "{}")
    rows("combined", "repeat: then tell me the colour of the sky", "words: {}. also: blue")
    write(folder / "text.jsonl", [Conversation((user("say again: ja"), assistant("ja")), id="t", task="text_repeat")])
    return folder


def run_config(world: Path, *overrides: str) -> WavLLM:
    values = preset("tiny", *overrides).model_dump(mode="json")
    values |= {"root": str(world), "begin": values["begin"]}
    tasks = {"asr": {"manifest": "asr.jsonl"}, "combined": {"manifest": "combined.jsonl"}}
    for stage, names in (("stage1", ["asr"]), ("stage2", ["asr", "combined"])):
        if values[stage] is not None:
            values[stage]["data"] |= {
                "speech": {name: tasks[name] for name in names},
                "text": {"text_only": {"manifest": "text.jsonl"}},
                "dev": [],
            }
            values[stage] |= {"steps": 2, "warmup_steps": 0, "validate_every": 0, "metric": None}
            values[stage]["data"]["plan"] |= {"max_rows": 4}
    return WavLLM.model_validate(values)


@pytest.mark.recipe
def test_two_stages_run_resume_and_share_the_first(world: Path, tmp_path: Path) -> None:
    config = run_config(world)
    said: list[str] = []
    result = main(config, tmp_path / "whole", say=said.append)
    assert (result.step, result.stopped) == (2, None)
    assert (tmp_path / "whole" / "stage1" / "model" / "config.json").exists()
    model = load_speech_lm(tmp_path / "whole" / "model")
    assert model.prompt_adapter is not None
    assert any("6 clips" in line for line in said)  # of both encoders, once

    resumed = config.model_copy(update={"train": config.train.model_copy(update={"resume": True})})
    stamp = (tmp_path / "whole" / "stage1" / "log.jsonl").read_bytes()
    main(resumed, tmp_path / "whole", say=said.append)
    assert (tmp_path / "whole" / "stage1" / "log.jsonl").read_bytes() == stamp

    begin = tmp_path / "whole" / "stage1" / "model"
    arm = ("stage2.prompt_lora=null", "stage2.groups.prompt_adapter=null", "stage2.more_rank=3", f"begin={begin}")
    main(run_config(world, *arm), tmp_path / "plain", say=said.append)
    plain = load_speech_lm(tmp_path / "plain" / "model")
    assert plain.prompt_adapter is None
    assert not (tmp_path / "plain" / "stage1").exists()


@pytest.mark.recipe
def test_two_processes_go_through_both_stages_as_one_does(world: Path, tmp_path: Path) -> None:
    # The second stage met the addresses of the first one's processes, and rank 1 read what rank 0 had yet to write.
    config = run_config(world, "train.parallel=ddp")
    save_config(config, tmp_path / "two.yaml")
    torchrun("train", "wavllm", tmp_path / "two.yaml", "--out", tmp_path / "two")
    main(run_config(world), tmp_path / "one", say=print)
    for stage in ("stage1", "stage2"):
        one, two = (losses_of(tmp_path / name / stage) for name in ("one", "two"))
        assert len(one) == 2
        assert two == pytest.approx(one, rel=1e-3)


def losses_of(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "log.jsonl").read_text().splitlines() if '"loss"' in line]
