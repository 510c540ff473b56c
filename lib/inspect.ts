import { guard } from './errors.js';
import { native } from './native.js';

/** A tensor of a checkpoint's files. */
export interface CheckpointTensor {
  name: string;
  dtype: string;
  shape: number[];
  bytes: number;
  file: string;
}

/** What a checkpoint is and holds; the command line's `inspect --json` prints it. */
export interface CheckpointInfo {
  model_type: string;
  /** Sizes of the architecture by name. */
  config: Record<string, number | boolean>;
  /** `active` are those that a token uses: fewer where there are experts. */
  parameters: { total: number; active: number };
  /** The block of config.json, with the numbers of packed and other layers; null where none is packed. */
  quantization: (Record<string, unknown> & { packed_layers: number; plain_layers: number }) | null;
  bits_per_weight: number;
  /** Of all weights in the files. */
  bytes: number;
  /** Bytes in memory by the dtype that it is loaded in. */
  memory: { weights: Record<string, number>; kv_cache_per_token: Record<string, number> };
  dtypes: Record<string, { tensors: number; bytes: number }>;
  files: { name: string; tensors: number; bytes: number }[];
  tensors: CheckpointTensor[];
}

/** @internal Reads the headers of a checkpoint folder, with all checks that loading makes. */
export const inspectCheckpoint = (path: string): CheckpointInfo =>
  guard(() => JSON.parse(native().inspectCheckpoint(path)) as CheckpointInfo);
