import { readFile } from 'node:fs/promises';
import { dirname, extname, isAbsolute, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Command } from 'commander';
import { parse as parseYaml } from 'yaml';
import type { LoraOptions } from '../adapters.js';
import { readJsonl } from '../data.js';
import { errorText, MlxError } from '../errors.js';
import { stopOnSignals } from '../interrupt.js';
import { isRepoId } from '../hub/repo.js';
import { isFolder } from '../hub/resolve.js';
import type { Dtype, LoadOptions } from '../model.js';
import { rejectUnknownKeys } from '../options.js';
import { resolveGRPOConfig } from '../../trainers/grpo/config.js';
import type { GRPOConfig } from '../../trainers/grpo/config.js';
import { GRPOTrainer } from '../../trainers/grpo/trainer.js';
import type { GRPORow, Reward } from '../../trainers/grpo/types.js';
import { ConsoleLogger, defaultLoggers } from '../../trainers/loggers/index.js';
import type { CliIo } from './io.js';
import { loadWithProgress } from './loading.js';

/** The file that `mlx-node train grpo` reads: what to train on, and under `grpo` the trainer's config. */
interface TrainFile {
  /** A folder, or a model's name on the hub. */
  model: string;
  revision?: string;
  dtype?: Dtype;
  dataset: string;
  evalDataset?: string;
  /** Module whose exported functions are the rewards: an array `rewards`, or every exported function. */
  rewards: string;
  lora?: LoraOptions;
  grpo?: GRPOConfig;
}

const fileKeys = ['model', 'revision', 'dtype', 'dataset', 'evalDataset', 'rewards', 'lora', 'grpo'];

const example = `
Example (run.yaml; paths are relative to it):
  model: Qwen/Qwen3-0.6B        # or a folder
  dataset: ./train.jsonl        # one {"prompt": ..., further columns} a line
  rewards: ./rewards.js         # export const rewards = [({ completions, answer }) => ...]
  grpo:
    outputDir: runs/first
    maxSteps: 200
    learningRate: 1.0e-6

  mlx-node train grpo run.yaml
  mlx-node train grpo run.yaml --resume`;

/** `mlx-node train grpo`. */
export function trainCommand(io: CliIo): Command {
  const grpo = new Command('grpo')
    .description('Train a model with GRPO, as a YAML or JSON file says.')
    .argument('<file>', 'YAML or JSON file')
    .option('--resume [checkpoint]', 'go on from the newest checkpoint, or from the one named')
    .option('--check', 'check the file and the config, then stop')
    .addHelpText('after', example)
    .action(async (path: string, flags: { resume?: string | boolean; check?: boolean }) => {
      const { file, config } = await readTrainFile(path);
      const beside = (name: string): string => (isAbsolute(name) ? name : join(dirname(resolve(path)), name));
      const rewards = await loadRewards(beside(file.rewards));
      resolveGRPOConfig(config, rewards.length);
      const dataset = await readJsonl<GRPORow>(beside(file.dataset));
      const evalDataset =
        file.evalDataset === undefined ? undefined : await readJsonl<GRPORow>(beside(file.evalDataset));
      if (flags.check === true) {
        io.stdout.write(`${path}: ${dataset.length} prompts, ${rewards.length} rewards, config is valid\n`);
        return;
      }
      const stop = stopOnSignals();
      try {
        const loading: LoadOptions = { dtype: file.dtype ?? 'auto', signal: stop.signal };
        if (file.revision !== undefined) loading.revision = file.revision;
        const folder = beside(file.model);
        const named = isRepoId(file.model) && !(await isFolder(folder)) ? file.model : folder;
        const model = await loadWithProgress(named, loading, io.stderr);
        try {
          if (file.lora !== undefined) model.applyLora(file.lora);
          const trainer = new GRPOTrainer({
            model,
            dataset,
            rewards,
            config,
            loggers: [
              ...defaultLoggers(config.outputDir, config.logCompletions ?? true),
              new ConsoleLogger({ stream: io.stderr }),
            ],
            ...(evalDataset === undefined ? {} : { evalDataset }),
          });
          await trainer.train({ signal: stop.signal, resumeFrom: flags.resume ?? false });
        } finally {
          model.dispose();
        }
      } finally {
        stop.release();
      }
    });
  return new Command('train').description('Train a model.').addCommand(grpo);
}

async function readTrainFile(path: string): Promise<{ file: TrainFile; config: GRPOConfig }> {
  let file: unknown;
  try {
    const text = await readFile(path, 'utf8');
    file = extname(path) === '.json' ? JSON.parse(text) : parseYaml(text);
  } catch (error) {
    throw new MlxError('ERR_MLX_CONFIG', `${path}: cannot be read: ${errorText(error)}`, { cause: error });
  }
  if (typeof file !== 'object' || file === null) throw new MlxError('ERR_MLX_CONFIG', `${path}: must hold an object`);
  rejectUnknownKeys(file, fileKeys, path);
  for (const key of ['model', 'dataset', 'rewards'] as const) {
    if (typeof (file as Partial<TrainFile>)[key] !== 'string')
      throw new MlxError('ERR_MLX_CONFIG', `${path}: '${key}' is missing; it must be a path`);
  }
  const { grpo = {} } = file as TrainFile;
  return { file: file as TrainFile, config: grpo };
}

async function loadRewards(path: string): Promise<Reward[]> {
  let module: Record<string, unknown>;
  try {
    module = (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  } catch (error) {
    throw new MlxError('ERR_MLX_CONFIG', `${path}: the reward module cannot be loaded: ${errorText(error)}`, {
      cause: error,
    });
  }
  const exported = Array.isArray(module['rewards']) ? (module['rewards'] as unknown[]) : Object.values(module);
  const rewards = exported.filter((value): value is Reward => typeof value === 'function');
  if (rewards.length === 0) throw new MlxError('ERR_MLX_CONFIG', `${path}: exports no reward function`);
  return rewards;
}
