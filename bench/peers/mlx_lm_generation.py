"""mlx-lm's side of bench/generation.mjs. Usage: mlx_lm_generation.py MODEL_FOLDER"""

import pathlib
import sys
import time

import mlx.core as mx
import mlx_lm
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from common import serve

model, _ = load_model(pathlib.Path(sys.argv[1]))


def generate(request):
    """Requests that a batch generator gets at once; when each of their tokens reaches the program, in ms."""
    start = time.perf_counter()
    generator = BatchGenerator(
        model, completion_batch_size=request["batchSize"], prefill_batch_size=request["prefillBatchSize"]
    )
    uids = generator.insert(request["prompts"], request["maxTokens"])
    answers = {uid: {"tokens": [], "first": None, "last": None} for uid in uids}
    while responses := generator.next_generated():
        now = 1000 * (time.perf_counter() - start)
        for response in responses:
            answer = answers[response.uid]
            answer["tokens"].append(response.token)
            answer["last"] = now
            answer["first"] = answer["first"] or now
    generator.close()
    return {name: [answers[uid][name] for uid in uids] for name in ("tokens", "first", "last")}


def bare(request):
    """The loop without a generator, as mlx-lm's generate_step: the next step is dispatched before the last one is read."""
    cache = make_prompt_cache(model)
    token = mx.argmax(model(mx.array(request["prompts"]), cache=cache)[:, -1], axis=-1)
    mx.eval(token)
    tokens = []
    start = time.perf_counter()
    for _ in range(request["steps"] - 1):
        following = mx.argmax(model(token[:, None], cache=cache)[:, -1], axis=-1)
        mx.async_eval(following)
        tokens.append(token.tolist())
        token = following
    tokens.append(token.tolist())
    step_ms = 1000 * (time.perf_counter() - start) / (request["steps"] - 1)
    return {"stepMs": step_ms, "tokens": [list(row) for row in zip(*tokens)]}


serve(f"mlx-lm {mlx_lm.__version__} (mlx {mx.__version__})", {"generate": generate, "bare": bare})
