"""`sonant export`: a trained model as a folder that other tools load."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EPILOG = """Examples:

    sonant export runs/quickstart/model exported   (then: import sonant; AutoModelForCausalLM.from_pretrained)

    sonant export runs/quickstart/model exported --no-merge   (LoRA stays apart)

    sonant export runs/quickstart/model lora --to peft   (for PeftModel.from_pretrained)

    sonant export runs/quickstart/model served --to vllm   (for vLLM's server, with Sonant installed beside it)
"""


class Form(StrEnum):
    """What the folder is for."""

    HF = "hf"
    PEFT = "peft"
    VLLM = "vllm"


def export(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    to: Annotated[
        Form, typer.Option(help="hf: all of it, for transformers. peft: LoRA alone. vllm: for its server.")
    ] = Form.HF,
    merge: Annotated[
        bool | None, typer.Option("--merge/--no-merge", help="hf: add LoRA to the LLM's weights (default), or not.")
    ] = None,
) -> None:
    """Write a trained model for transformers or vLLM, or its LoRA for peft: safetensors, no code, a model card."""
    from sonant.errors import ConfigError

    if to is Form.PEFT:
        from sonant.export.adapter import export_peft

        if merge is not None:
            raise ConfigError(
                "--to peft writes LoRA alone: there is nothing to merge; leave out --merge and --no-merge"
            )
        exported = export_peft(model, out)
    elif to is Form.VLLM:
        from sonant.export.vllm_folder import export_vllm

        if merge is False:
            raise ConfigError("--to vllm always merges LoRA; where that cannot be, 'sonant serve' is the server")
        exported = export_vllm(model, out)
    else:
        from sonant.export.hugging_face import export_hf

        exported = export_hf(model, out, merge=merge is not False)
    for part, count in exported.parameters.items():
        typer.echo(f"{part:16} {count:>16,} parameters")
    for remark in exported.remarks:
        typer.echo(remark)
    typer.echo(f"written: {exported.folder}")
