import { z } from 'zod';
import { schedulerTypes } from '../schedule.js';
import { configError, parseConfig } from '../validate.js';

const count = z.int().min(1);
const size = z.int().min(0);
const positive = z.number().positive();
const notNegative = z.number().min(0);
const share = z.number().min(0).max(1);

const isSchema = (value: unknown): boolean =>
  typeof value === 'boolean' || (typeof value === 'object' && value !== null && !Array.isArray(value));
const text = z.strictObject({ type: z.literal('text') });
const jsonObject = z.strictObject({ type: z.literal('json_object') });
const jsonSchema = z.strictObject({
  type: z.literal('json_schema'),
  json_schema: z.strictObject({
    schema: z.custom<object | boolean>(isSchema, 'must be a JSON schema'),
    strict: z.boolean().nullish(),
    name: z.string().optional(),
    description: z.string().optional(),
  }),
});
const regex = z.strictObject({ type: z.literal('regex'), regex: z.string() });
const grammar = z.strictObject({
  type: z.literal('grammar'),
  grammar: z.strictObject({ syntax: z.enum(['lark', 'regex']), definition: z.string() }),
});
const responseFormatSchema = z.discriminatedUnion('type', [text, jsonObject, jsonSchema, regex, grammar]);

/**
 * Options of GRPO, with the names, meaning and defaults of TRL 1.16. Defaults that differ: `gradientCheckpointing` (TRL: true; here
 * memory is saved by chunking the head first), `loggingSteps` (TRL: 10), `logCompletions` (TRL: false). There is one device
 * and one process, so "per device" means "at once".
 */
