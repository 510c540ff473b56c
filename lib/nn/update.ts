/** Replacing parts of a module by those of a tree, all or none. */
import { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { nearestName } from '../options.js';
import { isContainer, membersOf, Module, setMember } from './module.js';

const describe = (value: unknown): string => {
  if (value instanceof MxArray) return `an array of shape [${value.shape.join(', ')}]`;
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? `a ${value.constructor?.name ?? 'plain object'}` : `a ${typeof value}`;
};

const sameShape = (a: MxArray, b: MxArray): boolean => {
  const [left, right] = [a.shape, b.shape];
  return left.length === right.length && left.every((size, axis) => size === right[axis]);
};

const isEmpty = (value: unknown): boolean => isContainer(value) && membersOf(value).length === 0;

/** The replacements that `tree` asks for, after a check of all of them. */
export function checkUpdate(
  target: Module,
  tree: unknown,
  strict: boolean,
  kind: 'parameter' | 'module',
): (() => void)[] {
  const replacements: (() => void)[] = [];
  const fail = (code: string, problem: string): void => {
    if (strict)
      throw new MlxError(
        code,
        `${target.constructor.name}.${kind === 'module' ? 'updateModules' : 'update'}(): ${problem}`,
      );
  };
  const isPart = (value: unknown): boolean => (kind === 'module' ? value instanceof Module : value instanceof MxArray);

  const walk = (into: object, from: unknown, path: string): void => {
    if (!isContainer(from)) {
      return fail(
        'ERR_MLX_ARGUMENT',
        `a tree of ${kind}s was expected ${path === '' ? '' : `at '${path}'`}, not ${describe(from)}`,
      );
    }
    if (!isEmpty(from) && Array.isArray(into) !== Array.isArray(from)) {
      return fail(
        'ERR_MLX_ARGUMENT',
        `'${path}' is ${Array.isArray(into) ? 'a list' : 'not a list'}, and was given ${describe(from)}`,
      );
    }
    const present = new Map(membersOf(into));
    for (const [name, value] of membersOf(from)) {
      const own = path === '' ? name : `${path}.${name}`;
      const current = present.get(name);
      if (isPart(current) && isPart(value)) {
        // Not asked unless strict: an array that is replaced may be gone already, as in recomputation.
        if (strict && kind === 'parameter' && !sameShape(current as MxArray, value as MxArray)) {
          fail(
            'ERR_MLX_SHAPE',
            `parameter '${own}' has shape [${(current as MxArray).shape.join(', ')}], and was given ${describe(value)}`,
          );
        }
        replacements.push(() => setMember(into, name, value));
      } else if (current instanceof Module || isContainer(current)) {
        walk(current, value, own);
      } else if (current instanceof MxArray && kind === 'parameter' && !isEmpty(value)) {
        fail('ERR_MLX_ARGUMENT', `parameter '${own}' was given ${describe(value)}`);
      } else if (current === undefined && !isEmpty(value)) {
        const near = nearestName(name, present.keys());
        const hint = near === undefined ? '' : `: did you mean '${near}'?`;
        fail('ERR_MLX_ARGUMENT', `there is no ${kind} '${own}'${hint}`);
      } else if (!isEmpty(value)) {
        fail('ERR_MLX_ARGUMENT', `'${own}' is no ${kind}`);
      }
    }
  };
  walk(target, tree, '');
  return replacements;
}
