"""The ways through other people's code: exported and run by plain transformers, served and asked over HTTP."""

from functools import partial

import torch

from sonant.errors import ModelError
from sonant.export.hugging_face import export_hf
from sonant.models.lora import lora_layers
from sonant.models.parts import quiet_transformers
from sonant.parity.compare import Answer
from sonant.parity.ways import NotApplicable, Roads, Subject, Way


def exported(subject: Subject, *, merge: bool) -> Roads:
    """The folder of `sonant export --to hf`, all questions in one batch of plain transformers' `generate`."""
    from transformers import AutoModelForCausalLM, AutoProcessor

    if not merge and not lora_layers(subject.assistant.model.llm):
        raise NotApplicable("there is no LoRA to keep apart")
    folder = subject.scratch / f"exported-{merge}"
    try:
        export_hf(subject.saved, folder, merge=merge)
    except ModelError as error:
        raise NotApplicable(f"refused: {error}") from None
    with quiet_transformers():
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).to(subject.assistant.device)
    inputs = processor(list(subject.questions)).to(subject.assistant.device)
    made = model.generate(
        **inputs,
        max_new_tokens=subject.config.max_new_tokens,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack(made.logits, dim=1).float().cpu()  # (B, N, V); rows that end early go on with padding
    said = made.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    stop_ids = subject.assistant.tokenizer.stop_ids
    lengths = [next((n for n, id in enumerate(ids, start=1) if id in stop_ids), len(ids)) for ids in said]
    rows = zip(said, logits, lengths, strict=True)
    return Roads(subject.reference, [Answer(tuple(ids[:n]), scores[:n]) for ids, scores, n in rows])


def served(subject: Subject) -> Roads:
    """All questions at once, asked of the server."""
    try:
        from sonant.parity.served import served
    except ModuleNotFoundError as error:
        raise NotApplicable(f"{error.name} is not installed; pip install 'sonant[serve]'") from None
    return served(subject)


OUTSIDE_WAYS = (
    Way("exported", "transformers with the exported folder, in one batch = each alone", partial(exported, merge=True)),
    Way("exported apart", "the same, with LoRA kept apart", partial(exported, merge=False)),
    Way("served", "log-probabilities over HTTP, all asked at once = each alone", served),
)
