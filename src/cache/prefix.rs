//! Caches of prompts by their tokens, so that a prompt that begins like an earlier one is not read again.

use std::collections::HashMap;

use super::{Cache, CacheOptions};
use crate::mlx::{Error, Result};

/// What an entry ends with. Entries of the first kind are the first to go, as long as they are as many as those of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segment {
    #[default]
    Assistant,
    User,
    System,
}

impl Segment {
    const ALL: [Segment; 3] = [Segment::Assistant, Segment::User, Segment::System];
}

#[derive(Clone, Debug, PartialEq)]
pub struct PrefixOptions {
    pub max_entries: usize,
    pub max_bytes: usize,
}

impl Default for PrefixOptions {
    fn default() -> Self {
        PrefixOptions { max_entries: 10, max_bytes: usize::MAX }
    }
}

/// A hit: caches that hold the first `cached` tokens of what was asked for.
pub struct PrefixHit {
    pub caches: Vec<Cache>,
    pub cached: usize,
}

/// Whose caches they are: those of other weights, or of another kind, are never handed out. The default is nobody in particular.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `Model::version`
    pub version: u64,
    pub options: CacheOptions,
}

struct Entry {
    owner: Owner,
    tokens: Vec<i32>,
    caches: Vec<Cache>,
    nbytes: usize,
    segment: Segment,
    /// When it was last put in or asked for.
    used: u64,
}

impl Entry {
    fn is_trimmable(&self) -> bool {
        self.caches.iter().all(Cache::is_trimmable)
    }
}

/// A trie whose edges hold runs of tokens.
#[derive(Default)]
struct Node {
    edge: Vec<i32>,
    entry: Option<u64>,
    children: HashMap<i32, Node>,
}

/// What a walk along some tokens meets.
struct Found {
    /// Entries that are a prefix of the tokens, by length; an exact one is the last.
    prefixes: Vec<(usize, u64)>,
    /// How far the tokens go along with what is stored.
    common: usize,
    /// The shortest entry that begins with these first `common` tokens and goes on.
    longer: Option<u64>,
}

