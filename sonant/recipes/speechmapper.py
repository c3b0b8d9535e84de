"""SpeechMapper: a projector learns to say a transcript in an LLM's token embeddings before it ever meets the LLM.

    frames    a frozen encoder's, of every clip, once, on disk
    stage 1   projector only, against the embedding table of the LLM, of which no layer is built       run_dir/stage1
    attach    encoder + projector + LLM: listens, though nothing of it was trained together            stage1/model
    stage 2   projector only, through the frozen LLM, a few steps                                      run_dir/stage2
              asr        ASR prompts alone: other tasks come along, if the LLM's manners survive it
              tasks      a blend of the tasks wanted
              distilled  the LLM's own answers to the transcripts, under random instructions: nothing to short-cut

run_dir/model is the last stage's. Source: arXiv 2601.20417; presets `faithful` (as published), `best` (ours, each
difference with its reason), `tiny` and `tiny_faithful` (both on the tiny world).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from sonant.batch import Batch, Example
from sonant.chat.tokenizer import ChatTokenizer
from sonant.config import Config
from sonant.data.frame_cache import FrameCache
from sonant.data.manifest import Manifest
from sonant.data.retokenized import RetokenizedStream
from sonant.data.training_set import Ears, SourceConfig, dev_batches, make_stream
from sonant.evaluate.nearest import nearest_scores
from sonant.evaluate.normalize import NormalizerName, normalizer
from sonant.evaluate.validation import FOLLOWING, validator
from sonant.generate.assistant import Assistant
from sonant.models.attach_losses import AttachConfig, AttachLoss
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import copy_speech_lm, save_speech_lm
from sonant.models.encoders.load import load_encoder
from sonant.models.losses import TokenLoss
from sonant.models.mapping_losses import AlignedMappingConfig, MappingConfig, MappingLoss
from sonant.models.parts import resolve_part
from sonant.models.projector import Projector, build_projector, load_projector
from sonant.models.speech_lm import SpeechLM
from sonant.recipes.distillation import Instructions, write_distilled
from sonant.recipes.staged import ProjectorStage, cached_frames, device_of, keep_better, spoken_as
from sonant.train.cost import Steps, tell_costs
from sonant.train.distributed import leads, led
from sonant.train.trainer import TrainConfig, TrainResult, train


class MapStage(ProjectorStage):
    """Stage 1."""

    loss: MappingConfig = AlignedMappingConfig()
    transcripts: NormalizerName = "none"  # how transcripts are rewritten: "basic" is lower case without punctuation


class AttachStage(ProjectorStage):
    """Stage 2."""

    loss: AttachConfig = AttachConfig()
    trains: str = "*"  # of the adapter
    instructions: Instructions | None = None  # `data` gives clips, and the LLM the answers, under these instructions


class SpeechMapper(Config):
    """Every choice of a run."""

    model: SpeechLMConfig
    tokenizer: str | None = None  # folder or hub id; None: the LLM's own
    also: dict[str, str] = Field(default={})  # name -> folder or hub id of further LLMs: a head each, one trunk
    root: str = "."  # of all manifests
    frames: str = "frames"  # the cache of encoder frames, relative to root; made, or added to, where clips lack
    borrow_ctc_head: bool = False  # start CTC from the encoder's own head, if it has one of the same size
    stage1: MapStage
    stage2: AttachStage | None = None
    save: Literal["trained", "all"] = "trained"
    train: TrainConfig = TrainConfig()


@dataclass(frozen=True)
class _Run:
    """What every part of a run needs."""

    config: SpeechMapper
    tokenizer: ChatTokenizer
    cache: FrameCache
    say: Callable[[str], None]

    @cached_property
    def retokenizers(self) -> dict[str, Callable[[Sequence[int]], list[int]]]:
        """Head -> how a transcript's tokens become its own."""
        others = {name: ChatTokenizer.from_folder(resolve_part(path)) for name, path in self.config.also.items()}

        def retold(ids: Sequence[int], *, by: ChatTokenizer) -> list[int]:
            return by.encode_text(self.tokenizer.decode(ids))

        return {"llm": list} | {name: partial(retold, by=tokenizer) for name, tokenizer in others.items()}


