import { Command } from 'commander';
import { snapshotDownload } from '../hub/index.js';
import type { SnapshotDownloadOptions } from '../hub/index.js';
import { stopOnSignals } from '../interrupt.js';
import type { CliIo } from './io.js';
import { downloadLine, ProgressLine, withRevision } from './loading.js';

interface Flags {
  revision?: string;
  cacheDir?: string;
  token?: string;
  include?: string[];
  exclude?: string[];
  quiet?: boolean;
}

/** `mlx-node download`: the folder goes to standard output. */
export function downloadCommand(io: CliIo): Command {
  const command = new Command('download')
    .description('Fetch a model of the Hugging Face hub into the cache that Python uses too, and print its folder.')
    .argument('<id>', 'name on the hub, such as Qwen/Qwen3-0.6B');
  return withRevision(command)
    .option('--cache-dir <dir>', 'folder of the cache (HF_HUB_CACHE, else hub in HF_HOME)')
    .option('--token <token>', 'for private and gated models (HF_TOKEN, else what hf auth login stored)')
    .option('--include <patterns...>', 'files to fetch (config, tokenizer and safetensors weights)')
    .option('--exclude <patterns...>', 'files to leave out')
    .option('-q, --quiet', 'show no progress')
    .addHelpText(
      'after',
      '\nA download that was cut or stopped goes on where it ended when the command runs again.\n\nExamples:\n  mlx-node download Qwen/Qwen3-0.6B\n  mlx-node download Qwen/Qwen3-0.6B --revision main --include "tokenizer*"',
    )
    .action(async (id: string, flags: Flags) => {
      const stop = stopOnSignals();
      const line = new ProgressLine(io.stderr);
      const options: SnapshotDownloadOptions = { signal: stop.signal };
      if (flags.revision !== undefined) options.revision = flags.revision;
      if (flags.cacheDir !== undefined) options.cacheDir = flags.cacheDir;
      if (flags.token !== undefined) options.token = flags.token;
      if (flags.include !== undefined) options.allowPatterns = flags.include;
      if (flags.exclude !== undefined) options.ignorePatterns = flags.exclude;
      if (flags.quiet !== true) options.onProgress = (progress) => line.draw(downloadLine(progress, io.stderr.columns));
      let folder: string;
      try {
        folder = await snapshotDownload(id, options);
      } finally {
        line.end();
        stop.release();
      }
      io.stdout.write(`${folder}\n`);
    });
}