fn common_length(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Node {
    fn insert(&mut self, tokens: &[i32], id: u64) {
        let Some(&first) = tokens.first() else {
            self.entry = Some(id);
            return;
        };
        let Some(child) = self.children.get_mut(&first) else {
            self.children.insert(first, Node { edge: tokens.to_vec(), entry: Some(id), children: HashMap::new() });
            return;
        };
        let common = common_length(&child.edge, tokens);
        if common < child.edge.len() {
            let rest = child.edge.split_off(common);
            let below = Node { edge: rest, entry: child.entry.take(), children: std::mem::take(&mut child.children) };
            child.children.insert(below.edge[0], below);
        }
        child.insert(&tokens[common..], id);
    }

    /// Whether nothing is left below and here.
    fn remove(&mut self, tokens: &[i32]) -> bool {
        match tokens.first() {
            None => self.entry = None,
            Some(first) => {
                if let Some(child) = self.children.get_mut(first)
                    && tokens.starts_with(&child.edge)
                    && child.remove(&tokens[child.edge.len()..])
                {
                    self.children.remove(first);
                }
            }
        }
        if self.entry.is_none() && self.children.len() == 1 && !self.edge.is_empty() {
            let below = self.children.drain().next();
            if let Some((_, below)) = below {
                self.edge.extend(below.edge);
                self.entry = below.entry;
                self.children = below.children;
            }
        }
        self.entry.is_none() && self.children.is_empty()
    }

    fn find(&self, tokens: &[i32]) -> Found {
        let (mut node, mut at) = (self, 0);
        let mut prefixes = Vec::new();
        loop {
            if let Some(id) = node.entry {
                prefixes.push((at, id));
            }
            let Some(child) = tokens.get(at).and_then(|token| node.children.get(token)) else {
                let longer = node.children.values().filter_map(Node::shortest).min_by_key(|(length, _)| *length);
                return Found { prefixes, common: at, longer: longer.map(|(_, id)| id) };
            };
            let common = common_length(&child.edge, &tokens[at..]);
            at += common;
            if common < child.edge.len() {
                return Found { prefixes, common: at, longer: child.shortest().map(|(_, id)| id) };
            }
            node = child;
        }
    }

    /// The entry with the fewest tokens here and below.
    fn shortest(&self) -> Option<(usize, u64)> {
        let below = || self.children.values().filter_map(Node::shortest).min_by_key(|(length, _)| *length);
        self.entry.map(|id| (0, id)).or_else(below).map(|(length, id)| (length + self.edge.len(), id))
    }
}

/// Caches by the tokens that they have read, of each owner apart. What was used longest ago goes first, to keep to a number of entries
/// and of bytes in all.
///
/// A hit shares the buffers with the entry: nothing is copied until the hit is appended to, which then copies them once, since
/// somebody else holds them; after that it appends in place again.
pub struct PrefixCache {
    options: PrefixOptions,
    roots: HashMap<Owner, Node>,
    entries: HashMap<u64, Entry>,
    /// Counts uses, and names entries.
    clock: u64,
    nbytes: usize,
}

impl PrefixCache {
    pub fn new(options: PrefixOptions) -> Self {
        PrefixCache { options, roots: HashMap::new(), entries: HashMap::new(), clock: 0, nbytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the buffers of all entries; those that entries share count for each.
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// `fetch_of` nobody in particular.
    pub fn fetch(&mut self, tokens: &[i32], leave: usize) -> Option<PrefixHit> {
        self.fetch_of(&Owner::default(), tokens, leave)
    }

    /// The owner's caches that hold most of the beginning of `tokens`, but not the last `leave` of them, which the model is to read: the
    /// entry of just these tokens, one that goes on otherwise (trimmed, where that is possible), or one of fewer.
    pub fn fetch_of(&mut self, owner: &Owner, tokens: &[i32], leave: usize) -> Option<PrefixHit> {
        let most = tokens.len().saturating_sub(leave);
        let found = self.roots.get(owner)?.find(tokens);
        let whole = found.prefixes.iter().rev().find(|(length, _)| *length > 0 && *length <= most).copied();
        // Entries that hold more than is wanted: the exact one where tokens are left, and those that go on.
        let cut = found.common.min(most);
        let exact = found.prefixes.last().filter(|(length, _)| *length > cut).map(|(_, id)| *id);
        let longer = [exact, found.longer].into_iter().flatten().find(|id| self.entries[id].is_trimmable());
        let (id, cached) = match (whole, longer) {
            (Some((length, id)), longer) if longer.is_none() || length >= cut => (id, length),
            (_, Some(id)) if cut > 0 => (id, cut),
            _ => return None,
        };
        self.clock += 1;
        let entry = self.entries.get_mut(&id)?;
        entry.used = self.clock;
        let mut caches = entry.caches.clone();
        let extra = i32::try_from(entry.tokens.len() - cached).unwrap_or(i32::MAX);
        if extra > 0 && caches.iter_mut().any(|cache| cache.trim(extra) != extra) {
            return None;
        }
        Some(PrefixHit { caches, cached })
    }

    /// `insert_of` nobody in particular.
    pub fn insert(&mut self, tokens: &[i32], caches: Vec<Cache>, segment: Segment) -> Result<bool> {
        self.insert_of(&Owner::default(), tokens, caches, segment)
    }

    /// Puts in the caches of a model that has read just `tokens`. They replace an entry of the same tokens and, where they can be
    /// trimmed, those of fewer. Returns whether they were kept: not if they alone are more bytes than allowed.
    pub fn insert_of(&mut self, owner: &Owner, tokens: &[i32], caches: Vec<Cache>, segment: Segment) -> Result<bool> {
        if tokens.is_empty() || caches.is_empty() {
            return Err(Error::Argument("a prefix has at least one token and a cache per layer".into()));
        }
        if let Some(cache) =
            caches.iter().find(|cache| cache.offset() != tokens.len() as i32 || cache.rows().is_some_and(|rows| rows != 1))
        {
            return Err(Error::Argument(format!(
                "a {} of {:?} rows that has read {} tokens does not belong to a prefix of {}",
                cache.kind(),
                cache.rows(),
                cache.offset(),
                tokens.len()
            )));
        }
        let nbytes = caches.iter().map(Cache::nbytes).sum();
        if nbytes > self.options.max_bytes || self.options.max_entries == 0 {
            return Ok(false);
        }
        self.clock += 1;
        let entry = Entry { owner: *owner, tokens: tokens.to_vec(), caches, nbytes, segment, used: self.clock };
        let known = self.roots.get(owner).map_or_else(Vec::new, |root| root.find(tokens).prefixes);
        let replaced: Vec<u64> =
            (known.into_iter()).filter(|(length, _)| *length == tokens.len() || entry.is_trimmable()).map(|(_, id)| id).collect();
        replaced.into_iter().for_each(|id| self.remove(id));
        self.roots.entry(*owner).or_default().insert(tokens, self.clock);
        self.entries.insert(self.clock, entry);
        self.nbytes += nbytes;
        self.trim_to(self.options.max_entries, self.options.max_bytes);
        Ok(true)
    }

    /// Drops entries, those used longest ago first, until no more are left than said.
    pub fn trim_to(&mut self, entries: usize, bytes: usize) {
        while (self.entries.len() > entries || self.nbytes > bytes)
            && let Some(id) = self.oldest()
        {
            self.remove(id);
        }
    }

    pub fn clear(&mut self) {
        self.trim_to(0, 0);
    }

    /// Drops what an owner has.
    pub fn forget(&mut self, owner: &Owner) {
        let ids: Vec<u64> = self.entries.iter().filter(|(_, entry)| entry.owner == *owner).map(|(&id, _)| id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// The entry to drop next.
    fn oldest(&self) -> Option<u64> {
        let count = |segment: Segment| self.entries.values().filter(|entry| entry.segment == segment).count();
        let counts = Segment::ALL.map(count);
        let pick = (0..2).find(|&kind| counts[kind] > 0 && counts[kind] >= counts[kind + 1]);
        let pick = pick.or_else(|| (0..3).rev().find(|&kind| counts[kind] > 0))?;
        let of_kind = self.entries.iter().filter(|(_, entry)| entry.segment == Segment::ALL[pick]);
        of_kind.min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id)
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            if self.roots.get_mut(&entry.owner).is_some_and(|root| root.remove(&entry.tokens)) {
                self.roots.remove(&entry.owner);
            }
            self.nbytes -= entry.nbytes;
        }
    }
}