def main(config: SpeechMapper, run_dir: Path, *, say: Callable[[str], None]) -> TrainResult:
    """Trains both stages in `run_dir`; returns how the last one ended. A finished stage is not run again.

    Raises: SonantError where settings, data or parts do not fit, before anything is trained.
    """
    torch.manual_seed(config.train.seed)
    tokenizer = ChatTokenizer.from_folder(resolve_part(config.tokenizer or str(config.model.llm.path)))
    manifests = [path for stage in (config.stage1, config.stage2) if stage for path in stage.manifests(config.root)]
    place = Path(config.root, config.frames)
    cache = cached_frames(config.model.encoders[0], manifests, place, train=config.train, say=say)
    run = _Run(config, tokenizer, cache, say)
    projector = build_projector(config.model, spec=cache.spec, others=config.also)
    if config.borrow_ctc_head:
        projector.borrow_ctc_head(load_encoder(config.model.encoders[0]))
    mapping, result = learn_to_map(run, projector, run_dir / "stage1")
    if result.stopped is not None:
        return result
    model = build_speech_lm(config.model).to(device_of(config.train))
    load_projector(model, run_dir / "stage1" / ("last" if result.best_step is None else "best"))
    if leads():
        save_speech_lm(model, tokenizer, run_dir / "stage1" / "model", include=config.save)
    costs: Steps = {"stage 1": (projector, mapping, MappingLoss(config.stage1.loss))}
    if config.stage2 is not None:
        attaching, result = learn_attached(run, config.stage2, projector, model, run_dir / "stage2")
        costs["stage 2"] = (model, attaching, AttachLoss(config.stage2.loss))
    if result.stopped is None and leads():
        copy_speech_lm(run_dir / ("stage2" if config.stage2 else "stage1") / "model", run_dir / "model")
        costs["stage 1 with the LLM in the loop"] = (model, mapping, TokenLoss())
        tell_costs(costs, run_dir / "cost.json", say=say)
    return result


def learn_to_map(run: _Run, projector: Projector, run_dir: Path) -> tuple[Batch, TrainResult]:
    """Stage 1: trains the projector against embedding tables; no LLM exists here. Also returns a batch of it.

    Rows whose text does not fit into the output are left out, counted and told.
    """
    stage, spec, data = run.config.stage1, run.cache.spec, run.config.stage1.data_under(run.config.root)
    ears = Ears([spec], lambda duration_s: math.ceil(duration_s * spec.frame_rate_hz), cached={spec: run.cache})
    edit = partial(spoken_as, normalize=normalizer(stage.transcripts))
    stream = make_stream(data, run.tokenizer, ears, edit=edit, check=partial(refuse_misfit, run, projector))
    dev = dev_batches(data, run.tokenizer, ears, edit=edit)
    run.say(f"stage 1: {sum(p.numel() for p in projector.parameters()):,} parameters, {len(stream.lengths):,} rows")
    result = train(
        projector,
        RetokenizedStream(stream, run.retokenizers) if run.config.also else stream,
        loss=MappingLoss(stage.loss),
        config=stage.train_config(run.config.train),
        groups=stage.groups(projector, "*"),
        run_dir=run_dir,
        validate=(lambda step: nearest_scores(projector.read(dev), decode=run.tokenizer.decode)) if dev else None,
        save_model=projector.save,
    )
    run.say("\n".join([f"stage 1: {len(stream.quarantine)} rows left out", *map(": ".join, stream.quarantine.items())]))
    return next(stream.steps()).batches[0], result


def learn_attached(
    run: _Run, stage: AttachStage, projector: Projector, model: SpeechLM, run_dir: Path
) -> tuple[Batch, TrainResult]:
    """Stage 2: trains `model.adapter`, which has learned what `projector` has, through the frozen LLM.

    Also returns a batch of it. The same rows are left out as in stage 1.
    """
    groups, data = stage.groups(model, "adapter." + stage.trains), stage.data_under(run.config.root)
    cached = {run.cache.spec: run.cache}
    assistant = Assistant(model, run.tokenizer, cached=cached)
    if stage.instructions is not None:
        path = run_dir / "distilled.jsonl"
        rows = (row for source in data.speech.values() for row in Manifest(Path(data.root, source.manifest)))
        said = map(spoken_as, rows)
        led(partial(write_distilled, assistant, said, path, config=stage.instructions, say=run.say))
        data = data.model_copy(update={"speech": {"distilled": SourceConfig(manifest=str(path.absolute()))}})
    ears = Ears(model.specs_given(cached), model.audio_tokens, cached=cached, positions=model.positions)
    stream = make_stream(data, run.tokenizer, ears, edit=spoken_as, check=partial(refuse_misfit, run, projector))
    validate = validator(data, assistant, how=FOLLOWING)
    start = validate(0) if validate is not None and stage.metric is not None else None
    result = train(
        model,
        stream,
        loss=AttachLoss(stage.loss),
        config=stage.train_config(run.config.train),
        groups=groups,
        run_dir=run_dir,
        validate=validate,
        save_model=lambda folder: save_speech_lm(model, run.tokenizer, folder, include=run.config.save),
    )
    if result.stopped is None and leads():
        keep_better(stage, result, start, before=run_dir.parent / "stage1/model", run_dir=run_dir, say=run.say)
    return next(stream.steps()).batches[0], result


def refuse_misfit(run: _Run, projector: Projector, example: Example) -> None:
    """Raises TrainingError for a row whose text does not fit into the output of any head."""
    for name, retold in run.retokenizers.items():
        own = replace(example, transcript_ids=[np.array(retold(ids.tolist())) for ids in example.transcript_ids])
        MappingLoss(run.config.stage1.loss).refuse_misfit(projector.head(name), run.cache.spec, own)
