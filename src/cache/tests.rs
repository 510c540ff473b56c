//! The plain cache: what it holds, refuses and costs. Recorded scripts of every class are in `scripts`.

mod model;
mod prefix;
mod scripts;

use super::KvCache;
use crate::mlx::{Array, Dtype, eval, memory, ops};
use crate::testing::{assert_close, on_gpu};

fn ramp(rows: i32, slots: i32, from: f64) -> Array {
    let count = (rows * slots * 2) as f64;
    ops::arange(from, from + count, 1.0, Dtype::Float32).unwrap().reshape(&[rows, 1, slots, 2]).unwrap()
}

#[test]
fn rows_and_slots_come_and_go() {
    let mut cache = KvCache::new();
    assert!(cache.is_empty() && cache.nbytes() == 0);
    let first = ramp(2, 300, 0.0);
    cache.update_and_fetch(&first, &first).unwrap();
    cache.repeat_rows(2).unwrap();
    cache.filter(&[3, 0]).unwrap();
    assert_eq!(cache.len(), 300);
    let second = ramp(2, 260, 5000.0);
    let (keys, values) = cache.update_and_fetch(&second, &second).unwrap();
    let old = first.take(&Array::from_slice(&[1, 0], &[2]).unwrap(), 0).unwrap();
    let want = ops::concatenate(&[old, second], 2).unwrap();
    assert_close(&keys, &want, 0.0, 0.0, "keys");
    assert_close(&values, &want, 0.0, 0.0, "values");
    assert_eq!(cache.trim(1000), 560);
    let other = ramp(5, 1, 0.0);
    assert_close(&cache.update_and_fetch(&other, &other).unwrap().0, &other, 0.0, 0.0, "an emptied cache takes another batch");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut cache = KvCache::new();
    let held = ramp(2, 3, 0.0);
    cache.update_and_fetch(&held, &held).unwrap();
    let half = held.astype(Dtype::Float16).unwrap();
    let other_heads = held.reshape(&[2, 3, 1, 2]).unwrap();
    for (keys, values) in
        [(&ramp(3, 1, 0.0), &ramp(3, 1, 0.0)), (&held, &ramp(2, 2, 0.0)), (&half, &half), (&other_heads, &other_heads)]
    {
        assert_eq!(cache.update_and_fetch(keys, values).unwrap_err().code(), "ERR_MLX_SHAPE");
    }
    assert!(
        cache.filter(&[2]).is_err()
            && cache.filter(&[-1]).is_err()
            && cache.filter(&[]).is_err()
            && cache.repeat_rows(0).is_err()
    );
    assert_eq!(cache.len(), 3);
    let next = ramp(2, 1, 50.0);
    let want = ops::concatenate(&[&held, &next], 2).unwrap();
    assert_close(&cache.update_and_fetch(&next, &next).unwrap().0, &want, 0.0, 0.0, "still as before");
}

#[test]
fn an_exact_cache_holds_what_was_appended_and_no_more() {
    let mut cache = KvCache::exact();
    let (first, second) = (ramp(2, 3, 0.0), ramp(2, 2, 50.0));
    cache.update_and_fetch(&first, &first).unwrap();
    cache.trim(1);
    let (keys, values) = cache.update_and_fetch(&second, &second).unwrap();
    let want = ops::concatenate(&[&first.slice_axis(2, 0, 2).unwrap(), &second], 2).unwrap();
    assert_close(&keys, &want, 0.0, 0.0, "keys");
    assert_close(&values, &want, 0.0, 0.0, "values");
    assert_eq!((cache.len(), cache.nbytes()), (4, 2 * want.nbytes()));
}

#[test]
fn appending_writes_in_place() {
    // MLX's CUDA backend copies the buffer for each update, whoever holds it.
    if on_gpu() {
        return;
    }
    crate::runtime::block_on_owner(|| {
        let mut cache = KvCache::new();
        let prompt = ops::ones(&[4, 8, 2000, 64], Dtype::Float32)?;
        cache.update_and_fetch(&prompt, &prompt)?;
        eval(&cache.arrays())?;
        drop(prompt);
        let one = ops::ones(&[4, 8, 1, 64], Dtype::Float32)?;
        one.eval()?;
        // What attention does: something small computed from the filled slots, evaluated with the buffers.
        let step = |cache: &mut KvCache| {
            let before = memory::stats()?.active;
            let (keys, values) = cache.update_and_fetch(&one, &one)?;
            let seen = keys.max(&[2], false)?.add(&values.max(&[2], false)?)?;
            drop((keys, values));
            memory::reset_peak()?;
            seen.eval()?;
            Ok(memory::stats()?.peak.saturating_sub(before))
        };
        for _ in 0..20 {
            let extra = step(&mut cache)?;
            assert!(extra < cache.nbytes() / 4, "{extra} bytes beside a cache of {}", cache.nbytes());
        }
        let held: Vec<Array> = cache.arrays().into_iter().cloned().collect();
        assert!(step(&mut cache)? >= cache.nbytes(), "a copy when somebody else holds the buffers, which this test must see");
        drop(held);
        Ok(())
    })
    .unwrap();
}
