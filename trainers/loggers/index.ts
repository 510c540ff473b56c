import { JsonlLogger } from './jsonl.js';
import type { Logger } from './logger.js';
import { ReportLogger } from './report.js';

export { escapeHtml, lineChart } from './chart.js';
export type { ChartOptions, Point, Series } from './chart.js';
export { ConsoleLogger } from './console.js';
export type { ConsoleStream } from './console.js';
export { JsonlLogger, readJsonLines } from './jsonl.js';
export type { CompletionSample, Logger, MetricRecord, Progress, RunInfo, RunStatus } from './logger.js';
export { htmlPage } from './page.js';
export type { PageOptions } from './page.js';
export { ReportLogger } from './report.js';

/** The record and the report of a run, in its folder. */
export function defaultLoggers(outputDir: string | undefined, completions: boolean): Logger[] {
  return outputDir === undefined ? [] : [new JsonlLogger(outputDir, { completions }), new ReportLogger(outputDir)];
}
