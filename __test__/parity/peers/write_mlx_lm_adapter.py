"""Makes an adapter with mlx-lm. Standard input, one JSON object a line: {"folder", "adapter", "config", "prompts", "steps"}: the folder of
the model, the folder to write, and its adapter_config.json. Prints what read_with_mlx_lm.py does.
"""

import json
import pathlib
import sys

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)

for line in sys.stdin:
    request = json.loads(line)
    model, _ = load_model(pathlib.Path(request["folder"]))
    config = request["config"]
    model.freeze()
    linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"], use_dora=config["fine_tune_type"] == "dora")
    mx.random.seed(7)

    def moved(path, value):
        noise = mx.random.normal(value.shape)
        if path.endswith(".m"):
            return value * (1.1 + 0.05 * noise)
        return value + 0.1 * noise

    model.update(tree_map_with_path(moved, model.trainable_parameters()))
    model.eval()
    folder = pathlib.Path(request["adapter"])
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tokens = mx.array(request["prompts"])
    logits = model(tokens)
    chosen = []
    for _ in range(request["steps"]):
        token = mx.argmax(model(tokens)[:, -1], axis=-1)
        chosen.append(token)
        tokens = mx.concatenate([tokens, token[:, None]], axis=1)
    print(json.dumps({"dtype": str(logits.dtype), "logits": logits.tolist(), "tokens": mx.stack(chosen, axis=1).tolist()}))
