import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { errorText, MlxError } from './errors.js';

/** Reads a JSON Lines file: one object a line, empty lines skipped. Errors name the line. */
export async function readJsonl<T extends object = Record<string, unknown>>(path: string): Promise<T[]> {
  const rows: T[] = [];
  let number = 0;
  const input = createReadStream(path, 'utf8');
  try {
    for await (const line of createInterface({ input, crlfDelay: Infinity })) {
      number += 1;
      if (line.trim() === '') continue;
      const row: unknown = JSON.parse(line);
      if (typeof row !== 'object' || row === null || Array.isArray(row)) throw new Error('not a JSON object');
      rows.push(row as T);
    }
  } catch (error) {
    const where = number === 0 ? path : `${path}:${number}`;
    throw new MlxError('ERR_MLX_LOAD', `${where}: ${errorText(error)}`, { cause: error });
  } finally {
    input.destroy();
  }
  return rows;
}
