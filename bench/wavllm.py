"""WavLLM on the tiny world: stage 1 over three seeds, then stage 2 and the arms that its prompt adapter has to beat.

Runs that are there are measured, and what is missing is said. BENCH_TRAIN=1 trains it: an hour of two cores.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.figure import RUNS, Figure, at_least, at_most, reported
from bench.quickstart import SONANT
from bench.resume import finish
from sonant.chat.messages import Conversation
from sonant.data.manifest import Manifest
from sonant.data.prompts import load_prompt_bank
from sonant.evaluate.arms import with_text
from sonant.evaluate.metrics.instructions import part_marks
from sonant.evaluate.metrics.verification import equal_error_rate
from sonant.evaluate.run import group_by_task, score_task
from sonant.evaluate.tasks import task_named
from sonant.evaluate.wordings import Wording, reworded, wordings_of
from sonant.generate.assistant import Assistant
from sonant.generate.choices import choice_scores
from sonant.generate.recognizer import CTCRecognizer
from sonant.generate.sampling import GenerationConfig
from sonant.models.lora import multiply_lora
from sonant.synth.world.wavllm import make_wavllm_world

FOLDER = RUNS / "wavllm"
WORLD = FOLDER / "world"
SEEDS, SEEDS_OF_STAGE2 = (0, 1, 2), (0,)
# What follows stage 1, which all arms of a seed share. more_rank: as many parameters as the prompt adapter has.
ARMS: Mapping[str, Sequence[str]] = {
    "prompt": (),
    "plain": ("stage2.prompt_lora=null", "stage2.groups.prompt_adapter=null", "stage2.more_rank=3"),
}
FIXED_SCALE = (
    1.15  # of plain LoRA, for all prompts; on dev 0.7, 0.85, 1, 1.15 follow 7, 33, 45, 41 % of rows: 1 is plain itself
)
SINGLE = ("asr", "translation", "spoken_qa", "spoken_qa_heldout", "instruction", "continuation")
WORDED = {"instruction": "tiny_wavllm_instruction", "instruction_transcribe": "tiny_wavllm_transcribe_only"}
ROWS, WORDED_ROWS = 200, 60  # of each set; of each, in each of twelve wordings
ANSWER = GenerationConfig(max_new_tokens=96)


def measure() -> list[Figure]:
    if os.environ.get("BENCH_TRAIN"):
        train()
    stage1 = [run for seed in SEEDS if (run := Examined(FOLDER / f"prompt{seed}" / "stage1")).exists]
    arms = {arm: [run for seed in SEEDS_OF_STAGE2 if (run := Examined(FOLDER / f"{arm}{seed}")).exists] for arm in ARMS}
    if not stage1:
        return [Figure("WavLLM", "three seeds", f"not measured: no run in {FOLDER}; BENCH_TRAIN=1 trains them")]
    ours = arms.pop("prompt")
    arms["fixed scale"] = [Examined(run.run, FIXED_SCALE) for run in arms["plain"]]
    figures = [Figure("seeds", "3", f"stage 1: {len(stage1)}, stage 2: {len(ours)}"), *_cost([*stage1, *ours])]
    semantic = [run for run in [Examined(FOLDER / "semantic0" / "stage1")] if run.exists]
    for name, runs in {"stage 1": stage1, "semantic encoder alone, stage 1": semantic, "stage 2": ours}.items():
        figures += _speakers(name, runs) if runs else [_missing(name)]
    for name, runs in {"stage 1": stage1, "stage 2": ours}.items():
        figures += [*_text(name, runs), *_single(name, runs), *_wordings(name, runs)] if runs else []
    if ours:
        figures += _combined(ours, {"stage 1": stage1, **arms})
        figures += _chains(ours)
        figures += [figure for arm, runs in arms.items() if runs for figure in _text(arm, runs)]
    return figures


def train() -> None:
    """Makes the world and every run that is not there; arms begin with their seed's stage 1."""
    make_wavllm_world(WORLD)
    for seed in SEEDS:
        _run(f"prompt{seed}", seed, [] if seed in SEEDS_OF_STAGE2 else ["stage2=null"])
    _run("semantic0", 0, ["model.encoders=[{kind: tiny, path: tiny/encoder}]", "stage2=null"])
    for arm, settings in ARMS.items():
        for seed in SEEDS_OF_STAGE2:
            begin = FOLDER / f"prompt{seed}" / "stage1" / "model"
            _run(f"{arm}{seed}", seed, [*settings, f"begin={begin}"] if arm != "prompt" else [])


