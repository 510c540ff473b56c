//! Caches in a model: chunks equal single tokens, rows of a batch equal rows alone, whatever the cache.

use serde_json::json;

use crate::cache::{BatchKvCache, Cache, CacheOptions, Fetched, KvCache, Visible, attend, files};
use crate::mlx::fast::Mask;
use crate::mlx::ops::{self, Quantization, QuantizationMode};
use crate::mlx::{Array, Dtype, eval, memory, random};
use crate::models::{Forward, Model, init};
use crate::testing::{assert_close, on_gpu};

/// Heads of 32 features, so that they can be quantised; weights large enough that attention is not uniform.
fn model() -> Model {
    let config = json!({
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 96, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        "max_position_embeddings": 512, "rope_theta": 10000.0, "initializer_range": 0.2, "eos_token_id": 1
    });
    init(config, "test".as_ref(), Dtype::Float32, 3).unwrap()
}

fn tokens(count: i32, seed: i32) -> Vec<i32> {
    (0..count).map(|i| (i * i * 7 + i * 13 + seed * 29) % 96).collect()
}

fn ids(rows: &[&[i32]]) -> Array {
    Array::from_slice(&rows.concat(), &[rows.len() as i32, rows[0].len() as i32]).unwrap()
}

/// Logits `[B, T, V]`.
fn feed(model: &Model, ids: &Array, caches: &mut [Cache]) -> Array {
    let logits = model.net.logits(&model.net.hidden(Forward::cached(ids, caches)).unwrap()).unwrap();
    logits.eval().unwrap();
    logits
}

/// Logits of a row read in pieces.
fn in_pieces(model: &Model, row: &[i32], pieces: &[usize], options: &CacheOptions) -> Array {
    let mut caches = model.net.new_caches_with(options).unwrap();
    let (mut at, mut logits) = (0, Vec::new());
    for &piece in pieces.iter().cycle() {
        let end = (at + piece).min(row.len());
        logits.push(feed(model, &ids(&[&row[at..end]]), &mut caches));
        at = end;
        if at == row.len() {
            break;
        }
    }
    ops::concatenate(&logits, 1).unwrap()
}

fn bounded(max_size: i32, keep: i32) -> CacheOptions {
    CacheOptions { max_kv_size: Some(max_size), keep: Some(keep), ..CacheOptions::default() }
}

fn quantized(bits: i32, start: i32) -> CacheOptions {
    CacheOptions { kv_bits: Some(bits), kv_group_size: 32, quantized_kv_start: start, ..CacheOptions::default() }
}

#[test]
fn chunks_equal_single_tokens() {
    let model = model();
    let row = tokens(40, 1);
    let plain = in_pieces(&model, &row, &[1], &CacheOptions::default());
    for options in [bounded(8, 0), bounded(8, 3), bounded(12, 4), bounded(64, 4), bounded(1, 0), CacheOptions::default()] {
        let single = in_pieces(&model, &row, &[1], &options);
        for pieces in [&[5][..], &[40], &[13, 1, 1, 1], &[3, 1], &[2, 9]] {
            let got = in_pieces(&model, &row, pieces, &options);
            assert_close(&got, &single, 2e-4, 1e-4, &format!("{options:?} in pieces {pieces:?}"));
        }
        let difference = single.subtract(&plain).unwrap().abs().unwrap().max_all().unwrap().item().unwrap();
        let bites = options.max_kv_size.is_some_and(|size| size < 40);
        assert!(bites == (difference > 0.05), "{options:?} is {difference} from a cache of everything");
    }
    // Kept tokens are seen: without them the answer is another.
    let (with, without) = (in_pieces(&model, &row, &[5], &bounded(8, 3)), in_pieces(&model, &row, &[5], &bounded(8, 0)));
    assert!(with.subtract(&without).unwrap().abs().unwrap().max_all().unwrap().item().unwrap() > 0.05);
}

