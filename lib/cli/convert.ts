import { Command, Option } from 'commander';
import { convert } from '../convert.js';
import type { ConvertOptions } from '../convert.js';
import { stopOnSignals } from '../interrupt.js';
import type { ConvertReport } from '../native-types.js';
import { UsageError } from './io.js';
import type { CliIo } from './io.js';
import { bytesText, downloadLine, ProgressLine, progressBar, withRevision } from './loading.js';
import {
  calibrated,
  calibrationLines,
  checkCalibration,
  measuredConversion,
  runCalibration,
  withCalibration,
} from './calibrate.js';
import type { CalibrationFlags } from './calibrate.js';
import { quantizationGiven, quantizationOf, withQuantization } from './quantization.js';
import type { QuantizationFlags } from './quantization.js';

interface Flags extends QuantizationFlags {
  revision?: string;
  dtype?: 'float32' | 'bfloat16' | 'float16';
  quantize?: boolean;
  dequantize?: boolean;
  shardSize?: number;
  json?: boolean;
}

const units: Record<string, number> = { '': 1, KB: 1e3, MB: 1e6, GB: 1e9 };

/** `5GB`, `500MB`, or bytes. */
function shardBytes(text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*(KB|MB|GB|)$/i.exec(text.trim()) ?? [];
  const bytes = Number(number) * units[unit?.toUpperCase() ?? '']!;
  if (!(bytes >= 1)) throw new UsageError(`--shard-size must be a size such as 5GB or 500MB, got '${text}'`);
  return Math.floor(bytes);
}

const resuming =
  '\nOUT is complete or absent. A conversion that was stopped, or ran out of disk, goes on where it ended when the command runs again.\n';

function command(name: string, description: string): Command {
  const made = new Command(name)
    .description(description)
    .argument('<model>', "checkpoint folder, or a model's name on the hub, such as Qwen/Qwen3-0.6B")
    .argument('<out>', 'folder to make');
  return withRevision(made)
    .addOption(
      new Option('--dtype <dtype>', "of what is not packed (the checkpoint's)").choices([
        'float32',
        'bfloat16',
        'float16',
      ]),
    )
    .addOption(
      new Option('--shard-size <size>', 'no file of weights is larger, unless one weight is')
        .argParser(shardBytes)
        .default(5e9, '5GB'),
    )
    .option('--json', 'print one JSON object at the end');
}

/** `mlx-node convert`: mlx-lm's command with its options. */
export function convertCommand(io: CliIo): Command {
  return withQuantization(
    command('convert', 'Write a checkpoint as another one: in another dtype, quantised or dequantised.')
      .option('-q, --quantize', 'pack the weights')
      .option('-d, --dequantize', 'unpack the weights'),
  )
    .addHelpText(
      'after',
      `${resuming}\nExamples:\n  mlx-node convert Qwen/Qwen3-0.6B ./Qwen3-0.6B-f16 --dtype float16\n  mlx-node convert Qwen/Qwen3-0.6B ./Qwen3-0.6B-4bit -q --q-bits 4`,
    )
    .action(async (model: string, out: string, flags: Flags) => {
      if (flags.quantize === true && flags.dequantize === true)
        throw new UsageError('--quantize and --dequantize cannot go together');
      if (flags.quantize !== true && quantizationGiven(flags))
        throw new UsageError('options of quantisation come with -q (--quantize)');
      const done = await work(io, model, out, flags, {
        ...(flags.quantize === true ? { quantize: quantizationOf(flags) } : {}),
        ...(flags.dequantize === true ? { dequantize: true } : {}),
      });
      report(io, out, flags, done);
    });
}

