/**
 * transformers and PEFT read what we save. MLX_NODE_TRANSFORMERS_PYTHON names a Python that has both and torch; without it vitest does
 * not collect this file (torch is 200 MB at least).
 */
import { join } from 'node:path';
import { describe, it } from 'vitest';
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
});
