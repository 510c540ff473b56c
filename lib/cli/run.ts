import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { errorText, MlxError } from '../errors.js';
import { Interrupted } from '../interrupt.js';
import { native } from '../native.js';
import { benchCommand } from './bench.js';
import { cacheCommand } from './cache.js';
import { cachePromptCommand } from './cache-prompt.js';
import { chatCommand } from './chat.js';
import { convertCommand, dequantizeCommand, quantizeCommand } from './convert.js';
import { doctorCommand } from './doctor.js';
import { downloadCommand } from './download.js';
import { fuseCommand } from './fuse.js';
import { generateCommand } from './generate.js';
import { inspectCommand } from './inspect.js';
import { nearestName } from '../options.js';
import { UsageError } from './io.js';
import type { CliIo } from './io.js';
import { perplexityCommand } from './perplexity.js';
import { trainCommand } from './train.js';

/** Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 and 143 stopped by a signal. */
export async function run(args: readonly string[], io: CliIo, load = native): Promise<number> {
  const program = new Command('mlx-node')
    .description('MLX for Node.js: run language models, talk to them, and train them with GRPO.')
    .version(version())
    .addHelpText(
      'after',
      '\nExit codes: 0 done, 1 failed, 2 wrong arguments or configuration, 130 stopped by Ctrl-C, 143 by SIGTERM.\n\nExamples:\n  mlx-node doctor\n  mlx-node generate --model Qwen/Qwen3-0.6B "Hello"\n  mlx-node chat --model Qwen/Qwen3-0.6B\n  mlx-node train grpo run.yaml\n  mlx-node help bench',
    );
  const commands = [
    generateCommand(io),
    chatCommand(io),
    cachePromptCommand(io),
    benchCommand(io),
    trainCommand(io),
    fuseCommand(io),
    quantizeCommand(io),
    dequantizeCommand(io),
    convertCommand(io),
    inspectCommand(io),
    perplexityCommand(io),
    downloadCommand(io),
    cacheCommand(io),
    doctorCommand(io, load),
  ];
  for (const command of commands) program.addCommand(command);
  program.addCommand(helpCommand(program)).helpCommand(false);
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

/** `mlx-node help train grpo` is `mlx-node train grpo --help`. */
function helpCommand(program: Command): Command {
  return new Command('help')
    .description('Show what a command does.')
    .argument('[command...]')
    .addHelpText('after', '\nExample:\n  mlx-node help train grpo')
    .action((names: string[]) => {
      let command = program;
      for (const name of names) {
        const next = command.commands.find((child) => child.name() === name || child.aliases().includes(name));
        if (next === undefined) {
          const known = command.commands.map((child) => child.name());
          const near = nearestName(name, known);
          const hint =
            known.length === 0
              ? 'it has none'
              : near === undefined
                ? `there are ${known.join(', ')}`
                : `did you mean '${near}'?`;
          throw new UsageError(`unknown command '${name}' of ${command.name()}: ${hint}`);
        }
        command = next;
      }
      command.outputHelp();
    });
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
