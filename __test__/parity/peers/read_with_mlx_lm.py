"""What mlx-lm makes of saved models. Standard input: {"folder", "prompts": [[id]], "steps"}, one JSON object a line; "adapter" names a folder
of its adapters.

Prints for each line, as JSON: logits of the prompts [B, T, V] and the greedy tokens after them [B, steps].
"""

import json
import pathlib
import sys

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load

# The numbers are compared in float32, which products on a GPU may not keep.
mx.set_default_device(mx.cpu)

for line in sys.stdin:
    request = json.loads(line)
    folder = pathlib.Path(request["folder"])
    if (folder / "tokenizer.json").exists():
        model, _ = load(str(folder))
    else:
        from mlx_lm.utils import load_model

        model, _ = load_model(folder)
    if "adapter" in request:
        from mlx_lm.tuner.utils import load_adapters

        model = load_adapters(model, request["adapter"])
        model.eval()
    prompts = mx.array(request["prompts"])
    logits = model(prompts)
    cache = make_prompt_cache(model)
    token = mx.argmax(model(prompts, cache=cache)[:, -1], axis=-1)
    tokens = [token]
    for _ in range(request["steps"] - 1):
        token = mx.argmax(model(token[:, None], cache=cache)[:, -1], axis=-1)
        tokens.append(token)
    print(json.dumps({"dtype": str(logits.dtype), "logits": logits.astype(mx.float32).tolist(), "tokens": mx.stack(tokens, axis=1).tolist()}))
