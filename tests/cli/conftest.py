import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sonant.chat.messages import Conversation, user
from sonant.cli.main import main
from sonant.generate.assistant import Assistant
from sonant.models.build import SpeechLMConfig, build_speech_lm
from sonant.models.checkpoint import save_speech_lm
from sonant.testing import byte_tokenizer


@dataclass(frozen=True)
class Outcome:
    """What a user of the command line meets."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that a mistake is told in."""
        assert self.status != 0
        (line,) = self.err.strip().splitlines()
        assert "Traceback" not in line
        return line


@pytest.fixture
def sonant(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`sonant(*arguments, stdin="")` runs the command in this process; whatever it raises would be a traceback."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")

    def run(*arguments: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sonant", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        if isinstance(code, str):  # sys.exit(text) prints it and returns 1
            return Outcome(1, said.out, said.err + code + "\n")
        return Outcome(code or 0, said.out, said.err)

    return run


def saved_model(folder: Path, **parts: Any) -> Path:
    """The folder of a random model of which LoRA has moved: it says something else with LoRA than without."""
    torch.manual_seed(1)
    tokenizer = byte_tokenizer()
    config = SpeechLMConfig.model_validate(
        {
            "encoders": [{"kind": "wavlm", "architecture": {"hidden_size": 16, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8, 8], "conv_kernel": [10, 3],
                          "conv_stride": [5, 2], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
                          "feat_extract_norm": "layer", "do_stable_layer_norm": True}}],
            "adapter": {"kind": "stack_mlp", "stack": 32},
            "llm": {"architecture": {"model_type": "llama", "vocab_size": tokenizer.vocab_size, "hidden_size": 32,
                                     "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                                     "max_position_embeddings": 2048, "initializer_range": 0.5}},
            "lora": {"rank": 2},
            **parts,
        }
    )  # fmt: skip
    built = build_speech_lm(config)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=2.0)
    save_speech_lm(built, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that writes."""
    return saved_model(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="session")
def speaking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that writes, and says it until it is cut off after a tenth of a second."""
    head = {"body": "own", "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "max_seconds": 0.1}
    return saved_model(tmp_path_factory.mktemp("run") / "model", speech_head=head)


@pytest.fixture(scope="session")
def answers(model: Path) -> dict[str, tuple[str, str]]:
    """Question -> what the model answers to it with LoRA, and what the LLM alone does."""
    assistant = Assistant.from_folder(model)
    asked = {text: Conversation((user(text),)) for text in ("what?", "who?", "where is it?", "a", "7 times 6")}
    return {text: (assistant.reply(c).text, assistant.reply(c, lora=False).text) for text, c in asked.items()}
