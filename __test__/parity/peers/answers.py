"""What torch models answer, as read_with_mlx_lm.py prints it."""

import torch


def answer(model, request) -> dict:
    """Logits of the prompts [B, T, V] and the greedy tokens after them [B, steps], all of them computed anew for every token."""
    model.eval()
    ids = torch.tensor(request["prompts"])
    with torch.no_grad():
        logits = model(ids).logits
        tokens = []
        for _ in range(request["steps"]):
            token = model(ids).logits[:, -1].argmax(-1)
            tokens.append(token)
            ids = torch.cat([ids, token[:, None]], 1)
    dtype = str(logits.dtype).removeprefix("torch.")
    return {"dtype": dtype, "logits": logits.float().tolist(), "tokens": torch.stack(tokens, 1).tolist()}
