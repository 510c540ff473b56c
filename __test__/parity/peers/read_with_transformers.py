"""What transformers and PEFT make of saved models. Input and output as in read_with_mlx_lm.py; "adapter" names a PEFT folder."""

import json
import sys

import transformers

from answers import answer

for line in sys.stdin:
    request = json.loads(line)
    model = transformers.AutoModelForCausalLM.from_pretrained(request["folder"], dtype="auto", attn_implementation="eager")
    if "adapter" in request:
        import peft

        model = peft.PeftModel.from_pretrained(model, request["adapter"])
    print(json.dumps(answer(model, request)), flush=True)
