"""Time of one sampling step of mlx-lm for 64 rows of Qwen's vocabulary, with the log-prob of each token: python bench/peers/mlx_lm_sampler.py"""

import json
import time

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors, make_sampler

ROWS = 64
logits = 2.5 * mx.random.normal([ROWS, 151_936])
mx.eval(logits)
history = [mx.array([(row * 7919 + i * 31) % 151_936 for i in range(40)]) for row in range(ROWS)]
cases = {
    "greedy": ({"temp": 0.0}, {}),
    "temperature": ({"temp": 0.7}, {}),
    "topP": ({"temp": 0.7, "top_p": 0.9}, {}),
    "topK": ({"temp": 0.7, "top_k": 20}, {}),
    "minP": ({"temp": 0.7, "min_p": 0.05}, {}),
    "penalties": ({"temp": 0.7}, {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}),
}

result = {}
for name, (options, penalties) in cases.items():
    sampler = make_sampler(**options)
    processors = make_logits_processors(**penalties)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        processed = logits
        if processors:
            # As its batch generator does: processors are called row by row.
            rows = []
            for row in range(ROWS):
                one = logits[row : row + 1] + 0
                for processor in processors:
                    one = processor(history[row], one)
                rows.append(one)
            processed = mx.concatenate(rows, axis=0)
        logprobs = processed - mx.logsumexp(processed, axis=-1, keepdims=True)
        tokens = sampler(logprobs)
        chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)
        mx.eval(tokens, chosen)
        times.append((time.perf_counter() - start) * 1e3)
    result[name] = min(times)
print(json.dumps(result))
