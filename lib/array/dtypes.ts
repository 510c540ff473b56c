/** Dtypes by kind: how they combine, what they hold. Under the names of Python's `mlx.core`. */
import { MlxError } from '../errors.js';
import { nearestName } from '../options.js';
import { MxArray } from './core.js';
import type { Dtype } from './core.js';
import { describeValue } from './describe.js';
import { list } from './guards.js';

export const bool_ = 'bool';
export const uint8 = 'uint8';
export const uint16 = 'uint16';
export const uint32 = 'uint32';
export const uint64 = 'uint64';
export const int8 = 'int8';
export const int16 = 'int16';
export const int32 = 'int32';
export const int64 = 'int64';
export const float16 = 'float16';
export const bfloat16 = 'bfloat16';
export const float32 = 'float32';
export const float64 = 'float64';
export const complex64 = 'complex64';

/** Every dtype. */
export const generic = 'generic';
/** All but bool. */
export const number = 'number';
export const integer = 'integer';
export const signedinteger = 'signedinteger';
export const unsignedinteger = 'unsignedinteger';
/** Floating and complex. */
export const inexact = 'inexact';
export const floating = 'floating';
export const complexfloating = 'complexfloating';

/** A family of dtypes, of the hierarchy that NumPy has. */
export type DtypeCategory =
  | typeof generic
  | typeof number
  | typeof integer
  | typeof signedinteger
  | typeof unsignedinteger
  | typeof inexact
  | typeof floating
  | typeof complexfloating;

/** A family of dtypes, as the array API standard names them. */
export type DtypeKind =
  | 'bool'
  | 'signed integer'
  | 'unsigned integer'
  | 'integral'
  | 'real floating'
  | 'complex floating'
  | 'numeric';

/** The family right above a family. */
const parents: Readonly<Record<DtypeCategory, DtypeCategory | undefined>> = {
  generic: undefined,
  number: 'generic',
  integer: 'number',
  signedinteger: 'integer',
  unsignedinteger: 'integer',
  inexact: 'number',
  floating: 'inexact',
  complexfloating: 'inexact',
};

/** The family of a dtype, and its bits. */
const families: Readonly<Record<Dtype, readonly [DtypeCategory, number]>> = {
  bool: ['generic', 8],
  uint8: ['unsignedinteger', 8],
  uint16: ['unsignedinteger', 16],
  uint32: ['unsignedinteger', 32],
  uint64: ['unsignedinteger', 64],
  int8: ['signedinteger', 8],
  int16: ['signedinteger', 16],
  int32: ['signedinteger', 32],
  int64: ['signedinteger', 64],
  float16: ['floating', 16],
  bfloat16: ['floating', 16],
  float32: ['floating', 32],
  float64: ['floating', 64],
  complex64: ['complexfloating', 64],
};

const kinds: Readonly<Record<DtypeKind, readonly DtypeCategory[]>> = {
  bool: [],
  'signed integer': ['signedinteger'],
  'unsigned integer': ['unsignedinteger'],
  integral: ['integer'],
  'real floating': ['floating'],
  'complex floating': ['complexfloating'],
  numeric: ['number'],
};

const isIn = <T extends object>(names: T, name: unknown): name is keyof T =>
  typeof name === 'string' && Object.hasOwn(names, name);

const isDtype = (name: unknown): name is Dtype => isIn(families, name);

function unknownName(where: string, name: unknown, known: readonly string[]): MlxError {
  const near = typeof name === 'string' ? nearestName(name, known) : undefined;
  const hint = near === undefined ? `known are ${known.join(', ')}` : `did you mean '${near}'?`;
  const shown = typeof name === 'string' ? `'${name}'` : describeValue(name);
  return new MlxError('ERR_MLX_DTYPE', `mx.${where}(): ${shown} is not known: ${hint}`);
}

function dtypeOf(where: string, value: MxArray | Dtype): Dtype {
  if (value instanceof MxArray) return value.dtype;
  if (isDtype(value)) return value;
  throw unknownName(where, value, Object.keys(families));
}

function promoted(a: Dtype, b: Dtype): Dtype {
  const [[kindA, bitsA], [kindB, bitsB]] = [families[a], families[b]];
  if (a === b || kindB === 'generic') return a;
  if (kindA === 'generic') return b;
  if (kindA === kindB) {
    // Neither of the two halves holds the other.
    if (bitsA === bitsB) return 'float32';
    return bitsA > bitsB ? a : b;
  }
  for (const family of ['complexfloating', 'floating'] as const) {
    if (kindA === family) return a;
    if (kindB === family) return b;
  }
  const [signed, unsigned] = kindA === 'signedinteger' ? [a, b] : [b, a];
  const bits = families[unsigned][1];
  if (families[signed][1] > bits) return signed;
  return bits === 64 ? 'float32' : (`int${2 * bits}` as Dtype);
}

