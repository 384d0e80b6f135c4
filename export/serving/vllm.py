"""vLLM's resolver of adapters: a request for the model NAME is answered by the base with the adapter in the file NAME.safetensors.

Package ``unilora`` beside vLLM is enough: its entry points are ``register`` and ``endpoint``. docs/serving.md has the call. Settings come
from the environment, as those of vLLM's own resolvers do:

    UNILORA_VLLM_ADAPTERS    the folder with the adapters' files; without it nothing is registered
    UNILORA_VLLM_CACHE       where LoRA folders are kept, by default ~/.cache/unilora/vllm

vLLM gives its arguments and its configuration to endpoint plugins, and not to resolvers, so that the resolver is an endpoint plugin as
well, without an endpoint. Where VLLM_PLUGINS does not allow it as one, or vLLM is older than these plugins, vLLM itself refuses a rank
above --max-lora-rank, and gives the reason in its log alone.
"""

import asyncio
import os
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from unilora_spec import UniLoraError

from .prepare import adapter_file, lora_folder

NAME, ADAPTERS, CACHE = "unilora", "UNILORA_VLLM_ADAPTERS", "UNILORA_VLLM_CACHE"


class UniLoraResolver(LoRAResolver):
    """Finds an adapter by its file's name in the folder ``adapters``, and keeps its LoRA folder in ``cache``."""

    def __init__(self, adapters: Path, cache: Path):
        self.adapters, self.cache, self.max_rank = adapters, cache, None

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """What vLLM loads, or None where there is no such adapter: it answers with status 404 then.

        ``base_model_name`` is the folder that the server has its base from. Raises ``UniLoraError`` as ``lora_folder`` does, and for a
        base by its id on a hub: vLLM answers with status 400 and the sentence.
        """
        file = adapter_file(self.adapters, lora_name)
        if file is None:
            return None
        base = Path(base_model_name)
        if not base.is_dir():
            raise UniLoraError(
                f"the server's base {base_model_name!r} is no folder here, with whose files {file.name} could be compared; serve a folder, or"
                " set HF_HUB_OFFLINE=1, by which vLLM takes the one in its cache"
            )
        folder = await asyncio.to_thread(lora_folder, file, base, self.cache, self.max_rank)
        # vLLM's server puts a number of its own in place of this one, and whoever does not gets another for each adapter.
        return LoRARequest(lora_name=lora_name, lora_int_id=1 + int(folder.name[:15], 16), lora_path=str(folder))

    name, required_tasks = NAME, None

    def attach_router(self, app) -> None:
        """Adds no route."""

    async def init_state(self, engine_client, state, args) -> None:
        """Takes the largest rank from the server's configuration."""
        lora = engine_client and engine_client.vllm_config.lora_config
        self.max_rank = lora.max_lora_rank if lora else None


def register() -> None:
    """The entry point ``vllm.general_plugins``: registers the resolver. Raises ``UniLoraError`` for a folder that is not there."""
    if not (adapters := os.environ.get(ADAPTERS)):
        return
    if not os.path.isdir(adapters):
        raise UniLoraError(f"{ADAPTERS} is {adapters!r}, which is no folder; give the folder with the adapters' files")
    cache = Path(os.environ.get(CACHE) or "~/.cache/unilora/vllm").expanduser()
    LoRAResolverRegistry.register_resolver(NAME, UniLoraResolver(Path(adapters), cache))


def endpoint() -> UniLoraResolver:
    """The entry point ``vllm.endpoint_plugins``: the resolver once more. Raises ``UniLoraError`` where there is none."""
    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        raise UniLoraError(f"{ADAPTERS} is not set; give the folder with the adapters' files")
    return LoRAResolverRegistry.get_resolver(NAME)