#[test]
fn quantised_caches_come_near_and_begin_when_told() {
    let model = model();
    let row = tokens(40, 2);
    let plain = in_pieces(&model, &row, &[4], &CacheOptions::default());
    let off = |got: &Array| got.subtract(&plain).unwrap().square().unwrap().mean_all().unwrap().item().unwrap().sqrt();
    let typical = plain.square().unwrap().mean_all().unwrap().item().unwrap().sqrt();
    let (four, eight) =
        (off(&in_pieces(&model, &row, &[4], &quantized(4, 0))), off(&in_pieces(&model, &row, &[4], &quantized(8, 0))));
    // A code of 8 bits is off by up to half of 1/255 of its group's range, one of 4 bits by half of 1/15.
    assert!(eight < 0.01 * typical && four < 0.2 * typical && eight * 4.0 < four, "{four} and {eight} of {typical}");
    assert!(eight > 0.0);
    let late = in_pieces(&model, &row, &[4], &quantized(4, 20));
    assert_close(&late.slice_axis(1, 0, 20).unwrap(), &plain.slice_axis(1, 0, 20).unwrap(), 0.0, 0.0, "before quantizedKvStart");
    assert!(off(&late) > 0.0);
    let mut caches = model.net.new_caches_with(&quantized(4, 6)).unwrap();
    let mut kinds = Vec::new();
    for token in &row[..8] {
        feed(&model, &ids(&[&[*token]]), &mut caches);
        kinds.push(caches[0].kind());
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == "KVCache").count(), 5);
    assert_eq!(kinds[5], "QuantizedKVCache");
    // A bounded one too, and it goes round.
    let both = CacheOptions { max_kv_size: Some(64), ..quantized(8, 0) };
    assert_close(
        &in_pieces(&model, &row, &[4], &both),
        &in_pieces(&model, &row, &[4], &quantized(8, 0)),
        1e-3,
        1e-3,
        "bounded, all fits",
    );
    let both = CacheOptions { max_kv_size: Some(16), ..quantized(8, 0) };
    let plain = in_pieces(&model, &row, &[4], &bounded(16, 4));
    let got =
        in_pieces(&model, &row, &[4], &both).subtract(&plain).unwrap().square().unwrap().mean_all().unwrap().item().unwrap();
    assert!(got.sqrt() < 0.02 * typical, "{}", got.sqrt());
}

#[test]
fn attention_over_codes_is_attention_over_what_they_stand_for() {
    let keys: Vec<Array> = (0..3).map(|seed| random::key(seed).unwrap()).collect();
    let normal = |shape: &[i32], key: &Array| random::normal(0.0, 1.0, shape, Dtype::Float32, key).unwrap();
    let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(8)).unwrap();
    let (q, k, v) = (normal(&[2, 6, 4, 64], &keys[0]), normal(&[2, 2, 9, 64], &keys[1]), normal(&[2, 2, 9, 32], &keys[2]));
    let mut cache = KvCache::quantized(how);
    let fetched = cache.update(&k, &v).unwrap();
    let Fetched::Quantized { keys, values, .. } = &fetched else { panic!("plain") };
    let numbers =
        |codes: &ops::Quantized| ops::dequantize(&codes.weight, &codes.scales, codes.biases.as_ref(), how, None, None).unwrap();
    let plain = Fetched::Plain(numbers(keys), numbers(values));
    let padded = BatchKvCache::new(&[3, 0]).unwrap();
    let mut padded = padded;
    padded.update(&k.slice_axis(2, 0, 5).unwrap(), &v.slice_axis(2, 0, 5).unwrap()).unwrap();
    let Visible::Masked(mask) = padded.placement(4, None).visible else { panic!("no mask") };
    let mask = mask.array().unwrap();
    let per_head = mask.broadcast_to(&[2, 6, 4, 9]).unwrap();
    let additive = ops::where_(&mask, &Array::scalar(0.0), &Array::scalar(-1e9)).unwrap();
    let flat = mask.slice_axis(0, 0, 1).unwrap().reshape(&[4, 9]).unwrap();
    let masks =
        [Mask::None, Mask::Causal, Mask::Array(&mask), Mask::Array(&per_head), Mask::Array(&additive), Mask::Array(&flat)];
    for (index, mask) in masks.into_iter().enumerate() {
        let (got, want) = (attend(&q, &fetched, 0.2, mask).unwrap(), attend(&q, &plain, 0.2, mask).unwrap());
        assert_close(&got, &want, 2e-5, 1e-5, &format!("mask {index}"));
    }
}

