/** mlx-lm, as PyPI has it, reads what we save and computes the same. It is installed once, into target/setup. */
import { beforeAll, describe, expect, it } from 'vitest';
import { mlxLm, read } from '../helpers/peers.ts';
import type { Peer, Reading } from '../helpers/peers.ts';
import { expectSame, saved, subjects } from '../helpers/saved.ts';

describe('mlx-lm', () => {
  let peer: Peer;

  beforeAll(() => {
    peer = mlxLm();
  }, 600_000);

  it('reads the models that we save: the same logits, the same greedy tokens', async () => {
    const models = [];
    for (const subject of subjects) models.push(await saved(subject));
    const readings: Reading[] = read(
      peer,
      models.map(({ request }) => request),
    );
    for (const [i, { answer }] of models.entries()) {
      try {
        expectSame(readings[i]!, answer);
      } catch (error) {
        throw new Error(`${subjects[i]!.name}: ${(error as Error).message}`, { cause: error });
      }
    }
    // The models differ, so that an answer of another one would be seen.
    expect(new Set(readings.map(({ logits }) => JSON.stringify(logits))).size).toBe(subjects.length);
  });
});
