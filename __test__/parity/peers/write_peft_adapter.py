"""Makes an adapter with PEFT. Standard input, one JSON object a line: {"folder", "adapter", "config", "prompts", "steps"}: the folder of the
model, the folder to write, and the arguments of LoraConfig. Prints what read_with_transformers.py does.
"""

import json
import sys

import peft
import torch
import transformers

from answers import answer

for line in sys.stdin:
    request = json.loads(line)
    model = transformers.AutoModelForCausalLM.from_pretrained(request["folder"], dtype="auto", attn_implementation="eager")
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **request["config"]))
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "magnitude" in name:
                value *= 1.1 + 0.05 * torch.randn_like(value)
            elif value.requires_grad:
                value += 0.1 * torch.randn_like(value)
    model.save_pretrained(request["adapter"])
    print(json.dumps(answer(model, request)), flush=True)
