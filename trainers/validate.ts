import type { z } from 'zod';
import { MlxError } from '../lib/errors.js';
import { unknownNameMessage } from '../lib/options.js';

/** Parses `input` by a strict zod object; all problems of the config come out in one ERR_MLX_CONFIG. */
export function parseConfig<Shape extends z.ZodRawShape>(
  schema: z.ZodObject<Shape>,
  input: unknown,
  where: string,
): z.output<z.ZodObject<Shape>> {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw new MlxError(
      'ERR_MLX_CONFIG',
      `${where} must be an object, got ${Array.isArray(input) ? 'a list' : typeof input}`,
    );
  }
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const problems: string[] = [];
  for (const issue of result.error.issues) {
    if (issue.code === 'unrecognized_keys') {
      const path = issue.path.map(String).join('.');
      for (const key of issue.keys)
        problems.push(
          path === '' ? unknownNameMessage(key, Object.keys(schema.shape), where) : `${path} has no key '${key}' here`,
        );
      continue;
    }
    const path = issue.path.map(String).join('.');
    const value = issue.path.reduce<unknown>(
      (at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key],
      input,
    );
    problems.push(`${path}: ${issue.message} (got ${JSON.stringify(value) ?? String(value)})`);
  }
  throw configError(problems, where);
}

/** One error for several problems of a config. */
export function configError(problems: readonly string[], where: string): MlxError {
  const only = problems.length === 1;
  return new MlxError(
    'ERR_MLX_CONFIG',
    only ? `${where}: ${problems[0]}` : `${where} has ${problems.length} problems:\n  ${problems.join('\n  ')}`,
  );
}