def _run(name: str, seed: int, settings: Sequence[str]) -> None:
    if not Examined(FOLDER / name).exists:
        seeds = [f"train.seed={seed}", f"stage1.data.plan.seed={seed}"]
        if "stage2=null" not in settings:
            seeds.append(f"stage2.data.plan.seed={seed}")
        command = [SONANT, "train", "wavllm", "tiny", f"root={WORLD}", *seeds, *settings]
        finish([*command, "--out", str(FOLDER / name), "--resume"])


@dataclass(frozen=True)
class Examined:
    """A run, its LoRA times `scale`; what its model answers is kept beside it."""

    run: Path
    scale: float = 1.0

    @property
    def exists(self) -> bool:
        """Whether it has come to its end."""
        return (self.run / "model" / "checksums.json").exists()

    def answers(self, name: str, prompts: Sequence[Conversation], *, lora: bool = True) -> list[str]:
        """What the model says, asked once."""

        def ask() -> list[str]:
            return [reply.text for reply in self.model().replies(list(prompts), config=ANSWER, lora=lora)]

        return list(self.kept(name, ask))

    def score(self, name: str, metric: str, *, limit: int | None = ROWS, wording: Wording | None = None) -> float:
        """One metric of a test set, in per cent."""
        rows = rows_of(name)[:limit]
        prompts = [reworded(row, wording) if wording else row.prompt() for row in rows]
        return score_of(rows, self.answers(f"{name} {wording.name if wording else ''} {limit}", prompts), metric)

    def parts(self, name: str) -> float:
        """The share (%) of single instructions that are followed, where rows hold several."""
        rows = rows_of(name)
        answers = self.answers(f"{name}  None", [row.prompt() for row in rows])
        marks = [mark.followed for row, text in zip(rows, answers, strict=True) for mark in part_marks(text, row)]
        return 100 * sum(marks) / len(marks)

    def eer(self, name: str) -> float:
        """The equal error rate (%) by the likelihoods of yes and no."""
        rows = rows_of(name)

        def ask() -> list[list[float]]:
            scores: list[list[float]] = choice_scores(
                self.model(), [row.prompt() for row in rows], ("yes", "no")
            ).tolist()
            return scores

        scores = np.array(self.kept(f"{name} choices", ask))
        is_one = np.array([row.reference == "yes" for row in rows])
        return equal_error_rate(scores[:, 0] - scores[:, 1], is_one).score.value

    def model(self) -> Assistant:
        """The model, read anew."""
        assistant = Assistant.from_folder(self.run / "model")
        if self.scale != 1:
            multiply_lora(assistant.model.llm, self.scale)
        return assistant

    def kept(self, name: str, ask: Callable[[], Any]) -> Any:
        """What `ask` gave, if it was ever asked."""
        folder = "answers" if self.scale == 1 else f"answers-{self.scale:g}"
        path = self.run / folder / f"{'-'.join(name.split())}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(ask()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))


def rows_of(name: str) -> list[Conversation]:
    """Returns a test set."""
    return list(Manifest(WORLD / "test" / f"{name}.jsonl"))


def score_of(rows: Sequence[Conversation], answers: Sequence[str], metric: str) -> float:
    """Returns a metric, in per cent, of answers to rows of one task."""
    task = rows[0].task
    return score_task(task, rows, {"system": list(answers)}, how=task_named(task)).scores[metric]["system"].value


def _missing(name: str) -> Figure:
    return Figure(name, "report", f"not measured: no such run in {FOLDER}")


def _cost(runs: Sequence[Examined]) -> list[Figure]:
    def minutes(run: Path) -> float:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return float(sum(line["seconds"] for line in lines if "loss" in line)) / 60

    logs = [
        log.parent for run in runs for log in [run.run / "log.jsonl", run.run / "stage2" / "log.jsonl"] if log.exists()
    ]
    return [reported(f"{log.parent.name}/{log.name}, wall beside other work", [minutes(log)], "min") for log in logs]


def _speakers(name: str, runs: Sequence[Examined]) -> list[Figure]:
    eer = [run.eer("verification") for run in runs]
    manner = [run.score("manner", "unweighted_accuracy", limit=None) for run in runs]
    what = f"verification EER, unseen speakers, {name}", f"manner, unseen speakers, {name}"
    if "alone" in name:
        return [reported(what[0], eer, "%"), reported(what[1], manner, "%")]
    each = [run.eer("verification_manners") for run in runs]
    return [
        at_most(what[0], 5, eer, "%"),
        reported(f"EER, both parts in a manner of their own, {name}", each, "%"),
        at_least(what[1], 90, manner, "%"),
    ]


