/** What loading a model of many experts takes: docs/moe.md counts on it. Alone in its process, whose memory it measures. */
import { writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { clearCache, createModel, loadModel, memoryStats, resetPeakMemory } from '../../lib/index.ts';
import { tempDir } from '../helpers/temp.ts';

test('the model and the experts of one projection are the most in memory', async () => {
  const [hidden, intermediate, experts, layers] = [64, 48, 128, 4];
  const config = {
    model_type: 'qwen3_moe',
    vocab_size: 256,
    hidden_size: hidden,
    intermediate_size: 64,
    moe_intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 32,
    num_experts: experts,
    num_experts_per_tok: 8,
  };
  const [source, dir] = [tempDir(), tempDir()];
  writeFileSync(`${source}/config.json`, JSON.stringify(config));
  const made = await createModel(source);
  await made.save(`${dir}/model`);
  made.dispose();

  const projection = experts * hidden * intermediate;
  for (const [dtype, bytes] of [
    ['float32', 4],
    ['bfloat16', 2],
  ] as const) {
    clearCache();
    const before = memoryStats().active;
    resetPeakMemory();
    const model = await loadModel(`${dir}/model`, { dtype });
    const { active, peak } = memoryStats();
    const weights = model.numParameters * bytes;
    expect(model.numParameters).toBeGreaterThan(3 * layers * projection);
    // Allocations are rounded up a little, most of all the 1536 small ones of single experts.
    expect(active - before, dtype).toBeGreaterThanOrEqual(weights);
    expect(active - before, dtype).toBeLessThan(1.02 * weights);
    expect(peak - before, dtype).toBeLessThan(1.02 * (weights + bytes * projection));
    model.dispose();
    while (memoryStats().active > before) await new Promise((resolve) => setTimeout(resolve, 5));
  }
});
