import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { errorText, MlxError } from '../errors.js';
import { Interrupted } from '../interrupt.js';
import { native } from '../native.js';
import { cacheCommand } from './cache.js';
import { doctorCommand } from './doctor.js';
import { downloadCommand } from './download.js';
import { generateCommand } from './generate.js';
import { UsageError } from './io.js';
import type { CliIo } from './io.js';
import { trainCommand } from './train.js';

/** Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 and 143 stopped by a signal. */
export async function run(args: readonly string[], io: CliIo, load = native): Promise<number> {
  const program = new Command('mlx-node')
    .description('MLX for Node.js: run language models and train them with GRPO.')
    .version(version())
    .addHelpText(
      'after',
      '\nExamples:\n  mlx-node doctor\n  mlx-node generate --model Qwen/Qwen3-0.6B "Hello"\n  mlx-node train grpo run.yaml',
    );
  const commands = [
    generateCommand(io),
    trainCommand(io),
    downloadCommand(io),
    cacheCommand(io),
    doctorCommand(io, load),
  ];
  for (const command of commands) program.addCommand(command);
  everyCommand(program, (command) => {
    command.exitOverride().showHelpAfterError('(--help shows the options)');
    command.configureOutput({ writeOut: (text) => io.stdout.write(text), writeErr: (text) => io.stderr.write(text) });
  });
  try {
    await program.parseAsync([...args], { from: 'user' });
    return io.exitCode ?? 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof Interrupted) {
      io.stderr.write(`mlx-node: ${error.message}\n`);
      return error.exitCode;
    }
    const code = MlxError.isInstance(error) ? ` [${error.code}]` : '';
    io.stderr.write(`mlx-node: ${errorText(error)}${code}\n`);
    return error instanceof UsageError || MlxError.isInstance(error, 'ERR_MLX_CONFIG') ? 2 : 1;
  }
}

function everyCommand(command: Command, visit: (command: Command) => void): void {
  visit(command);
  for (const child of command.commands) everyCommand(child, visit);
}

/** The version of the package; the file lies two folders up in the sources and three in the build. */
function version(): string {
  for (const up of ['../../package.json', '../../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      continue;
    }
  }
  return 'unknown';
}
