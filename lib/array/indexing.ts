/** Index expressions: `a[1, ::2, ..., None]` in Python is `a.index(1, '::2', '...', null)`. */
import { guard, MlxError } from '../errors.js';
import { native } from '../native.js';
import type { ArrayHandle } from '../native-types.js';
import { handleOf, MxArray, wrap } from './core.js';
import type { ArrayLike, NestedArray, TypedArray } from './core.js';
import { operand } from './convert.js';
import { array } from './create.js';
import { describeValue } from './describe.js';

const core = native().core;

/**
 * One entry of an index expression: a number (one place, the axis goes; negative counts from the end), a slice as text (`'1:3'`,
 * `':-1'`, `'::2'`, `'::-1'`, `':'`), `null` (a new axis), `'...'` (all axes that the others leave), or whole numbers in an array
 * or list (places of one axis, in any shape). In `indexUpdate` a mask of booleans, alone, may stand too.
 */
export type ArrayIndex = number | string | null | MxArray | NestedArray | TypedArray;

/** How `indexUpdate` changes what is selected. */
export type UpdateMode = 'set' | 'add' | 'multiply' | 'maximum' | 'minimum';

const slice = /^\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?$/;

/** Kinds of entries, as `src/node/indexing.rs` reads them. */
const [placeKind, sliceKind, newAxisKind, ellipsisKind, arrayKind, listKind] = [0, 1, 2, 3, 4, 5];

/** The entries as numbers, four for each, and the index arrays. */
function encode(indices: readonly ArrayIndex[]): { codes: number[]; arrays: ArrayHandle[]; made: MxArray[] } {
  const codes: number[] = [];
  const arrays: ArrayHandle[] = [];
  const made: MxArray[] = [];
  for (const index of indices) {
    if (typeof index === 'number') codes.push(placeKind, whole(index), 0, 0);
    else if (index === null) codes.push(newAxisKind, 0, 0, 0);
    else if (index === '...') codes.push(ellipsisKind, 0, 0, 0);
    else if (typeof index === 'string') codes.push(sliceKind, ...bounds(index));
    else if (index instanceof MxArray) {
      codes.push(arrayKind, 0, 0, 0);
      arrays.push(handleOf(index));
    } else if (Array.isArray(index) || ArrayBuffer.isView(index)) {
      const places = ofPlaces(index as NestedArray | TypedArray);
      codes.push(listKind, 0, 0, 0);
      arrays.push(handleOf(places));
      made.push(places);
    } else {
      throw new MlxError(
        'ERR_MLX_ARGUMENT',
        `an index is a number, a slice such as '1:3', null, '...', or whole numbers in an array or list, not ${describeValue(index)}`,
      );
    }
  }
  return { codes, arrays, made };
}

function whole(index: number): number {
  if (Number.isInteger(index) && Math.abs(index) < 2 ** 31) return index;
  throw new MlxError('ERR_MLX_ARGUMENT', `an index must be a whole number, got ${index}`);
}

function bounds(text: string): [number, number, number] {
  const match = slice.exec(text);
  if (match === null)
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `'${text}' is not a slice; slices are 'start:stop' or 'start:stop:step', parts may be left out`,
    );
  const [start, stop, step] = match.slice(1).map((part) => (part === undefined ? NaN : clamp(Number(part))));
  return [start!, stop!, step!];
}

/** Python cuts bounds to the axis, however far they are out. */
const clamp = (value: number): number => Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, value));

function ofPlaces(index: NestedArray | TypedArray): MxArray {
  const places = array(index);
  if (places.size === 0) {
    const empty = array(new Int32Array(0)).reshape(places.shape);
    places.dispose();
    return empty;
  }
  if (places.dtype.startsWith('float') || places.dtype === 'complex64') {
    places.dispose();
    throw new MlxError('ERR_MLX_ARGUMENT', 'index lists hold whole numbers or booleans');
  }
  return places;
}

/** @internal */
export function indexed(a: MxArray, indices: readonly ArrayIndex[]): MxArray {
  const { codes, arrays, made } = encode(indices);
  try {
    return wrap(guard(() => core.index(handleOf(a), codes, arrays)));
  } finally {
    for (const places of made) places.dispose();
  }
}

/**
 * What an index expression selects, with the rules of Python's MLX (which are NumPy's): `a[1, ::2, ..., None]` is
 * `a.index(1, '::2', '...', null)`.
 *
 * Numbers, and lists of numbers, outside the axis are ERR_MLX_SHAPE. Index arrays are not looked at before evaluation: what lies
 * outside moves to the nearest place. Masks of booleans cannot be read (ERR_MLX_DTYPE), for the result's size would depend on values.
 */
function select(a: MxArray, ...indices: ArrayIndex[]): MxArray {
  return indexed(a, indices);
}

export { select as index };

/**
 * A copy in which what an index expression selects is changed by `values`, which are broadcast to it and take the array's dtype.
 * `a[i] = v` in Python is `a = a.indexUpdate([i], v)`, and `a.at[i].add(v)` is `a.indexUpdate([i], v, 'add')`: places that an
 * index array names more than once are then changed more than once. In mode 'set' any of several values may win.
 *
 * A mask of booleans, of the shape of the array or its first axes, stands alone: `a.indexUpdate([mask], 0)`.
 */
export function indexUpdate(
  a: MxArray,
  indices: readonly ArrayIndex[],
  values: ArrayLike,
  mode: UpdateMode = 'set',
): MxArray {
  if (!Array.isArray(indices))
    throw new MlxError(
      'ERR_MLX_ARGUMENT',
      `indexUpdate takes its indices as a list, such as [0, '1:3'], not ${describeValue(indices)}`,
    );
  const { codes, arrays, made } = encode(indices);
  try {
    return wrap(guard(() => core.indexUpdate(handleOf(a), codes, arrays, operand(values, a), mode)));
  } finally {
    for (const places of made) places.dispose();
  }
}