export const grpoConfigSchema = z.strictObject({
  /** Folder of the run: metrics.jsonl, report.html, completions/, checkpoints/. Without it nothing is written. */
  outputDir: z.string().min(1).optional(),

  /** Peak learning rate of AdamW. */
  learningRate: notNegative.default(1e-6),
  /** How the rate goes after the warm-up: down to 0 at the last step, in a straight line or along a cosine, or not at all. 'constant' has no warm-up. */
  lrSchedulerType: z.enum(schedulerTypes).default('linear'),
  /** Steps of linear warm-up; below 1, a share of all steps. */
  warmupSteps: notNegative.default(0),
  /** Decoupled weight decay on matrices; biases and norms are exempt. */
  weightDecay: notNegative.default(0),
  /** Decay of AdamW's mean of gradients, below 1. */
  adamBeta1: share.default(0.9),
  /** Decay of AdamW's mean of squared gradients, below 1. */
  adamBeta2: share.default(0.999),
  /** Added to the root of AdamW's mean of squared gradients. */
  adamEpsilon: positive.default(1e-8),
  /** Global gradient norm above which gradients are scaled down; 0 is off. */
  maxGradNorm: notNegative.default(1),

  /** Optimizer steps in all; -1 means `numTrainEpochs` decides. */
  maxSteps: z.int().min(-1).default(-1),
  /** Passes over the prompts, where maxSteps does not decide. */
  numTrainEpochs: positive.default(3),
  /** Completions in one micro-batch (one forward and backward pass). */
  perDeviceTrainBatchSize: count.default(8),
  /** Micro-batches in one optimizer step. */
  gradientAccumulationSteps: count.default(1),
  /** Completions for each prompt: the group whose mean reward is the baseline. */
  numGenerations: z.int().min(2, 'must be at least 2: a group of one has no baseline').default(8),
  /** Micro-batches served by one round of generation. Default: gradientAccumulationSteps. */
  stepsPerGeneration: count.optional(),
  /** Completions made in one round. Default: perDeviceTrainBatchSize x stepsPerGeneration. */
  generationBatchSize: count.optional(),
  /** How many times each round's completions are trained on (mu). */
  numIterations: count.default(1),
  /** Draw the prompts of each pass in a random order; else as they come. */
  shuffleDataset: z.boolean().default(true),

  /** Longest completion in tokens. */
  maxCompletionLength: count.default(512),
  /** Sampling temperature, and the divisor of the logits in training. */
  temperature: positive.default(1),
  /** Sample among the likeliest tokens that have this probability together; 1 is off. */
  topP: z.number().gt(0).max(1).default(1),
  /** Sample among this many of the likeliest tokens; 0 is off. */
  topK: size.default(0),
  /** Sample among tokens of at least this share of the likeliest one's probability; 0 is off. */
  minP: share.default(0),
  /** Divides the logits of tokens that are there already (multiplies negative ones); 1 is off. */
  repetitionPenalty: positive.default(1),
  /** What every completion must fit, as in `generate()`: a JSON schema, an expression, a grammar. */
  responseFormat: responseFormatSchema.optional(),
  /** The same for an expression, which a completion matches from beginning to end; TRL's `vllm_structured_outputs_regex`. */
  structuredOutputsRegex: z.string().min(1).optional(),
  /** The format begins behind `</think>` where the model thinks first. */
  formatAfterThinking: z.boolean().default(false),
  /** Variables of the chat template, such as { enableThinking: false }. */
  chatTemplateKwargs: z.record(z.string(), z.unknown()).default({}),

  /** Weight of the KL term to the start model; 0 keeps no reference at all. */
  beta: notNegative.default(0),
  /** Lower clip 1 - epsilon, and the upper one where epsilonHigh is absent. */
  epsilon: notNegative.default(0.2),
  /** Upper clip 1 + epsilonHigh; for 'cispo' the cap of the weight itself (paper: 5). */
  epsilonHigh: positive.optional(),
  /** Cap of the unclipped ratio (two-sided clipping). */
  delta: z.number().min(1).optional(),
  /** How token losses are added up and clipped; docs/training.md compares them. */
  lossType: z.enum(['dapo', 'grpo', 'dr_grpo', 'bnpo', 'cispo', 'sapo', 'luspo', 'vespo']).default('dapo'),
  /** Whether ratios to the sampling policy are of tokens, or of whole sequences (GSPO). */
  importanceSamplingLevel: z.enum(['token', 'sequence']).default('token'),
  /** Multiply the KL term by the ratio, which makes its gradient the true one. */
  useBiasCorrectionKl: z.boolean().default(true),
  /** Sequences with negative advantage that drifted further than this from the sampler (mean log-ratio, in nats) are dropped. Absent: off. */
  offPolicyMaskThreshold: z.number().optional(),
  /** Train only on this share of tokens with the highest entropy; 1 is off. */
  topEntropyQuantile: share.default(1),
  /** Weight of a bonus for the entropy of the policy; 0 is off. */
  entropyCoef: notNegative.default(0),
  /** Models with experts: weight of the loss that makes routers use these evenly; 0 is off. Default: router_aux_loss_coef of the model's config.json. */
  routerAuxLossCoef: notNegative.optional(),
  /** Steepness of the soft clip of 'sapo' where the advantage is negative. */
  sapoTemperatureNeg: positive.default(1.05),
  /** Steepness of the soft clip of 'sapo' where the advantage is positive. */
  sapoTemperaturePos: positive.default(1),
  /** k in the weight w^k · e^(λ(1 - w)) of 'vespo', w being the ratio of the sequence, where the advantage is positive. */
  vespoKPos: positive.default(2),
  /** λ in that weight where the advantage is positive. */
  vespoLambdaPos: positive.default(3),
  /** k in that weight where the advantage is negative. */
  vespoKNeg: positive.default(3),
  /** λ in that weight where the advantage is negative. */
  vespoLambdaNeg: positive.default(2),

  /** One weight for each reward; default all 1. */
  rewardWeights: z.array(z.number()).optional(),
  /** Divide advantages by the standard deviation of the group, of the whole batch, or not at all. */
  scaleRewards: z.enum(['group', 'batch', 'none']).default('group'),
  /** Add weighted rewards up and then normalize (GRPO), or normalize each reward in its group first (GDPO). */
  multiObjectiveAggregation: z.enum(['sum_then_normalize', 'normalize_then_sum']).default('sum_then_normalize'),
  /** Leave completions that hit maxCompletionLength out of the loss. */
  maskTruncatedCompletions: z.boolean().default(false),
  /** Do not compute rows whose advantage is 0 where they change neither loss nor gradient. They still count in the denominators. */
  skipZeroAdvantageRows: z.boolean().default(true),
  /** Recompute activations in the backward pass: less memory, about a third more time. */
  gradientCheckpointing: z.boolean().default(false),

  /** Optimizer steps between log lines. */
  loggingSteps: count.default(1),
  /** Write every round's completions with their rewards to completions/. */
  logCompletions: z.boolean().default(true),
  /** Optimizer steps between checkpoints; 0 saves only at the end and when the run is stopped. */
  saveSteps: size.default(500),
  /** How many checkpoints to keep; the oldest go first. Default: all. */
  saveTotalLimit: count.optional(),
  /** Optimizer steps between evaluations; 0 is off. */
  evalSteps: size.default(0),
  /** Evaluate before the first step too; needs evalSteps. */
  evalOnStart: z.boolean().default(false),
  /** Prompts answered at once in evaluation. */
  perDeviceEvalBatchSize: count.default(32),
  /** Of sampling and of the order of the prompts. */
  seed: z.int().min(0).default(42),
});

/**
 * The options of a GRPO run, all of them optional. A wrong value, or a name that is unknown, is ERR_MLX_CONFIG with all problems at once.
 *
 * @interface
 */
