import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from many_ranks import torchrun

from sonant.chat.messages import AudioPart, Conversation, assistant, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.cli.train import preset_path
from sonant.config import load_config
from sonant.data.manifest import Manifest, write
from sonant.errors import ConfigError
from sonant.evaluate.normalize import normalizer
from sonant.generate.assistant import Assistant, Reply
from sonant.models.adapters.base import build_adapter
from sonant.models.build import build_speech_lm
from sonant.models.checkpoint import load_speech_lm
from sonant.models.parts import resolve_part
from sonant.recipes.distillation import Instructions, write_distilled
from sonant.recipes.speechmapper import SpeechMapper, main
from sonant.recipes.staged import spoken_as
from sonant.synth.tts import SpeechRequest, load_synthesizer, speak

PRESETS = ("tiny", "tiny_faithful", "faithful", "best")
SENTENCES = ("the cow is in the park", "where does the fox live", "anna has the key", "the cat eats fish")


def preset(name: str, *overrides: str) -> SpeechMapper:
    return load_config(SpeechMapper, [preset_path("speechmapper", name)], overrides=overrides)


def test_the_faithful_preset_is_what_is_published() -> None:
    config = preset("faithful")
    encoder, adapter, one, two = config.model.encoders[0], config.model.adapter, config.stage1, config.stage2
    assert (encoder.kind, encoder.average, encoder.length_adapter) == ("seamless", 2, False)
    assert (one.steps, one.lr, one.warmup_steps, one.schedule) == (2_000_000, 1e-4, 100_000, "cosine")
    assert one.loss.model_dump() == {"kind": "published", "alpha": 5, "gamma": 100, "divide_by_rms": False}
    assert two is not None
    assert (two.steps, two.loss.sigma, two.lr, two.schedule) == (1000, 0.9, 1e-4, "constant")
    assert two.data.plan.max_rows is not None
    assert two.data.plan.max_rows * two.data.plan.micro_batches == 96
    assert config.model.lora is None
    with torch.device("meta"):
        built: Any = build_adapter(adapter, in_dims=[1024], out_dim=4096)
    assert sum(p.numel() for p in built.parameters()) == 277_031_936


@pytest.mark.parametrize("width", [2560, 3584, 4096])
def test_the_best_projector_runs_at_every_width_of_a_table(width: int) -> None:
    config = preset("best", "model.adapter.trunk.blocks.0.num_layers=1", "model.adapter.hidden_dim=64").model.adapter
    adapter: Any = build_adapter(config, in_dims=[1024], out_dim=width, vocab_size=11)
    adapter.anchor(torch.randn(11, width))
    vectors, lengths = adapter.eval()(torch.randn(1, 12, 1024), torch.tensor([12]))
    assert vectors.shape == (1, int(lengths[0]), width)
    assert bool(vectors.isfinite().all())


def test_stage_2_is_not_stopped_by_an_asr_score() -> None:
    for config in (preset(name) for name in PRESETS):
        assert config.stage2 is not None
        assert not any("asr" in manifest for manifest in config.stage2.data.dev)
        assert config.stage2.metric in (None, "composite")


def test_the_normaliser_of_transcripts_keeps_digits() -> None:
    normalize = normalizer(preset("faithful").stage1.transcripts)
    assert normalize("In 1999, it RAINED.") == "in 1999 it rained"
    row = Conversation((user("Say:", AudioPart("a.wav", transcript="In 1999!")), assistant("In 1999!")))
    (part,) = spoken_as(row, normalize=normalize).audio_parts
    assert part.transcript == "in 1999"


def test_a_clip_without_a_transcript_says_the_answer() -> None:
    row = Conversation((user("Say:", AudioPart("a.wav")), assistant("The answer.")))
    assert spoken_as(row).audio_parts[0].transcript == "The answer."


class Teacher:
    """Answers with what it is told, and never comes to an end about foxes."""

    def replies(self, asked: list[Conversation], *, config: Any, lora: bool) -> list[Reply]:
        assert not lora
        texts = [conversation.messages[-1].text for conversation in asked]
        return [Reply(text.upper(), (1,), finished="fox" not in text) for text in texts]


def test_distilled_rows_hold_the_llms_answers_under_training_wordings_of_every_bank(tmp_path: Path) -> None:
    clips = [
        Conversation((user("repeat:", AudioPart("a.wav", transcript=said)), assistant(said))) for said in SENTENCES
    ]
    config = Instructions(banks={"tiny_asr": 1, "tiny_translation": 1}, bare=1, rows=60)
    told: list[str] = []
    write_distilled(Teacher(), clips, tmp_path / "rows.jsonl", config=config, say=told.append)  # type: ignore[arg-type]
    rows = list(Manifest(tmp_path / "rows.jsonl"))
    assert len(rows) == 45
    assert "15 came to no end" in told[0]
    kinds = {row.task for row in rows}
    assert kinds == {"distilled tiny_asr", "distilled tiny_translation", "distilled bare"}
    for row in rows:
        (clip,) = row.audio_parts
        words = " ".join(part if isinstance(part, str) else getattr(part, "text", "") for part in row.messages[0].parts)
        assert row.reference == " ".join(f"{words} {clip.transcript}".split()).upper()
    held_out = ("please repeat:", "german:", "say it in german:")
    assert not any(row.messages[0].text.startswith(held_out) for row in rows)
    with pytest.raises(ConfigError, match="rows of one clip with its 'transcript'"):
        write_distilled(Teacher(), [], tmp_path / "none.jsonl", config=config, say=told.append)  # type: ignore[arg-type]


