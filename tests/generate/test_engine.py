from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_models import GROUPED, TOKENIZER, tiny_speech_lm

from sonant.batch import Batch, collate, make_example
from sonant.chat.messages import AudioPart, Conversation, user
from sonant.errors import RequestError
from sonant.generate.assistant import Assistant
from sonant.generate.engine import decode, generate
from sonant.generate.sampling import Drawing, GenerationConfig
from sonant.models.speech_lm import SpeechLM
from sonant.models.splice import Spliced
from sonant.testing import tone

NEVER: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def model() -> SpeechLM:
    whisper = {"kind": "whisper", "architecture": WHISPER}
    adapter = {"kind": "stack_mlp", "stack": 4}
    return tiny_speech_lm(seed=0, moved=0.2, encoders=[whisper], adapter=adapter, llm=GROUPED)


WHISPER = {
    "num_mel_bins": 80, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "max_source_positions": 1500,
    "vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def clip(seconds: float) -> AudioPart:
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds, 300 + 100 * seconds), 16_000, format="WAV")
    return AudioPart(data=buffer.getvalue())


CONVERSATIONS = [
    Conversation((user("Say it: ", clip(0.3)),), id="a"),
    Conversation((user(clip(1.1), " and then ", clip(0.6), " please, now that is long"),), id="b"),
    Conversation((user("only text"),), id="c"),
]


def batch_of(model: SpeechLM, *conversations: Conversation) -> Batch:
    return collate([make_example(c, TOKENIZER, model.feature_specs, for_generation=True) for c in conversations])


def teacher_forced(model: SpeechLM, batch: Batch, said: list[int]) -> torch.Tensor:
    """(len(said), V): logits of one row without a cache, from the whole sequence at once."""
    spliced: Spliced = model.embed(batch)
    answer = model.llm.get_input_embeddings()(torch.tensor([said[:-1]], dtype=torch.long))
    embeds = torch.cat([spliced.inputs_embeds, answer], dim=1)
    return model.llm(inputs_embeds=embeds, use_cache=False).logits[0, -len(said) :]


@torch.no_grad()
def test_cached_decoding_of_unequal_rows_equals_each_row_alone_without_cache(model: SpeechLM) -> None:
    config = GenerationConfig(max_new_tokens=6)
    steps = list(decode(model, batch_of(model, *CONVERSATIONS), config=config, stop_ids=NEVER))
    for row, conversation in enumerate(CONVERSATIONS):
        said = [int(step.token_ids[row]) for step in steps]
        alone = batch_of(model, conversation)
        expected = teacher_forced(model, alone, said)
        logits = torch.stack([step.logits[row] for step in steps])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        assert generate(model, alone, config=config, stop_ids=NEVER) == [said]


def test_a_row_that_stops_leaves_the_batch_and_the_others_go_on_unchanged(model: SpeechLM) -> None:
    config = GenerationConfig(max_new_tokens=8)
    free = generate(model, batch_of(model, *CONVERSATIONS), config=config, stop_ids=NEVER)
    stop = free[0][0]
    stopped = generate(model, batch_of(model, *CONVERSATIONS), config=config, stop_ids=frozenset({stop}))

    def until_stop(ids: list[int]) -> list[int]:
        return ids[: ids.index(stop) + 1] if stop in ids else ids

    assert stopped == [until_stop(ids) for ids in free]
    assert len(stopped[0]) == 1


def test_products_of_weights_laid_out_before_change_no_answer(model: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` computes by them, what streams does not; the models of these tests are too small for it otherwise."""
    monkeypatch.setattr("sonant.models.prepared._LEAST", 1)
    config, batch = GenerationConfig(max_new_tokens=12), batch_of(model, *CONVERSATIONS)
    streamed: dict[int, list[int]] = {row: [] for row in range(batch.num_rows)}
    for step in decode(model, batch, config=config, stop_ids=NEVER):
        for row, token in zip(step.rows, step.token_ids.tolist(), strict=True):
            streamed[row].append(token)
    assert generate(model, batch, config=config, stop_ids=NEVER) == list(streamed.values())
    assert not any("forward" in vars(module) for module in model.modules())


def test_without_lora_the_base_model_answers_and_lora_is_back_afterwards(model: SpeechLM) -> None:
    batch, config = batch_of(model, CONVERSATIONS[2]), GenerationConfig(max_new_tokens=6)
    with_lora = next(decode(model, batch, config=config, stop_ids=NEVER)).logits
    steps = decode(model, batch, config=config, stop_ids=NEVER, lora=False)
    without = next(steps).logits
    # The generator is still open: LoRA must be on for everybody else meanwhile.
    torch.testing.assert_close(next(decode(model, batch, config=config, stop_ids=NEVER)).logits, with_lora)
    assert not torch.allclose(with_lora, without, atol=1e-3)


def test_generation_that_raises_leaves_the_model_usable(model: SpeechLM) -> None:
    """NeMo's SALM moved the embedding away while generating and lost it when generation raised."""
    batch, config = batch_of(model, CONVERSATIONS[0]), GenerationConfig(max_new_tokens=3)
    before = generate(model, batch, config=config, stop_ids=NEVER)
    steps = decode(model, batch, config=config, stop_ids=NEVER, lora=False)
    next(steps)
    with pytest.raises(RuntimeError, match="client left"):
        steps.throw(RuntimeError("client left"))
    assert generate(model, batch, config=config, stop_ids=NEVER) == before


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(model: SpeechLM) -> None:
    long = Conversation((user("word " * 200),), id="long")
    with pytest.raises(RequestError, match=r"this LLM holds 512"):
        generate(model, batch_of(model, long), config=GenerationConfig(), stop_ids=NEVER)


def test_sampled_answers_do_not_depend_on_the_company(model: SpeechLM) -> None:
    config = GenerationConfig(max_new_tokens=5, temperature=1.0, seed=1)
    together = generate(model, batch_of(model, *CONVERSATIONS), config=config, stop_ids=NEVER)
    alone = [generate(model, batch_of(model, c), config=config, stop_ids=NEVER)[0] for c in CONVERSATIONS]
    assert together == alone
    assert np.std([len(ids) for ids in together]) == 0


SCRIPT = ([5] * 10, list(range(10, 20)), [1, 2] * 5)


def scripted(logits: torch.Tensor, answers: Sequence[Drawing]) -> torch.Tensor:
    """Says what SCRIPT has for each answer, whatever the logits are; all answers begin together."""
    begun = [answer.said for answer in answers]
    rows = [[line[: len(said)] for line in SCRIPT].index(said) if said else row for row, said in enumerate(begun)]
    return torch.tensor([SCRIPT[row][len(said)] for row, said in zip(rows, begun, strict=True)])


def test_a_row_that_runs_in_a_loop_ends_unfinished_and_the_others_go_on(
    model: SpeechLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonant.generate.engine.draw", scripted)
    batch = batch_of(model, *CONVERSATIONS)
    free, guarded = (GenerationConfig(max_new_tokens=10, max_repeats=times) for times in (None, 3))
    assert generate(model, batch, config=free, stop_ids=NEVER) == list(SCRIPT)
    assert generate(model, batch, config=guarded, stop_ids=NEVER) == [[5] * 3, SCRIPT[1], [1, 2] * 3]
    reply = Assistant(model, TOKENIZER).reply(CONVERSATIONS[0], config=guarded)
    assert (reply.token_ids, reply.finished) == ((5, 5, 5), False)
