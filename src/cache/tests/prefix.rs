//! The cache of prefixes: what it finds, what it drops, and that a hit copies nothing.

use std::collections::HashMap;

use crate::cache::{Cache, KvCache, PrefixCache, PrefixOptions, RotatingKvCache, Segment};
use crate::mlx::Array;

fn slots(tokens: &[i32]) -> Array {
    let values: Vec<f32> = tokens.iter().map(|&token| token as f32).collect();
    Array::from_slice(&values, &[1, 1, tokens.len() as i32, 1]).unwrap()
}

/// One layer's cache whose keys are the tokens.
fn read(tokens: &[i32]) -> Vec<Cache> {
    let mut cache = KvCache::new();
    cache.update_and_fetch(&slots(tokens), &slots(tokens)).unwrap();
    vec![cache.into()]
}

fn keys(cache: &Cache) -> Vec<i32> {
    cache.state().unwrap().first().map_or(Vec::new(), |keys| keys.to_i32().unwrap())
}

fn with(entries: &[&[i32]]) -> PrefixCache {
    let mut prefixes = PrefixCache::new(PrefixOptions::default());
    for tokens in entries {
        assert!(prefixes.insert(tokens, read(tokens), Segment::User).unwrap());
    }
    prefixes
}

#[test]
fn the_longest_known_beginning_is_found() {
    let mut prefixes = with(&[&[1, 2, 3, 4, 5], &[1, 2, 9], &[7]]);
    let mut cached = |tokens: &[i32], leave: usize| {
        let hit = prefixes.fetch(tokens, leave)?;
        assert_eq!(keys(&hit.caches[0]), &tokens[..hit.cached], "{tokens:?}");
        assert_eq!(hit.caches[0].offset() as usize, hit.cached);
        Some(hit.cached)
    };
    assert_eq!(cached(&[1, 2, 3, 4, 5], 0), Some(5), "exact");
    assert_eq!(cached(&[1, 2, 3, 4, 5], 1), Some(4), "exact, one left to read");
    assert_eq!(cached(&[1, 2, 3, 4, 5, 6], 1), Some(5), "one of fewer");
    assert_eq!(cached(&[1, 2, 3], 1), Some(2), "one that goes on, trimmed");
    assert_eq!(cached(&[1, 2, 3, 8, 8], 1), Some(3), "one that goes on otherwise");
    assert_eq!(cached(&[1, 2, 9, 9], 1), Some(3));
    assert_eq!(cached(&[7, 1], 1), Some(1), "of one token");
    assert_eq!(cached(&[7], 1), None, "nothing is left of it");
    assert_eq!(cached(&[5, 5], 1), None);
    assert_eq!(cached(&[], 1), None);
}

#[test]
fn caches_that_cannot_be_trimmed_serve_whole() {
    let mut prefixes = PrefixCache::new(PrefixOptions::default());
    let mut rotating = RotatingKvCache::new(3, 0).unwrap();
    rotating.update(&slots(&[1, 2, 3, 4]), &slots(&[1, 2, 3, 4])).unwrap();
    prefixes.insert(&[1, 2, 3, 4], vec![rotating.into()], Segment::User).unwrap();
    prefixes.insert(&[1, 2], read(&[1, 2]), Segment::User).unwrap();
    assert_eq!(prefixes.len(), 2, "one that cannot be trimmed does not replace its beginnings");
    assert_eq!(prefixes.fetch(&[1, 2, 3, 4, 5], 1).unwrap().cached, 4);
    assert_eq!(prefixes.fetch(&[1, 2, 3, 4], 1).unwrap().cached, 2);
    assert_eq!(prefixes.fetch(&[1, 2, 3, 5], 1).unwrap().cached, 2);
    prefixes.insert(&[1, 2, 7], read(&[1, 2, 7]), Segment::User).unwrap();
    assert_eq!(prefixes.len(), 2, "one that can be trimmed does");
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let mut prefixes = PrefixCache::new(PrefixOptions { max_entries: 2, ..PrefixOptions::default() });
    prefixes.insert(&[1], read(&[1]), Segment::User).unwrap();
    prefixes.insert(&[2], read(&[2]), Segment::User).unwrap();
    assert!(prefixes.fetch(&[1, 5], 1).is_some());
    prefixes.insert(&[3], read(&[3]), Segment::User).unwrap();
    assert!(prefixes.fetch(&[1, 5], 1).is_some() && prefixes.fetch(&[2, 5], 1).is_none(), "a use counts");
    // Answers go before questions while they are as many, questions before system prompts.
    let mut prefixes = PrefixCache::new(PrefixOptions { max_entries: 2, ..PrefixOptions::default() });
    prefixes.insert(&[1], read(&[1]), Segment::System).unwrap();
    prefixes.insert(&[2], read(&[2]), Segment::User).unwrap();
    prefixes.insert(&[3], read(&[3]), Segment::Assistant).unwrap();
    assert!(prefixes.fetch(&[3, 5], 1).is_none() && prefixes.fetch(&[1, 5], 1).is_some());
    prefixes.insert(&[4], read(&[4]), Segment::User).unwrap();
    assert!(prefixes.fetch(&[2, 5], 1).is_none() && prefixes.fetch(&[1, 5], 1).is_some());
}

