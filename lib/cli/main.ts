#!/usr/bin/env node
import { run } from './run.js';

// Who reads has enough, as in `mlx-node generate … | head`: end quietly, with the code of a process that a closed pipe ends.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(141);
});

const { stdin, stdout, stderr } = process;
process.exitCode = await run(process.argv.slice(2), { stdin, stdout, stderr });
