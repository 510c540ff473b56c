/** Checks of what layers are made with. */
import { MlxError } from '../errors.js';

/** A whole number of at least 1. */
export function size(layer: string, name: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${name} of ${layer} must be a whole number of at least 1, not ${String(value)}`,
    );
  }
  return value;
}

export function positive(layer: string, name: string, value: number): number {
  if (!(typeof value === 'number' && value > 0 && Number.isFinite(value))) {
    throw new MlxError('ERR_MLX_ARGUMENT', `${name} of ${layer} must be a positive number, not ${String(value)}`);
  }
  return value;
}

/** One number for each spatial axis, from one for all of them or a list. */
export function perAxis(
  layer: string,
  name: string,
  value: number | readonly number[],
  axes: number,
  least: number,
): number[] {
  const list = typeof value === 'number' ? Array.from({ length: axes }, () => value) : value;
  if (
    !Array.isArray(list) ||
    list.length !== axes ||
    list.some((entry) => !Number.isSafeInteger(entry) || entry < least)
  ) {
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `${name} of ${layer} must be a whole number of at least ${least}${axes > 1 ? `, or ${axes} of them` : ''}, not ${JSON.stringify(value)}`,
    );
  }
  return [...list];
}

/** One number alone, several in brackets. */
export const listText = (values: readonly number[]): string =>
  values.length === 1 ? String(values[0]) : `[${values.join(', ')}]`;
