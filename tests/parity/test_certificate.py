"""A certificate that cannot fail certifies nothing: every way is broken here on purpose, and must be caught."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import OwnDecoder
from tiny_models import WAVLM, tiny_assistant
from torch import Tensor

from sonant.chat.messages import Conversation, user
from sonant.chat.tokenizer import ChatTokenizer
from sonant.errors import RequestError
from sonant.export import hugging_face
from sonant.generate import engine
from sonant.generate.assistant import Assistant
from sonant.generate.llm_step import LeanLLM
from sonant.models import prepared
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.lora import merge_lora, multiply_lora
from sonant.models.packing import Pack
from sonant.models.parts import resolve_part
from sonant.models.speech_head.head import SpeechHead
from sonant.models.speech_lm import SpeechLM
from sonant.parity import model_ways, served
from sonant.parity.certificate import WAYS, Certificate, Finding, certify, spell
from sonant.parity.compare import Answer
from sonant.parity.questions import made_clip
from sonant.parity.ways import Roads, Subject, Way
from sonant.serve import conversations
from sonant.serve.service import Service
from sonant.serve.untrusted_audio import as_part

QUESTIONS = (
    Conversation((user("Say it: ", made_clip(0.1, seed=1)),), id="a clip"),
    Conversation((user(made_clip(0.3, seed=2), " and then ", made_clip(0.2, seed=3), " please"),), id="two clips"),
    Conversation((user("only text"),), id="text"),
)
VOICE = {"mel": {"num_mels": 8}, "prenet_dim": 8, "postnet_dim": 8, "max_seconds": 0.3, "body": "own", "dim": 16,
         "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "stop": True, "latent": True}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "two encoders, LoRA scaled by the prompt": {"encoders": [WAVLM] * 2, "prompt_lora": {}},
    "LoRA and a voice": {"speech_head": VOICE},
    "no LoRA": {"lora": None},
}


def certified(
    assistant: Assistant, scratch: Path, *names: str, questions: tuple[Conversation, ...] = QUESTIONS
) -> Certificate:
    ways = [way for way in WAYS if way.name in names or not names]
    return certify(assistant, questions, scratch=scratch, name="small", max_new_tokens=5, ways=ways)


def verdicts(certificate: Certificate) -> dict[str, str]:
    return {finding.way: finding.verdict for finding in certificate.findings}


def only(certificate: Certificate) -> Finding:
    (finding,) = certificate.findings
    return finding


@pytest.fixture(autouse=True)
def decoding_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server decodes in this process: its worker takes a second to start."""
    monkeypatch.setattr(served, "AudioDecoder", lambda **limits: OwnDecoder())


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    """To be read only."""
    return tiny_assistant()


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_a_healthy_model_is_certified(parts: dict[str, Any], tmp_path: Path) -> None:
    found = certified(tiny_assistant(**parts), tmp_path)
    assert found.holds
    assert found.num_tokens == 15
    left = {name for name, verdict in verdicts(found).items() if verdict == "not applicable"}
    expected: set[str] = set() if "speech_head" in parts else {"spoken"}
    expected |= {"merged", "exported"} if "prompt_lora" in parts else set()
    expected |= {"merged", "exported apart"} if "lora" in parts else set()
    assert left == expected


def test_what_cannot_be_done_says_why(tmp_path: Path) -> None:
    unpacked = tiny_assistant(prompt_lora={})
    unpacked.model.llm.set_attn_implementation("eager")
    found = certified(unpacked, tmp_path, "merged", "packed", "spoken")
    notes = {finding.way: finding.note for finding in found.findings}
    assert notes["merged"].startswith("refused: this LoRA cannot be merged: each prompt gives it another scale")
    assert notes["packed"].startswith("LlamaForCausalLM would mix rows of one sequence")
    assert notes["spoken"] == "this model has no voice"


