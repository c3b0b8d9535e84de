"""WavLLM on the tiny world: two stages, three seeds, and the arms that its prompt adapter has to beat."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from sonant.evaluate.metrics.verification import equal_error_rate
from sonant.evaluate.run import group_by_task, score_task
from sonant.evaluate.tasks import task_named
from sonant.evaluate.wordings import Wording, reworded, wordings_of
from sonant.generate.assistant import Assistant
from sonant.generate.choices import choice_scores
from sonant.generate.recognizer import CTCRecognizer
from sonant.generate.sampling import GenerationConfig
from sonant.synth.world.wavllm import make_wavllm_world

FOLDER, SEEDS = RUNS / "wavllm", (0, 1, 2)
PLAIN = ("stage2.prompt_lora=null", "stage2.groups.prompt_adapter=null")
SEMANTIC = ("model.encoders=[{kind: tiny, path: tiny/encoder}]",)
# What follows stage 1, which all arms of a seed share. more_rank: as many parameters as the prompt adapter has.
ARMS: Mapping[str, Sequence[str]] = {
    "prompt": (),
    "plain": (*PLAIN, "stage2.more_rank=3"),
    "fixed": ("stage2.prompt_lora={form: fixed, scale: 0.75}", "stage2.groups.prompt_adapter=null"),
}
SINGLE = ("asr", "translation", "spoken_qa", "spoken_qa_heldout", "instruction", "continuation")
WORDED = {"instruction": "tiny_wavllm_instruction", "instruction_transcribe": "tiny_wavllm_transcribe_only"}
ROWS, WORDED_ROWS = 200, 60  # of each set; of each, in each of twelve wordings
ANSWER = GenerationConfig(max_new_tokens=96)


def measure() -> list[Figure]:
    make_wavllm_world(FOLDER / "world")
    runs = {arm: [trained(arm, seed) for seed in SEEDS] for arm in ARMS}
    stage1 = [Examined(trained("prompt", seed) / "stage1") for seed in SEEDS]
    arms = {arm: [Examined(run) for run in found] for arm, found in runs.items()}
    return [
        *_cost(runs["prompt"]),
        *_speakers(arms["prompt"], Examined(trained("semantic", 0))),
        *_combined(arms, stage1),
        *_wordings(arms["prompt"]),
        *_text(arms),
        *_single(arms["prompt"]),
        *_chains(arms["prompt"]),
    ]


def trained(arm: str, seed: int) -> Path:
    """Returns the folder of a finished run, running it (and the stage 1 that it begins with) if it is not there yet."""
    run = FOLDER / f"{arm}{seed}"
    settings = [f"root={FOLDER / 'world'}", f"train.seed={seed}", f"stage1.data.plan.seed={seed}"]
    settings.append(f"stage2.data.plan.seed={seed}")
    if arm == "semantic":
        settings += [*SEMANTIC, "stage2=null"]
    elif arm != "prompt":
        settings += [*ARMS[arm], f"begin={trained('prompt', seed) / 'stage1' / 'model'}"]
    if not (run / "model").exists():
        finish([SONANT, "train", "wavllm", "tiny", *settings, "--out", str(run), "--resume"])
    return run


@dataclass(frozen=True)
class Examined:
    """A run; what its model answers is kept beside it."""

    run: Path

    def rows(self, name: str, *, limit: int | None = ROWS) -> list[Conversation]:
        """The first rows of a test set."""
        return list(Manifest(FOLDER / "world" / "test" / f"{name}.jsonl"))[:limit]

    def answers(self, name: str, prompts: Sequence[Conversation], *, lora: bool = True) -> list[str]:
        """What the model says, asked once."""

        def ask() -> list[str]:
            replies = self.assistant.replies(list(prompts), config=ANSWER, lora=lora)
            return [reply.text for reply in replies]

        return self._kept(name, ask)

    def score(self, name: str, metric: str, *, limit: int | None = ROWS, wording: Wording | None = None) -> float:
        """One metric of a test set, in per cent."""
        rows = self.rows(name, limit=limit)
        prompts = [reworded(row, wording) if wording else row.prompt() for row in rows]
        answers = self.answers(f"{name} {wording.name if wording else ''} {limit}", prompts)
        return score_of(rows, answers, metric)

    def eer(self, name: str) -> float:
        """The equal error rate (%) of the likelihoods of yes and no."""
        rows, choices = self.rows(name, limit=None), ("yes", "no")

        def ask() -> list[list[float]]:
            return choice_scores(self.assistant, [row.prompt() for row in rows], choices).tolist()

        scores = np.array(self._kept(f"{name} choices", ask))
        is_one = np.array([row.reference == "yes" for row in rows])
        return equal_error_rate(scores[:, 0] - scores[:, 1], is_one).score.value

    @property
    def assistant(self) -> Assistant:
        """The model, read anew."""
        return Assistant.from_folder(self.run / "model")

    def _kept(self, name: str, ask: Any) -> Any:
        path = self.run / "answers" / f"{name.strip().replace(' ', '-')}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(ask()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))


def score_of(rows: Sequence[Conversation], answers: Sequence[str], metric: str) -> float:
    """Returns a metric, in per cent, of answers to rows of one task."""
    task = rows[0].task
    return score_task(task, rows, {"system": list(answers)}, how=task_named(task)).scores[metric]["system"].value


def _cost(runs: Sequence[Path]) -> list[Figure]:
    minutes = [sum(_seconds(run / stage) for stage in ("stage1", "stage2")) / 60 for run in runs]
    return [at_most("both stages, wall (beside other work)", 10, minutes, "min")]


def _seconds(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return float(sum(line["seconds"] for line in lines if "loss" in line))


def _speakers(ours: Sequence[Examined], semantic: Examined) -> list[Figure]:
    return [
        at_most("verification EER, unseen speakers", 5, [each.eer("verification") for each in ours], "%"),
        reported("the same, semantic encoder alone", [semantic.eer("verification")], "%"),
        reported("EER, both parts in a manner of their own", [each.eer("verification_manners") for each in ours], "%"),
        at_least(
            "manner, unseen speakers",
            90,
            [each.score("manner", "unweighted_accuracy", limit=None) for each in ours],
            "%",
        ),
        reported(
            "the same, semantic encoder alone", [semantic.score("manner", "unweighted_accuracy", limit=None)], "%"
        ),
    ]


def _combined(arms: Mapping[str, Sequence[Examined]], stage1: Sequence[Examined]) -> list[Figure]:
    def followed(
        found: Sequence[Examined], name: str = "combined", metric: str = "instruction_following"
    ) -> list[float]:
        return [each.score(name, metric, limit=None) for each in found]

    ours = followed(arms["prompt"])
    figures = [at_least("instructions followed, unseen combinations and wordings", 90, ours, "%")]
    others = {arm: followed(found) for arm, found in arms.items() if arm != "prompt"} | {"stage 1": followed(stage1)}
    for arm, values in others.items():
        more = [mine - theirs for mine, theirs in zip(ours, values, strict=True)]
        figures.append(reported(f"the same, {arm}", values, "%"))
        figures.append(at_least(f"more than {arm}", 0.01, more, "points"))
    for arm, found in arms.items():
        figures.append(reported(f"all parts right, {arm}", followed(found, metric="all_correct"), "%"))
        figures.append(reported(f"followed, combinations of training, {arm}", followed(found, "combined_seen"), "%"))
    return figures


def _wordings(ours: Sequence[Examined]) -> list[Figure]:
    figures = []
    for name, bank in WORDED.items():
        wordings = [each for each in wordings_of(load_prompt_bank(bank), num=12) if each.split == "test"]
        metric = "exact_match" if name == "instruction" else "wer"
        lost = []
        for each in ours:
            scores = [each.score(name, metric, limit=WORDED_ROWS, wording=wording) for wording in wordings]
            lost.append(abs(sum(scores) / len(scores) - (min if metric == "exact_match" else max)(scores)))
        figures.append(at_most(f"{name}, {len(wordings)} unseen wordings: worst beside mean", 5, lost, "points"))
    return figures


def _text(arms: Mapping[str, Sequence[Examined]]) -> list[Figure]:
    figures = []
    groups = group_by_task([FOLDER / "world" / "test" / "text_only.jsonl"])
    for task, rows in groups.items():
        prompts = [row.prompt() for row in rows]
        before = score_of(rows, arms["prompt"][0].answers(f"{task} before", prompts, lora=False), "exact_match")
        for arm, found in arms.items():
            after = [score_of(rows, each.answers(f"{task} after", prompts), "exact_match") for each in found]
            changes = [value - before for value in after]
            what = f"{task}, {len(rows)} rows: after minus before, {arm}"
            figures.append(
                at_least(what, -0.5, changes, "points") if arm == "prompt" else reported(what, changes, "points")
            )
    return figures


def _single(ours: Sequence[Examined]) -> list[Figure]:
    figures = []
    for name in SINGLE:
        rows = ours[0].rows(name)
        metric = task_named(rows[0].task).headline
        figures.append(reported(f"{name}, {metric}", [each.score(name, metric) for each in ours], "%"))
        prompts, clips = [row.prompt() for row in rows], [row.audio_parts[0] for row in rows]
        heard = ours[0]._kept(f"{name} heard", lambda clips=clips: CTCRecognizer.from_parts().transcribe(clips))
        cascade = ours[0].answers(f"{name} cascade", with_text(prompts, heard), lora=False)
        figures.append(reported(f"{name}, cascade", [score_of(rows, cascade, metric)], "%"))
        silent = ours[0].answers(f"{name} no audio", with_text(prompts, [""] * len(rows)))
        figures.append(reported(f"{name}, audio removed", [score_of(rows, silent, metric)], "%"))
    return figures


def _chains(ours: Sequence[Examined]) -> list[Figure]:
    figures = []
    for form in ("chain_of_thought", "direct"):
        values = []
        for each in ours:
            rows = [row for row in each.rows("combined_chained", limit=None) if row.extra["form"] == form]
            values.append(
                score_of(rows, each.answers(f"chained {form}", [row.prompt() for row in rows]), "final_exact")
            )
        figures.append(reported(f"the last result of a chain is right, {form}", values, "%"))
    return figures
