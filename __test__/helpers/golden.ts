import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..', 'fixtures', 'golden');

export interface Tensor {
  dtype: string;
  shape: number[];
  data: number[];
}

export interface Case {
  name: string;
  kind?: string;
  options: Record<string, unknown>;
  inputs: Record<string, unknown>;
  expected: Record<string, unknown>;
  tolerance: { atol: number; rtol: number };
}

export function goldenPath(...parts: string[]): string {
  return join(root, ...parts);
}

/** The cases of a folder. A missing file throws: fixtures are part of the repository. */
export function goldenCases<T = Case>(folder: string): T[] {
  const file = JSON.parse(readFileSync(goldenPath(folder, 'cases.json'), 'utf8')) as { cases: T[] };
  if (file.cases.length === 0) throw new Error(`${folder}: no cases`);
  return file.cases;
}

/** Reads a safetensors file (float32 and int32 tensors). */
export function readSafetensors(path: string): Map<string, Tensor> {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, Tensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = entry.data_offsets.map((offset) => offset + 8 + headerLength) as [number, number];
    const copy = bytes.buffer.slice(bytes.byteOffset + from, bytes.byteOffset + to);
    const data = entry.dtype === 'F32' ? new Float32Array(copy) : new Int32Array(copy);
    tensors.set(name, { dtype: entry.dtype, shape: entry.shape, data: Array.from(data) });
  }
  return tensors;
}