def test_an_adapter_that_looks_at_padding_is_caught(tmp_path: Path) -> None:
    assistant = tiny_assistant()
    forward = assistant.model.adapter.forward

    def leaking(frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        audio, audio_lengths = forward(frames, lengths)
        return audio + 0.01 * (frames.shape[1] - lengths)[:, None, None], audio_lengths

    assistant.model.adapter.forward = leaking
    found = certified(assistant, tmp_path, "batched", "padded", "packed", "one pass")
    differing = dict.fromkeys(("batched", "padded", "packed"), "differs")
    assert verdicts(found) == differing | {"one pass": "equal"}
    assert not found.holds


def test_rows_of_a_pack_that_see_each_other_are_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(pack: Pack) -> list[tuple[slice, Pack]]:
        whole = Pack((pack.num_positions,), pack.num_positions, pack.device)
        return [(slice(0, pack.num_positions), whole)]

    monkeypatch.setattr(Pack, "groups", property(mixed))
    found = certified(assistant, tmp_path, "padded", "packed")
    assert verdicts(found) == {"padded": "equal", "packed": "differs"}


def test_a_joining_row_that_is_read_with_its_padding_is_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = engine._Lines.add

    def careless(self: Any, others: Any) -> None:
        add(self, others)
        self.attention_mask = torch.ones_like(self.attention_mask)

    monkeypatch.setattr(engine._Lines, "add", careless)
    found = certified(assistant, tmp_path, "joining", "batched")
    assert verdicts(found) == {"joining": "differs", "batched": "equal"}


def test_weights_that_are_laid_out_wrongly_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations alone compute by them, and no way of the certificate did."""
    monkeypatch.setattr("sonant.models.prepared._LEAST", 1)
    assistant = tiny_assistant()
    assert verdicts(certified(assistant, tmp_path / "right", "evaluated")) == {"evaluated": "equal"}
    laid_out = prepared.prepared_linear

    def wrong(weight: Tensor, bias: Tensor | None = None) -> Any:
        return laid_out(1.2 * weight, bias)

    monkeypatch.setattr(prepared, "prepared_linear", wrong)
    found = certified(assistant, tmp_path / "wrong", "evaluated", "batched")
    assert verdicts(found) == {"evaluated": "differs", "batched": "equal"}


def test_a_cache_that_counts_positions_wrongly_is_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LeanLLM.__call__

    def late(self: LeanLLM, embeds: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        return read(self, embeds, positions + 1 if positions.shape[1] == 1 else positions, *rest)

    monkeypatch.setattr(LeanLLM, "__call__", late)
    found = certified(assistant, tmp_path, "one pass", "batched")
    assert verdicts(found) == {"one pass": "differs", "batched": "equal"}


def test_frames_of_a_cache_that_come_late_are_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(model_ways.FrameCache):
        def __call__(self, part: Any) -> Tensor:
            return super().__call__(part).roll(1, 0)

    monkeypatch.setattr(model_ways, "FrameCache", Late)
    assert only(certified(assistant, tmp_path, "frames cached")).verdict == "differs"


def test_a_weight_that_is_lost_on_the_way_to_disk_is_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = model_ways.load_speech_lm

    def forgetful(folder: Path) -> SpeechLM:
        model = load(folder)
        next(model.adapter.parameters()).data.mul_(1.01)
        return model

    monkeypatch.setattr(model_ways, "load_speech_lm", forgetful)
    assert only(certified(assistant, tmp_path, "saved and loaded")).verdict == "differs"


def merge_too_much(llm: Any) -> None:
    multiply_lora(llm, 1.001)
    merge_lora(llm)


def test_a_merge_with_a_wrong_scale_is_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_ways, "merge_lora", merge_too_much)
    assert only(certified(assistant, tmp_path, "merged")).verdict == "differs"


def test_an_export_whose_merge_differs_is_caught_and_lora_apart_is_not_to_blame(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face, "merge_lora", merge_too_much)
    found = certified(assistant, tmp_path, "exported", "exported apart")
    assert verdicts(found) == {"exported": "differs", "exported apart": "equal"}


def test_a_server_that_cuts_recordings_short_is_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "as_part", lambda samples: as_part(samples[:-800]))
    assert only(certified(assistant, tmp_path, "served")).verdict == "differs"


def test_a_server_that_refuses_a_question_is_caught_and_says_why(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "NAME", "another")
    monkeypatch.setattr(served, "Service", lambda **parts: Service(**{**parts, "model_name": "certified"}))
    found = only(certified(assistant, tmp_path, "served"))
    assert found.verdict == "differs"
    assert found.note.startswith("failed: RequestError: the server answers 'a clip' with status 404")


def test_an_answer_that_ends_for_another_reason_is_caught(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = served._ask

    async def cut_off(subject: Subject) -> Any:
        replies = await ask(subject)
        replies[1]["choices"][0]["finish_reason"] = "stop"
        return replies

    monkeypatch.setattr(served, "_ask", cut_off)
    found = only(certified(assistant, tmp_path, "served"))
    assert found.comparison is not None
    assert found.comparison.first_difference is not None
    parting = found.comparison.first_difference
    assert (parting.row, parting.position, parting.found) == (1, 5, "(end: stop)")


def test_without_the_server_s_packages_that_way_says_what_to_install(
    assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    gone = {name: module for name, module in sys.modules.items() if name.startswith("sonant.serve.")}
    gone[served.__name__] = served
    for name, module in gone.items():  # packages hold their modules, too; else other tests would patch second copies
        package, _, own_name = name.rpartition(".")
        monkeypatch.setattr(sys.modules[package], own_name, module)
    for name in gone:
        monkeypatch.delitem(sys.modules, name)
    found = only(certified(assistant, tmp_path, "served"))
    assert found.verdict == "not applicable"
    assert found.note == "fastapi is not installed; pip install 'sonant[serve]'"


def test_a_voice_that_draws_by_its_place_in_the_batch_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = SpeechHead.begin
    monkeypatch.setattr(
        SpeechHead, "begin", lambda self, states, *, seeds: begin(self, states, seeds=range(len(seeds)))
    )
    found = only(certified(tiny_assistant(speech_head=VOICE), tmp_path, "spoken"))
    assert found.verdict == "differs"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_caught_and_written_as_null(
    value: float, assistant: Assistant, tmp_path: Path
) -> None:
    def broken(subject: Subject) -> Roads:
        found = [Answer(a.tokens, torch.full_like(a.scores, value)) for a in subject.reference]
        return Roads(subject.reference, found)

    found = certify(assistant, QUESTIONS, scratch=tmp_path, max_new_tokens=2, ways=[Way("broken", "", broken)])
    assert only(found).verdict == "differs"
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["ways"][0]["largest_difference"] is None
    assert written["ways"][0]["tokens_equal"]


def test_a_way_that_breaks_is_a_finding_and_the_next_way_is_still_gone(assistant: Assistant, tmp_path: Path) -> None:
    def broken(subject: Subject) -> Roads:
        raise ZeroDivisionError("by nought")

    whole = Way("whole", "", lambda subject: Roads(subject.reference, subject.reference))
    told: list[str] = []
    found = certify(
        assistant, QUESTIONS, scratch=tmp_path, max_new_tokens=1, ways=[Way("broken", "", broken), whole],
        progress=told.append,
    )  # fmt: skip
    assert verdicts(found) == {"broken": "differs", "whole": "equal"}
    assert found.findings[0].note == "failed: ZeroDivisionError: by nought"
    assert told == ["broken", "whole"]
    assert not found.holds


def test_another_token_differs_even_where_scores_are_close(assistant: Assistant, tmp_path: Path) -> None:
    def other(subject: Subject) -> Roads:
        first, *rest = subject.reference
        return Roads(subject.reference, [Answer((7, *first.tokens[1:]), first.scores), *rest])

    found = only(certify(assistant, QUESTIONS, scratch=tmp_path, max_new_tokens=2, ways=[Way("other", "", other)]))
    assert found.verdict == "differs"
    assert found.comparison is not None
    assert found.comparison.largest_difference == 0.0
    assert found.comparison.first_difference is not None
    assert (found.comparison.first_difference.row, found.comparison.first_difference.position) == (0, 0)


def test_questions_for_which_there_is_no_room_are_left_out_and_named(assistant: Assistant, tmp_path: Path) -> None:
    long = Conversation((user("so " * 300),), id="long")
    found = certified(assistant, tmp_path, "batched", questions=(*QUESTIONS, long))
    assert found.questions == ("a clip", "two clips", "text")
    assert found.left_out == ("long",)
    with pytest.raises(RequestError, match=r"none of 1 questions fits this LLM, which holds 512 positions"):
        certified(assistant, tmp_path, "batched", questions=(long,))


@pytest.mark.parametrize(
    ("way", "question", "why"),
    [
        ("batched", QUESTIONS[0], "one question is no batch"),
        ("frames cached", QUESTIONS[2], "no question holds a clip"),
    ],
    ids=["batched", "frames cached"],
)
def test_ways_that_need_other_questions_say_so(
    way: str, question: Conversation, why: str, assistant: Assistant, tmp_path: Path
) -> None:
    found = only(certified(assistant, tmp_path, way, questions=(question,)))
    assert found.verdict == "not applicable"
    assert why in found.note


def test_the_tolerance_grows_with_the_span_of_the_scores_and_the_step_of_the_coarsest_dtype(
    tmp_path: Path,
) -> None:
    assistant = tiny_assistant()
    fine = only(certified(assistant, tmp_path / "a", "one pass"))
    assistant.model.llm.bfloat16()
    coarse = certified(assistant, tmp_path / "b", "one pass")
    assert fine.tolerance is not None
    assert 0 < fine.tolerance < 0.01
    assert coarse.dtype == "bfloat16"
    assert only(coarse).tolerance == pytest.approx(fine.tolerance * 2**16 * 8 / 256, rel=0.2)


def test_tokens_are_spelled_for_the_reader(assistant: Assistant) -> None:
    shown = [spell(token, assistant) for token in (assistant.tokenizer.end_of_turn_id, "word", None)]
    assert shown == ["'<|im_end|>'", "'word'", "the end"]


def test_a_quantised_llm_stays_where_it_came_from_and_is_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of it was to be saved, which is refused: no certificate of a QLoRA model could hold.
    settings = {
        "encoders": [{"kind": "tiny", "path": "tiny/encoder"}],
        "adapter": {"kind": "stack_mlp", "stack": 2},
        "llm": {"path": "tiny/llm"},
        "lora": {"rank": 2},
    }
    model = build_speech_lm(SpeechLMConfig.model_validate(settings))
    monkeypatch.setattr(type(model.llm), "is_quantized", True, raising=False)
    assistant = Assistant(model, ChatTokenizer.from_folder(resolve_part("tiny/llm")))
    found = verdicts(certified(assistant, tmp_path, "saved and loaded", "merged", "exported", "exported apart"))
    assert found == {"saved and loaded": "equal"} | dict.fromkeys(
        ("merged", "exported", "exported apart"), "not applicable"
    )
