import { Option } from 'commander';
import type { Command } from 'commander';
import { holdOut, methodOf, readCalibrationData } from '../calibration.js';
import type { QuantizationMethod } from '../calibration.js';
import { convert, refuseExisting } from '../convert.js';
import { errorText, MlxError } from '../errors.js';
import { stopOnSignals } from '../interrupt.js';
import type { LanguageModel, LoadOptions } from '../model.js';
import type { CalibratedLayerReport, QuantizeReport } from '../native-types.js';
import { perplexity } from '../perplexity.js';
import type { PerplexityResult } from '../perplexity.js';
import type { ModelQuantization } from '../quantization.js';
import { parseNumber, UsageError, wholeNumber } from './io.js';
import type { CliIo } from './io.js';
import { loadWithProgress, ProgressLine, progressBar } from './loading.js';

/** What {@link withCalibration} reads. */
export interface CalibrationFlags {
  method: QuantizationMethod;
  data?: string;
  numSamples?: number;
  sequenceLength?: number;
  seed?: number;
  damping?: number;
  evalData?: string;
  evalSamples?: number;
  compareRtn?: boolean;
  verbose?: boolean;
}

const group = 'Calibration:';

function method(text: string): QuantizationMethod {
  try {
    return methodOf(text, '--method');
  } catch (error) {
    throw new UsageError(errorText(error));
  }
}

/** Adds the methods that fit codes to texts. */
export function withCalibration(command: Command): Command {
  const add = (option: Option): void => void command.addOption(option.helpGroup(group));
  add(
    new Option('--method <method>', 'rtn rounds; gptq and awq fit the codes to texts')
      .argParser(method)
      .default('rtn' satisfies QuantizationMethod),
  );
  add(
    new Option(
      '--data <file>',
      'texts like what the model is going to read: a text file, or .jsonl with text, messages, or prompt and completion',
    ),
  );
  add(
    new Option('--num-samples <n>', 'the most pieces that are taken of it (128)').argParser(
      wholeNumber('num-samples', 1),
    ),
  );
  add(
    new Option('--sequence-length <n>', 'tokens of a piece, here and for perplexities (512)').argParser(
      wholeNumber('sequence-length', 2),
    ),
  );
  add(new Option('--seed <n>', 'which pieces are taken (0)').argParser(wholeNumber('seed', 0)));
  add(
    new Option('--damping <x>', "gptq's addition to the Hessian's diagonal, in parts of its mean (0.01)").argParser(
      parseNumber('damping', (value) => value > 0, 'above 0'),
    ),
  );
  add(
    new Option(
      '--eval-data <file>',
      'texts whose perplexity is measured before and after (the last tenth of --data, which is then not calibrated with)',
    ),
  );
  add(
    new Option('--eval-samples <n>', 'the most pieces that are measured (all)').argParser(
      wholeNumber('eval-samples', 1),
    ),
  );
  add(new Option('--compare-rtn', 'measure rounding too'));
  add(new Option('-v, --verbose', 'print the error of every layer'));
  return command;
}

/** What a run tells. */
interface Outcome {
  report: Pick<QuantizeReport, 'bytes' | 'bitsPerWeight' | 'packed' | 'left'> & { dtype: string };
  layers?: CalibratedLayerReport[];
  perplexity?: { before: PerplexityResult; rtn?: PerplexityResult; after: PerplexityResult };
}

/** The flags that need another one. */
export function checkCalibration(flags: CalibrationFlags): void {
  const { method: chosen, data, evalData, evalSamples, sequenceLength } = flags;
  if (chosen === 'rtn') {
    for (const key of ['data', 'numSamples', 'seed', 'damping', 'compareRtn', 'verbose'] as const) {
      if (flags[key] === undefined) continue;
      const name = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      const cure = key === 'data' ? '; to measure what rounding costs give --eval-data' : '';
      throw new UsageError(`--${name} needs --method gptq or awq${cure}`);
    }
    if (evalData === undefined && (evalSamples !== undefined || sequenceLength !== undefined))
      throw new UsageError('--eval-samples and --sequence-length need --eval-data, or --method gptq or awq');
    return;
  }
  if (data === undefined)
    throw new UsageError(
      `--method ${chosen} fits the codes to texts: give --data, a text file or .jsonl with texts like what the model is going to read`,
    );
  if (flags.damping !== undefined && chosen !== 'gptq') throw new UsageError('--damping needs --method gptq');
}

type SavedDtype = 'float32' | 'bfloat16' | 'float16';

/** The dtype that a checkpoint says it is in, or else that in which it was loaded. */
function storedDtype(model: LanguageModel): SavedDtype {
  const config = JSON.parse(model.handle.configJson) as { torch_dtype?: unknown; dtype?: unknown };
  const known = new Set<unknown>(['float32', 'bfloat16', 'float16'] satisfies SavedDtype[]);
  const found = [config.torch_dtype, config.dtype, model.handle.dtype].find((dtype) => known.has(dtype));
  return (found ?? 'float32') as SavedDtype;
}

interface Run {
  io: CliIo;
  flags: CalibrationFlags & { dtype?: SavedDtype };
  hub: Pick<LoadOptions, 'revision'>;
  signal: AbortSignal;
}

