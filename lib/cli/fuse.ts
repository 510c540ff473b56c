import { Command, Option } from 'commander';
import { stopOnSignals } from '../interrupt.js';
import type { Dtype } from '../model.js';
import type { CliIo } from './io.js';
import { loadModelOf, modelHelp, withRevision } from './loading.js';

interface Flags {
  model: string;
  revision?: string;
  adapterPath: string;
  savePath: string;
  dequantize?: boolean;
  dtype: Dtype;
  json?: boolean;
}

/** `mlx-node fuse`: options are mlx-lm's. */
export function fuseCommand(io: CliIo): Command {
  const command = new Command('fuse').description(
    'Merge an adapter into its base model and save the result as a model.',
  );
  return withRevision(command.requiredOption('-m, --model <model>', modelHelp))
    .option('--adapter-path <adapter>', 'adapter of PEFT or mlx-lm: a folder, or its name on the hub', 'adapters')
    .option('--save-path <folder>', 'where the model goes', 'fused_model')
    .option('--dequantize', 'leave the weights of a quantised model unpacked')
    .addOption(
      new Option('--dtype <dtype>', 'of the weights')
        .choices(['auto', 'float32', 'bfloat16', 'float16'] satisfies Dtype[])
        .default('auto'),
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      '\nThe weights of a quantised model are unpacked, changed and quantised again as they were, unless --dequantize is given.\n\nExamples:\n  mlx-node fuse --model Qwen/Qwen3-0.6B --adapter-path runs/first/adapter --save-path ./fused\n  mlx-node generate --model ./fused "Hello"',
    )
    .action(async (flags: Flags) => {
      const { adapterPath, savePath, dequantize = false } = flags;
      const stop = stopOnSignals();
      try {
        const model = await loadModelOf({ ...flags, adapter: adapterPath }, stop.signal, io.stderr);
        try {
          await model.fuse({ dequantize });
          stop.signal.throwIfAborted();
          await model.save(savePath);
        } finally {
          model.dispose();
        }
      } finally {
        stop.release();
      }
      const { model, adapterPath: adapter } = flags;
      io.stdout.write(
        flags.json === true ? `${JSON.stringify({ model, adapter, savePath, dequantize })}\n` : `${savePath}\n`,
      );
    });
}
