/**
 * The functions of Python's `mlx.core`, under its names in camelCase and with the same numbers: `mx.add(a, b)` is `a.add(b)`.
 *
 * Where an array is expected, numbers, lists and typed arrays will do. Operations are lazy: `mx.eval`, or reading values, runs them.
 *
 * @module mx
 */
export type { Dtype } from './array/core.js';
export * from './array/constants.js';
export * from './array/dtypes.js';
export { array } from './array/create.js';
export { eval, evalAsync } from './evaluate.js';
export { index, indexUpdate } from './array/indexing.js';
export { dispose, keep, tidy } from './array/tidy.js';
export * from './device.js';
export { clearCache, memoryStats, resetPeakMemory, setCacheLimit, setMemoryLimit, setWiredLimit } from './memory.js';
export * from './generated/ops.js';
export {
  load,
  loadGguf,
  loadSafetensors,
  loadSafetensorsSync,
  loadSync,
  save,
  saveGguf,
  saveSafetensors,
  saveSafetensorsSync,
  saveSync,
  savez,
  savezCompressed,
  savezCompressedSync,
  savezSync,
} from './io.js';
export type {
  FileFormat,
  FileProgress,
  FileWorkOptions,
  GgufValue,
  Loaded,
  LoadedBy,
  LoadFileOptions,
  NamedArrays,
  SaveGgufOptions,
  SafetensorsOf,
  SaveSafetensorsOptions,
  WithMetadata,
} from './io.js';
export * from './array/aliases.js';
export * as fast from './generated/fast.js';
export * as fft from './generated/fft.js';
export * as linalg from './generated/linalg.js';
export * as random from './random.js';
export {
  checkpoint,
  compile,
  customVjp,
  disableCompile,
  enableCompile,
  grad,
  jvp,
  valueAndGrad,
  vjp,
  vmap,
} from './transforms.js';
export type { Argnums, Axes, CompileOptions, CustomGradient, VmapOptions } from './transforms.js';
export type { ListFunction } from './transforms.js';
export type { MapTree, Tree } from './tree.js';
export { treeFlatten, treeLeaves, treeMap, treeMapWithPath, treeMerge, treeReduce, treeUnflatten } from './tree.js';
