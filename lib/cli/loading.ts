import { loadModel } from '../model.js';
import type { LanguageModel, LoadOptions } from '../model.js';
import type { CliIo } from './io.js';

/** Milliseconds between two drawings. */
const interval = 100;

/** {@link loadModel} that shows on a terminal how far it is, and leaves no trace of that when it is done. */
export async function loadWithProgress(
  path: string,
  options: LoadOptions,
  stderr: CliIo['stderr'],
): Promise<LanguageModel> {
  if (stderr.isTTY !== true) return await loadModel(path, options);
  let last = Date.now();
  let drawn = false;
  let ended = false;
  const onProgress = ({ loaded, total }: { loaded: number; total: number }): void => {
    // A report may still be on its way when the model is there.
    if (ended || Date.now() - last < interval) return;
    last = Date.now();
    drawn = true;
    stderr.write(
      `\r\x1b[2KLoading ${path}: ${Math.floor((100 * loaded) / Math.max(1, total))} % of ${(total / 1e9).toFixed(1)} GB`,
    );
  };
  try {
    return await loadModel(path, { ...options, onProgress });
  } finally {
    ended = true;
    if (drawn) stderr.write('\r\x1b[2K');
  }
}
