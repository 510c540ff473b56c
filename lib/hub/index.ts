/** Models of the Hugging Face hub, in the cache that Python's huggingface_hub uses too. */
export type { DownloadProgress } from './progress.js';
export { planPrune, planRemoval, removeFromCache, scanCacheDir } from './scan.js';
export type { CachedRepo, CachedRevision, CacheInfo, Removal } from './scan.js';
export { findCached, snapshotDownload } from './snapshot.js';
export type { HubOptions, SnapshotDownloadOptions } from './snapshot.js';
