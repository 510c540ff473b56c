"""Writes a checkpoint as GGUF with llama.cpp's own library. Arguments: folder, kind (F32, F16, Q8_0, Q5_1, Q4_K, ...), GGUF file, folder
for the same model of the numbers that the blocks stand for, and optionally a folder with a tokenizer.

Rows that blocks do not fill stay F32, as llama.cpp's converter has it. The library reads the K kinds but does not make them: their blocks
are random.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

source, kind, target, plain = sys.argv[1:5]
source, plain = pathlib.Path(source), pathlib.Path(plain)
config = json.loads((source / "config.json").read_text())
weights = {}
for path in sorted(source.glob("model*.safetensors")):
    weights.update(load_file(path))

name = {"qwen2": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}[config["model_type"]]
layers = config["num_hidden_layers"]
writer = gguf.GGUFWriter(target, name)
arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
names = gguf.get_tensor_name_map(arch, layers)
rope = config.get("rope_parameters") or {}
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(layers)
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(config["num_attention_heads"])
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(rope.get("rope_theta", config.get("rope_theta")))
if config.get("head_dim"):
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
if rope.get("rope_type") == "yarn":
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
experts = config.get("num_experts") or config.get("num_local_experts")
if experts:
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config.get("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    for layer in range(layers):
        for projection in ("gate_proj", "up_proj", "down_proj"):
            parts = [f"model.layers.{layer}.mlp.experts.{expert}.{projection}.weight" for expert in range(experts)]
            if all(part in weights for part in parts):
                weights[f"model.layers.{layer}.mlp.experts.{projection}.weight"] = np.stack([weights.pop(part) for part in parts])

if len(sys.argv) > 5:
    tokenizer = json.loads((pathlib.Path(sys.argv[5]) / "tokenizer.json").read_text())
    settings = json.loads((pathlib.Path(sys.argv[5]) / "tokenizer_config.json").read_text())
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    tokens = {id: token for token, id in tokenizer["model"]["vocab"].items()} | {id: token["content"] for id, token in added.items()}
    count = max(tokens) + 1 + 5  # A few rows of padding, as in the real files.
    types = gguf.TokenType
    kinds = []
    for id in range(count):
        if id in added:
            kinds.append(types.CONTROL if added[id]["special"] else types.USER_DEFINED)
        else:
            kinds.append(types.NORMAL if id in tokens else types.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokens.get(id, f"[PAD{id}]") for id in range(count)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    ids = {content: id for id, content in tokens.items()}
    writer.add_eos_token_id(ids[settings["eos_token"]])
    writer.add_pad_token_id(ids[settings["pad_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(settings["chat_template"])


def blocks(weight, wanted):
    """Bytes of blocks for a weight."""
    if wanted.name not in ("Q4_K", "Q5_K"):
        return quantize(weight, wanted)
    elements, size = gguf.GGML_QUANT_SIZES[wanted]
    rows = weight.reshape(-1, weight.shape[-1] // elements, elements).shape[:2]
    data = random.integers(0, 256, (*rows, size), dtype=np.uint8)
    # The scale of scales and that of offsets, so that numbers are about 0.1.
    data[..., :4] = (random.uniform(0.5, 1, (*rows, 2)) * [2e-4, 1.5e-3]).astype("<f2").view(np.uint8)
    return data.reshape(*weight.shape[:-1], -1)


random = np.random.default_rng(3)
numbers = {}
for hf, weight in weights.items():
    weight = weight.astype(np.float32)
    if hf.endswith("shared_expert_gate.weight"):
        weight = weight.squeeze()
    theirs = names.get_name(hf, try_suffixes=(".weight", ".bias"))
    wanted = getattr(gguf.GGMLQuantizationType, kind)
    if weight.ndim < 2 or theirs.endswith("ffn_gate_inp.weight") or weight.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = gguf.GGMLQuantizationType.F32
    data = blocks(weight, wanted)
    writer.add_tensor(theirs, data, raw_dtype=wanted)
    value = dequantize(data, wanted).reshape(weight.shape).astype(np.float32)
    if hf.endswith("shared_expert_gate.weight"):
        value = value[None]
    numbers[hf.replace(".mlp.experts.", ".mlp.switch_mlp.") if weight.ndim == 3 else hf] = value
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
plain.mkdir(parents=True)
save_file(numbers, plain / "model.safetensors")
if experts:
    # llama.cpp has it in the code of the architecture.
    config["norm_topk_prob"] = name == "qwen3moe"
(plain / "config.json").write_text(json.dumps(config))
