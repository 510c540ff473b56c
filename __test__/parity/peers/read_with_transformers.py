"""What transformers and PEFT make of saved models. Input and output as in read_with_mlx_lm.py; "adapter" names a PEFT folder."""

import json
import sys

import torch
import transformers

for line in sys.stdin:
    request = json.loads(line)
    model = transformers.AutoModelForCausalLM.from_pretrained(request["folder"], dtype="auto", attn_implementation="eager")
    if "adapter" in request:
        import peft

        model = peft.PeftModel.from_pretrained(model, request["adapter"])
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
    print(json.dumps({"dtype": dtype, "logits": logits.float().tolist(), "tokens": torch.stack(tokens, 1).tolist()}))
