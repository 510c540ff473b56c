"""Time of mlx-lm's SwitchGLU, forward and with all gradients, beside bench/switch.mjs: python bench/peers/mlx_lm_switch.py SIZE DTYPE"""

import json
import statistics
import sys
import time

import mlx.core as mx
from mlx_lm.models.switch_layers import SwitchGLU

HIDDEN, INTERMEDIATE, EXPERTS, K = map(int, sys.argv[1].split(","))
DTYPE = getattr(mx, sys.argv[2])


def chosen(tokens):
    rows = []
    for token in range(tokens):
        first = (token * 2654435761 % 2**32) * EXPERTS >> 32
        stride = 2 * ((token * 40503) >> 4) + 1
        rows.append([(first + j * stride) % EXPERTS for j in range(K)])
    return rows


def measure(work, runs=3):
    times = []
    for run in range(runs + 1):
        start = time.perf_counter()
        mx.eval(work())
        if run > 0:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


layer = SwitchGLU(HIDDEN, INTERMEDIATE, EXPERTS)
layer.set_dtype(DTYPE)
mx.eval(layer.parameters())
result = {}
for tokens in (1, 8, 64, 512):
    indices = mx.array(chosen(tokens), dtype=mx.uint32)
    x = mx.random.normal([tokens, HIDDEN], DTYPE)
    cotangent = mx.random.normal([tokens, K, HIDDEN], DTYPE)
    mx.eval(indices, x, cotangent)

    def loss(parameters, given):
        layer.update(parameters)
        return (layer(given, indices) * cotangent).sum()

    parameters = layer.trainable_parameters()
    gradients = mx.grad(loss, argnums=(0, 1))
    result[f"{tokens} forward"] = measure(lambda: layer(x, indices))
    result[f"{tokens} gradients"] = measure(lambda: gradients(parameters, x))
    layer.update(parameters)
print(json.dumps(result))
