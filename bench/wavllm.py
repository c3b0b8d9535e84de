"""WavLLM on the tiny world: stage 1 over three seeds, then stage 2 and the arms that its prompt adapter has to beat.

Runs that are there are measured, and what is missing is said. BENCH_TRAIN=1 trains those, one after the other, each on
one core: about 5 minutes a stage 1 and 30 to 50 a stage 2, four hours for all of them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from bench.figure import Figure, above_zero, at_least, at_most, reported
from bench.quickstart import SONANT
from bench.resume import finish
from bench.wavllm_runs import FOLDER, ROWS, WORLD, Examined, Runs, eer_of, rows_of, runs_of, score_of
from sonant.data.prompts import load_prompt_bank
from sonant.evaluate.arms import with_text
from sonant.evaluate.metrics.score import mean
from sonant.evaluate.run import group_by_task
from sonant.evaluate.tasks import task_named
from sonant.evaluate.wordings import wordings_of
from sonant.generate.recognizer import CTCRecognizer
from sonant.synth.world.wavllm import make_wavllm_world

SEEDS, SEEDS_OF_STAGE2, SEEDS_OF_SEMANTIC = (0, 1, 2), (0, 1, 2), (0, 1, 2)
# What follows stage 1, which all arms of a seed share. more_rank: as many parameters as the prompt adapter has.
ARMS: Mapping[str, Sequence[str]] = {
    "prompt": (),
    "plain": ("stage2.prompt_lora=null", "stage2.groups.prompt_adapter=null", "stage2.more_rank=3"),
}
# Of plain LoRA, for all prompts. On dev 0.85, 1 and 1.15 follow 57, 66 and 65 % of rows; 1 is plain itself.
FIXED_SCALE = 1.15
SINGLE = ("asr", "translation", "spoken_qa", "spoken_qa_heldout", "instruction", "continuation")
WORDED = {"instruction": "tiny_wavllm_instruction", "instruction_transcribe": "tiny_wavllm_transcribe_only"}
EARS = "tiny/manners-encoder"  # of the preset, of the arm without the second encoder, and of the cascade
WORDED_ROWS = 60  # in each of twelve wordings


def measure() -> list[Figure]:
    if os.environ.get("BENCH_TRAIN"):
        train()
    stage1 = runs_of("prompt", "stage1", SEEDS)
    semantic = runs_of("semantic", "stage1", SEEDS_OF_SEMANTIC)
    arms: dict[str, Runs] = {arm: runs_of(arm, "stage2", SEEDS_OF_STAGE2) for arm in ARMS}
    figures = [
        _runs("stage 1", stage1, SEEDS),
        _runs("semantic encoder alone, stage 1", semantic, SEEDS_OF_SEMANTIC),
        *(_runs(f"stage 2, {arm}", runs, SEEDS_OF_STAGE2) for arm, runs in arms.items()),
    ]
    if not stage1:
        return figures
    ours = arms.pop("prompt")
    for name, runs in {"stage 1": stage1, "stage 2, prompt": ours, "stage 2, plain": arms["plain"]}.items():
        figures += _cost(name, runs)
    arms["fixed scale"] = {seed: replace(run, scale=FIXED_SCALE) for seed, run in arms["plain"].items()}
    for name, runs in {"stage 1": stage1, "semantic encoder alone, stage 1": semantic, "stage 2": ours}.items():
        figures += _speakers(name, list(runs.values())) if runs else []
    base = next(iter(stage1.values()))
    for name, runs in {"stage 1": stage1, "stage 2": ours}.items():
        several = list(runs.values())
        figures += [*_text(name, several, base), *_single(name, several), *_wordings(name, several)] if runs else []
    figures += _baselines(base)
    if ours:
        figures += _combined(ours, {"stage 1": stage1, **arms})
        figures += _chains(list(ours.values()))
        figures += [each for arm, runs in arms.items() if runs for each in _text(arm, list(runs.values()), base)]
    return figures


def train() -> None:
    """Makes the world and every run that is not there; arms begin with their seed's stage 1."""
    make_wavllm_world(WORLD)
    for seed in SEEDS:
        _run(f"prompt{seed}", seed, [] if seed in SEEDS_OF_STAGE2 else ["stage2=null"])
    for seed in SEEDS_OF_SEMANTIC:
        _run(f"semantic{seed}", seed, [f"model.encoders=[{{kind: tiny, path: {EARS}}}]", "stage2=null"])
    for arm, settings in ARMS.items():
        for seed in SEEDS_OF_STAGE2:
            begin = FOLDER / f"prompt{seed}" / "stage1" / "model"
            _run(f"{arm}{seed}", seed, [*settings, f"begin={begin}"] if arm != "prompt" else [])


def _run(name: str, seed: int, settings: Sequence[str]) -> None:
    last = "stage1" if "stage2=null" in settings else "stage2"
    if not Examined(FOLDER / name / last).exists:
        seeds = [f"train.seed={seed}", f"stage1.data.plan.seed={seed}"]
        if last == "stage2":
            seeds.append(f"stage2.data.plan.seed={seed}")
        command = [SONANT, "train", "wavllm", "tiny", f"root={WORLD}", *seeds, *settings]
        finish([*command, "--out", str(FOLDER / name), "--resume"])


