import { escapeHtml } from './chart.js';
import { reportScript, reportStyle } from './report-style.js';

/** Of {@link htmlPage}. */
export interface PageOptions {
  title: string;
  /** HTML beside the title. */
  mark?: string;
  /** One line under the title. */
  subtitle: string;
  /** HTML: figures of {@link lineChart} in a `<div class="charts">`, panels, tables. */
  body: string;
  /** HTML at the end. */
  footer?: string;
}

/** A page that needs no other file and no network; charts on it show the values under the pointer. */
export function htmlPage({ title, mark = '', subtitle, body, footer = '' }: PageOptions): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>${escapeHtml(title)}</title><style>${reportStyle}</style></head><body><main>
<header><h1>${escapeHtml(title)}</h1>${mark}</header>
<p class="sub">${escapeHtml(subtitle)}</p>${body}
${footer === '' ? '' : `<footer>${footer}</footer>`}
</main><script>${reportScript}</script></body></html>
`;
}