def _combined(ours: Sequence[Examined], others: Mapping[str, Sequence[Examined]]) -> list[Figure]:
    def scores(runs: Sequence[Examined], name: str = "combined", metric: str = "instruction_following") -> list[float]:
        return [run.score(name, metric, limit=None) for run in runs]

    followed = scores(ours)
    figures = [at_least("rows wholly followed, unseen combinations and wordings", 90, followed, "%")]
    for arm, runs in {"prompt": ours, **others}.items():
        for name in ("combined", "combined_seen") if runs and arm != "stage 1" else ():
            figures.append(
                reported(f"single instructions followed, {name}, {arm}", [run.parts(name) for run in runs], "%")
            )
    for arm, runs in others.items():
        if not runs:
            figures.append(_missing(f"rows wholly followed, {arm}"))
            continue
        theirs = scores(runs[: len(ours)])
        more = [mine - other for mine, other in zip(followed, theirs, strict=True)]
        figures += [reported(f"the same, {arm}", theirs, "%"), at_least(f"more than {arm}", 0.01, more, "points")]
    for arm, runs in {"prompt": ours, **others}.items():
        if runs and arm != "stage 1":
            seen = scores(runs, "combined_seen")
            figures.append(
                reported(f"rows wholly right, unseen combinations, {arm}", scores(runs, metric="all_correct"), "%")
            )
            figures.append(reported(f"rows wholly followed, combinations of training, {arm}", seen, "%"))
    return figures


def _wordings(name: str, runs: Sequence[Examined]) -> list[Figure]:
    figures = []
    for task, bank in WORDED.items():
        wordings = [each for each in wordings_of(load_prompt_bank(bank), num=12) if each.split == "test"]
        means, lost = [], []
        for run in runs:
            scores = [run.score(task, "exact_match", limit=WORDED_ROWS, wording=wording) for wording in wordings]
            means.append(sum(scores) / len(scores))
            lost.append(means[-1] - min(scores))
        figures.append(reported(f"{task}, exact, mean of {len(wordings)} unseen wordings, {name}", means, "%"))
        figures.append(at_most(f"{task}: worst wording beside the mean, {name}", 5, lost, "points"))
    return figures


def _text(name: str, runs: Sequence[Examined]) -> list[Figure]:
    figures, base = [], Examined(FOLDER / f"prompt{SEEDS[0]}" / "stage1")
    for task, rows in group_by_task([WORLD / "test" / "text_only.jsonl"]).items():
        prompts = [row.prompt() for row in rows]
        before = score_of(rows, base.answers(f"{task} before", prompts, lora=False), "exact_match")
        after = [score_of(rows, run.answers(f"{task} after", prompts), "exact_match") for run in runs]
        changes = [value - before for value in after]
        figures.append(at_least(f"{task}, {len(rows)} rows: after minus before, {name}", -0.5, changes, "points"))
    return figures


def _single(name: str, runs: Sequence[Examined]) -> list[Figure]:
    figures, first = [], Examined(FOLDER / f"prompt{SEEDS[0]}" / "stage1")
    for task in SINGLE:
        rows = rows_of(task)[:ROWS]
        metric = task_named(rows[0].task).headline
        figures.append(reported(f"{task}, {metric}, {name}", [run.score(task, metric) for run in runs], "%"))
        if name != "stage 1":
            continue
        prompts, clips = [row.prompt() for row in rows], [row.audio_parts[0] for row in rows]
        heard = first.kept(f"{task} heard", partial(CTCRecognizer.from_parts().transcribe, clips))
        for arm, texts, lora in (("cascade", heard, False), ("audio removed", [""] * len(rows), True)):
            answers = first.answers(f"{task} {arm}", with_text(prompts, texts), lora=lora)
            figures.append(reported(f"{task}, {metric}, {arm}", [score_of(rows, answers, metric)], "%"))
    return figures


def _chains(runs: Sequence[Examined]) -> list[Figure]:
    figures, rows = [], rows_of("combined_chained")
    for form in ("chain_of_thought", "direct"):
        asked = [row for row in rows if row.extra["form"] == form]
        answers = [run.answers(f"chained {form}", [row.prompt() for row in asked]) for run in runs]
        right = [score_of(asked, each, "final_exact") for each in answers]
        figures.append(reported(f"the last result of a chain is right, {form}", right, "%"))
    return figures
