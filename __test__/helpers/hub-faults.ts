/** A hub with one model, whose weights' contents can go wrong. */
import { join } from 'node:path';
import { onTestFinished, vi } from 'vitest';
import type { SnapshotDownloadOptions } from '../../lib/index.ts';
import { etagOf, FakeHub, modelRepo, noise } from './hub.ts';
import type { Fault, Seen } from './hub.ts';
import { tempDir } from './temp.ts';

export const id = 'org/model';

/** A hub with the model, options that download it into an empty cache, the weights' etag, and where they and their notes are meanwhile. */
export async function hubWith(weights: Buffer, extra: SnapshotDownloadOptions = {}) {
  const etag = etagOf('model.safetensors', weights);
  const hub = await FakeHub.start();
  hub.commit(id, modelRepo(weights));
  const cacheDir = tempDir();
  const blobs = join(cacheDir, 'models--org--model', 'blobs');
  const options: SnapshotDownloadOptions = { endpoint: hub.endpoint, cacheDir, token: false, retryDelay: 1, ...extra };
  const part = join(blobs, `${etag}.mlx-node.incomplete`);
  return { hub, options, blobs, etag, part, notes: join(blobs, `${etag}.mlx-node.ranges.incomplete`) };
}

/** Faults of requests for the weights' contents. */
export function onWeights(hub: FakeHub, fault: (request: Seen) => Fault | undefined): void {
  hub.fault = (request) =>
    request.kind === 'cdn' && request.file === 'model.safetensors' ? fault(request) : undefined;
}

/** One after the other; then none. */
export function inTurn(...faults: Fault[]): () => Fault | undefined {
  let asked = 0;
  return () => faults[asked++];
}

/**
 * Whatever can go wrong, in an order that the seed decides: of `often` requests one goes well, and after `most` faults all do. Bytes are
 * wrong once. A connection is cut after `longest` thousand bytes at most.
 */
export function randomFaults(seed: number, { often, most, longest }: { often: number; most: number; longest: number }) {
  vi.stubEnv('HF_HUB_DOWNLOAD_TIMEOUT', '0.1');
  onTestFinished(() => void vi.unstubAllEnvs());
  const draws = noise(4000, seed);
  let [drawn, corrupted, count] = [0, 0, 0];
  const draw = (below: number): number => draws[drawn++ % draws.length]! % below;
  const kinds: (() => Fault)[] = [
    () => ({ cutAfter: draw(longest) * 1000 }),
    () => ({ cutAfter: 0 }),
    () => ({ stallAfter: draw(100) * 1000 }),
    () => ({ status: [429, 500, 503, 408][draw(4)]! }),
    () => ({ ignoreRange: true }),
    () => ({ delay: 1 }),
    () => (corrupted++ === 0 ? { corrupt: true } : {}),
  ];
  const fault = (): Fault | undefined => {
    if (draw(often) === 0 || count >= most) return undefined;
    count += 1;
    return kinds[draw(kinds.length)]!();
  };
  return { fault, count: () => count };
}
