import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { downsample, escapeHtml, formatNumber, lineChart, smooth, ticks } from '../../trainers/loggers/chart.ts';
import type { Point } from '../../trainers/loggers/chart.ts';
import { ConsoleLogger } from '../../trainers/loggers/console.ts';
import { JsonlLogger, readJsonLines } from '../../trainers/loggers/jsonl.ts';
import { LoggerGroup } from '../../trainers/loggers/logger.ts';
import type { RunInfo } from '../../trainers/loggers/logger.ts';
import { renderReport } from '../../trainers/loggers/report.ts';
import { tempDir } from '../helpers/temp.ts';

const run: RunInfo = {
  trainer: 'GRPO',
  config: { maxSteps: 4, nothing: undefined },
  model: { path: 'm', modelType: 'qwen3', dtype: 'float32', numParameters: 1e6, numTrainable: 1e6 },
  outputDir: 'runs/<b>x</b>',
  totalSteps: 4,
  startStep: 0,
};

describe('JsonlLogger', () => {
  it('drops values that are not finite and names them once', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const dir = tempDir();
    const logger = new JsonlLogger(dir);
    await logger.start(run);
    await logger.metrics(1, { reward: 1, kl: NaN });
    await logger.metrics(2, { reward: 2, kl: Infinity });
    expect(warned.mock.calls.map(([text]) => text)).toEqual([expect.stringMatching(/step 1: not finite.*: kl$/)]);
    warned.mockRestore();
    const rows = await readJsonLines<Record<string, unknown>>(join(dir, 'metrics.jsonl'));
    expect(rows.map(({ step, reward, kl }) => [step, reward, kl])).toEqual([
      [1, 1, undefined],
      [2, 2, undefined],
    ]);
  });

  it('removes what came after the checkpoint that is resumed from, and survives a line cut short', async () => {
    const dir = tempDir();
    const logger = new JsonlLogger(dir);
    await logger.start(run);
    for (const step of [1, 2, 3]) await logger.metrics(step, { reward: step });
    const path = join(dir, 'metrics.jsonl');
    const { appendFileSync } = await import('node:fs');
    appendFileSync(path, '{"step":4,"rew');
    await new JsonlLogger(dir).start({ ...run, startStep: 2 });
    expect((await readJsonLines<{ step: number }>(path)).map(({ step }) => step)).toEqual([1, 2]);
  });

  it('keeps all rounds of a step in one file and replaces the file in a resumed run', async () => {
    const dir = tempDir();
    const sample = { prompt: 'p', completion: 'c', rewards: {}, advantage: 0, tokens: 1, truncated: false };
    const logger = new JsonlLogger(dir);
    await logger.samples(1, [sample]);
    await logger.samples(1, [sample]);
    const lines = () =>
      readFileSync(join(dir, 'completions', 'step-00001.jsonl'), 'utf8')
        .trim()
        .split('\n').length;
    expect(lines()).toBe(2);
    await new JsonlLogger(dir).samples(1, [sample]);
    expect(lines()).toBe(1);
  });
});

function recorder(isTTY: boolean) {
  const text: string[] = [];
  return { stream: { isTTY, columns: 60, write: (part: string) => void text.push(part) }, text };
}

describe('ConsoleLogger', () => {
  it('writes plain lines where there is no terminal', () => {
    const { stream, text } = recorder(false);
    const logger = new ConsoleLogger({ stream });
    logger.start(run);
    logger.progress({ step: 0, totalSteps: 4, phase: 'generate', fraction: 0.5, detail: '' });
    logger.metrics(1, { reward: 0.5, loss: 0.001, other: 3 });
    logger.finish('completed');
    expect(text.join('')).toBe(
      'GRPO 4 steps: qwen3, 1M parameters, float32, writing to runs/<b>x</b>\n1/4  reward 0.5  loss 0.001\ncompleted\n',
    );
  });

  it('draws a bar within the width of a terminal and clears it before a line', () => {
    const { stream, text } = recorder(true);
    const logger = new ConsoleLogger({ stream, color: false });
    logger.start(run);
    logger.progress({
      step: 1,
      totalSteps: 4,
      phase: 'generate',
      fraction: 0.5,
      detail: '12 rows left and a long explanation of it',
    });
    logger.metrics(2, { reward: 1 });
    const bar = text[1]!.replace('\r\u001b[2K', '');
    expect(bar).toMatch(/^█{9}░{15} step 2\/4 {2}generate: 12 rows/);
    expect(bar.length).toBeLessThan(60);
    expect(text[2]).toBe('\r\x1b[2K');
  });
});