/// Rows of unequal length, read together and then a token at a time, against each alone.
fn batch_equals_single(options: &CacheOptions, right_padded: bool, tolerance: f32) {
    let model = model();
    let rows = [tokens(11, 1), tokens(4, 2), tokens(7, 3)];
    let next = [tokens(9, 4), tokens(9, 5), tokens(9, 6)];
    let longest = rows.iter().map(Vec::len).max().unwrap();
    let padding: Vec<i32> = rows.iter().map(|row| (longest - row.len()) as i32).collect();
    let fill = |row: &Vec<i32>| vec![0; longest - row.len()];
    let padded: Vec<Vec<i32>> = rows
        .iter()
        .map(|row| if right_padded { [row.clone(), fill(row)].concat() } else { [fill(row), row.clone()].concat() })
        .collect();
    let padded: Vec<&[i32]> = padded.iter().map(Vec::as_slice).collect();
    let mut caches = if right_padded {
        let lengths: Vec<i32> = rows.iter().map(|row| row.len() as i32).collect();
        let mut caches = model.net.new_batch_caches_with(&[0, 0, 0], options).unwrap();
        caches.iter_mut().for_each(|cache| cache.prepare(None, Some(&padding), Some(&lengths)).unwrap());
        caches
    } else {
        model.net.new_batch_caches_with(&padding, options).unwrap()
    };
    // In pieces, so that padding crosses them; one is a single token.
    let whole = ids(&padded);
    for (from, to) in [(0, 5), (5, 6), (6, longest as i32)] {
        feed(&model, &whole.slice_axis(1, from, to).unwrap(), &mut caches);
    }
    caches.iter_mut().for_each(|cache| cache.finalize().unwrap());
    let columns = (0..9).map(|at| next.iter().map(|row| row[at]).collect::<Vec<i32>>());
    let together: Vec<Array> =
        columns.map(|column| feed(&model, &Array::from_slice(&column, &[3, 1]).unwrap(), &mut caches)).collect();
    let together = ops::concatenate(&together, 1).unwrap();
    for (index, row) in rows.iter().enumerate() {
        let single = CacheOptions { keep: options.keep.or(options.max_kv_size.map(|_| 0)), ..*options };
        let mut alone = model.net.new_caches_with(&single).unwrap();
        feed(&model, &ids(&[row]), &mut alone);
        let wanted: Vec<Array> = next[index].iter().map(|&token| feed(&model, &ids(&[&[token]]), &mut alone)).collect();
        let wanted = ops::concatenate(&wanted, 1).unwrap();
        let got = together.slice_axis(0, index as i32, index as i32 + 1).unwrap();
        assert_close(&got, &wanted, tolerance, tolerance, &format!("{options:?}, right padded {right_padded}, row {index}"));
    }
}

#[test]
fn rows_of_a_batch_equal_rows_alone() {
    for right_padded in [false, true] {
        batch_equals_single(&CacheOptions::default(), right_padded, 2e-4);
        batch_equals_single(&CacheOptions { max_kv_size: Some(8), ..CacheOptions::default() }, right_padded, 2e-4);
        batch_equals_single(&CacheOptions { max_kv_size: Some(32), ..CacheOptions::default() }, right_padded, 2e-4);
        // Rows shorter than what is kept, rows that drop tokens while they are read, and rows that never do.
        for (max_size, keep) in [(8, 1), (8, 4), (8, 7), (32, 4), (14, 12)] {
            batch_equals_single(&bounded(max_size, keep), right_padded, 2e-4);
        }
        // Codes may differ by one where rounding differs: by a 255th of a group's range.
        batch_equals_single(&quantized(8, 0), right_padded, 2e-2);
        batch_equals_single(&CacheOptions { keep: Some(3), max_kv_size: Some(8), ..quantized(8, 0) }, right_padded, 2e-2);
        batch_equals_single(&CacheOptions { max_kv_size: Some(8), ..quantized(8, 0) }, right_padded, 2e-2);
    }
}

