import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TOKENIZER, tiny_speech_lm

from sonant.chat.messages import Conversation, user
from sonant.cli.main import main
from sonant.generate.assistant import Assistant
from sonant.generate.sampling import GenerationConfig
from sonant.models.checkpoint import save_speech_lm


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
    """The folder of a random model that says something else with LoRA than without."""
    size = {"hidden_size": 32, "intermediate_size": 32, "max_position_embeddings": 2048}
    save_speech_lm(tiny_speech_lm(llm=size, moved=2.0, **parts), TOKENIZER, folder)
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
    """Question -> what the model answers to it in 16 tokens with LoRA, and what the LLM alone does."""
    assistant, config = Assistant.from_folder(model), GenerationConfig(max_new_tokens=16)
    asked = {text: Conversation((user(text),)) for text in ("what?", "who?", "where is it?", "a", "7 times 6")}
    return {
        text: (assistant.reply(c, config=config).text, assistant.reply(c, config=config, lora=False).text)
        for text, c in asked.items()
    }
