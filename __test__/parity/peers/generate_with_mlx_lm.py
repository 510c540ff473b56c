"""What mlx-lm generates greedily. Standard input, one JSON object a line: {"folder", "prompts": [[id]], "steps", "how", ..}.

"how" is "step" (generate_step, a prompt at a time), or "batch" (BatchGenerator). Further keys, for generate_step: "max_kv_size", "keep" (a
bounded cache of another number of kept tokens than mlx-lm's), "kv_bits", "kv_group_size", "quantized_kv_start", "coded" (the cache is
quantised from the first token on), "prefill_step_size"; BatchGenerator knows the first and the last.
Prints for each line, as JSON: {"tokens": [[id]], "logprobs": [[float]]}, of the tokens chosen.
"""

import json
import pathlib
import sys

import mlx.core as mx

# The numbers are compared in float32, which products on a GPU may not keep.
mx.set_default_device(mx.cpu)

from mlx_lm.generate import BatchGenerator, generate_step
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache
from mlx_lm.utils import load_model


def step(model, request, prompt):
    size, keep, bits = request.get("max_kv_size"), request.get("keep"), request.get("kv_bits")
    options = {"prefill_step_size": request.get("prefill_step_size", 2048)}
    if request.get("coded"):
        options["prompt_cache"] = [QuantizedKVCache(request["kv_group_size"], bits) for _ in model.layers]
    elif keep is not None:
        options["prompt_cache"] = [RotatingKVCache(size, keep=keep) for _ in model.layers]
    else:
        options["max_kv_size"] = size
        if bits is not None:
            names = ("kv_bits", "kv_group_size", "quantized_kv_start")
            options.update({name: request[name] for name in names})
    tokens, logprobs = [], []
    for token, row in generate_step(mx.array(prompt), model, max_tokens=request["steps"], **options):
        tokens.append(int(token))
        logprobs.append(row[int(token)].item())
    return tokens, logprobs


def batch(model, request):
    generator = BatchGenerator(
        model,
        max_tokens=request["steps"],
        prefill_step_size=request.get("prefill_step_size", 2048),
        max_kv_size=request.get("max_kv_size"),
    )
    rows = {uid: ([], []) for uid in generator.insert(request["prompts"])}
    order, left = list(rows), set(rows)
    while left:
        for response in generator.next_generated():
            tokens, logprobs = rows[response.uid]
            tokens.append(response.token)
            logprobs.append(response.logprobs[response.token].item())
            if response.finish_reason is not None:
                left.discard(response.uid)
    generator.close()
    return [rows[uid] for uid in order]


for line in sys.stdin:
    request = json.loads(line)
    model, _ = load_model(pathlib.Path(request["folder"]))
    if request["how"] == "batch":
        rows = batch(model, request)
    else:
        rows = [step(model, request, prompt) for prompt in request["prompts"]]
    print(json.dumps({"tokens": [row[0] for row in rows], "logprobs": [row[1] for row in rows]}))
