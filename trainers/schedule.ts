/** Names of transformers' schedulers. */
export type SchedulerType = 'linear' | 'cosine' | 'constant' | 'constant_with_warmup';
export const schedulerTypes = [
  'linear',
  'cosine',
  'constant',
  'constant_with_warmup',
] as const satisfies readonly SchedulerType[];

export interface ScheduleOptions {
  learningRate: number;
  lrSchedulerType: SchedulerType;
  /** Steps of linear warm-up from 0; below 1 it is a share of all steps. */
  warmupSteps: number;
  totalSteps: number;
}

/** Warm-up length in whole steps. */
export function warmupLength(warmupSteps: number, totalSteps: number): number {
  return warmupSteps < 1 ? Math.ceil(warmupSteps * totalSteps) : Math.round(warmupSteps);
}

/**
 * Learning rate of optimizer step `step` (0-based), by the formulas of transformers' schedulers: linear and cosine fall to 0 at
 * `totalSteps`; 'constant' has no warm-up.
 */
export function learningRateAt(step: number, options: ScheduleOptions): number {
  const { learningRate, lrSchedulerType, totalSteps } = options;
  if (lrSchedulerType === 'constant') return learningRate;
  const warmup = warmupLength(options.warmupSteps, totalSteps);
  if (step < warmup) return (learningRate * step) / Math.max(1, warmup);
  if (lrSchedulerType === 'constant_with_warmup') return learningRate;
  const rest = Math.max(1, totalSteps - warmup);
  if (lrSchedulerType === 'linear') return learningRate * Math.max(0, (totalSteps - step) / rest);
  return learningRate * Math.max(0, 0.5 * (1 + Math.cos((Math.PI * (step - warmup)) / rest)));
}
