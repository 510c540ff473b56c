/** mlx-lm reads the adapters that we write, and we read those that it writes: the same logits, the same tokens. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { adapterCases, adaptedModel, golden } from '../helpers/adapters.ts';
import { mlxLm, read } from '../helpers/peers.ts';
import type { Peer } from '../helpers/peers.ts';
import { expectSame, ours, requestFor } from '../helpers/saved.ts';
import { tempDir } from '../helpers/temp.ts';

/** A golden model as we save it: mlx-lm finds less in the configurations that transformers writes. */
async function savedBase(name: string): Promise<string> {
  const model = await golden(name);
  const folder = join(tempDir(), name);
  await model.save(folder);
  model.dispose();
  return folder;
}

describe('adapters and mlx-lm', () => {
  let peer: Peer;

  beforeAll(() => {
    peer = mlxLm();
  }, 600_000);

  it('reads what we write', async () => {
    const cases = adapterCases.filter(({ formats }) => formats.includes('mlx-lm'));
    const asked = [];
    for (const subject of cases) {
      const model = await adaptedModel(subject);
      const adapter = join(tempDir(), 'adapter');
      await model.saveAdapter(adapter, { format: 'mlx-lm' });
      const request = { ...requestFor(model, await savedBase(subject.model)), adapter };
      asked.push({ name: subject.name, request, answer: await ours(model, request) });
      model.dispose();
    }
    const readings = read(
      peer,
      asked.map(({ request }) => request),
    );
    for (const [i, { name, answer }] of asked.entries()) {
      try {
        expectSame(readings[i]!, answer);
      } catch (error) {
        throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
      }
    }
  });

  const written = [
    { model: 'qwen3', fine_tune_type: 'lora', num_layers: 2, keys: undefined },
    { model: 'qwen2', fine_tune_type: 'dora', num_layers: -1, keys: ['self_attn.q_proj', 'mlp.down_proj'] },
    { model: 'qwen3', fine_tune_type: 'lora', num_layers: 1, keys: ['model.embed_tokens', 'self_attn.v_proj'] },
    { model: 'qwen3_untied_sharded', fine_tune_type: 'dora', num_layers: 1, keys: ['lm_head', 'self_attn.v_proj'] },
    { model: 'qwen3', fine_tune_type: 'dora', num_layers: 1, keys: ['model.embed_tokens', 'self_attn.v_proj'] },
    { model: 'qwen3_untied_sharded', fine_tune_type: 'dora', num_layers: 1, keys: ['model.embed_tokens', 'lm_head'] },
    { model: 'qwen3_moe_all', fine_tune_type: 'lora', num_layers: -1, keys: undefined },
    { model: 'qwen2_moe', fine_tune_type: 'lora', num_layers: -1, keys: undefined },
  ];

  it('writes what we read, and reads it again as we write it', async () => {
    const asked = [];
    const again = [];
    for (const { model: name, keys, ...rest } of written) {
      const model = await golden(name);
      const lora_parameters = { rank: 3, scale: 2.5, dropout: 0.1, ...(keys === undefined ? {} : { keys }) };
      const adapter = join(tempDir(), 'adapter');
      asked.push({
        model,
        request: { ...requestFor(model, await savedBase(name)), adapter, config: { ...rest, lora_parameters } },
      });
    }
    const readings = read(
      { ...peer, script: join(import.meta.dirname, 'peers/write_mlx_lm_adapter.py') },
      asked.map(({ request }) => request),
    );
    for (const [i, { model, request }] of asked.entries()) {
      const base = await ours(model, request);
      await model.loadAdapter(request.adapter);
      const answer = await ours(model, request);
      expect(answer.logits).not.toEqual(base.logits);
      try {
        expectSame(readings[i]!, answer);
      } catch (error) {
        throw new Error(`${JSON.stringify(written[i])}: ${(error as Error).message}`, { cause: error });
      }
      const adapter = join(tempDir(), 'again');
      await model.saveAdapter(adapter, { format: 'mlx-lm' });
      again.push({ request: { ...requestFor(model, request.folder), adapter }, answer });
      model.dispose();
    }
    const rereadings = read(
      peer,
      again.map(({ request }) => request),
    );
    for (const [i, { answer }] of again.entries()) {
      try {
        expectSame(rereadings[i]!, answer);
      } catch (error) {
        throw new Error(`${JSON.stringify(written[i])} again: ${(error as Error).message}`, { cause: error });
      }
    }
  });
});
