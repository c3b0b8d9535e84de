import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.data.manifest import write
from sonant.errors import ConfigError
from sonant.evaluate.metrics.text import WER
from sonant.generate.assistant import Assistant
from sonant.models.build import build_speech_lm
from sonant.models.freeze import FreezePlan
from sonant.models.parts import resolve_part
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.voicetextblender import VoiceTextBlender, in_arm, main
from sonant.serve.settings import trained_wordings
from sonant.synth.tts import SpeechRequest, load_synthesizer, speak
from sonant.synth.world.tasks import REPEAT, TRANSLATE
from sonant.synth.world.text import words
from sonant.synth.world.voices import voices


def preset(name: str, *overrides: str) -> VoiceTextBlender:
    return load_config(VoiceTextBlender, [preset_path("voicetextblender", name)], overrides=overrides)


def count(model: torch.nn.Module, part: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if part in name)


@pytest.fixture(scope="module")
def published() -> SpeechLM:
    with torch.device("meta"):
        return build_speech_lm(preset("faithful").model)


def test_the_faithful_adapter_has_the_derived_size(published: SpeechLM) -> None:
    total = sum(p.numel() for p in published.adapter.parameters())
    assert total == 51_465_216 + 2_099_200


def test_the_faithful_lora_is_fused_and_has_the_derived_size(published: SpeechLM) -> None:
    assert count(published.llm, "lora_") == 35_684_352


def test_separate_lora_of_the_same_rank_is_a_tenth_larger() -> None:
    config = preset("faithful", "model.lora.layout=separate").model
    with torch.device("meta"):
        assert count(build_speech_lm(config).llm, "lora_") == 39_223_296


def test_the_faithful_llm_is_gemma_2b(published: SpeechLM) -> None:
    lora = count(published.llm, "lora_")
    assert sum(p.numel() for p in published.llm.parameters()) - lora == 2_506_172_416


def test_the_faithful_encoder_is_a_fastconformer_of_609_million(published: SpeechLM) -> None:
    assert count(published.encoders, "") == pytest.approx(609e6, rel=0.005)
    assert published.speech_encoders[0].frame_rate_hz == 12.5


def test_the_faithful_total_and_trained_share_are_the_derived_ones(published: SpeechLM) -> None:
    FreezePlan(preset("faithful").groups).apply(published)
    total = sum(p.numel() for p in published.parameters())
    trained = sum(p.numel() for p in published.parameters() if p.requires_grad)
    assert total == pytest.approx(3.2e9, rel=0.01)
    assert trained == pytest.approx(697e6, rel=0.01)
    assert trained / total == pytest.approx(0.22, abs=0.005)


def test_the_faithful_schedule_and_mix_are_the_published_ones() -> None:
    config = preset("faithful")
    assert (config.train.steps, config.train.warmup_steps, config.train.betas) == (100_000, 2_500, (0.9, 0.98))
    assert {g.lr for g in config.groups.values()} == {1e-4}
    assert {g.weight_decay for g in config.groups.values()} == {1e-3}
    assert config.train.final_lr_ratio * 1e-4 == pytest.approx(1e-6)
    assert (config.data.plan.mixing, config.data.plan.audio_share) == ("modality", 0.85)
    assert (config.data.plan.max_rows, config.data.plan.max_text_rows, config.data.plan.micro_batches) == (4, 1, 64)


def test_the_best_preset_guards_what_the_parts_know_and_the_faithful_one_does_not() -> None:
    best, faithful = preset("best"), preset("faithful")
    starts = {name: group.start_step for name, group in best.groups.items()}
    assert starts == {"adapter": 0, "encoder": 300, "lora": 300}
    assert best.groups["encoder"].lr == 0.1 * best.groups["adapter"].lr
    assert best.kl_weight > 0 == faithful.kl_weight
    assert not any(group.start_step for group in faithful.groups.values())


@pytest.mark.parametrize("name", ["tiny", "faithful", "best"])
def test_every_preset_round_trips_through_its_saved_form(name: str, tmp_path: Path) -> None:
    config = preset(name)
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(VoiceTextBlender, [tmp_path / "saved.yaml"]) == config


def test_an_unknown_preset_is_told_with_those_that_exist() -> None:
    with pytest.raises(
        ConfigError,
        match="no preset 'huge' for voicetextblender; presets are best, faithful, gpus1, gpus64, gpus8, tiny",
    ):
        preset("huge")


def test_a_source_of_null_is_left_out() -> None:
    config = preset("tiny", "data.speech.spoken_qa=null", "data.text.text_only=null")
    assert set(config.data.speech) == {"asr", "translation", "mixed_modal", "multi_turn"}
    assert config.data.text == {}


def test_the_speech_only_arm_has_no_text_rows() -> None:
    config = in_arm(preset("faithful", "arm=speech_only"))
    assert not config.data.text
    assert config.data.plan.mixing == "rows"


def test_the_frozen_llm_arm_has_no_lora_and_trains_the_rest() -> None:
    config = in_arm(preset("tiny", "arm=frozen_llm"))
    assert config.model.lora is None
    assert set(config.groups) == {"adapter"}


def test_a_trained_model_says_with_which_words_its_training_asked(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps(preset("tiny").provenance))
    wordings = trained_wordings(tmp_path)
    assert (wordings.translation, wordings.translates_to) == ("translate to german:", "de")
    assert wordings.translation in TRANSLATE
    assert wordings.transcription in REPEAT


@pytest.mark.recipe
def test_the_recipe_overfits_eight_clips_that_it_could_not_recognise_before(tmp_path: Path) -> None:
    """Users of a released recipe saw no learning at all (word error rate 171 % after 50,000 steps)."""
    texts = word_lists(8)
    voices_of_train = voices("espeak", "train")[:8]
    requests = [SpeechRequest(text, voice) for text, voice in zip(texts, voices_of_train, strict=True)]
    clips = speak(load_synthesizer("espeak"), requests, folder=tmp_path / "clips")
    rows = [
        Conversation((user("repeat:", AudioPart(path=str(clip))), assistant(text)), id=str(index), task="asr")
        for index, (clip, text) in enumerate(zip(clips, texts, strict=True))
    ]
    write(tmp_path / "eight.jsonl", rows)
    settings = ("data.dev=[]", "train.metric=null", "train.validate_every=0", "train.steps=120")
    rates = ("groups.adapter.lr=3e-3", "groups.lora.lr=3e-3", "kl_weight=0")
    values = preset("tiny", *settings, *rates).model_dump(mode="json")
    values["data"] |= {"speech": {"asr": {"manifest": str(tmp_path / "eight.jsonl")}}, "text": {}}
    values["augment"] = None
    config = VoiceTextBlender.model_validate(values)
    before = Assistant(build_speech_lm(config.model), ChatTokenizer.from_folder(resolve_part("tiny/llm")))
    assert word_error_rate(before, rows) > 40
    main(config, tmp_path / "run", say=lambda text: None)
    assert word_error_rate(Assistant.from_folder(tmp_path / "run" / "model"), rows) == 0
    assert trained_wordings(tmp_path / "run" / "model").translation == "translate to german:"


def word_lists(num: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(words(), k=4)) for _ in range(num)]


def word_error_rate(model: Assistant, rows: list[Conversation]) -> float:
    heard = [reply.text for reply in model.replies([row.prompt() for row in rows])]
    return WER.score(heard, [row.reference for row in rows]).value
