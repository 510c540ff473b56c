import { describe, expect, test } from 'vitest';
import { KVCache, mx, MxArray, nn } from '../../lib/index.ts';
import { goldenPath, readSafetensors } from '../helpers/golden.ts';
import type { Tensor } from '../helpers/golden.ts';

const folder = (name: string): string => goldenPath('models', 'qwen3', name);
const io = readSafetensors(folder('io.safetensors'));
const ids = (tensor: Tensor): MxArray => MxArray.fromInt32(Int32Array.from(tensor.data), tensor.shape);

class Decoder extends nn.Module {
  embedTokens = new nn.Embedding(160, 32);
  layers = Array.from(
    { length: 3 },
    () =>
      new nn.TransformerBlock(32, 2, 56, {
        numKeyValueHeads: 1,
        headDim: 16,
        qkNorm: 1e-6,
        normEps: 1e-6,
        rope: { base: 10000 },
      }),
  );
  norm = new nn.RMSNorm(32, { eps: 1e-6 });

  forward(tokens: MxArray, caches?: KVCache[]): MxArray {
    let x = this.embedTokens.forward(tokens);
    for (const [i, layer] of this.layers.entries()) x = layer.forward(x, 'causal', caches?.[i]);
    return this.norm.forward(x);
  }
}

/** A Qwen3 out of the layers, under the names of the checkpoint. */
class Qwen3 extends nn.Module {
  model = new Decoder();

  forward(tokens: MxArray, caches?: KVCache[]): MxArray {
    return this.model.embedTokens.asLinear(this.model.forward(tokens, caches));
  }
}

const load = (): Qwen3 => new Qwen3().loadWeights(folder('model.safetensors'));

function expectClose(found: MxArray, wanted: { shape: number[]; data: number[] }, atol: number, rtol: number): void {
  expect(found.shape).toEqual(wanted.shape);
  for (const [i, value] of found.toFloat32().entries()) {
    expect(Math.abs(value - wanted.data[i]!)).toBeLessThanOrEqual(atol + rtol * Math.abs(wanted.data[i]!));
  }
}

const snake = (path: string): string =>
  path.replace(/([a-z])([A-Z])/g, (_, a: string, b: string) => `${a}_${b.toLowerCase()}`);

describe('a Qwen3 of nn layers with the weights of a checkpoint', () => {
  const tokens = io.get('single_ids')!;
  const logits = io.get('single_logits')!;

  test("has transformers' logits", () => {
    expect.hasAssertions();
    expectClose(load().forward(ids(tokens)), logits, 2e-4, 1e-4);
  });

  test('through a cache, in pieces', () => {
    const model = load();
    const caches = model.model.layers.map(() => new KVCache());
    const [, length] = tokens.shape as [number, number];
    const vocabulary = 160;
    for (const [from, to] of [
      [0, 6],
      [6, 7],
      [7, length],
    ] as const) {
      const piece = { ...tokens, shape: [1, to - from], data: tokens.data.slice(from, to) };
      const wanted = { shape: [1, to - from, vocabulary], data: logits.data.slice(from * vocabulary, to * vocabulary) };
      expectClose(model.forward(ids(piece), caches), wanted, 2e-4, 1e-4);
    }
    expect(caches.map(({ offset }) => offset)).toEqual([length, length, length]);
    expect(caches[0]!.trim(5)).toBe(5);
    expect(caches[0]!.state[0]!.shape).toEqual([1, 1, length - 5, 16]);
    const copy = new KVCache();
    copy.state = caches[0]!.state;
    expect(copy.offset).toBe(length - 5);
    caches[0]!.reset();
    expect(caches[0]!.offset).toBe(0);
    expect(caches[0]!.state).toEqual([]);
  });

  test("has torch's gradients of the loss", () => {
    const model = load();
    const [, length] = tokens.shape as [number, number];
    const targets = MxArray.fromInt32(Int32Array.from(tokens.data.slice(1)), [1, length - 1]);
    const inputs = MxArray.fromInt32(Int32Array.from(tokens.data.slice(0, -1)), [1, length - 1]);
    const [loss, gradients] = nn.valueAndGrad(model, () =>
      nn.losses.crossEntropy(model.forward(inputs), targets, { reduction: 'mean' }),
    )();
    expect(Math.abs(loss.item() - 8.060271263122559)).toBeLessThanOrEqual(2e-5 + 8e-5);
    const wanted = readSafetensors(folder('grads.safetensors'));
    const found = mx.treeFlatten(gradients);
    expect(found.length).toBe(wanted.size);
    for (const [path, gradient] of found) expectClose(gradient, wanted.get(snake(path))!, 2e-5, 1e-3);
  });
});

describe('rotary embeddings of every kind', () => {
  const x = mx.random.normal([1, 2, 5, 8]);
  test.each<[string, nn.RopeScaling, number]>([
    ['default', { ropeType: 'default' }, 0],
    ['linear', { ropeType: 'linear', factor: 2 }, 1],
    ['dynamic', { ropeType: 'dynamic', factor: 2 }, 0],
    ['yarn', { ropeType: 'yarn', factor: 4, originalMaxPositionEmbeddings: 32, attentionFactor: 1 }, 1],
    [
      'longrope',
      {
        ropeType: 'longrope',
        shortFactor: [1, 2, 3, 4],
        longFactor: [2, 4, 6, 8],
        originalMaxPositionEmbeddings: 64,
        attentionFactor: 1,
      },
      1,
    ],
    [
      'llama3',
      { ropeType: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 32 },
      1,
    ],
  ])('%s', (_, scaling, differs) => {
    const y = new nn.RoPE(8, { scaling, maxPositionEmbeddings: 64 }).forward(x, 2).toFloat32();
    const plain = new nn.RoPE(8).forward(x, 2).toFloat32();
    const [moved, whole] = [y.some((value, i) => Math.abs(value - plain[i]!) > 1e-4), y.length];
    expect(moved).toBe(differs === 1);
    // A rotation keeps the length of every pair.
    const features = 8;
    for (let at = 0; at < whole; at += features) {
      for (let i = 0; i < features / 2; i++) {
        const before = Math.hypot(x.toFloat32()[at + i]!, x.toFloat32()[at + i + 4]!);
        expect(Math.hypot(y[at + i]!, y[at + i + 4]!)).toBeCloseTo(before, 4);
      }
    }
  });

  test('linear scaling divides positions; offsets may differ by row', () => {
    expect.hasAssertions();
    const slow = new nn.RoPE(8, { scaling: { ropeType: 'linear', factor: 2 } });
    expectClose(
      slow.forward(x),
      { shape: x.shape, data: [...new nn.RoPE(8, { scale: 0.5 }).forward(x).toFloat32()] },
      1e-5,
      0,
    );
    const rope = new nn.RoPE(8);
    const rows = mx.concatenate([x, x], 0);
    const wanted = [...rope.forward(x, 1).toFloat32(), ...rope.forward(x, 4).toFloat32()];
    expectClose(rope.forward(rows, mx.array([1, 4], 'int32')), { shape: rows.shape, data: wanted }, 1e-5, 0);
  });
});
