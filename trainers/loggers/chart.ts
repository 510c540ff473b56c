/** Line charts as SVG text, without any dependency: they work offline, in print, and without scripts. */

export type Point = readonly [x: number, y: number];

export interface Series {
  name: string;
  points: readonly Point[];
}

export interface ChartOptions {
  title: string;
  series: readonly Series[];
  /** One line that says how to read the chart. */
  note?: string;
  /** Keep 0 in view. */
  fromZero?: boolean;
  /** Fill the space under stacked series. */
  stacked?: boolean;
  /** Draw a moving average over long series. Default true. */
  average?: boolean;
  /** Follows every value, as in '1.5 s'. */
  unit?: string;
  /** What is counted from left to right. Default step. */
  xLabel?: string;
}

const width = 460;
const height = 220;
const margin = { left: 50, right: 14, top: 10, bottom: 26 };
const maxPoints = 400;

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/** Text made safe for HTML content and attributes. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (c) => entities[c]!);
}

/** Short decimal text of a number, such as 12.5k or 3.2e-6. */
export function formatNumber(value: number): string {
  const size = Math.abs(value);
  if (value === 0) return '0';
  if (size >= 1e9) return `${trim(value / 1e9)}G`;
  if (size >= 1e6) return `${trim(value / 1e6)}M`;
  if (size >= 1e4) return `${trim(value / 1e3)}k`;
  if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, 'e');
  return trim(value);
}

const trim = (value: number): string => String(Number(value.toPrecision(4)));

/** Means of equal stretches, so that a long run draws as fast as a short one. */
export function downsample(points: readonly Point[], limit = maxPoints): Point[] {
  if (points.length <= limit) return [...points];
  const result: Point[] = [];
  for (let i = 0; i < limit; i++) {
    const part = points.slice(Math.floor((i * points.length) / limit), Math.floor(((i + 1) * points.length) / limit));
    const mean = (axis: 0 | 1): number => part.reduce((sum, point) => sum + point[axis], 0) / part.length;
    result.push([mean(0), mean(1)]);
  }
  return result;
}

/** Exponential moving average over about `span` points, unbiased at the start. */
export function smooth(points: readonly Point[], span: number): Point[] {
  const keep = 1 - 2 / (span + 1);
  let sum = 0;
  let weight = 0;
  return points.map(([x, y]) => {
    sum = sum * keep + y;
    weight = weight * keep + 1;
    return [x, sum / weight];
  });
}

