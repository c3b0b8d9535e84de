"""`import sonant` is light, and still makes transformers know the exported classes, whichever comes first."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.recipe  # each starts a process

KNOWN = (
    "from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor\n"
    "from sonant.export.hf.configuration import SonantConfig\n"
    "from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as models\n"
    "from transformers.models.auto.processing_auto import PROCESSOR_MAPPING as processors\n"
    "print(AutoConfig.for_model('sonant').model_type, models[SonantConfig].__name__, processors[SonantConfig].__name__)"
)
FIRST = {
    "sonant": "import sonant",
    "transformers": "import transformers; import sonant",
    "all of transformers' tables": (
        "from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor\nimport sonant"
    ),
    "a room that imports them": "import sonant.models.build",
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_whichever_is_imported_first(first: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{first}\n{KNOWN}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sonant", "SonantForConditionalGeneration", "SonantProcessor"]


def test_import_sonant_imports_nothing_of_weight() -> None:
    code = "import sys, sonant; print({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:]))"
    heavy = ["torch", "transformers", "numpy", "pydantic", "peft"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_transformers_alone_stays_as_light_as_it_is() -> None:
    code = "import sonant, sys, transformers; print('sonant.export.hf.tables' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