/** The dtype that arrays and dtypes have together: that of the result of adding them. */
export function resultType(...arraysAndDtypes: (MxArray | Dtype)[]): Dtype {
  if (arraysAndDtypes.length === 0)
    throw new MlxError('ERR_MLX_ARGUMENT', 'mx.resultType() takes at least one array or dtype');
  return arraysAndDtypes.map((value) => dtypeOf('resultType', value)).reduce(promoted);
}

/** Whether combining the two gives `to`. */
export const canCast = (from: MxArray | Dtype, to: Dtype): boolean => {
  const target = dtypeOf('canCast', to);
  return promoted(dtypeOf('canCast', from), target) === target;
};

/** Whether a dtype or family lies in another; a dtype lies in itself, not in larger ones. */
export function issubdtype(a: Dtype | DtypeCategory, b: Dtype | DtypeCategory): boolean {
  for (const name of [a, b]) {
    if (!isDtype(name) && !isIn(parents, name))
      throw unknownName('issubdtype', name, [...Object.keys(families), ...Object.keys(parents)]);
  }
  if (a === b) return true;
  let family: DtypeCategory | undefined = isDtype(a) ? families[a][0] : a;
  while (family !== undefined && family !== b) family = parents[family];
  return family !== undefined;
}

/** Whether a dtype is one of these, or of one of these kinds. */
export function isdtype(dtype: Dtype, kind: Dtype | DtypeKind | readonly (Dtype | DtypeKind)[]): boolean {
  const own = dtypeOf('isdtype', dtype);
  return (Array.isArray(list(kind)) ? (kind as readonly (Dtype | DtypeKind)[]) : [kind as Dtype | DtypeKind]).some(
    (one) => {
      if (isDtype(one)) return one === own;
      if (!isIn(kinds, one)) throw unknownName('isdtype', one, [...Object.keys(kinds), ...Object.keys(families)]);
      return kinds[one].some((family) => issubdtype(own, family));
    },
  );
}

/** What a floating dtype can hold. */
export interface FloatInfo {
  /** float32 for complex64, whose parts are that. */
  dtype: Dtype;
  bits: number;
  /** The distance from 1 to the next larger number. */
  eps: number;
  min: number;
  max: number;
  /** The smallest positive number of full precision. */
  smallestNormal: number;
}

/** Bits of the fraction, and the largest exponent. */
const layouts: Partial<Record<Dtype, readonly [number, number]>> = {
  float16: [10, 15],
  bfloat16: [7, 127],
  float32: [23, 127],
  float64: [52, 1023],
};

/** What a floating or complex dtype can hold. */
export function finfo(dtype: Dtype): FloatInfo {
  const given = dtypeOf('finfo', dtype);
  const own = given === 'complex64' ? 'float32' : given;
  const layout = layouts[own];
  if (layout === undefined)
    throw new MlxError('ERR_MLX_DTYPE', `mx.finfo(): ${own} is neither floating nor complex; see mx.iinfo`);
  const [fraction, largest] = layout;
  const max = (2 - 2 ** -fraction) * 2 ** largest;
  return {
    dtype: own,
    bits: families[own][1],
    eps: 2 ** -fraction,
    min: -max,
    max,
    smallestNormal: 2 ** (1 - largest),
  };
}

/** What a dtype of whole numbers can hold: bigints for 64 bits. */
export interface IntegerInfo {
  dtype: Dtype;
  bits: number;
  min: number | bigint;
  max: number | bigint;
}

/** What a dtype of whole numbers can hold. */
export function iinfo(dtype: Dtype): IntegerInfo {
  const own = dtypeOf('iinfo', dtype);
  const [family, bits] = families[own];
  if (family !== 'signedinteger' && family !== 'unsignedinteger')
    throw new MlxError('ERR_MLX_DTYPE', `mx.iinfo(): ${own} is no dtype of whole numbers; see mx.finfo`);
  const [min, max] =
    family === 'signedinteger'
      ? [-(2n ** BigInt(bits - 1)), 2n ** BigInt(bits - 1) - 1n]
      : [0n, 2n ** BigInt(bits) - 1n];
  return bits === 64 ? { dtype: own, bits, min, max } : { dtype: own, bits, min: Number(min), max: Number(max) };
}
