/** What attention layers remember of the tokens they have read. */
export { BatchCache, LayerCache } from './base.js';
export type { AttendOptions, CacheMask, MakeMaskOptions, QuantizedArrays, QuantizeOptions } from './base.js';
export { BatchKVCache, BatchRotatingKVCache, KVCache, QuantizedKVCache, RotatingKVCache } from './kinds.js';
export type { RotatingOptions } from './kinds.js';
export {
  canTrimPromptCache,
  loadPromptCache,
  makePromptCache,
  PrefixCache,
  savePromptCache,
  trimPromptCache,
} from './prompt.js';
export type {
  KvCacheOptions,
  LoadedPromptCache,
  ModelCache,
  PrefixCacheOptions,
  PrefixHit,
  PromptCacheOptions,
  SavePromptCacheOptions,
} from './prompt.js';
