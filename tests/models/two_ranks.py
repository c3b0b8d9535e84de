"""What each of two processes does to a loss; a module of its own, so that spawned processes can import it."""

import torch
from small_speech_lm import HalvingEncoder, architecture, make_batch, move_lora, small_speech_lm
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from sonant.batch import Batch
from sonant.models.adapters.base import build_adapter
from sonant.models.adapters.stack_mlp import StackMLPConfig
from sonant.models.build import add_prompt_lora
from sonant.models.llm import LLMConfig, load_llm
from sonant.models.lora import LoraConfig, add_lora
from sonant.models.losses import TokenLoss
from sonant.models.prompt_lora import PromptLoraConfig
from sonant.models.speech_lm import SpeechLM
from sonant.train.distributed import Parallel, Ranks, parallelize

ROWS = [(9, [(2, 7), (6, 12)]), (12, []), (6, [(1, 4)]), (15, [])]


def loss_model() -> SpeechLM:
    model = small_speech_lm(lora=LoraConfig(rank=4))
    move_lora(model)
    return model


RANK_ROWS = ([ROWS[1], ROWS[3]], [ROWS[0], ROWS[2]])  # text alone on rank 0, audio alone on rank 1


class Unit(nn.Module):
    """What the trainer shares among ranks: model and loss as one forward pass."""

    def __init__(self, model: SpeechLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        return TokenLoss(kl_weight=0.1)(self.model, batch).total


def prompted_model() -> SpeechLM:
    """Returns a model in training whose prompts scale LoRA, and whose LLM computes its layers again in backward."""
    torch.manual_seed(0)
    llm = load_llm(LLMConfig(architecture=architecture(), gradient_checkpointing=True))
    add_lora(llm, LoraConfig(rank=4))
    encoder = HalvingEncoder().requires_grad_(False)
    model = SpeechLM([encoder], build_adapter(StackMLPConfig(stack=2), in_dims=[32], out_dim=64), llm)
    move_lora(model)
    add_prompt_lora(model, PromptLoraConfig(hidden_dim=16))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("prompt_adapter"):
                parameter.normal_(std=0.3)
    return model.train()


def run_prompted_rank(rank: int, folder: str, how: Parallel) -> None:
    _run(prompted_model(), make_batch(RANK_ROWS[rank]), rank, folder, how)


def run_rank(rank: int, folder: str, how: Parallel) -> None:
    model = loss_model().train()
    model.adapter.eval()  # batch norm would see other frames than one rank does
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and "ctc_head" not in name)
    _run(model, make_batch(RANK_ROWS[rank]), rank, folder, how)


def _run(model: SpeechLM, batch: Batch, rank: int, folder: str, how: Parallel) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    torch.set_num_threads(1)
    unit = parallelize(Unit(model), layers_of=model, how=how, ranks=Ranks(torch.device("cpu"), rank, 2))
    unit(batch).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in gradients.items()}
    torch.save({n: 2 * g for n, g in whole.items()}, f"{folder}/rank{rank}.pt")  # the ranks' mean was taken
    distributed.destroy_process_group()
