"""Greedy decoding of 16 rows and one training step, with mlx-lm as installed. Usage: mlx_lm_small.py MODEL_FOLDER"""

import pathlib
import sys
import time

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from common import STEPS, batch, median_ms, prompts, report

model, _ = load_model(pathlib.Path(sys.argv[1]))
decode_ms = []
generated = []


def decode():
    cache = make_prompt_cache(model)
    token = mx.argmax(model(mx.array(prompts()), cache=cache)[:, -1], axis=-1)
    mx.eval(token)
    generated.clear()
    generated.append(token.tolist())
    start = time.perf_counter()
    # As mlx-lm's generate_step: the next step is dispatched before the last one is read.
    for _ in range(STEPS - 1):
        following = mx.argmax(model(token[:, None], cache=cache)[:, -1], axis=-1)
        mx.async_eval(following)
        token = following
        generated.append(token.tolist())
    decode_ms.append(1000 * (time.perf_counter() - start) / (STEPS - 1))


for _ in range(7):
    decode()
tokens = [[step[row] for step in generated] for row in range(len(generated[0]))]

model.train()
optimizer = optim.AdamW(learning_rate=1e-4)
ids = mx.array(batch())


def loss_of(model, ids):
    return nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).mean()


step_of = nn.value_and_grad(model, loss_of)
losses = []


def train():
    loss, gradients = step_of(model, ids)
    optimizer.update(model, gradients)
    mx.eval(loss, model.parameters(), optimizer.state)
    losses.append(loss.item())


train_ms = median_ms(train)
report(
    f"mlx-lm {mlx_lm.__version__} (mlx {mx.__version__})",
    decode_ms=sorted(decode_ms[2:])[2],
    train_ms=train_ms,
    first_loss=losses[0],
    last_loss=losses[-1],
    tokens=tokens,
)
