/** Parameters from and to files, under the names that Python gives them. */
import { MxArray } from '../array/core.js';
import { MlxError } from '../errors.js';
import { loadSync, saveSafetensorsSync, savezSync } from '../io.js';
import { isContainer, membersOf, Module, setMember } from './module.js';

/** Arrays by name: pairs, a Map or an object. */
export type WeightEntries = Iterable<readonly [string, MxArray]> | { readonly [name: string]: MxArray };

/** Where a parameter lies. */
interface Place {
  readonly branch: object;
  readonly name: string;
  readonly array: MxArray;
}

/** `selfAttn.qProj.weight` as Python writes it: `self_attn.q_proj.weight`. */
export function pythonName(path: string): string {
  return path.replace(/([a-z0-9])([A-Z])/g, (_, before: string, letter: string) => `${before}_${letter.toLowerCase()}`);
}

function placesOf(module: Module): Map<string, Place> {
  const places = new Map<string, Place>();
  const visit = (branch: object, prefix: string): void => {
    for (const [name, value] of membersOf(branch)) {
      if (branch instanceof Module && name.startsWith('_')) continue;
      const path = prefix === '' ? name : `${prefix}.${name}`;
      if (value instanceof MxArray) places.set(path, { branch, name, array: value });
      else if (value instanceof Module || isContainer(value)) visit(value, path);
    }
  };
  visit(module, '');
  return places;
}

/** Paths by what Python calls them; two of one name are an error. */
function pythonNames(paths: Iterable<string>): Map<string, string> {
  const names = new Map<string, string>();
  for (const path of paths) {
    const name = pythonName(path);
    const other = names.get(name);
    if (other !== undefined) {
      throw new MlxError(
        'ERR_MLX_CONFIG',
        `parameters '${other}' and '${path}' are both '${name}' in a file; rename one of the properties`,
      );
    }
    names.set(name, path);
  }
  return names;
}

function entriesOf(weights: string | WeightEntries): [string, MxArray][] {
  if (typeof weights === 'string') {
    if (!/\.(safetensors|npz)$/.test(weights)) {
      throw new MlxError('ERR_MLX_LOAD', `weights are read from .safetensors and .npz files, not from '${weights}'`);
    }
    return Object.entries(loadSync(weights as `${string}.safetensors`));
  }
  if (typeof weights !== 'object' || weights === null) {
    throw new MlxError('ERR_MLX_ARGUMENT', `weights are a path or names with arrays, not ${String(weights)}`);
  }
  return Symbol.iterator in weights
    ? [...weights].map(([name, array]) => [name, array])
    : Object.entries(weights as { [name: string]: MxArray });
}

const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`;

const listed = (names: readonly string[]): string =>
  names.length > 12 ? `${names.slice(0, 12).join(', ')} and ${names.length - 12} more` : names.join(', ');

/** @internal */
export function loadInto(module: Module, weights: string | WeightEntries, strict: boolean): void {
  const places = placesOf(module);
  const aliases = pythonNames(places.keys());
  const where = `${module.constructor.name}.loadWeights()`;
  const problems: string[] = [];
  const unknown: string[] = [];
  const given = new Map<string, MxArray>();
  for (const [name, array] of entriesOf(weights)) {
    const path = places.has(name) ? name : aliases.get(name);
    if (path === undefined) {
      unknown.push(name);
      continue;
    }
    if (!(array instanceof MxArray)) throw new MlxError('ERR_MLX_ARGUMENT', `${where}: '${name}' is no array`);
    const wanted = places.get(path)!.array.shape;
    const found = array.shape;
    if (found.length !== wanted.length || found.some((size, axis) => size !== wanted[axis])) {
      problems.push(`'${name}' has shape ${shapeText(found)}, the parameter ${shapeText(wanted)}`);
    }
    given.set(path, array);
  }
  if (strict) {
    const missing = [...places.keys()].filter((path) => !given.has(path));
    if (unknown.length > 0) problems.push(`the module has no parameters ${listed(unknown.toSorted())}`);
    if (missing.length > 0) problems.push(`nothing is given for ${listed(missing.toSorted())}`);
    if (problems.length > 0) throw new MlxError('ERR_MLX_LOAD', `${where}: ${problems.join('; ')}`);
  }
  for (const [path, array] of given) {
    const { branch, name } = places.get(path)!;
    setMember(branch, name, array);
  }
}

/** @internal */
export function saveFrom(module: Module, path: string): void {
  const write = path.endsWith('.safetensors') ? saveSafetensorsSync : path.endsWith('.npz') ? savezSync : undefined;
  if (write === undefined) {
    throw new MlxError('ERR_MLX_SAVE', `weights are written to .safetensors and .npz files, not to '${path}'`);
  }
  const places = placesOf(module);
  const names = pythonNames(places.keys());
  write(path, Object.fromEntries([...names].map(([name, own]) => [name, places.get(own)!.array])));
}
