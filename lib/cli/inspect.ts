import { Command } from 'commander';
import { resolveModel } from '../hub/resolve.js';
import { inspectCheckpoint } from '../inspect.js';
import type { CheckpointInfo } from '../inspect.js';
import { stopOnSignals } from '../interrupt.js';
import type { CliIo } from './io.js';
import { bytesText, downloadLine, ProgressLine, withRevision } from './loading.js';

interface Flags {
  revision?: string;
  tensors?: boolean;
  json?: boolean;
}

/** `mlx-node inspect`: what a checkpoint is, from its configuration and the headers of its files. */
export function inspectCommand(io: CliIo): Command {
  const command = new Command('inspect')
    .description('Show what a checkpoint is: architecture, sizes, dtypes, quantisation, memory. No weight is read.')
    .argument('<model>', "checkpoint folder, or a model's name on the hub, which is downloaded");
  return withRevision(command)
    .option('--tensors', 'list every tensor')
    .option('--json', 'print one JSON object, with every tensor')
    .addHelpText(
      'after',
      '\nA checkpoint that cannot be loaded fails here too, and says why.\n\nExamples:\n  mlx-node inspect ./Qwen3-0.6B\n  mlx-node inspect mlx-community/Qwen3-0.6B-4bit --json | jq .parameters',
    )
    .action(async (model: string, flags: Flags) => {
      const stop = stopOnSignals();
      const line = new ProgressLine(io.stderr);
      try {
        const { path } = await resolveModel(model, {
          signal: stop.signal,
          ...(flags.revision === undefined ? {} : { revision: flags.revision }),
          onProgress: (progress) => line.draw(downloadLine(progress, io.stderr.columns)),
        });
        const info = inspectCheckpoint(path);
        line.end();
        io.stdout.write(
          flags.json === true ? `${JSON.stringify(info)}\n` : render(model, info, flags.tensors === true),
        );
      } finally {
        line.end();
        stop.release();
      }
    });
}

const count = (n: number): string =>
  n >= 1e9 ? `${(n / 1e9).toFixed(2)} B` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : `${n}`;

const label = (key: string): string => {
  const words = key.replaceAll('_', ' ');
  return words[0]!.toUpperCase() + words.slice(1);
};

function quantization({ quantization: block, bits_per_weight }: CheckpointInfo): string {
  if (block === null) return 'none';
  const { mode, bits, group_size, packed_layers, plain_layers, ...others } = block;
  const exceptions = Object.keys(others).length;
  return (
    `${String(mode)}, ${String(bits)} bits, groups of ${String(group_size)}; ${packed_layers} layers packed` +
    (exceptions > 0 ? `, ${exceptions} of them otherwise` : '') +
    (plain_layers > 0 ? `, ${plain_layers} not` : '') +
    `; ${bits_per_weight.toFixed(3)} bits per weight`
  );
}

/** Bytes by dtype, in words. */
const per = (bytes: Record<string, number>, scale = 1): string =>
  Object.entries(bytes)
    .map(([dtype, value]) => `${bytesText(value * scale)} in ${dtype}`)
    .join(', ');

function render(model: string, info: CheckpointInfo, tensors: boolean): string {
  const { parameters, memory } = info;
  const active = parameters.active === parameters.total ? '' : `, ${count(parameters.active)} active`;
  const rows: [string, string][] = [
    ['Model', model],
    ['Architecture', info.model_type],
    ['Parameters', `${count(parameters.total)}${active}`],
    ['Quantisation', quantization(info)],
    ['Weights', `${bytesText(info.bytes)} in ${info.files.length} file${info.files.length === 1 ? '' : 's'}`],
    ['Memory', per(memory.weights)],
    ['KV cache', `${per(memory.kv_cache_per_token, 1000)} for 1000 tokens`],
    ...Object.entries(info.config).map(([key, value]): [string, string] => [label(key), String(value)]),
  ];
  const dtypes = Object.entries(info.dtypes).map(
    ([dtype, { tensors: n, bytes }]) => `  ${dtype.padEnd(10)} ${String(n).padStart(6)} tensors  ${bytesText(bytes)}`,
  );
  const list = info.tensors.map(({ name, dtype, shape }) => `  ${name}  ${dtype} [${shape.join(', ')}]`);
  return (
    `${rows.map(([name, value]) => `${name.padEnd(26)} ${value}`).join('\n')}\n\n${dtypes.join('\n')}\n` +
    (tensors ? `\n${list.join('\n')}\n` : '')
  );
}
