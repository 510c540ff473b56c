/**
 * transformers and PEFT read what we save. MLX_NODE_TRANSFORMERS_PYTHON names a Python that has both and torch; without it vitest does
 * not collect this file (torch is 200 MB at least).
 */
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { adapterCases, adaptedModel, golden } from '../helpers/adapters.ts';
import { goldenPath } from '../helpers/golden.ts';
import { read, transformersPeer } from '../helpers/peers.ts';
import { expectSame, loraModel, ours, requestFor, saved, subjects } from '../helpers/saved.ts';
import { tempDir } from '../helpers/temp.ts';

describe('transformers', () => {
  it.each(subjects)('reads $name: the same logits, the same greedy tokens', async (subject) => {
    const { request, answer } = await saved(subject);
    expectSame(read(transformersPeer(), [request])[0]!, answer);
  });

  it('puts a saved adapter on its base with PEFT', async () => {
    const model = await loraModel();
    const adapter = join(tempDir(), 'adapter');
    await model.saveAdapter(adapter);
    const request = { ...requestFor(model, model.path), adapter };
    const answer = await ours(model, request);
    model.dispose();
    expectSame(read(transformersPeer(), [request])[0]!, answer);
  });

  it.each(adapterCases.filter(({ formats }) => formats.includes('peft')))('PEFT reads: $name', async (subject) => {
    const model = await adaptedModel(subject);
    const adapter = join(tempDir(), 'adapter');
    await model.saveAdapter(adapter);
    const request = { ...requestFor(model, goldenPath('models', subject.model)), adapter };
    const answer = await ours(model, request);
    model.dispose();
    expectSame(read(transformersPeer(), [request])[0]!, answer);
  });

  const written = [
    { model: 'qwen3', config: { r: 4, target_modules: 'all-linear', use_rslora: true } },
    { model: 'qwen2', config: { r: 4, target_modules: ['q_proj', 'down_proj'], use_dora: true, lora_dropout: 0.1 } },
    { model: 'qwen3', config: { r: 4, target_modules: ['q_proj'], layers_to_transform: [1] } },
    { model: 'qwen3', config: { r: 4, target_modules: ['embed_tokens', 'v_proj'] } },
    { model: 'qwen3', config: { r: 4, target_modules: ['embed_tokens', 'v_proj'], ensure_weight_tying: true } },
    { model: 'qwen3_untied_sharded', config: { r: 4, target_modules: ['embed_tokens', 'lm_head'], use_dora: true } },
    {
      model: 'qwen3',
      config: {
        r: 4,
        target_modules: ['q_proj', 'up_proj'],
        rank_pattern: { 'layers.0.*q_proj': 2, up_proj: 6 },
        alpha_pattern: { q_proj: 30 },
      },
    },
    {
      model: 'qwen3_moe_all',
      config: {
        r: 2,
        target_modules: ['q_proj'],
        target_parameters: ['mlp.experts.gate_up_proj', 'mlp.experts.down_proj'],
      },
    },
    {
      model: 'qwen3_moe_all',
      config: { r: 2, target_modules: [], target_parameters: ['mlp.experts.down_proj', 'mlp.gate.weight'] },
    },
  ];

  it.each(written)('we read what PEFT writes: $model $config', async ({ model: name, config }) => {
    const model = await golden(name);
    const adapter = join(tempDir(), 'adapter');
    const request = { ...requestFor(model, model.path), adapter, config };
    const peer = { ...transformersPeer(), script: join(import.meta.dirname, 'peers/write_peft_adapter.py') };
    const reading = read(peer, [request])[0]!;
    const base = await ours(model, request);
    await model.loadAdapter(adapter);
    const answer = await ours(model, request);
    model.dispose();
    expect(answer.logits).not.toEqual(base.logits);
    expectSame(reading, answer);
  });
});