const besideError = ({ perplexity: value, standardError }: PerplexityResult): string =>
  `${value.toFixed(3)} ± ${standardError.toFixed(3)}`;

async function measure({ io, flags, signal }: Run, what: string, model: LanguageModel, ids: number[]) {
  const line = new ProgressLine(io.stderr);
  try {
    return await perplexity(model, ids, {
      sequenceLength: flags.sequenceLength ?? 512,
      ...(flags.evalSamples === undefined ? {} : { numSamples: flags.evalSamples }),
      signal,
      onProgress: ({ done, total }) => line.draw(`${progressBar(done, total)} ${done} of ${total} pieces, ${what}`),
    });
  } finally {
    line.end();
  }
}

async function withLoaded<T>(run: Run, path: string, options: LoadOptions, use: (model: LanguageModel) => Promise<T>) {
  const model = await loadWithProgress(path, { ...options, signal: run.signal }, run.io.stderr);
  try {
    return await use(model);
  } finally {
    model.dispose();
  }
}

const textIds = async (file: string, model: LanguageModel): Promise<number[]> =>
  (await readCalibrationData(file, model.tokenizer)).flat();

/** Rounding, with perplexities before and after it. */
export async function measuredConversion(
  run: Run,
  source: string,
  out: string,
  work: () => Promise<Awaited<ReturnType<typeof convert>>>,
): Promise<Outcome> {
  const file = run.flags.evalData!;
  await refuseExisting(out);
  const [ids, before] = await withLoaded(run, source, run.hub, async (model) => {
    const held = await textIds(file, model);
    return [held, await measure(run, 'before', model, held)] as const;
  });
  const report = await work();
  const after = await withLoaded(run, out, {}, (model) => measure(run, 'after', model, ids));
  return { report, perplexity: { before, after } };
}

/** Loads a model, fits its codes to texts, and saves it. */
export async function calibrated(run: Run, source: string, out: string, quantize: ModelQuantization): Promise<Outcome> {
  const { flags, signal, io, hub } = run;
  const length = flags.sequenceLength ?? 512;
  await refuseExisting(out);
  let rtn: PerplexityResult | undefined;
  return await withLoaded(run, source, hub, async (model) => {
    const dtype = flags.dtype ?? storedDtype(model);
    const texts = await readCalibrationData(flags.data!, model.tokenizer);
    const { data, heldOut } =
      flags.evalData === undefined ? holdOut(texts) : { data: texts, heldOut: await textIds(flags.evalData, model) };
    if (heldOut.length < 2)
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `${flags.evalData ?? flags.data!}: there are ${heldOut.length} tokens to measure the perplexity of, and 2 are needed; give more text, or --eval-data`,
      );
    const before = await measure(run, 'before', model, heldOut);
    if (flags.compareRtn === true) {
      rtn = await withLoaded(run, source, { ...hub, quantize }, (rounded) => measure(run, 'rounded', rounded, heldOut));
    }
    const line = new ProgressLine(io.stderr);
    let report: QuantizeReport;
    try {
      report = await model.quantize({
        ...quantize,
        method: flags.method,
        ...(flags.damping === undefined ? {} : { damping: flags.damping }),
        scaleDtype: dtype,
        calibration: {
          data,
          sequenceLength: length,
          ...(flags.numSamples === undefined ? {} : { numSamples: flags.numSamples }),
          ...(flags.seed === undefined ? {} : { seed: flags.seed }),
        },
        signal,
        onProgress: ({ done, total }) =>
          line.draw(`${progressBar(done, total)} ${done} of ${total} layers, ${flags.method}`),
      });
    } finally {
      line.end();
    }
    const after = await measure(run, 'after', model, heldOut);
    signal.throwIfAborted();
    await model.save(out, { dtype });
    return {
      report: { ...report, dtype },
      layers: report.layers ?? [],
      perplexity: { before, ...(rtn === undefined ? {} : { rtn }), after },
    };
  });
}

/** Lines about what a method has gained. */
export function calibrationLines({ layers = [], perplexity: found }: Outcome, flags: CalibrationFlags): string[] {
  const lines: string[] = [];
  if (flags.verbose === true) {
    for (const { name, method: used, error, rtnError, note } of layers) {
      const remark = note === undefined ? '' : ` (${note})`;
      lines.push(`${name}: ${used}, error ${error.toExponential(3)}, rounded ${rtnError.toExponential(3)}${remark}`);
    }
  } else {
    for (const { name, note } of layers) if (note !== undefined) lines.push(`${name}: ${note}`);
  }
  if (found !== undefined) {
    const parts = [
      `before ${besideError(found.before)}`,
      ...(found.rtn === undefined ? [] : [`rounded ${besideError(found.rtn)}`]),
      `after ${flags.method} ${besideError(found.after)}`,
    ];
    lines.push(`Perplexity: ${parts.join(', ')} (${found.after.tokens} tokens)`);
  }
  return lines;
}

/** Sets up a run that Ctrl-C stops. */
export async function runCalibration<T>(run: Omit<Run, 'signal'>, use: (run: Run) => Promise<T>): Promise<T> {
  const stop = stopOnSignals();
  try {
    return await use({ ...run, signal: stop.signal });
  } finally {
    stop.release();
  }
}