export type GRPOConfig = z.input<typeof grpoConfigSchema>;

/** All fields, with the derived ones filled in. The trainer fills in `routerAuxLossCoef`, which depends on the model. */
export type ResolvedGRPOConfig = z.output<typeof grpoConfigSchema> & {
  stepsPerGeneration: number;
  generationBatchSize: number;
};

const where = 'GRPOConfig';

/** Checks a config and fills in what it leaves open. Throws one ERR_MLX_CONFIG that lists every problem. */
export function resolveGRPOConfig(input: GRPOConfig, numRewards?: number): ResolvedGRPOConfig {
  const config = parseConfig(grpoConfigSchema, input, where);
  const problems: string[] = [];
  const { perDeviceTrainBatchSize: batch, numGenerations } = config;
  if (config.generationBatchSize !== undefined && config.stepsPerGeneration !== undefined) {
    problems.push(
      `generationBatchSize (${config.generationBatchSize}) and stepsPerGeneration (${config.stepsPerGeneration}) say the same thing; give only one`,
    );
  }
  if (config.generationBatchSize !== undefined && config.generationBatchSize % batch !== 0) {
    problems.push(
      `generationBatchSize (${config.generationBatchSize}) must be a multiple of perDeviceTrainBatchSize (${batch})`,
    );
  }
  const stepsPerGeneration =
    config.generationBatchSize !== undefined
      ? Math.max(1, Math.floor(config.generationBatchSize / batch))
      : (config.stepsPerGeneration ?? config.gradientAccumulationSteps);
  const generationBatchSize = config.generationBatchSize ?? batch * stepsPerGeneration;
  if (generationBatchSize % numGenerations !== 0) {
    const divisors = [];
    for (let n = 2; n <= generationBatchSize; n++) if (generationBatchSize % n === 0) divisors.push(n);
    problems.push(
      `generationBatchSize (${generationBatchSize} = perDeviceTrainBatchSize ${batch} x stepsPerGeneration ${stepsPerGeneration}) must be a multiple of ` +
        `numGenerations (${numGenerations}); it could be ${divisors.join(', ') || 'nothing: raise the batch size'}`,
    );
  }
  if (numRewards !== undefined && config.rewardWeights !== undefined && config.rewardWeights.length !== numRewards) {
    problems.push(`rewardWeights has ${config.rewardWeights.length} entries for ${numRewards} rewards`);
  }
  if (config.responseFormat !== undefined && config.structuredOutputsRegex !== undefined) {
    problems.push('responseFormat and structuredOutputsRegex say the same thing; give only one');
  }
  const formatted = config.responseFormat !== undefined || config.structuredOutputsRegex !== undefined;
  if (config.formatAfterThinking && !formatted) {
    problems.push('formatAfterThinking needs a format: responseFormat or structuredOutputsRegex');
  }
  if (config.adamBeta1 >= 1 || config.adamBeta2 >= 1) problems.push('adamBeta1 and adamBeta2 must be below 1');
  if (config.topEntropyQuantile === 0) problems.push('topEntropyQuantile 0 would train on nothing; 1 is off');
  if (problems.length > 0) throw configError(problems, where);
  return { ...config, stepsPerGeneration, generationBatchSize };
}

/** Combinations that run but are rarely meant. */
export function configWarnings(config: ResolvedGRPOConfig): string[] {
  const warnings: string[] = [];
  if (config.importanceSamplingLevel === 'sequence' && ['bnpo', 'dr_grpo', 'dapo', 'cispo'].includes(config.lossType)) {
    warnings.push(
      `importanceSamplingLevel 'sequence' with lossType '${config.lossType}' weighs sequences by their length; GSPO uses lossType 'grpo'`,
    );
  }
  if (config.lossType === 'luspo' && config.importanceSamplingLevel !== 'sequence') {
    warnings.push("lossType 'luspo' is meant for importanceSamplingLevel 'sequence'");
  }
  if (config.lossType === 'vespo' && config.importanceSamplingLevel !== 'token') {
    warnings.push(
      "lossType 'vespo' weighs whole sequences by itself; importanceSamplingLevel only changes its KL term",
    );
  }
  if (config.lossType === 'cispo' && config.epsilonHigh === undefined) {
    warnings.push(
      `lossType 'cispo' caps the weight at epsilonHigh, which defaults to epsilon (${config.epsilon}): every gradient is scaled down; the paper uses 5`,
    );
  }
  return warnings;
}

/** Whether a round outlives an optimizer step, so that its log-probs must be recorded before it (TRL: GA % (SPG * mu) != 0). */
export function needsOldLogprobs(config: ResolvedGRPOConfig): boolean {
  return config.gradientAccumulationSteps % (config.stepsPerGeneration * config.numIterations) !== 0;
}
