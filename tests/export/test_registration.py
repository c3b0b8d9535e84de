"""`import sonant` is light, and still makes transformers know the exported classes, whichever comes first."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.recipe  # each starts a process

LIGHT = """
import sys, sonant
assert not {"torch", "transformers", "numpy", "pydantic", "peft"} & set(sys.modules), "import sonant is heavy"
import transformers
assert "sonant.export.hf.tables" not in sys.modules, "import transformers is heavier than without Sonant"
"""
ORDERS = {
    "sonant": LIGHT,
    "the tables": "from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor\nimport sonant",
    "a room that imports the tables": "import sonant.models.build",
    "each class": "import sonant.export.hf.modeling, sonant.export.hf.processing, sonant.export.hf.configuration",
}
KNOWN = """
from sonant.export.hf.configuration import SonantConfig
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
print(AutoConfig.for_model("sonant").model_type)
print(MODEL_FOR_CAUSAL_LM_MAPPING[SonantConfig].__name__, PROCESSOR_MAPPING[SonantConfig].__name__)
"""


@pytest.mark.parametrize("first", ORDERS.values(), ids=ORDERS)
def test_whichever_is_imported_first(first: str) -> None:
    done = subprocess.run([sys.executable, "-c", first + KNOWN], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["sonant", "SonantForConditionalGeneration", "SonantProcessor"], done.stderr
