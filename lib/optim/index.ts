/**
 * Optimizers, learning-rate schedules and gradient clipping, as Python's `mlx.optimizers`.
 *
 * @module optim
 */
export { clipGradNorm, clipGradValue, globalNorm } from './clip.js';
export { MultiOptimizer } from './multi.js';
export type { ParameterFilter } from './multi.js';
export { Optimizer } from './optimizer.js';
export type { OptimizerState } from './optimizer.js';
export type { Group, LearningRate, OptimizerOptions, SharedOptions } from './options.js';
export { BaseOptimizer } from './base.js';
export * from './rules.js';
export * as schedules from './schedules.js';
export { cosineDecay, exponentialDecay, joinSchedules, linearSchedule, Schedule, stepDecay } from './schedules.js';
export type { TransformersSchedule, TransformersSchedules } from './schedules.js';
