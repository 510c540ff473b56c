// Writes a model folder (config.json, model.safetensors) with seeded random weights, so that we and every peer time the same model.
import fs from 'node:fs';
import path from 'node:path';

/** mulberry32: 32 bits of state, enough for weights nobody trains on. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Names and shapes of a Qwen3 checkpoint with tied embeddings. */
function shapes(config) {
  const hidden = config.hidden_size;
  const queries = config.num_attention_heads * config.head_dim;
  const keys = config.num_key_value_heads * config.head_dim;
  const list = [['model.embed_tokens.weight', [config.vocab_size, hidden]]];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    list.push(
      [`${prefix}input_layernorm.weight`, [hidden]],
      [`${prefix}post_attention_layernorm.weight`, [hidden]],
      [`${prefix}self_attn.q_proj.weight`, [queries, hidden]],
      [`${prefix}self_attn.k_proj.weight`, [keys, hidden]],
      [`${prefix}self_attn.v_proj.weight`, [keys, hidden]],
      [`${prefix}self_attn.o_proj.weight`, [hidden, queries]],
      [`${prefix}self_attn.q_norm.weight`, [config.head_dim]],
      [`${prefix}self_attn.k_norm.weight`, [config.head_dim]],
      [`${prefix}mlp.gate_proj.weight`, [config.intermediate_size, hidden]],
      [`${prefix}mlp.up_proj.weight`, [config.intermediate_size, hidden]],
      [`${prefix}mlp.down_proj.weight`, [hidden, config.intermediate_size]],
    );
  }
  list.push(['model.norm.weight', [hidden]]);
  return list;
}

/** Makes `folder` hold the model; one that is already complete is kept. */
export function writeModel(folder, config) {
  const file = path.join(folder, 'model.safetensors');
  const text = `${JSON.stringify(config, null, 2)}\n`;
  const configFile = path.join(folder, 'config.json');
  if (fs.existsSync(file) && fs.existsSync(configFile) && fs.readFileSync(configFile, 'utf8') === text) return;
  fs.mkdirSync(folder, { recursive: true });

  const random = generator(0);
  const header = { __metadata__: { format: 'pt' } };
  const blocks = [];
  let offset = 0;
  for (const [name, shape] of shapes(config)) {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    // Norms are 1; everything else is uniform with the standard deviation 0.02 that checkpoints start from.
    for (let i = 0; i < data.length; i++) data[i] = shape.length === 1 ? 1 : (random() - 0.5) * 0.02 * Math.sqrt(12);
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
    blocks.push(Buffer.from(data.buffer));
  }
  let json = JSON.stringify(header);
  json += ' '.repeat((8 - (Buffer.byteLength(json) % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
  const partial = `${file}.${process.pid}`;
  fs.writeFileSync(partial, Buffer.concat([length, Buffer.from(json), ...blocks]));
  fs.renameSync(partial, file);
  fs.writeFileSync(configFile, text);
}