def _runs(name: str, runs: Runs, asked: Sequence[int]) -> Figure:
    missing = [seed for seed in asked if seed not in runs]
    told = f"not in {FOLDER}: seeds {_seeds(missing)}; BENCH_TRAIN=1 trains them" if missing else "all"
    return Figure(f"{name}: finished runs", f"seeds {_seeds(asked)}", told, not missing)


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _cost(name: str, runs: Runs) -> list[Figure]:
    if not runs:
        return []
    steps, minutes = zip(*(run.steps_and_minutes() for run in runs.values()), strict=True)
    return [reported(f"{name}: steps", steps, ""), reported(f"{name}: wall beside other work", minutes, "min")]


def _speakers(name: str, runs: Sequence[Examined]) -> list[Figure]:
    eer = [run.eer("verification") for run in runs]
    manner = [run.manner() for run in runs]
    what = f"verification EER, unseen speakers, {name}", f"manner, unseen speakers, {name}"
    if "alone" in name:
        return [reported(what[0], eer, "%"), reported(what[1], manner, "%")]
    each = [run.eer("verification_manners") for run in runs]
    return [
        at_most(what[0], 5, eer, "%"),
        reported(f"EER, both parts in a manner of their own, {name}", each, "%"),
        at_least(what[1], 90, manner, "%"),
    ]


def _combined(ours: Runs, others: Mapping[str, Runs]) -> list[Figure]:
    followed = {seed: run.followed("combined") for seed, run in ours.items()}
    by_seed = [each.value for each in followed.values()]
    figures = [at_least("rows wholly followed, unseen combinations and wordings", 90, by_seed, "%")]
    for arm, runs in others.items():
        both = [seed for seed in ours if seed in runs]
        if not both:
            figures.append(
                Figure(f"more than {arm}", "95 % interval > 0", "not measured: no run of the same seed", False)
            )
            continue
        theirs = [runs[seed].followed("combined") for seed in both]
        change = mean([followed[seed] for seed in both]) - mean(theirs)
        figures.append(reported(f"the same, {arm}, seeds {_seeds(both)}", [each.value for each in theirs], "%"))
        figures.append(above_zero(f"more than {arm}, paired, seeds {_seeds(both)} pooled", change.score, "points"))
    for arm, runs in {"prompt": ours, **others}.items():
        if not runs or arm == "stage 1":
            continue
        for name in ("combined", "combined_seen"):
            parts = [run.parts(name) for run in runs.values()]
            figures.append(reported(f"single instructions followed, {name}, {arm}", parts, "%"))
        right = [run.score("combined", "all_correct", limit=None) for run in runs.values()]
        seen = [run.followed("combined_seen").value for run in runs.values()]
        figures.append(reported(f"rows wholly right, unseen combinations, {arm}", right, "%"))
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


def _text(name: str, runs: Sequence[Examined], base: Examined) -> list[Figure]:
    """Text rows beside the LLM without LoRA, which all runs share."""
    figures = []
    for task, rows in group_by_task([WORLD / "test" / "text_only.jsonl"]).items():
        prompts = [row.prompt() for row in rows]
        before = score_of(rows, base.answers(f"{task} before", prompts, lora=False), "exact_match")
        after = [score_of(rows, run.answers(f"{task} after", prompts), "exact_match") for run in runs]
        changes = [value - before for value in after]
        figures.append(at_least(f"{task}, {len(rows)} rows: after minus before, {name}", -0.5, changes, "points"))
    return figures


def _single(name: str, runs: Sequence[Examined]) -> list[Figure]:
    headlines = {task: task_named(rows_of(task)[0].task).headline for task in SINGLE}
    return [
        reported(f"{task}, {metric}, {name}", [run.score(task, metric) for run in runs], "%")
        for task, metric in headlines.items()
    ]


def _baselines(run: Examined) -> list[Figure]:
    """What the question gives away, what the words give away, and what a recogniser and the LLM do without training."""
    figures = []
    for task in ("verification", "manner", *SINGLE):
        rows = rows_of(task, ROWS if task in SINGLE else None)
        prompts, clips = [row.prompt() for row in rows], [clip for row in rows for clip in row.audio_parts]
        name = f"{task} spread" if task in SINGLE else task
        heard = run.kept(f"{name} heard", partial(CTCRecognizer.from_parts(EARS).transcribe, clips))
        written = [clip.transcript for clip in clips if clip.transcript is not None]
        metric = {"manner": "unweighted_accuracy"}.get(task, task_named(rows[0].task).headline)
        for arm, texts, lora in (
            ("audio removed", [""] * len(clips), True),
            ("transcript only", written, True),
            ("cascade", heard, False),
        ):
            asked = with_text(prompts, texts)
            if task == "verification":
                value = eer_of(rows, run.likelihoods(f"{name} {arm} choices", asked, lora=lora))
            else:
                value = score_of(rows, run.answers(f"{name} {arm}", asked, lora=lora), metric)
            what = "EER" if task == "verification" else metric
            figures.append(reported(f"{task}, {what}, {arm}, {run.stage.parent.name}/{run.stage.name}", [value], "%"))
    return figures


def _chains(runs: Sequence[Examined]) -> list[Figure]:
    figures, rows = [], rows_of("combined_chained")
    for form in ("chain_of_thought", "direct"):
        asked = [row for row in rows if row.extra["form"] == form]
        answers = [run.answers(f"chained {form}", [row.prompt() for row in asked]) for run in runs]
        right = [score_of(asked, each, "final_exact") for each in answers]
        figures.append(reported(f"the last result of a chain is right, {form}", right, "%"))
    return figures
