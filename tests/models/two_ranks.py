"""What each of two processes does to a loss; a module of its own, so that spawned processes can import it."""

import torch
from small_speech_lm import make_batch, move_lora, small_speech_lm
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from sonant.batch import Batch
from sonant.models.build import add_prompt_lora
from sonant.models.lora import LoraConfig, scale_kept
from sonant.models.losses import TokenLoss
from sonant.models.prompt_lora import PromptLoraConfig
from sonant.models.speech_lm import SpeechLM
from sonant.train import recompute
from sonant.train.distributed import Parallel, Ranks, parallelize

ROWS = [(9, [(2, 7), (6, 12)]), (12, []), (6, [(1, 4)]), (15, [])]


def loss_model(*, prompt_lora: bool = False) -> SpeechLM:
    model = small_speech_lm(lora=LoraConfig(rank=4))
    move_lora(model)
    if prompt_lora:
        torch.manual_seed(5)
        add_prompt_lora(model, PromptLoraConfig(granularity="layer"))
        assert model.prompt_adapter is not None
        nn.init.normal_(model.prompt_adapter.up.weight, std=0.3)
    return model


def recompute_layers(model: SpeechLM) -> None:
    """What LLMConfig.gradient_checkpointing does."""
    model.llm.activation_checkpointing_enable({"use_reentrant": False, "context_fn": scale_kept})


RANK_ROWS = ([ROWS[1], ROWS[3]], [ROWS[0], ROWS[2]])  # text alone on rank 0, audio alone on rank 1


class Unit(nn.Module):
    """What the trainer shares among ranks: model and loss as one forward pass."""

    def __init__(self, model: SpeechLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        return TokenLoss(kl_weight=0.1)(self.model, batch).total


def run_rank(rank: int, folder: str, how: Parallel, prompt_lora: bool = False) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = loss_model(prompt_lora=prompt_lora).train()
    if prompt_lora:
        assert recompute.recompute_layers(model) == 3  # two of the LLM, one of the adapter
    model.adapter.eval()  # batch norm would see other frames than one rank does
    unit = parallelize(Unit(model), layers_of=model, how=how, ranks=Ranks(torch.device("cpu"), rank, 2))
    for _ in range(2):  # a trained ctc_head takes part in no step: DDP once waited for it in the second
        unit.zero_grad()
        unit(make_batch(RANK_ROWS[rank])).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in gradients.items()}
    torch.save({n: 2 * g for n, g in whole.items()}, f"{folder}/rank{rank}.pt")  # the ranks' mean was taken
    distributed.destroy_process_group()