/** `mlx-node quantize`. */
export function quantizeCommand(io: CliIo): Command {
  return withCalibration(
    withQuantization(command('quantize', "Write a checkpoint with its weights packed, in mlx-lm's layout.")),
  )
    .addHelpText(
      'after',
      `${resuming}\nExamples:\n  mlx-node quantize Qwen/Qwen3-0.6B ./Qwen3-0.6B-4bit\n  mlx-node quantize ./Qwen3-0.6B ./Qwen3-0.6B-mixed --quant-predicate mixed_4_6\n  mlx-node quantize ./Qwen3-0.6B ./Qwen3-0.6B-nvfp4 --q-mode nvfp4 --q-rule embed_tokens=8\n  mlx-node quantize ./Qwen3-0.6B ./Qwen3-0.6B-gptq --method gptq --q-bits 3 --data train.jsonl --compare-rtn`,
    )
    .action(async (model: string, out: string, flags: Flags & CalibrationFlags) => {
      checkCalibration(flags);
      const quantize = quantizationOf(flags);
      if (flags.method === 'rtn' && flags.evalData === undefined) {
        report(io, out, flags, await work(io, model, out, flags, { quantize }));
        return;
      }
      if (flags.method !== 'rtn' && flags.shardSize !== 5e9)
        throw new UsageError('--shard-size needs --method rtn: the files of a calibrated model have 5 GB');
      const started = performance.now();
      const hub = flags.revision === undefined ? {} : { revision: flags.revision };
      const outcome = await runCalibration({ io, flags, hub }, (run) =>
        flags.method === 'rtn'
          ? measuredConversion(run, model, out, async () => (await work(io, model, out, flags, { quantize })).report)
          : calibrated(run, model, out, quantize),
      );
      const { report: whole, layers, perplexity } = outcome;
      const seconds = (performance.now() - started) / 1000;
      const more = { method: flags.method, perplexity, ...(layers === undefined ? {} : { layers }) };
      report(io, out, flags, { report: whole, seconds, more, lines: calibrationLines(outcome, flags) });
    });
}

/** `mlx-node dequantize`. */
export function dequantizeCommand(io: CliIo): Command {
  return command('dequantize', 'Write a quantised checkpoint with its weights as numbers again.')
    .addHelpText(
      'after',
      `${resuming}\nExample:\n  mlx-node dequantize mlx-community/Qwen3-0.6B-4bit ./Qwen3-0.6B --dtype bfloat16`,
    )
    .action(async (model: string, out: string, flags: Flags) =>
      report(io, out, flags, await work(io, model, out, flags, { dequantize: true })),
    );
}

/** What has been done. */
interface Done<R extends Report = Report> {
  report: R;
  seconds: number;
  /** For JSON. */
  more?: object;
  lines?: string[];
}

type Report = Pick<ConvertReport, 'bytes' | 'bitsPerWeight' | 'packed' | 'left'> & { dtype: string };

async function work(
  io: CliIo,
  model: string,
  out: string,
  flags: Flags,
  what: ConvertOptions,
): Promise<Done<ConvertReport>> {
  const stop = stopOnSignals();
  const line = new ProgressLine(io.stderr);
  const started = performance.now();
  const options: ConvertOptions = {
    ...what,
    signal: stop.signal,
    ...(flags.revision === undefined ? {} : { revision: flags.revision }),
    ...(flags.dtype === undefined ? {} : { dtype: flags.dtype }),
    ...(flags.shardSize === undefined ? {} : { shardBytes: flags.shardSize }),
    onProgress: ({ phase, done, total, file = '', bytesPerSecond = 0 }) =>
      line.draw(
        phase === 'download'
          ? downloadLine({ file, loaded: done, total, bytesPerSecond }, io.stderr.columns)
          : `${progressBar(done, total)} ${bytesText(done)} of ${bytesText(total)} written`,
      ),
  };
  try {
    const done = await convert(model, out, options);
    return { report: done, seconds: (performance.now() - started) / 1000 };
  } finally {
    line.end();
    stop.release();
  }
}

function report(io: CliIo, out: string, flags: Flags, done: Done): void {
  const { report: whole, seconds, more = {} } = done;
  if (flags.json === true) io.stdout.write(`${JSON.stringify({ out, seconds, ...whole, ...more })}\n`);
  else io.stdout.write(summary(out, done));
}

function summary(out: string, { report: whole, seconds, lines: further = [] }: Done): string {
  const { bytes, bitsPerWeight, dtype, packed, left } = whole;
  const lines = [
    `${out}: ${bytesText(bytes)} of weights in ${dtype}, ${bitsPerWeight.toFixed(3)} bits per weight, in ${seconds.toFixed(1)} s`,
  ];
  if (packed.length > 0) lines.push(`${packed.length} layers are packed`);
  const reasons = new Map<string, string[]>();
  for (const { name, reason } of left) reasons.set(reason, [...(reasons.get(reason) ?? []), name]);
  for (const [reason, names] of reasons) {
    const more = names.length > 1 ? ` and ${names.length - 1} more` : '';
    lines.push(`left as they are: ${names[0]}${more}: ${reason}`);
  }
  return `${[...lines, ...further].join('\n')}\n`;
}