#[test]
fn bytes_are_bounded() {
    let one = read(&[1])[0].nbytes();
    let mut prefixes = PrefixCache::new(PrefixOptions { max_bytes: 2 * one, ..PrefixOptions::default() });
    for token in 1..=3 {
        assert!(prefixes.insert(&[token], read(&[token]), Segment::User).unwrap());
    }
    assert_eq!((prefixes.len(), prefixes.nbytes()), (2, 2 * one));
    let long: Vec<i32> = (0..600).collect();
    assert!(!prefixes.insert(&long, read(&long), Segment::User).unwrap(), "more than all");
    assert_eq!(prefixes.len(), 2);
    prefixes.insert(&[3], read(&[3]), Segment::User).unwrap();
    assert_eq!((prefixes.len(), prefixes.nbytes()), (2, 2 * one), "replaced");
    prefixes.clear();
    assert!(prefixes.is_empty() && prefixes.nbytes() == 0);
    assert!(prefixes.insert(&[1, 2], read(&[1]), Segment::User).is_err(), "caches of other tokens");
}

#[test]
fn a_hit_shares_the_buffers_and_leaves_the_entry_alone() {
    let mut prefixes = with(&[&[1, 2, 3]]);
    let mut first = prefixes.fetch(&[1, 2, 3, 4], 1).unwrap().caches.remove(0);
    let mut second = prefixes.fetch(&[1, 2, 9], 1).unwrap().caches.remove(0);
    first.update(&slots(&[4]), &slots(&[4])).unwrap();
    second.update(&slots(&[9]), &slots(&[9])).unwrap();
    first.update(&slots(&[5]), &slots(&[5])).unwrap();
    let entry = prefixes.fetch(&[1, 2, 3, 6], 1).unwrap().caches.remove(0);
    assert_eq!((keys(&first), keys(&second), keys(&entry)), (vec![1, 2, 3, 4, 5], vec![1, 2, 9], vec![1, 2, 3]));
}

#[test]
fn random_prefixes_agree_with_a_list() {
    let mut state = 7u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % bound
    };
    let mut prefixes = PrefixCache::new(PrefixOptions { max_entries: 1000, ..PrefixOptions::default() });
    let mut list: HashMap<Vec<i32>, ()> = HashMap::new();
    for _ in 0..400 {
        let tokens: Vec<i32> = (0..1 + next(6)).map(|_| next(3) as i32).collect();
        if next(3) == 0 {
            prefixes.insert(&tokens, read(&tokens), Segment::User).unwrap();
            list.retain(|held, ()| !tokens.starts_with(held));
            list.insert(tokens.clone(), ());
            assert_eq!(prefixes.len(), list.len());
        }
        let most = tokens.len() - 1;
        let best =
            list.keys().map(|held| held.iter().zip(&tokens[..most]).take_while(|(a, b)| a == b).count()).max().unwrap_or(0);
        let hit = prefixes.fetch(&tokens, 1);
        assert_eq!(hit.as_ref().map_or(0, |hit| hit.cached), best, "{tokens:?}");
        if let Some(hit) = hit {
            assert_eq!(keys(&hit.caches[0]), &tokens[..best]);
        }
    }
    assert!(list.len() > 20);
}
