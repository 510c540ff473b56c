export { GRPOTrainer } from './grpo/trainer.js';
export type { GRPOTrainerOptions, TrainOptions, TrainResult } from './grpo/trainer.js';
export { grpoConfigSchema, resolveGRPOConfig } from './grpo/config.js';
export type { GRPOConfig, ResolvedGRPOConfig } from './grpo/config.js';
export { evaluate } from './grpo/evaluate.js';
export type { EvaluateOptions, EvaluateResult } from './grpo/evaluate.js';
export type { GRPORow, Reward, RewardArgs, ScoredCompletions, TrainerState } from './grpo/types.js';
export { sftConfigSchema, SFTTrainer } from './sft/trainer.js';
export type { ResolvedSFTConfig, SFTConfig, SFTRow, SFTTrainerOptions } from './sft/trainer.js';
export {
  completionAnswer,
  exactAnswer,
  formatReward,
  gsm8kAnswer,
  lastNumber,
  lengthPenalty,
  named,
} from './rewards/text.js';
export type { ExactAnswerOptions, LengthPenaltyOptions } from './rewards/text.js';
export { ConsoleLogger, escapeHtml, htmlPage, JsonlLogger, lineChart, ReportLogger } from './loggers/index.js';
export type {
  ChartOptions,
  CompletionSample,
  ConsoleStream,
  Logger,
  MetricRecord,
  PageOptions,
  Point,
  Progress,
  RunInfo,
  RunStatus,
  Series,
} from './loggers/index.js';
export { learningRateAt } from './schedule.js';
export type { ScheduleOptions, SchedulerType } from './schedule.js';