def made_world(folder: Path) -> None:
    """Eight clips, asked for in three ways."""
    requests = [SpeechRequest(text, "en-us+f3", rate, 1.0) for text, rate in itertools.product(SENTENCES, (0.9, 1.1))]
    clips = speak(load_synthesizer("espeak"), requests, folder=folder / "clips")
    parts = [AudioPart(str(clip), transcript=r.text) for clip, r in zip(clips, requests, strict=True)]
    asked = {"asr": ("repeat:", None), "spoken_qa": ("", "okay"), "translation": ("in german:", "das ist gut")}
    rows = {
        task: [
            Conversation(
                (user(*[prompt] * bool(prompt), part), assistant(answer or str(part.transcript))),
                task=task,
                language="en",
                extra={"target_language": "de"} if task == "translation" else {},
            )
            for part in parts
        ]
        for task, (prompt, answer) in asked.items()
    }
    for split, task in itertools.product(("train", "dev"), rows):
        write(folder / split / f"{task}.jsonl", rows[task])


SHORT = ("stage1.steps=60", "stage1.validate_every=60", "stage1.warmup_steps=5", "stage2.steps=2")


@pytest.mark.recipe
def test_both_stages_run_and_a_finished_one_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_world(tmp_path)
    llms_built: list[str] = []
    trunk = "model.adapter.trunk={blocks: [{num_layers: 0, stride: 1, kernel: 1}]}"
    settings = [f"root={tmp_path}", *SHORT, "stage2.validate_every=2", "stage2.instructions.rows=6"]
    settings += ["also={twin: tiny/llm}", trunk]
    monkeypatch.setattr(
        "sonant.recipes.speechmapper.build_speech_lm",
        lambda model: llms_built.append("llm") or _built(model, tmp_path / "run" / "stage1"),
    )
    told: list[str] = []
    result = main(preset("tiny", *settings), tmp_path / "run", say=told.append)
    assert result.stopped is None
    assert llms_built == ["llm"]
    assert {path.name for path in (tmp_path / "run/stage1/best").iterdir()} == {"llm.safetensors", "twin.safetensors"}
    log = [json.loads(line) for line in (tmp_path / "run/stage1/log.jsonl").read_text().splitlines()]
    assert next(line["scores"]["exact count"] for line in log if "scores" in line) > 50
    costs = json.loads((tmp_path / "run/cost.json").read_text())
    assert costs["stage 1"]["flops"] < costs["stage 1 with the LLM in the loop"]["flops"] / 3
    before, after = (load_speech_lm(tmp_path / "run" / name) for name in ("stage1/model", "stage2/last"))
    trained = {name for name, p in after.named_parameters() if not torch.equal(p, before.state_dict()[name])}
    assert trained
    assert all(name.startswith("adapter.") for name in trained)
    main(preset("tiny", *settings, "train.resume=true"), tmp_path / "run", say=told.append)
    assert len((tmp_path / "run/stage1/log.jsonl").read_text().splitlines()) == len(log)


def _built(model: Any, stage1: Path) -> Any:
    """Only once stage 1 has ended may an LLM be built."""
    assert (stage1 / "last").is_dir()
    return build_speech_lm(model)


@pytest.mark.recipe
def test_the_published_way_runs_on_the_tiny_world_and_leaves_out_what_does_not_fit(tmp_path: Path) -> None:
    made_world(tmp_path)
    rows = list(Manifest(tmp_path / "train/asr.jsonl"))
    long = Conversation((user("repeat:", AudioPart(rows[0].audio_parts[0].path, transcript="x" * 400)), assistant("x")))
    write(tmp_path / "train/asr.jsonl", [*rows, long])
    told: list[str] = []
    settings = [f"root={tmp_path}", *SHORT[2:], "stage1.steps=2", "stage1.validate_every=2"]
    settings += [f"stage{stage}.data.loader.max_broken_share=0.5" for stage in (1, 2)]
    config = preset("tiny_faithful", *settings)
    main(config, tmp_path / "run", say=told.append)
    assert any(line.startswith("stage 1: 1 rows left out") and "needs" in line for line in told)
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    assert Assistant(load_speech_lm(tmp_path / "run/model"), tokenizer).reply(rows[0].prompt()).token_ids is not None


@pytest.mark.recipe
def test_two_processes_go_through_both_stages_and_read_what_one_of_them_distilled(tmp_path: Path) -> None:
    made_world(tmp_path)
    settings = [f"root={tmp_path}", *SHORT[2:], "stage1.steps=2", "stage1.validate_every=2", "stage2.validate_every=2"]
    settings += ["stage2.instructions.rows=12", *(f"stage{stage}.data.plan.micro_batches=2" for stage in (1, 2))]
    main(preset("tiny", *settings), tmp_path / "one", say=print)  # and caches the encoder's frames
    said = torchrun("train", "speechmapper", "tiny", "train.parallel=fsdp2", *settings, "--out", tmp_path / "two")
    assert "costs of a step are not measured" in said  # of pieces of a model: it was a traceback
    assert f"trained: {tmp_path / 'two' / 'model'}" in said
    one, two = ((tmp_path / name / "stage2" / "distilled.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