/// Caches after `row`, alone.
fn alone(model: &Model, row: &[i32], options: &CacheOptions) -> Vec<Cache> {
    let mut caches = model.net.new_caches_with(options).unwrap();
    feed(model, &ids(&[row]), &mut caches);
    caches
}

/// The rows' next logits.
fn expect(model: &Model, caches: &[Cache], rows: &[Vec<i32>], options: &CacheOptions, what: &str) {
    let mut caches = caches.to_vec();
    let column: Vec<i32> = (0..rows.len() as i32).map(|row| 50 + row).collect();
    let got = feed(model, &Array::from_slice(&column, &[rows.len() as i32, 1]).unwrap(), &mut caches);
    for (index, row) in rows.iter().enumerate() {
        let want = feed(model, &ids(&[&[column[index]]]), &mut alone(model, row, options));
        let got = got.slice_axis(0, index as i32, index as i32 + 1).unwrap();
        assert_close(&got, &want, 2e-4, 1e-4, &format!("{what}: row {index}"));
    }
}

#[test]
fn rows_come_and_go() {
    let model = model();
    for options in [CacheOptions::default(), bounded(8, 0), bounded(20, 0)] {
        let mut rows = vec![tokens(5, 1), tokens(12, 2), tokens(3, 3)];
        let single: Vec<Vec<Cache>> = rows.iter().map(|row| alone(&model, row, &options)).collect();
        let layers = model.net.num_layers();
        let of_layer = |layer: usize| single.iter().map(|caches| &caches[layer]).collect::<Vec<_>>();
        let mut caches: Vec<Cache> = (0..layers).map(|layer| Cache::merge(&of_layer(layer)).unwrap()).collect();
        let what = |step: &str| format!("{options:?} {step}");
        expect(&model, &caches, &rows, &options, &what("merged"));
        // Goes on for a while, so that a bounded one goes round.
        for step in 0..4 {
            let column: Vec<i32> = (0..3).map(|row| 60 + row + step).collect();
            feed(&model, &Array::from_slice(&column, &[3, 1]).unwrap(), &mut caches);
            rows.iter_mut().zip(column).for_each(|(row, token)| row.push(token));
        }
        expect(&model, &caches, &rows, &options, &what("grown"));
        for (row, length) in [(2, 6), (0, 25), (1, 1)] {
            rows[row] = tokens(length, 7 + row as i32);
            let new = alone(&model, &rows[row], &options);
            caches.iter_mut().zip(&new).for_each(|(cache, new)| cache.put_row(row as i32, new).unwrap());
            expect(&model, &caches, &rows, &options, &what(&format!("row {row} replaced")));
        }
        for (layer, cache) in caches.iter_mut().enumerate() {
            let row = cache.extract(2).unwrap();
            let again = alone(&model, &rows[2], &options);
            assert_eq!(row.offset(), again[layer].offset());
            cache.filter(&[2, 1]).unwrap();
            cache.repeat_rows(2).unwrap();
        }
        rows = vec![rows[2].clone(), rows[2].clone(), rows[1].clone(), rows[1].clone()];
        expect(&model, &caches, &rows, &options, &what("filtered and repeated"));
        let other = vec![tokens(9, 20), tokens(2, 21)];
        let single: Vec<Vec<Cache>> = other.iter().map(|row| alone(&model, row, &options)).collect();
        for (layer, cache) in caches.iter_mut().enumerate() {
            let other = Cache::merge(&single.iter().map(|caches| &caches[layer]).collect::<Vec<_>>()).unwrap();
            cache.extend(&other).unwrap();
        }
        rows.extend(other);
        expect(&model, &caches, &rows, &options, &what("extended"));
        caches.iter_mut().for_each(|cache| cache.filter(&[5]).unwrap());
        if options.max_kv_size.is_none() {
            assert_eq!(caches[0].left_padding(), Some(&[0][..]), "common padding is gone");
            assert_eq!(caches[0].placement(1, None).visible, Visible::All);
            assert_eq!(caches[0].placement(3, None).visible, Visible::Causal);
        }
        expect(&model, &caches, &rows[5..], &options, &what("one left"));
    }
}

