import { Command } from 'commander';
import os from 'node:os';
import { errorText } from '../errors.js';
import { native } from '../native.js';
import type { CliIo } from './io.js';

interface Problem {
  what: string;
  cure: string;
}

interface Diagnosis {
  node: string;
  platform: string;
  cpu: string;
  memoryGb: number;
  addon: 'loaded' | 'failed';
  mlx?: string;
  flavour?: string;
  device?: string;
  blas?: string;
  compile?: boolean;
  memoryLimitGb?: number;
  problems: Problem[];
}

const oldestNode = [20, 17] as const;

/** Looks at the machine and the addon. */
export function diagnose(load = native): Diagnosis {
  const problems: Problem[] = [];
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < oldestNode[0] || (major === oldestNode[0] && minor < oldestNode[1])) {
    problems.push({
      what: `Node ${process.versions.node} is too old`,
      cure: `install Node ${oldestNode.join('.')} or newer`,
    });
  }
  const diagnosis: Diagnosis = {
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    cpu: `${os.cpus()[0]?.model.trim() ?? 'unknown'} x ${os.availableParallelism()}`,
    memoryGb: os.totalmem() / 1e9,
    addon: 'failed',
    problems,
  };
  try {
    const addon = load();
    const info = addon.buildInfo();
    diagnosis.addon = 'loaded';
    Object.assign(diagnosis, {
      mlx: info.mlxVersion,
      flavour: info.flavour,
      device: info.device,
      blas: info.blas,
      compile: info.compileAvailable,
    });
    diagnosis.memoryLimitGb = addon.memoryStats().limit / 1e9;
    if (info.device === 'cpu') {
      if (!info.compileAvailable) {
        problems.push({
          what: 'MLX cannot compile fused kernels: there is no g++',
          cure: "install g++ (Debian, Ubuntu: 'apt-get install g++'); without it training is slower",
        });
      }
      if (/reference|netlib|none/i.test(info.blas)) {
        problems.push({
          what: `matrix products use ${info.blas}, which is slow`,
          cure: "rebuild with 'npm run build', which fetches OpenBLAS",
        });
      }
      if (info.flavour !== 'cpu') {
        problems.push({
          what: `the addon is built for ${info.flavour}, but no GPU can be used, so it runs on the CPU`,
          cure: 'check the driver (nvidia-smi) and the CUDA libraries on the loader path',
        });
      }
    }
  } catch (error) {
    const [what, ...cure] = errorText(error).split('\n');
    problems.push({ what: what ?? '', cure: cure.map((line) => line.trim()).join(' ') || 'see the message' });
  }
  return diagnosis;
}

/** `mlx-node doctor`: exit code 1 when the addon does not load. */
export function doctorCommand(io: CliIo, load = native): Command {
  return new Command('doctor')
    .description('Show what is installed, what is wrong, and the cure.')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  mlx-node doctor --json | jq .device')
    .action((flags: { json?: boolean }) => {
      const diagnosis = diagnose(load);
      if (flags.json === true) io.stdout.write(`${JSON.stringify(diagnosis)}\n`);
      else io.stdout.write(render(diagnosis));
      if (diagnosis.addon === 'failed') io.exitCode = 1;
    });
}

const gb = (value: number | undefined): string | undefined =>
  value === undefined ? undefined : `${value.toFixed(1)} GB`;

function render(diagnosis: Diagnosis): string {
  const rows: [string, string | undefined][] = [
    ['Node', diagnosis.node],
    ['Platform', diagnosis.platform],
    ['CPU', diagnosis.cpu],
    ['Memory', gb(diagnosis.memoryGb)],
    ['Addon', diagnosis.addon],
    ['MLX', diagnosis.mlx],
    ['Flavour', diagnosis.flavour],
    ['Device', diagnosis.device],
    ['BLAS', diagnosis.blas],
    ['Kernel compiler', diagnosis.compile === undefined ? undefined : diagnosis.compile ? 'works' : 'off'],
    ['Memory limit', gb(diagnosis.memoryLimitGb)],
  ];
  const lines = rows.filter(([, value]) => value !== undefined).map(([name, value]) => `${name.padEnd(16)} ${value}`);
  const problems = diagnosis.problems.map(({ what, cure }) => `\n! ${what}\n  -> ${cure}`);
  return `${lines.join('\n')}\n${problems.length === 0 ? '\nNothing is wrong.' : problems.join('\n')}\n`;
}
