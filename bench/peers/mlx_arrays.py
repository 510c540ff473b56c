"""Small operations, reading, and a training loop of a 2-layer MLP in Python's MLX. Usage: mlx_arrays.py"""

import importlib.metadata
import time

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy

from common import median_ms, report

mx.set_default_device(mx.cpu)
COUNT = 200_000
one, two = mx.array(1.0), mx.array(2.0)


def adds():
    for _ in range(COUNT):
        mx.add(one, two)


def adds_of_a_number():
    for _ in range(COUNT):
        one + 2.0


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(784, 256)
        self.out = nn.Linear(256, 10)

    def __call__(self, x):
        return self.out(nn.relu(self.hidden(x)))


mx.random.seed(0)
x = mx.random.normal([256, 784])
y = mx.random.randint(0, 10, [256])
model = MLP()
optimizer = optim.AdamW(learning_rate=1e-3)
loss_and_grad = nn.value_and_grad(model, lambda x, y: nn.losses.cross_entropy(model(x), y, reduction="mean"))
mx.eval(x, y, model.parameters())
last = 0.0


def train():
    global last
    for _ in range(100):
        loss, gradients = loss_and_grad(x, y)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
    last = loss.item()


megabyte = mx.random.normal([512, 512])
mx.eval(megabyte)


def read():
    for _ in range(1000):
        numpy.array(megabyte)


target = numpy.empty((512, 512), dtype=numpy.float32)


def read_into():
    for _ in range(1000):
        numpy.copyto(target, megabyte)


report(
    f"mlx {importlib.metadata.version('mlx')} in Python",
    op_us=median_ms(adds) * 1000 / COUNT,
    op_number_us=median_ms(adds_of_a_number) * 1000 / COUNT,
    mlp_ms=median_ms(train) / 100,
    mlp_loss=last,
    read_gbs=megabyte.nbytes * 1000 / (median_ms(read) * 1e6),
    read_into_gbs=megabyte.nbytes * 1000 / (median_ms(read_into) * 1e6),
)
