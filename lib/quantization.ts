import type { CalibrationOptions, QuantizationMethod } from './calibration.js';
import { guard, MlxError } from './errors.js';
import type { NativeModel, NativeQuantizeSettings } from './native-types.js';
import type { QuantizationMode } from './nn/quantized.js';
import { rejectUnknownKeys } from './options.js';

export type { QuantizationMode } from './nn/quantized.js';

/** mlx-lm's recipes: values, down-projections and the head get the second number of bits in the blocks where it matters most, all others the first. */
export type QuantizationRecipe = 'mixed_2_6' | 'mixed_3_4' | 'mixed_3_6' | 'mixed_4_6';

/** How a layer is packed. What is left out is the mode's own: groups of 64 and 4 bits for 'affine'. */
export interface LayerQuantization {
  /** 2, 3, 4, 5, 6 or 8 for 'affine'; the other modes have one number of bits only. */
  bits?: number;
  /** 32, 64 or 128 for 'affine'; the other modes have one size only. */
  groupSize?: number;
  mode?: QuantizationMode;
}

/** A layer that can be packed. */
export interface QuantizableLayer {
  /** As in the checkpoint: 'model.layers.0.self_attn.q_proj', 'model.embed_tokens', 'lm_head'. */
  name: string;
  /** [out, in], with the experts in front where there are several. */
  shape: number[];
}

/** How a model is packed. */
export interface ModelQuantization extends LayerQuantization {
  /** Chooses the bits layer by layer; for mode 'affine'. */
  recipe?: QuantizationRecipe;
  /**
   * Layers that are packed otherwise, or not at all, by name: its end ('v_proj', 'mlp.gate'), or all of it with `*` for anything
   * ('model.layers.0.*'). The first that fits counts. What a rule leaves out is as for the other layers.
   */
  rules?: Record<string, LayerQuantization | false>;
  /** Asked for every layer before the rules: `false` leaves it out, options pack it so, `true` leaves it to the rules and the rest. */
  predicate?: (layer: QuantizableLayer) => boolean | LayerQuantization;
}

/** Options of `model.quantize()`. */
export interface QuantizeModelOptions extends ModelQuantization {
  /** How codes are chosen. Default 'rtn'; the others are for mode 'affine' and need `calibration`. */
  method?: QuantizationMethod;
  /** The texts that methods 'gptq' and 'awq' fit the codes to. */
  calibration?: CalibrationOptions;
  /** What 'gptq' adds to the diagonal of the Hessian, in parts of its mean. Default 0.01. */
  damping?: number;
  /** The dtype in which 'gptq' and 'awq' choose scales, for a model that is saved in it. Default: the model's. */
  scaleDtype?: 'float32' | 'bfloat16' | 'float16';
  onProgress?: (progress: QuantizeProgress) => void;
  signal?: AbortSignal;
}

/** How far quantising is. */
export interface QuantizeProgress {
  /** Layers so far and in all. */
  done: number;
  total: number;
}

/** How a model is packed as a whole, and what is different. */
export interface QuantizationInfo extends Required<LayerQuantization> {
  /** Layers that are packed otherwise, or (`false`) not. */
  layers: Record<string, Required<LayerQuantization> | false>;
}

const layerKeys = ['bits', 'groupSize', 'mode'] as const;
/** @internal */
export const quantizationKeys = [...layerKeys, 'recipe', 'rules', 'predicate'] as const;
/** @internal Those of `model.quantize()`. */
export const quantizeKeys = [
  ...quantizationKeys,
  'method',
  'calibration',
  'damping',
  'scaleDtype',
  'onProgress',
  'signal',
] as const;

function checkLayer(options: LayerQuantization, where: string): LayerQuantization {
  for (const key of ['bits', 'groupSize'] as const) {
    const value = options[key];
    if (value !== undefined && !Number.isSafeInteger(value))
      throw new MlxError('ERR_MLX_CONFIG', `${where}: ${key} must be a whole number, got ${String(value)}`);
  }
  const { bits, groupSize, mode } = options;
  return {
    ...(bits === undefined ? {} : { bits }),
    ...(groupSize === undefined ? {} : { groupSize }),
    ...(mode === undefined ? {} : { mode }),
  };
}

function rule(pattern: string, value: unknown, where: string): { pattern: string; skip?: boolean } & LayerQuantization {
  if (value === false) return { pattern, skip: true };
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new MlxError('ERR_MLX_CONFIG', `${where} must be options or false, got ${String(value)}`);
  rejectUnknownKeys(value, layerKeys, where);
  return { pattern, ...checkLayer(value, where) };
}

/** @internal What the addon needs. `layers` is asked where there is a predicate. */
export function resolveQuantization(
  options: ModelQuantization,
  layers: () => readonly QuantizableLayer[],
  where: string,
  known: readonly string[] = quantizationKeys,
): NativeQuantizeSettings {
  rejectUnknownKeys(options, known, where);
  const { recipe, rules = {}, predicate } = options;
  if (recipe !== undefined && options.bits !== undefined)
    throw new MlxError('ERR_MLX_CONFIG', `${where}: a recipe chooses the bits itself, so leave bits out`);
  const chosen = (predicate === undefined ? [] : layers()).flatMap(({ name, shape }) => {
    const answer: unknown = predicate!({ name, shape });
    return answer === true ? [] : [rule(name, answer, `${where}: the predicate's answer for '${name}'`)];
  });
  const given = Object.entries(rules).map(([pattern, value]) => rule(pattern, value, `${where}: rules['${pattern}']`));
  return {
    ...checkLayer(options, where),
    ...(recipe === undefined ? {} : { recipe }),
    rules: [...chosen, ...given],
  };
}

interface Block {
  group_size: number;
  bits: number;
  mode: QuantizationMode;
}

const info = ({ group_size: groupSize, bits, mode }: Block): Required<LayerQuantization> => ({ bits, groupSize, mode });

/** @internal */
export function quantizationOf(handle: NativeModel): QuantizationInfo | null {
  return guard(() => {
    const json = handle.quantizationJson;
    if (json === null) return null;
    const { group_size, bits, mode, ...others } = JSON.parse(json) as Block & Record<string, Block>;
    const plain = handle.layers().filter(({ packed }) => !packed);
    return {
      ...info({ group_size, bits, mode }),
      layers: {
        ...Object.fromEntries(Object.entries(others).map(([name, block]) => [name, info(block)])),
        ...Object.fromEntries(plain.map(({ name }) => [name, false as const])),
      },
    };
  });
}
