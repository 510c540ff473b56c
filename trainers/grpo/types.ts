import type { Message } from '../../lib/tokenizer.js';

/** One training example: a plain text or a conversation. Further columns of a row are handed to the rewards. */
export interface GRPORow {
  prompt: string | readonly Message[];
}

export interface TrainerState {
  /** Optimizer steps done. */
  globalStep: number;
  maxSteps: number;
  /** Epochs done, as a fraction. */
  epoch: number;
}

/** What every reward gets: one entry for each completion in every list, completions of the same prompt side by side. */
export interface ScoredCompletions {
  prompts: (string | readonly Message[])[];
  /** The answers as text, special tokens left out. */
  completions: string[];
  /** The same answers as chat messages. */
  completionMessages: Message[][];
  /** The same answers as token ids, with the end-of-text token. */
  completionIds: number[][];
  trainerState: TrainerState;
  /** Adds a value to the metrics; the mean of all values since the last log line is logged. */
  logMetric: (name: string, value: number) => void;
  /** Aborted when the run is. */
  signal: AbortSignal | undefined;
}

/** {@link ScoredCompletions} and the columns of the data set, each as a list under its own name. */
export type RewardArgs<Row extends GRPORow = GRPORow> = ScoredCompletions & {
  [Column in Exclude<keyof Row, 'prompt'>]: Row[Column][];
};

/** Scores completions; null means "cannot be scored" and leaves the completion out of this reward. */
export type Reward<Row extends GRPORow = GRPORow> = (
  args: RewardArgs<Row>,
) => (number | null)[] | Promise<(number | null)[]>;
