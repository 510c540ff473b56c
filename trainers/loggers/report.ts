import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile } from '../../lib/files.js';
import { escapeHtml, formatNumber, lineChart } from './chart.js';
import type { Point, Series } from './chart.js';
import { readJsonLines } from './jsonl.js';
import type { CompletionSample, Logger, MetricRecord, RunInfo, RunStatus } from './logger.js';
import { htmlPage } from './page.js';

type Row = { step: number } & MetricRecord;

/** Milliseconds between two writings of the page while the run goes on. */
const interval = 3000;
const shownSamples = 16;

/**
 * `report.html`: one page without any outside file, with the curves of the run, its speed, its config, and completions to read. It is
 * written again every few seconds, so reloading the page follows the run.
 */
export class ReportLogger implements Logger {
  readonly #dir: string;
  #run: RunInfo | undefined;
  #rows: Row[] = [];
  #samples: { step: number; rows: readonly CompletionSample[] } | undefined;
  #began = 0;
  #written = 0;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async start(run: RunInfo): Promise<void> {
    this.#run = run;
    this.#began = Date.now();
    await mkdir(this.#dir, { recursive: true });
    if (run.startStep > 0) {
      const rows = await readJsonLines<Row>(join(this.#dir, 'metrics.jsonl'));
      this.#rows = rows.filter(({ step }) => step <= run.startStep);
    }
    await this.#write('running');
  }

  async metrics(step: number, record: MetricRecord): Promise<void> {
    this.#rows.push({ ...record, step });
    if (Date.now() - this.#written > interval) await this.#write('running');
  }

  samples(step: number, rows: readonly CompletionSample[]): void {
    this.#samples = { step, rows };
  }

  async finish(status: RunStatus, error?: unknown): Promise<void> {
    await this.#write(status, error);
  }

  async #write(status: RunStatus | 'running', error?: unknown): Promise<void> {
    if (this.#run === undefined) return;
    const page = renderReport({
      run: this.#run,
      rows: this.#rows,
      samples: this.#samples,
      status,
      error,
      elapsedMs: Date.now() - this.#began,
    });
    await replaceFile(join(this.#dir, 'report.html'), page);
    this.#written = Date.now();
  }
}

export interface ReportInput {
  run: RunInfo;
  rows: readonly Row[];
  samples: { step: number; rows: readonly CompletionSample[] } | undefined;
  status: RunStatus | 'running';
  error?: unknown;
  elapsedMs: number;
}

/** The whole page. */
export function renderReport(input: ReportInput): string {
  const { run, rows, status, error, elapsedMs } = input;
  const step = rows.at(-1)?.step ?? run.startStep;
  const name = run.outputDir ?? run.model.path;
  const failed =
    error !== undefined && status === 'failed'
      ? `<p class="error">${escapeHtml(error instanceof Error ? error.message : String(error))}</p>`
      : '';
  const facts = [
    `step ${step} of ${run.totalSteps}`,
    `${run.model.modelType}, ${formatNumber(run.model.numParameters)} parameters${trainable(run)}, ${run.model.dtype}`,
    duration(elapsedMs),
    run.startStep > 0 ? `resumed at step ${run.startStep}` : '',
  ].filter((fact) => fact !== '');
  return htmlPage({
    title: `${run.trainer} · ${name}`,
    mark: `<span class="status ${status}">${status}</span>`,
    subtitle: facts.join(' · '),
    body: `${failed}
<div class="tiles">${tiles(rows)}</div>
<div class="charts">${charts(rows)}</div>
${samplesSection(input.samples)}
<h2>Config</h2><div class="panel config">${configRows(run)}</div>`,
    footer: 'Written by mlx-node. The numbers are in metrics.jsonl beside this page.',
  });
}

function trainable({ model }: RunInfo): string {
  return model.numTrainable === model.numParameters ? '' : ` (${formatNumber(model.numTrainable)} trained)`;
}

function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function series(rows: readonly Row[], key: string, name = key): Series {
  const points = rows.filter((row) => Number.isFinite(row[key])).map((row): Point => [row.step, row[key]!]);
  return { name, points };
}

function keysLike(rows: readonly Row[], pattern: RegExp): string[] {
  return [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((key) => pattern.test(key));
}

const meanOf = (points: readonly Point[]): number => points.reduce((sum, [, y]) => sum + y, 0) / points.length;
const gigabytes = (value: number): string => (value < 1 ? `${Math.round(value * 1000)} MB` : `${value.toFixed(2)} GB`);
const percent = (value: number): string => `${(value * 100).toFixed(1)} %`;
const rewardName = (key: string): string => key.replace(/^(eval_)?rewards\//, '').replace(/\/mean$/, '');
const scoreText = (value: number | null): string => (value === null ? '–' : formatNumber(value));

function tiles(rows: readonly Row[]): string {
  const tile = (label: string, key: string, format = formatNumber, change = false): string => {
    const { points } = series(rows, key);
    if (points.length === 0) return '';
    const window = Math.max(1, Math.floor(points.length / 10));
    const now = meanOf(points.slice(-window));
    const before = meanOf(points.slice(0, window));
    const from = change && points.length > 1 ? `<em>from ${escapeHtml(format(before))}</em>` : '';
    return `<div class="tile"><span>${escapeHtml(label)}</span><b>${escapeHtml(format(now))}</b>${from}</div>`;
  };
  return [
    tile('Reward', 'reward', formatNumber, true),
    tile('Evaluation reward', 'eval_reward', formatNumber, true),
    tile('Completion length', 'completions/mean_length', formatNumber, true),
    tile('Cut off', 'completions/clipped_ratio', percent, true),
    tile('Idle groups', 'frac_reward_zero_std', percent, true),
    tile('Seconds a step', 'step_time'),
    tile('Tokens a second', 'tokens_per_second'),
    tile('Peak memory', 'peak_memory_gb', gigabytes),
  ].join('');
}

function charts(rows: readonly Row[]): string {
  const rewards = keysLike(rows, /^rewards\/.+\/mean$/);
  const evaluations = keysLike(rows, /^eval_rewards\/.+\/mean$/);
  const times = keysLike(rows, /^time\//);
  const one = (title: string, key: string, note?: string, fromZero = false): string =>
    lineChart({ title, series: [series(rows, key, title)], fromZero, ...(note === undefined ? {} : { note }) });
  return [
    one('Reward', 'reward', 'Mean weighted reward of the completions sampled in training.'),
    rewards.length > 1
      ? lineChart({ title: 'Rewards by function', series: rewards.map((key) => series(rows, key, rewardName(key))) })
      : '',
    lineChart({
      title: 'Evaluation',
      series: evaluations.map((key) => series(rows, key, rewardName(key))),
      note: 'Held-out prompts, answered greedily.',
    }),
    lineChart({
      title: 'Completion length',
      series: [
        series(rows, 'completions/mean_length', 'mean'),
        series(rows, 'completions/max_length', 'longest'),
        series(rows, 'completions/min_length', 'shortest'),
      ],
      fromZero: true,
    }),
    one('KL to the start', 'kl', 'How far the policy has moved from the reference.', true),
    one('Entropy', 'entropy', 'Nats a token. Near 0 the policy has stopped exploring.', true),
    one('Gradient norm', 'grad_norm', 'Before clipping.', true),
    lineChart({
      title: 'Reward spread',
      series: [series(rows, 'reward_std', 'whole batch'), series(rows, 'reward_group_std', 'within groups')],
      fromZero: true,
    }),
    lineChart({
      title: 'Share of idle groups and cut-off answers',
      series: [
        series(rows, 'frac_reward_zero_std', 'groups without spread'),
        series(rows, 'completions/clipped_ratio', 'cut off'),
      ],
      fromZero: true,
    }),
    lineChart({
      title: 'Clipped tokens',
      series: [series(rows, 'clip_ratio/low_mean', 'low'), series(rows, 'clip_ratio/high_mean', 'high')],
      fromZero: true,
    }),
    one('Loss', 'loss', rewards.length > 0 ? 'Near 0 by construction; it does not measure progress.' : undefined),
    lineChart({ title: 'Learning rate', series: [series(rows, 'learning_rate')], fromZero: true, average: false }),
    lineChart({
      title: 'Time a step',
      series: times.map((key) => series(rows, key, key.slice('time/'.length).replace('_', ' '))),
      stacked: true,
      unit: ' s',
    }),
    one('Tokens a second', 'tokens_per_second', 'Sampled tokens over the whole time of a step.', true),
  ].join('');
}

function samplesSection(samples: ReportInput['samples']): string {
  if (samples === undefined || samples.rows.length === 0) return '';
  const names = Object.keys(samples.rows[0]!.rewards);
  const body = samples.rows
    .slice(0, shownSamples)
    .map(
      (row) =>
        `<tr><td class="text">${escapeHtml(row.prompt)}</td><td class="text">${escapeHtml(row.completion)}</td>` +
        names.map((name) => `<td class="number">${scoreText(row.rewards[name] ?? null)}</td>`).join('') +
        `<td class="number ${row.advantage > 0 ? 'up' : row.advantage < 0 ? 'down' : ''}">${formatNumber(row.advantage)}</td>` +
        `<td class="number">${row.tokens}${row.truncated ? ' ✂' : ''}</td></tr>`,
    );
  return (
    `<h2>Completions of step ${samples.step}</h2><div class="panel"><table><thead><tr><th>Prompt</th><th>Completion</th>` +
    `${names.map((name) => `<th class="number">${escapeHtml(name)}</th>`).join('')}<th class="number">Advantage</th><th class="number">Tokens</th></tr></thead>` +
    `<tbody>${body.join('')}</tbody></table></div>`
  );
}

function configRows({ config, model }: RunInfo): string {
  const entries: [string, unknown][] = [
    ['model', model.path],
    ...Object.entries(config).filter(([, value]) => value !== undefined),
  ];
  return entries
    .map(
      ([key, value]) =>
        `<div><span>${escapeHtml(key)}</span><b>${escapeHtml(typeof value === 'string' ? value : JSON.stringify(value))}</b></div>`,
    )
    .join('');
}