#[test]
fn replacing_a_row_copies_no_other() {
    if on_gpu() {
        return;
    }
    crate::runtime::block_on_owner(|| {
        let long = ops::ones(&[8, 8, 1000, 64], Dtype::Float32)?;
        let mut batch = BatchKvCache::new(&[0; 8])?;
        batch.update(&long, &long)?;
        let mut row = KvCache::new();
        let new = ops::full(&[1, 8, 20, 64], 2.0, Dtype::Float32)?;
        row.update_and_fetch(&new, &new)?;
        drop((long, new));
        eval(&[batch.arrays(), row.arrays()].concat())?;
        let before = memory::stats()?.active;
        memory::reset_peak()?;
        batch.put_row(3, &row)?;
        eval(&batch.arrays())?;
        let extra = memory::stats()?.peak.saturating_sub(before);
        assert!(extra < batch.nbytes() / 4, "{extra} bytes beside a cache of {}", batch.nbytes());
        assert_eq!(batch.left_padding(), [0, 0, 0, 980, 0, 0, 0, 0]);
        let keys = batch.state()?.swap_remove(0);
        assert_eq!(keys.slice(&[3, 0, 980, 0], &[4, 8, 1000, 64])?.mean_all()?.item()?, 2.0);
        assert_eq!(keys.slice(&[2, 0, 0, 0], &[3, 8, 1000, 64])?.mean_all()?.item()?, 1.0);
        Ok(())
    })
    .unwrap();
}

#[test]
fn common_padding_goes_when_told() {
    let model = model();
    let rows = [tokens(3, 1), tokens(5, 2)];
    let padded = [[vec![0; 9], rows[0].clone()].concat(), [vec![0; 7], rows[1].clone()].concat()];
    let mut caches = model.net.new_batch_caches(&[9, 7]).unwrap();
    feed(&model, &ids(&[&padded[0], &padded[1]]), &mut caches);
    assert!(caches.iter_mut().all(|cache| cache.drop_padding(8).unwrap() == 0));
    assert!(caches.iter_mut().all(|cache| cache.drop_padding(4).unwrap() == 7));
    assert_eq!(caches[0].left_padding(), Some(&[2, 0][..]));
    expect(&model, &caches, &rows, &CacheOptions::default(), "without common padding");
}

#[test]
fn bad_calls_are_typed_errors_and_change_nothing() {
    let model = model();
    let mut caches = model.net.new_batch_caches(&[1, 0]).unwrap();
    feed(&model, &ids(&[&[0, 5], &[6, 7]]), &mut caches);
    let single = alone(&model, &[5, 6], &CacheOptions::default());
    let bounded_row = alone(&model, &[5, 6], &bounded(8, 4));
    let two = ids(&[&[1], &[2], &[3]]);
    assert_eq!(model.net.hidden(Forward::cached(&two, &mut caches)).err().unwrap().code(), "ERR_MLX_SHAPE");
    assert_eq!(model.net.hidden(Forward::cached(&two, &mut caches[..1])).err().unwrap().code(), "ERR_MLX_ARGUMENT");
    let padding = Array::from_slice(&[1, 0], &[2]).unwrap();
    let both = Forward { ids: &ids(&[&[1], &[2]]), left_padding: Some(&padding), caches: Some(&mut caches) };
    assert_eq!(model.net.hidden(both).err().unwrap().code(), "ERR_MLX_ARGUMENT");
    let cache = &mut caches[0];
    let errors = [
        cache.filter(&[2]).err(),
        cache.filter(&[]).err(),
        cache.repeat_rows(0).err(),
        cache.extract(-1).err(),
        cache.put_row(2, &single[0]).err(),
        cache.put_row(0, &bounded_row[0]).err(),
        cache.extend(&single[0]).err(),
        cache.prepare(Some(&[1, 1]), None, None).err(),
        cache.prepare(None, Some(&[1]), None).err(),
        cache.prepare(None, Some(&[-1, 0]), None).err(),
        Cache::merge(&[]).err(),
        Cache::merge(&[cache]).err(),
        Cache::merge(&[&single[0], &bounded_row[0]]).err(),
        single[0].extract(0).err(),
        BatchKvCache::new(&[]).err(),
        BatchKvCache::new(&[-1]).err(),
        bounded(4, 4).cache().err(),
        bounded(0, 0).cache().err(),
        CacheOptions { keep: Some(1), ..CacheOptions::default() }.cache().err(),
        bounded(8, 8).batch(&[0]).err(),
        Cache::merge(&[&bounded_row[0], &bounded(9, 3).cache().unwrap()]).err(),
        quantized(7, 0).cache().err(),
        quantized(4, -1).cache().err(),
        CacheOptions { kv_group_size: 64, ..quantized(4, 0) }.validate(32).err(),
    ];
    for (index, error) in errors.into_iter().enumerate() {
        assert_eq!(error.unwrap_or_else(|| panic!("{index} was taken")).code(), "ERR_MLX_ARGUMENT", "{index}");
    }
    assert_eq!(cache.prepare(None, Some(&[0, 1]), None).err().map(|error| error.code()), None);
    assert!(cache.extract(0).is_err() && cache.put_row(0, &single[0]).is_err());
    cache.finalize().unwrap();
    assert_eq!(cache.left_padding(), Some(&[1, 1][..]));
    assert_eq!(caches[1].len(), 2);
}