describe('LoggerGroup', () => {
  it('leaves a failing logger out instead of stopping the run', async () => {
    const warned = vi.spyOn(process, 'emitWarning').mockImplementation(() => {});
    const seen: number[] = [];
    class Broken {
      metrics(): never {
        throw new Error('no network');
      }
    }
    const group = new LoggerGroup([new Broken(), { metrics: (step) => void seen.push(step) }]);
    await group.metrics(1, {});
    await group.metrics(2, {});
    expect(seen).toEqual([1, 2]);
    expect(warned.mock.calls.map(([text]) => text)).toEqual(['Broken failed and gets no more records: no network']);
    warned.mockRestore();
  });
});

describe('report', () => {
  const rows = Array.from({ length: 30 }, (_, i) => ({
    step: i + 1,
    reward: i / 30,
    'rewards/<i>/mean': 1,
    'rewards/b/mean': 2,
    'time/generate': 1,
    'time/reward': 2,
  }));
  const evil = '</script><img src=x onerror="alert(1)">';
  const samples = {
    step: 30,
    rows: [
      { prompt: evil, completion: `'${evil}`, rewards: { [evil]: null }, advantage: -1, tokens: 3, truncated: true },
    ],
  };
  const page = renderReport({ run, rows, samples, status: 'failed', error: new Error(evil), elapsedMs: 61_000 });

  it('escapes everything that comes from outside', () => {
    expect(page).not.toContain(evil);
    expect(page).not.toContain('<b>x</b>');
    expect(page).not.toContain('<i>/');
    expect(page.match(/<script/g)).toHaveLength(1);
    expect(escapeHtml(`<a href="x">'&`)).toBe('&lt;a href=&quot;x&quot;&gt;&#39;&amp;');
  });

  it('needs no other file and no network', () => {
    expect(/<[a-z][^>]* (src|href)=|@import|url\(|https?:/.test(page)).toBe(false);
  });

  it('draws charts only for metrics that exist', () => {
    expect(page).toContain('aria-label="Reward"');
    expect(page).toContain('aria-label="Time a step"');
    expect(page).not.toContain('aria-label="KL to the start"');
    expect(page).toContain('1 min 1 s');
    expect(page).not.toContain('NaN');
  });

  it('draws an empty run', () => {
    expect(renderReport({ run, rows: [], samples: undefined, status: 'running', elapsedMs: 0 })).not.toMatch(
      /NaN|undefined/,
    );
  });
});

describe('charts', () => {
  it('cuts an axis at round values', () => {
    expect(ticks(0, 1, 4)).toEqual([0, 0.25, 0.5, 0.75, 1]);
    expect(ticks(-0.13, 0.52, 4)).toEqual([0, 0.2, 0.4]);
    expect(ticks(-1.24, 3.24, 4)).toEqual([-1, 0, 1, 2, 3]);
    expect(ticks(3, 97, 5)).toEqual([20, 40, 60, 80]);
  });

  it('draws a single point and a constant line without dividing by zero', () => {
    for (const points of [
      [[3, 0]],
      [
        [1, 5],
        [2, 5],
      ],
    ] as Point[][]) {
      const svg = lineChart({ title: 't', series: [{ name: 'a', points }] });
      expect(svg).toContain('<path');
      expect(svg).not.toMatch(/NaN|Infinity/);
    }
    expect(lineChart({ title: 't', series: [{ name: 'a', points: [] }] })).toBe('');
  });

  it('keeps means when it thins a long line out, and smooths without a bias at the start', () => {
    const points = Array.from({ length: 1000 }, (_, i): Point => [i, i % 2]);
    const thin = downsample(points, 100);
    expect(thin).toHaveLength(100);
    expect(thin.every(([, y]) => y === 0.5)).toBe(true);
    expect(
      smooth(
        [
          [0, 4],
          [1, 4],
          [2, 4],
        ],
        9,
      ).map(([, y]) => y),
    ).toEqual([4, 4, 4]);
  });

  it.each([
    [0, '0'],
    [0.123456, '0.1235'],
    [1e-6, '1e-6'],
    [12345, '12.35k'],
    [1.5e6, '1.5M'],
    [-3, '-3'],
  ])('writes %f as %s', (value, text) => expect(formatNumber(value)).toBe(text));
});