/** Round values that divide [low, high] into about `count` parts: at most a sixth more, where that makes them rounder. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.85)!;
  const values: number[] = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    values.push(Number((k * step).toPrecision(12)));
  return values;
}

function range(values: number[], fromZero: boolean): [number, number] {
  let low = Math.min(...values, ...(fromZero ? [0] : []));
  let high = Math.max(...values, ...(fromZero ? [0] : []));
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) {
    const pad = Math.abs(high) > 0 ? Math.abs(high) * 0.1 : 1;
    low -= fromZero && low === 0 ? 0 : pad;
    high += pad;
  } else {
    const pad = (high - low) * 0.06;
    if (!(fromZero && low === 0)) low -= pad;
    if (!(fromZero && high === 0)) high += pad;
  }
  return [low, high];
}

/** A figure with the chart, its title, and a legend where there are several series. Empty text when there is nothing to draw. */
export function lineChart(options: ChartOptions): string {
  const { title, note, fromZero = false, stacked = false, average = true, unit = '', xLabel = 'step' } = options;
  const format = (value: number): string => formatNumber(value) + unit;
  const present = options.series.filter(({ points }) => points.length > 0);
  if (present.length === 0) return '';
  const drawn = present.map(({ name, points }) => ({ name, points: downsample(points) }));
  const tops = stacked ? stack(drawn) : drawn;
  const [lowX, highX] = xRange(drawn);
  const [lowY, highY] = range(
    tops.flatMap(({ points }) => points.map(([, y]) => y)),
    fromZero || stacked,
  );
  const px = (x: number): number => margin.left + ((x - lowX) / (highX - lowX)) * (width - margin.left - margin.right);
  const py = (y: number): number =>
    height - margin.bottom - ((y - lowY) / (highY - lowY)) * (height - margin.top - margin.bottom);
  const path = (points: readonly Point[]): string =>
    points.map(([x, y], i) => `${i === 0 ? 'M' : 'L'}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join('');

  const grid = ticks(lowY, highY, 4).map(
    (y) =>
      `<line class="grid" x1="${margin.left}" x2="${width - margin.right}" y1="${py(y).toFixed(1)}" y2="${py(y).toFixed(1)}"/>` +
      `<text class="tick" x="${margin.left - 6}" y="${(py(y) + 3.5).toFixed(1)}" text-anchor="end">${escapeHtml(format(y))}</text>`,
  );
  const steps = ticks(lowX, highX, 5)
    .filter(Number.isInteger)
    .map(
      (x) =>
        `<text class="tick" x="${px(x).toFixed(1)}" y="${height - 8}" text-anchor="middle">${formatNumber(x)}</text>`,
    );
  steps.push(
    `<text class="tick" x="${margin.left - 14}" y="${height - 8}" text-anchor="end">${escapeHtml(xLabel)}</text>`,
  );
  const lines = stacked ? areas(tops, path, py(0)) : drawn.map(({ points }, i) => line(points, i, path, average));
  const data = present.map(({ name, points }) => ({
    name,
    points: downsample(points).map(([x, y]) => [Math.round(x), Number(y.toPrecision(4))]),
  }));
  const scale = {
    lowX,
    highX,
    left: margin.left,
    right: width - margin.right,
    top: margin.top,
    bottom: height - margin.bottom,
  };
  const legend =
    present.length < 2
      ? ''
      : `<div class="legend">${present.map(({ name }, i) => `<span><i class="s${i % 8}"></i>${escapeHtml(name)}</span>`).join('')}</div>`;
  const last = present.length === 1 ? `<b>${escapeHtml(format(present[0]!.points.at(-1)![1]))}</b>` : '';
  return (
    `<figure class="chart" data-chart="${escapeHtml(JSON.stringify({ scale, unit, data }))}"><figcaption><span>${escapeHtml(title)}</span>${last}</figcaption>` +
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(title)}">${grid.join('')}${steps.join('')}${lines.join('')}` +
    `<line class="cursor" y1="${margin.top}" y2="${height - margin.bottom}"/></svg>${legend}` +
    `${note === undefined ? '' : `<p class="note">${escapeHtml(note)}</p>`}</figure>`
  );
}

function xRange(series: readonly Series[]): [number, number] {
  const xs = series.flatMap(({ points }) => points.map(([x]) => x));
  const low = Math.min(...xs);
  const high = Math.max(...xs);
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** One series; a long one is drawn faint, with its moving average on top. */
function line(
  points: readonly Point[],
  i: number,
  path: (points: readonly Point[]) => string,
  average: boolean,
): string {
  const color = `s${i % 8}`;
  if (points.length === 1) return `<path class="line dot ${color}" d="${path(points)}h0.01"/>`;
  if (!average || points.length < 25) return `<path class="line ${color}" d="${path(points)}"/>`;
  const span = Math.max(5, Math.round(points.length / 20));
  return `<path class="line faint ${color}" d="${path(points)}"/><path class="line ${color}" d="${path(smooth(points, span))}"/>`;
}

function stack(series: readonly Series[]): Series[] {
  const sums = new Map<number, number>();
  return series.map(({ name, points }) => ({
    name,
    points: points.map(([x, y]): Point => {
      const top = (sums.get(x) ?? 0) + y;
      sums.set(x, top);
      return [x, top];
    }),
  }));
}

function areas(tops: readonly Series[], path: (points: readonly Point[]) => string, zero: number): string[] {
  const shapes = tops.map(({ points }, i) => {
    const first = path([points[0]!]).slice(1).split(' ')[0];
    const last = path([points.at(-1)!])
      .slice(1)
      .split(' ')[0];
    return `<path class="area s${i % 8}" d="${path(points)}L${last} ${zero.toFixed(1)}L${first} ${zero.toFixed(1)}Z"/>`;
  });
  return shapes.toReversed();
}
