/** Options of adapters, and how those of a call become the addon's. */
import { MlxError } from './errors.js';
import type { NativeLoraOptions } from './native-types.js';
import { rejectUnknownKeys } from './options.js';

/** A layout of adapter folders: PEFT's `adapter_model.safetensors` or mlx-lm's `adapters.safetensors`, each with its `adapter_config.json`. */
export type AdapterFormat = 'peft' | 'mlx-lm';

/** A low-rank adapter. Names and meaning are those of PEFT's `LoraConfig` in camelCase, and of mlx-lm where it has more. */
export interface LoraOptions {
  /** What it is called among the model's adapters, 'default'. */
  name?: string;
  /** Size of the low-rank factors, 8. PEFT's `r`. */
  rank?: number;
  /** The factors' product is multiplied by `alpha / rank`, 16. mlx-lm's `scale` is that quotient. */
  alpha?: number;
  /**
   * The layers to adapt. A list holds ends of their names, such as 'q_proj', 'mlp.gate', 'switch_mlp.up_proj', 'embed_tokens' or 'lm_head', in
   * which `*` and `?` stand for anything but a dot and `**` for anything. A single text is 'all-linear' (every linear layer, routers and
   * experts too, but not the head) or a regular expression of whole names. Default: the projections of attention and of MLPs that all tokens
   * go through.
   */
  targetModules?: string | readonly string[];
  /** Layers among these that get no adapter: a list or a regular expression, as `targetModules`. */
  excludeModules?: string | readonly string[];
  /** The blocks that get one, by number from 0. Default: all. */
  layersToTransform?: readonly number[];
  /** The same as a count from the last block, as in mlx-lm; -1 for all. */
  numLayers?: number;
  /** Ranks of layers that differ, by regular expressions of the ends of their names; the first that fits counts. */
  rankPattern?: Readonly<Record<string, number>>;
  /** The same of alpha. */
  alphaPattern?: Readonly<Record<string, number>>;
  /** The share of the factors' inputs that a training step drops, 0. */
  dropout?: number;
  /** Multiply by `alpha / sqrt(rank)` instead (rsLoRA). */
  useRslora?: boolean;
  /** Learn the length of each output apart from its direction (DoRA). */
  useDora?: boolean;
  /** Of the factors' first values, 0. */
  seed?: number;
}

const keys = [
  'name',
  'rank',
  'alpha',
  'targetModules',
  'excludeModules',
  'layersToTransform',
  'numLayers',
  'rankPattern',
  'alphaPattern',
  'dropout',
  'useRslora',
  'useDora',
  'seed',
] as const satisfies readonly (keyof LoraOptions)[];

/** PEFT's names where ours differ. */
const peftNames: Record<string, string> = { r: 'rank', loraAlpha: 'alpha', loraDropout: 'dropout' };

const list = (value: string | readonly string[]): string | string[] => (typeof value === 'string' ? value : [...value]);

/** What the addon takes, with the name apart. */
export function resolveLora(options: LoraOptions, where: string): { name: string; native: NativeLoraOptions } {
  for (const [theirs, ours] of Object.entries(peftNames)) {
    if (theirs in options)
      throw new MlxError('ERR_MLX_CONFIG', `unknown option '${theirs}' of ${where}: here it is '${ours}'`);
  }
  rejectUnknownKeys(options, keys, where);
  for (const key of ['rank', 'numLayers', 'seed'] as const) {
    const value = options[key];
    if (value !== undefined && !Number.isInteger(value))
      throw new MlxError('ERR_MLX_ARGUMENT', `${where}: ${key} must be a whole number, not ${String(value)}`);
  }
  if (options.rank !== undefined && options.rank < 1)
    throw new MlxError('ERR_MLX_ARGUMENT', `${where}: rank must be at least 1, not ${options.rank}`);
  const {
    name = 'default',
    targetModules,
    excludeModules,
    layersToTransform,
    rankPattern,
    alphaPattern,
    ...rest
  } = options;
  return {
    name,
    native: {
      ...rest,
      ...(targetModules === undefined ? {} : { targetModules: list(targetModules) }),
      ...(excludeModules === undefined ? {} : { excludeModules: list(excludeModules) }),
      ...(layersToTransform === undefined ? {} : { layersToTransform: [...layersToTransform] }),
      ...(rankPattern === undefined ? {} : { rankPattern: { ...rankPattern } }),
      ...(alphaPattern === undefined ? {} : { alphaPattern: { ...alphaPattern } }),
    },
  };
}
