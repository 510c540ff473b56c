"""Greedy decoding of 16 rows and one training step, with transformers on torch. Usage: torch_small.py MODEL_FOLDER THREADS"""

import sys
import time

import torch
import transformers

from common import STEPS, batch, median_ms, prompts, report

torch.set_num_threads(int(sys.argv[2]))
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
decode_ms = []
generated = []


@torch.inference_mode()
def decode():
    out = model(torch.tensor(prompts()), use_cache=True)
    token = out.logits[:, -1].argmax(-1)
    generated.clear()
    generated.append(token.tolist())
    start = time.perf_counter()
    for _ in range(STEPS - 1):
        out = model(token[:, None], past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1].argmax(-1)
        generated.append(token.tolist())
    decode_ms.append(1000 * (time.perf_counter() - start) / (STEPS - 1))


model.eval()
for _ in range(7):
    decode()
tokens = [[step[row] for step in generated] for row in range(len(generated[0]))]

model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
ids = torch.tensor(batch())
losses = []


def train():
    logits = model(ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())


train_ms = median_ms(train)
report(
    f"transformers {transformers.__version__} (torch {torch.__version__.split('+')[0]}, {torch.get_num_threads()} threads)",
    decode_ms=sorted(decode_ms[2:])[2],
    train_ms=train_ms,
    first_loss=losses[0],
    last_loss=losses[-1],
    tokens=tokens,
)
