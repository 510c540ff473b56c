import { relative } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { Command } from 'commander';
import { planPrune, planRemoval, removeFromCache, scanCacheDir } from '../hub/index.js';
import type { CachedRepo, CacheInfo, Removal } from '../hub/index.js';
import { UsageError } from './io.js';
import type { CliIo } from './io.js';

/** `mlx-node cache`: what lies in the hub's cache, and how to make room. */
export function cacheCommand(io: CliIo): Command {
  const list = new Command('list')
    .alias('ls')
    .description('Show the models in the cache, largest first.')
    .option('--cache-dir <dir>', 'folder of the cache (HF_HUB_CACHE, else hub in HF_HOME)')
    .option('--revisions', 'one line for each commit')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  mlx-node cache list --json | jq ".repos[].repoId"')
    .action(async (flags: { cacheDir?: string; revisions?: boolean; json?: boolean }) => {
      const info = await scanCacheDir(flags.cacheDir);
      if (flags.json === true) io.stdout.write(`${JSON.stringify(info)}\n`);
      else io.stdout.write(flags.revisions === true ? revisionTable(info) : repoTable(info));
      for (const warning of info.warnings) io.stderr.write(`mlx-node: ${warning}\n`);
    });
  const remove = new Command('remove')
    .alias('rm')
    .description('Remove models, or single commits of them, from the cache.')
    .argument('<what...>', "names ('Qwen/Qwen3-0.6B', 'dataset/org/name'), or the first digits of commits")
    .option('--cache-dir <dir>', 'folder of the cache (HF_HUB_CACHE, else hub in HF_HOME)')
    .option('-y, --yes', 'do not ask')
    .option('--dry-run', 'only show what would go')
    .addHelpText('after', '\nExample:\n  mlx-node cache remove Qwen/Qwen3-0.6B --dry-run')
    .action(
      async (what: string[], flags: RemoveFlags) => await carryOut(io, await planRemoval(what, flags.cacheDir), flags),
    );
  const prune = new Command('prune')
    .description(
      'Remove what nothing points to: commits at no branch or tag, and downloads left more than an hour ago.',
    )
    .option('--cache-dir <dir>', 'folder of the cache (HF_HUB_CACHE, else hub in HF_HOME)')
    .option('-y, --yes', 'do not ask')
    .option('--dry-run', 'only show what would go')
    .addHelpText('after', '\nExample:\n  mlx-node cache prune --dry-run')
    .action(async (flags: RemoveFlags) => await carryOut(io, await planPrune(flags.cacheDir), flags));
  return new Command('cache')
    .description('Look after the cache of the Hugging Face hub, which Python uses too.')
    .addCommand(list)
    .addCommand(remove)
    .addCommand(prune);
}

interface RemoveFlags {
  cacheDir?: string;
  yes?: boolean;
  dryRun?: boolean;
}

/** Shows what would go, and removes it when that is wanted. */
async function carryOut(io: CliIo, removal: Removal, flags: RemoveFlags): Promise<void> {
  const { repos, revisions, incomplete, freed } = removal;
  if (repos.length + revisions.length + incomplete.length === 0) {
    io.stdout.write('There is nothing to remove.\n');
    return;
  }
  io.stdout.write(describe(removal));
  if (flags.dryRun === true) return;
  if (flags.yes !== true && !(await confirmed())) {
    io.stderr.write('mlx-node: nothing was removed\n');
    io.exitCode = 1;
    return;
  }
  await removeFromCache(removal);
  io.stdout.write(`Removed; ${bytes(freed)} are free.\n`);
}

function bytes(value: number): string {
  if (value < 1000) return `${value} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let scaled = value / 1000;
  let unit = 0;
  while (scaled >= 999.95 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  return `${scaled.toFixed(1)} ${units[unit]}`;
}

const day = (date: Date): string => date.toISOString().slice(0, 10);
const nameOf = ({ repoType, repoId }: CachedRepo): string => (repoType === 'model' ? repoId : `${repoType}/${repoId}`);

/** Columns as wide as their widest cell. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  return [head, ...rows]
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

function foot(info: CacheInfo): string {
  const unfinished = info.repos.reduce((sum, repo) => sum + repo.incompleteSize, 0);
  const rest = unfinished === 0 ? '' : `, and ${bytes(unfinished)} of unfinished downloads`;
  return `\n${info.cacheDir}: ${info.repos.length === 1 ? '1 repository' : `${info.repos.length} repositories`}, ${bytes(info.sizeOnDisk)}${rest}\n`;
}

function repoTable(info: CacheInfo): string {
  const rows = info.repos.map((repo) => [
    nameOf(repo),
    bytes(repo.sizeOnDisk),
    day(repo.lastAccessed),
    day(repo.lastModified),
    repo.revisions.flatMap(({ refs }) => refs).join(' '),
  ]);
  return `${rows.length === 0 ? '' : table(['NAME', 'SIZE', 'LAST USED', 'CHANGED', 'REFS'], rows)}${foot(info)}`;
}

function revisionTable(info: CacheInfo): string {
  const rows = info.repos.flatMap((repo) =>
    repo.revisions.map((revision) => [
      nameOf(repo),
      revision.commitHash,
      bytes(revision.sizeOnDisk),
      day(revision.lastModified),
      revision.refs.join(' '),
    ]),
  );
  return `${rows.length === 0 ? '' : table(['NAME', 'COMMIT', 'SIZE', 'CHANGED', 'REFS'], rows)}${foot(info)}`;
}

function describe(removal: Removal): string {
  const lines = [
    ...removal.repos.map((repo) => `${nameOf(repo)}  ${bytes(repo.sizeOnDisk + repo.incompleteSize)}`),
    ...removal.revisions.map(({ repo, revision }) => `${nameOf(repo)} at ${revision.commitHash}`),
    ...removal.incomplete.map(({ path, size }) => `${relative(removal.cacheDir, path)}  ${bytes(size)}`),
  ];
  return `${lines.join('\n')}\nThis frees ${bytes(removal.freed)}.\n`;
}

async function confirmed(): Promise<boolean> {
  if (process.stdin.isTTY !== true) throw new UsageError('add --yes to remove without being asked');
  const reader = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await reader.question('Remove? [y/N] ')).trim());
  } finally {
    reader.close();
  }
}
