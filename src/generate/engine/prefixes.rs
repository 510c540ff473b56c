//! The cache of prefixes that answers begin from and go into.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::{Cache, CacheOptions, Owner, PrefixCache, PrefixHit, Segment};
use crate::mlx::{Result, async_eval};

/// Of those whose weights are in use; nothing where there is none.
pub(in crate::generate) struct Prefixes {
    cache: Option<Arc<Mutex<PrefixCache>>>,
    /// Whose prefixes these are: the weights of the step under way.
    owner: Owner,
}

impl Prefixes {
    pub fn new(cache: Option<Arc<Mutex<PrefixCache>>>, options: CacheOptions) -> Prefixes {
        Prefixes { cache, owner: Owner { version: 0, options } }
    }

    pub fn is_some(&self) -> bool {
        self.cache.is_some()
    }

    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Which weights the next step uses (`Model::version`). What others have computed is not mixed with what these compute.
    pub fn set_version(&mut self, version: u64) {
        if version == self.owner.version {
            return;
        }
        let old = self.owner;
        self.owner.version = version;
        self.with(|prefixes| prefixes.forget(&old));
    }

    /// What is known of the beginning of a prompt, but for its last token, which is read in any case: its logits are wanted.
    pub fn fetch(&self, prompt: &[i32]) -> Option<PrefixHit> {
        self.with(|prefixes| prefixes.fetch_of(&self.owner, prompt, 1)).flatten()
    }

    /// Puts an entry in, unless the weights have changed while it came about or it cannot be computed.
    pub fn remember(&self, owner: &Owner, tokens: &[i32], caches: Vec<Cache>, segment: Segment) {
        if self.is_some() && *owner == self.owner && started(&caches).is_ok() {
            // Refused only for what is not an entry.
            self.with(|prefixes| prefixes.insert_of(owner, tokens, caches, segment).is_ok());
        }
    }

    /// Entries, and their bytes.
    pub fn sizes(&self) -> (usize, usize) {
        self.with(|prefixes| (prefixes.len(), prefixes.nbytes())).unwrap_or_default()
    }

    fn with<T>(&self, work: impl FnOnce(&mut PrefixCache) -> T) -> Option<T> {
        let prefixes = self.cache.as_ref()?;
        Some(work(&mut prefixes.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Starts the computation of caches, so that they hold nothing but themselves.
pub(super) fn started(caches: &[Cache]) -> Result<()> {
    async_eval(&caches.iter().flat_map(Cache::arrays).collect::<Vec<_>>())
}