/// Rows that keep their first tokens come, go and change places, and each goes on as it does alone.
#[test]
fn kept_tokens_go_where_their_rows_go() {
    let model = model();
    for (max_size, keep) in [(8, 1), (8, 3), (8, 6), (64, 4)] {
        let options = bounded(max_size, keep);
        let lengths = [2, 5, 9, 20];
        let rows: Vec<Vec<i32>> = (0..).zip(lengths).map(|(seed, length)| tokens(length, seed)).collect();
        let mut singles: Vec<Vec<Cache>> = rows.iter().map(|row| alone(&model, row, &options)).collect();
        // Round the ring, each by another number of tokens.
        for (steps, single) in (0..).zip(&mut singles) {
            for token in tokens(steps * 3, 50) {
                feed(&model, &ids(&[&[token]]), single);
            }
        }
        let layers = singles[0].len();
        let layer = |singles: &[Vec<Cache>], rows: &[usize], layer: usize| {
            Cache::merge(&rows.iter().map(|&row| &singles[row][layer]).collect::<Vec<_>>()).unwrap()
        };
        let merged = |singles: &[Vec<Cache>], rows: &[usize]| -> Vec<Cache> {
            (0..layers).map(|index| layer(singles, rows, index)).collect()
        };
        let mut places = vec![0, 1, 2];
        let mut batch = merged(&singles, &places);
        let step = |batch: &mut Vec<Cache>, singles: &mut Vec<Vec<Cache>>, places: &[usize], seed: i32, what: &str| {
            for token in tokens(5, seed) {
                let column: Vec<i32> = (0..places.len() as i32).map(|place| (token + 3 * place) % 90).collect();
                let got = feed(&model, &Array::from_slice(&column, &[column.len() as i32, 1]).unwrap(), batch);
                for (place, &row) in places.iter().enumerate() {
                    let wanted = feed(&model, &ids(&[&[column[place]]]), &mut singles[row]);
                    let got = got.slice_axis(0, place as i32, place as i32 + 1).unwrap();
                    assert_close(&got, &wanted, 2e-4, 2e-4, &format!("{max_size} keeping {keep}, {what}: row {row}"));
                }
            }
        };
        step(&mut batch, &mut singles, &places, 70, "merged");
        // The longest takes the place of another.
        for (cache, new) in batch.iter_mut().zip(&singles[3]) {
            cache.put_row(1, new).unwrap();
        }
        places[1] = 3;
        step(&mut batch, &mut singles, &places, 71, "put");
        batch.iter_mut().for_each(|cache| cache.filter(&[2, 0]).unwrap());
        places = vec![2, 0];
        step(&mut batch, &mut singles, &places, 72, "filtered");
        let more = merged(&singles, &[1]);
        batch.iter_mut().zip(&more).for_each(|(cache, more)| cache.extend(more).unwrap());
        places.push(1);
        step(&mut batch, &mut singles, &places, 73, "extended");
        // Out of the batch again, and in chunks.
        for (place, &row) in places.iter().enumerate() {
            let mut own: Vec<Cache> = batch.iter().map(|cache| cache.extract(place as i32).unwrap()).collect();
            assert_eq!(own[0].offset(), singles[row][0].offset());
            for chunk in [vec![5, 6, 7], vec![8], vec![9, 10]] {
                let (got, wanted) = (feed(&model, &ids(&[&chunk]), &mut own), feed(&model, &ids(&[&chunk]), &mut singles[row]));
                assert_close(&got, &wanted, 2e-4, 2e-4, &format!("{max_size} keeping {keep}: row {row} extracted"));
            }
        }
        let error = files::save(&std::env::temp_dir().join("never.safetensors"), &batch, &Vec::new()).unwrap_err();
        assert!(error.to_string().contains("extract the rows"), "{error}");
    }
}

