/** What optimizers are made with: the options that all share, groups of parameters, and their checks. */
import type { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { rejectUnknownKeys } from '../options.js';
import { Schedule } from './schedules.js';

/** A number, a schedule, or a function of the step, counted from 0. A function of yours does not work inside `mx.compile`. */
export type LearningRate = number | Schedule | ((step: number) => number);

/** Of every optimizer and every group. */
export interface SharedOptions {
  learningRate?: LearningRate;
  /** Multiplies the learning rate, whoever sets it; 1 unless told. */
  learningRateScale?: number;
  /** What weight decay applies to: all parameters (MLX, torch), or all but biases and the weights of norms (transformers). */
  decayedParameters?: 'all' | 'matrices';
}

/** Parameters with settings of their own; what they do not set is the optimizer's. */
export type Group<S> = Partial<S> &
  SharedOptions & {
    /** Whether a parameter belongs to this group, by its path, such as `layers.0.weight`. The first group that says so has it. */
    filter: (name: string, parameter: MxArray) => boolean;
  };

/** The settings of a rule, with what every optimizer takes. */
export type OptimizerOptions<S> = S & SharedOptions & { groups?: readonly Group<S>[] };

const sharedKeys = ['learningRate', 'learningRateScale', 'decayedParameters'];

/** @internal The options of an optimizer apart from its groups, and these, after a check of all names. */
export function checkOptions(
  name: string,
  settings: readonly string[],
  options: OptimizerOptions<object>,
): { own: SharedOptions; groups: readonly Group<object>[] } {
  const where = `${name}()`;
  if (typeof options !== 'object' || options === null) {
    throw new MlxError('ERR_MLX_ARGUMENT', `${where} takes its options as an object, such as { learningRate: 1e-3 }`);
  }
  const keys = [...sharedKeys, ...settings];
  rejectUnknownKeys(options, [...keys, 'groups'], where);
  const { groups = [], ...own } = options;
  if (!Array.isArray(groups)) throw new MlxError('ERR_MLX_ARGUMENT', `groups of ${where} must be a list`);
  for (const [i, group] of (groups as readonly Group<object>[]).entries()) {
    rejectUnknownKeys(group, [...keys, 'filter'], `groups[${i}] of ${where}`);
    if (typeof group.filter !== 'function')
      throw new MlxError('ERR_MLX_ARGUMENT', `groups[${i}] of ${where} needs a filter: (name, parameter) => boolean`);
  }
  return { own, groups };
}

/** @internal The options that are not undefined. */
export function given<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

/** @internal */
export function checkRate(rate: unknown, what: string): void {
  if (typeof rate !== 'number' || !Number.isFinite(rate) || rate < 0)
    throw new MlxError('ERR_MLX_ARGUMENT', `${what} is ${String(rate)}; it must be a finite number of at least 0`);
}

/** @internal A group as the addon reads it. */
export function definition(name: string, options: SharedOptions): object {
  const { learningRate, learningRateScale, decayedParameters, ...settings } = given(options);
  for (const [key, value] of Object.entries({ ...settings, learningRateScale })) {
    const numbers = (Array.isArray(value) ? value : [value]) as unknown[];
    if (numbers.some((number) => typeof number === 'number' && !Number.isFinite(number)))
      throw new MlxError('ERR_MLX_ARGUMENT', `${name}: ${key} is ${String(value)}; it must be finite`);
  }
  // A function is asked at each step; until then any rate will do.
  let rate: unknown = learningRate;
  if (typeof learningRate === 'number') checkRate(learningRate, `${name}: learningRate`);
  else if (typeof learningRate === 'function') rate = 0;
  else if (learningRate instanceof Schedule) rate = learningRate.toJSON();
  else if (learningRate !== undefined && learningRate !== null)
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${name}: learningRate must be a number, a schedule of optim.schedules or a function of the step`,
    );
  return given({
    optimizer: name,
    options: given({ ...settings, learningRate: rate }),
    learningRateScale,
    decayedParameters,
  });
}
