"""Reads prompt caches with mlx-lm, appends to them, and writes what it gets and its own files.

usage: prompt_caches.py FOLDER
FOLDER/requests.json: [{"name", "layers", "steps": [tokens, ..]}]; FOLDER/<name>.safetensors: the caches;
FOLDER/updates.safetensors: <name>.<step>.keys and .values, appended to every layer.
Writes FOLDER/fetched.safetensors (<name>.<layer>.<step>.keys and .values, dequantised) and FOLDER/theirs.<name>.safetensors.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

folder = Path(sys.argv[1])
updates = mx.load(str(folder / "updates.safetensors"))
fetched = {}
for request in json.loads((folder / "requests.json").read_text()):
    name = request["name"]
    caches, metadata = load_prompt_cache(str(folder / f"{name}.safetensors"), return_metadata=True)
    assert len(caches) == request["layers"], (name, len(caches))
    for layer, cache in enumerate(caches):
        # What mlx-lm 0.32.2 forgets to set in a loaded cache.
        if type(cache).__name__ == "BatchRotatingKVCache":
            cache._lengths = None
        for step in range(len(request["steps"])):
            pair = cache.update_and_fetch(updates[f"{name}.{step}.keys"], updates[f"{name}.{step}.values"])
            for half, array in zip(("keys", "values"), pair):
                if isinstance(array, (list, tuple)):
                    array = mx.dequantize(*array, group_size=cache.group_size, bits=cache.bits)
                fetched[f"{name}.{layer}.{step}.{half}"] = mx.contiguous(array)
    save_prompt_cache(str(folder / f"theirs.{name}.safetensors"), caches, metadata={**metadata, "by": "mlx-lm"})
mx.save_safetensors(str(folder / "fetched.safetensors"), fetched)
print(json.dumps({"read": len(fetched)}))
