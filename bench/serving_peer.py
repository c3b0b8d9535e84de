"""Beside `transformers serve`: an audio LLM of the same size with random weights, the same clips, one run.

Both have Whisper's encoder, 25 frames a second behind it, and write `NEW_TOKENS` tokens. Each is as it comes:
Qwen2-Audio hears every clip padded to 30 s, ours at its own length (with `pad_to_30s` the gain would be batching's
alone). Answers are asked for whole: the peer's stream breaks off at bytes that make no character, and random weights
say such. Requests take turns between the servers, so that a busy machine slows both.
"""

import asyncio
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from bench.clients import Client, Server
from bench.figure import RUNS, Figure, at_least, at_most, reported
from sonant.chat.tokenizer import ChatTokenizer
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import save_speech_lm
from sonant.models.parts import resolve_part

FOLDER = RUNS / "serving_peer"
CLIENTS, ROUNDS, NEW_TOKENS = 32, 3, 32
WIDTH, LAYERS, HEADS, WIDE = 192, 4, 4, 512
LLM = {
    "model_type": "qwen2", "hidden_size": WIDTH, "intermediate_size": WIDE, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 2048,
    "initializer_range": 0.2, "tie_word_embeddings": False,
}  # fmt: skip
EARS = {
    "num_mel_bins": 80, "d_model": WIDTH, "encoder_layers": LAYERS, "encoder_attention_heads": HEADS,
    "encoder_ffn_dim": WIDE, "max_source_positions": 1500,
}  # fmt: skip


def beside_transformers(clips: Sequence[bytes]) -> list[Figure]:
    """Returns requests a second of both servers under the same clients."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    mine, sizes = FOLDER / "sonant", {}
    sizes["sonant"] = _save_sonant(mine)
    sizes["transformers"] = _save_qwen2_audio(peer := (FOLDER / "qwen2_audio").absolute())
    port = _free_port()
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(peer), "--device", "cpu"]
    with (
        Server.of_sonant(mine, f"max_rows={CLIENTS}") as ours,
        Server([*serve, "--port", str(port)], url=f"http://localhost:{port}") as theirs,
    ):
        rounds = asyncio.run(_in_turns(ours.url, theirs.url, str(peer), clips))
    answered = {name: sum(count for count, _ in each) for name, each in rounds.items()}
    per_s = {name: answered[name] / sum(seconds for _, seconds in each) for name, each in rounds.items()}
    what = f"{CLIENTS} clients, {NEW_TOKENS} tokens an answer"
    return [
        reported("parameters of both models, in millions", [size / 1e6 for size in sizes.values()], ""),
        *(reported(f"{what}: {name}, answers a second", [value], "") for name, value in per_s.items()),
        at_most(f"{what}: sonant failed", 0, [ROUNDS * CLIENTS - answered["sonant"]], ""),
        reported(f"{what}: transformers failed", [ROUNDS * CLIENTS - answered["transformers"]], ""),
        at_least(f"{what}: against transformers serve", 2, [per_s["sonant"] / per_s["transformers"]], "x"),
    ]


async def _in_turns(ours: str, theirs: str, model: str, clips: Sequence[bytes]) -> dict[str, list[tuple[int, float]]]:
    """Answers and seconds of each round of both, in which every client asks once."""
    rounds: dict[str, list[tuple[int, float]]] = {"sonant": [], "transformers": []}
    async with (
        Client(ours, max_tokens=NEW_TOKENS, stream=False) as mine,
        Client(theirs, model=model, max_tokens=NEW_TOKENS, stream=False) as other,
    ):
        clients = {"sonant": mine, "transformers": other}
        for client in clients.values():
            await client.ask(clips[0])
        for _ in range(ROUNDS):
            for name, client in clients.items():
                began = time.perf_counter()
                asked = await asyncio.gather(*(client.ask(clips[n % len(clips)]) for n in range(CLIENTS)))
                rounds[name].append((sum(answer.complete for answer in asked), time.perf_counter() - began))
    return rounds


def _save_sonant(folder: Path) -> int:
    torch.manual_seed(0)
    tokenizer = ChatTokenizer.from_folder(resolve_part("tiny/llm"))
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 1, "vocab_size": 8}
    parts = {
        "encoders": [{"kind": "whisper", "architecture": EARS | decoder}],
        "adapter": {"kind": "stack_mlp", "stack": 2},
        "llm": {"architecture": {**LLM, "vocab_size": tokenizer.vocab_size}},
    }
    model = build_speech_lm(SpeechLMConfig.model_validate(parts))
    _never_stops(model.llm, sorted(tokenizer.stop_ids))
    save_speech_lm(model, tokenizer, folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _save_qwen2_audio(folder: Path) -> int:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_part("tiny/llm"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    stop = tokenizer.eos_token_id
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **EARS},
        text_config={**LLM, "vocab_size": len(tokenizer), "eos_token_id": stop, "bos_token_id": stop},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config).eval()
    _never_stops(model, [stop])
    model.save_pretrained(folder)
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=EARS["num_mel_bins"]), tokenizer)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _never_stops(llm: PreTrainedModel | Any, stop_ids: Sequence[int]) -> None:
    """A logit of zero is never the largest of hundreds of random ones."""
    with torch.no_grad():
        llm.get_output_embeddings().weight[list(stop_ids)] = 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