#[test]
fn files_hold_every_kind_and_only_what_is_used() {
    let model = model();
    let path = std::env::temp_dir().join(format!("mlx-node-cache-{}.safetensors", std::process::id()));
    let row = tokens(20, 1);
    let rows = ids(&[&row, &tokens(20, 2)]);
    let mut kinds: Vec<Vec<Cache>> = Vec::new();
    for options in [
        CacheOptions::default(),
        bounded(8, 3),
        bounded(64, 4),
        quantized(8, 0),
        CacheOptions { max_kv_size: Some(8), ..quantized(4, 0) },
    ] {
        kinds.push(alone(&model, &row, &options));
        // Round the ring.
        let mut caches = kinds.last().unwrap().clone();
        feed(&model, &ids(&[&[3]]), &mut caches);
        feed(&model, &ids(&[&[4]]), &mut caches);
        kinds.push(caches);
        kinds.push(model.net.new_caches_with(&options).unwrap());
        let mut batch = model.net.new_batch_caches_with(&[2, 0], &CacheOptions { keep: None, ..options }).unwrap();
        feed(&model, &rows, &mut batch);
        feed(&model, &ids(&[&[3], &[5]]), &mut batch);
        kinds.push(batch);
    }
    let texts = vec![("model".to_string(), "test".to_string()), ("note".to_string(), "é".to_string())];
    for caches in kinds {
        files::save(&path, &caches, &texts).unwrap();
        let (mut again, found) = files::load(&path).unwrap();
        assert_eq!(found, texts);
        assert_eq!(again[0].offset(), caches[0].offset());
        assert_eq!(again[0].is_trimmable(), caches[0].is_trimmable(), "{}", caches[0].kind());
        let most: usize = caches.iter().flat_map(|cache| cache.state().unwrap()).map(|array| array.nbytes()).sum();
        let size = std::fs::metadata(&path).unwrap().len() as usize;
        assert!(size < most + 4096, "{size} bytes for {most}");
        // Later updates quantise nothing that was not: that is the options' part, not the file's.
        if caches[0].encoding().is_none() && caches[0].is_empty() {
            continue;
        }
        assert_eq!(again[0].kind(), caches[0].kind());
        let mut caches = caches.clone();
        let next = if caches[0].rows() == Some(2) { ids(&[&[9], &[10]]) } else { ids(&[&[9]]) };
        for _ in 0..3 {
            let (got, want) = (feed(&model, &next, &mut again), feed(&model, &next, &mut caches));
            // Slots of a ring come back in another order.
            assert_close(&got, &want, 2e-4, 1e-4, caches[0].kind());
        }
    }
    std::fs::write(&path, b"no").unwrap();
    assert_eq!(files::load(&path).err().unwrap().code(), "ERR_MLX_LOAD");
    crate::mlx::io::save(&path, vec![("0.0".into(), Array::scalar(1.0))], Vec::new(), Default::default(), Default::default())
        .unwrap();
    assert_eq!(files::load(&path).err().unwrap().code(), "ERR_MLX_LOAD");
    std::fs::remove_file(&path).unwrap();
}
