/**
 * Learning-rate schedules of `mlx.optimizers` and of transformers.
 *
 * @module schedules
 */
import { guard, MlxError } from '../errors.js';
import { native } from '../native.js';
import { rejectUnknownKeys } from '../options.js';

/**
 * A learning rate as a function of the step, counted from 0. Unlike a function of yours it also works inside `mx.compile`, where it
 * becomes part of the graph.
 */
export class Schedule {
  readonly #definition: object;

  /** @internal Use the functions of `optim.schedules`. */
  constructor(definition: object) {
    this.#definition = definition;
    this.at(0);
  }

  /** The learning rate of a step. */
  at(step: number): number {
    return guard(() => native().optim.scheduleRate(this.#definition, step));
  }

  /** @internal */
  toJSON(): object {
    return this.#definition;
  }
}

/** `init * decayRate ** step` */
export const exponentialDecay = (init: number, decayRate: number): Schedule =>
  new Schedule({ type: 'exponential_decay', init, decayRate });

/** `init * decayRate ** floor(step / stepSize)` */
export const stepDecay = (init: number, decayRate: number, stepSize: number): Schedule =>
  new Schedule({ type: 'step_decay', init, decayRate, stepSize });

/** Half a cosine from `init` to `end` (0) in `decaySteps` steps, then `end`. */
export const cosineDecay = (init: number, decaySteps: number, end = 0): Schedule =>
  new Schedule({ type: 'cosine_decay', init, decaySteps, end });

/** A straight line from `init` to `end` in `steps` steps, then `end`. */
export const linearSchedule = (init: number, end: number, steps: number): Schedule =>
  new Schedule({ type: 'linear_schedule', init, end, steps });

/**
 * One schedule after the other: schedule i + 1 begins at boundary i and counts its steps from there.
 *
 * @example joinSchedules([linearSchedule(0, 1e-3, 100), cosineDecay(1e-3, 900)], [100])
 */
export function joinSchedules(schedules: readonly (Schedule | number)[], boundaries: readonly number[]): Schedule {
  if (!Array.isArray(schedules) || !Array.isArray(boundaries))
    throw new MlxError('ERR_MLX_ARGUMENT', 'joinSchedules() takes a list of schedules and a list of boundaries');
  const definitions = schedules.map((schedule: Schedule | number) =>
    schedule instanceof Schedule ? schedule.toJSON() : schedule,
  );
  return new Schedule({ type: 'join_schedules', schedules: definitions, boundaries });
}

/** Of all schedules of transformers. */
export interface TransformersSchedule {
  /** The highest rate. */
  learningRate: number;
  /** Steps in which the rate rises from 0; none unless told. */
  warmupSteps?: number;
  /** Steps of the whole training. */
  maxSteps?: number;
}

/** The schedules of transformers, by `lr_scheduler_type`, with what each takes beside `TransformersSchedule`. */
export interface TransformersSchedules {
  /** Down to 0 in a straight line. */
  linear: object;
  /** Down to 0 along half a cosine, or along `numCycles` of them. */
  cosine: { numCycles?: number };
  /** `numCycles` times from the highest rate down to 0 along half a cosine. */
  cosine_with_restarts: { numCycles?: number };
  /** Down to `lrEnd` (1e-7) along the `power` (1) of a straight line. */
  polynomial: { lrEnd?: number; power?: number };
  /** The same rate always, without warm-up. */
  constant: object;
  constant_with_warmup: object;
  /** One over the root of the steps in units of `timescale` (the warm-up, or 10000 without one). */
  inverse_sqrt: { timescale?: number };
  /** As cosine, but down to `minLr`, or to `minLrRate` of the highest. */
  cosine_with_min_lr: { numCycles?: number; minLr?: number; minLrRate?: number };
  /** The same a step ahead, with a warm-up that starts at `warmupLrRate` of the highest. */
  cosine_warmup_with_min_lr: { numCycles?: number; minLr?: number; minLrRate?: number; warmupLrRate?: number };
  /** The highest rate for `numStableSteps`, then `numDecaySteps` down to `minLrRatio` (0) of it. */
  warmup_stable_decay: {
    numDecaySteps: number;
    numStableSteps?: number;
    warmupType?: 'linear' | 'cosine' | '1-sqrt';
    decayType?: 'linear' | 'cosine' | '1-sqrt';
    minLrRatio?: number;
    numCycles?: number;
  };
}

const transformersKeys = [
  'learningRate',
  'warmupSteps',
  'maxSteps',
  'numCycles',
  'minLr',
  'minLrRate',
  'warmupLrRate',
  'lrEnd',
  'power',
  'timescale',
  'numStableSteps',
  'numDecaySteps',
  'warmupType',
  'decayType',
  'minLrRatio',
];

/**
 * A schedule of transformers, as its trainers take it by `lr_scheduler_type`.
 *
 * @example transformers('cosine_with_min_lr', { learningRate: 1e-4, warmupSteps: 100, maxSteps: 1000, minLr: 1e-5 })
 */
export function transformers<K extends keyof TransformersSchedules>(
  type: K,
  options: TransformersSchedule & TransformersSchedules[K],
): Schedule {
  rejectUnknownKeys(options, transformersKeys, `the schedule '${type}'`);
  if (options.learningRate === undefined)
    throw new MlxError('ERR_MLX_ARGUMENT', `the schedule '${type}' needs a learningRate`);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return new Schedule({ lrSchedulerType: type, ...Object.fromEntries(given) });
}
