//! The scheduler over every kind of cache, and with a cache of prefixes: answers are those of a request alone.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::tests::*;
use super::*;
use crate::cache::{CacheOptions, PrefixCache, PrefixOptions};
use crate::mlx::{Dtype, Error};
use crate::models::{CausalLm, Model, init};

/// Heads of 32 features, so that they can be quantised; weights large enough that attention is not uniform.
fn model() -> Model {
    let config = json!({
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 96, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        "max_position_embeddings": 512, "rope_theta": 10000.0, "initializer_range": 0.2, "eos_token_id": 1
    });
    init(config, "test".as_ref(), Dtype::Float32, 3).unwrap()
}

fn bounded(max_size: i32, keep: Option<i32>) -> CacheOptions {
    CacheOptions { max_kv_size: Some(max_size), keep, ..CacheOptions::default() }
}

fn quantized(bits: i32, start: i32) -> CacheOptions {
    CacheOptions { kv_bits: Some(bits), kv_group_size: 32, quantized_kv_start: start, ..CacheOptions::default() }
}

/// Every kind whose rows share a batch, and by how much a log-prob may differ from that of the row alone: codes may differ by one where
/// rounding differs, which is a 255th (8 bits) of a group's range.
fn kinds() -> Vec<(CacheOptions, f32)> {
    vec![
        (CacheOptions::default(), 1e-4),
        (bounded(24, None), 1e-4),
        (bounded(200, None), 1e-4),
        (bounded(24, Some(4)), 1e-4),
        (bounded(24, Some(20)), 1e-4),
        (quantized(8, 0), 1e-2),
        (CacheOptions { max_kv_size: Some(24), ..quantized(8, 0) }, 1e-2),
    ]
}

fn alone(net: &dyn CausalLm, cache: CacheOptions, request: Request) -> Outcome {
    let options = EngineOptions { alone: true, cache, ..Default::default() };
    let mut engine = Engine::new(net.config().vocab_size, options).unwrap();
    let mut outcomes = Outcomes::new();
    engine.submit(0, request).unwrap();
    finish(&mut engine, net, &mut outcomes);
    outcomes.remove(&0).unwrap()
}

fn expect_near(got: &[BatchRow], wanted: &[BatchRow], tolerance: f32, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (got, wanted) in got.iter().zip(wanted) {
        assert_eq!((&got.tokens, got.finish), (&wanted.tokens, wanted.finish), "{what}");
        for (a, b) in got.logprobs.iter().zip(&wanted.logprobs) {
            assert!((a - b).abs() < tolerance, "{what}: log-probs {a} and {b}");
        }
    }
}

/// `keep` of rows alone that keep what rows of a batch keep.
fn as_in_batch(cache: CacheOptions) -> CacheOptions {
    CacheOptions { keep: cache.keep.or(cache.max_kv_size.map(|_| 0)), ..cache }
}

#[test]
fn rows_that_join_and_leave_get_what_they_get_alone() {
    let model = model();
    on_owner(&model, |net| {
        for (cache, tolerance) in kinds() {
            let vocabulary = net.config().vocab_size;
            let mut numbers = Numbers(5);
            let requests: Vec<_> = (0..30).map(|_| numbers.request(vocabulary)).collect();
            let mut engine = Engine::new(vocabulary, EngineOptions { cache, ..small() }).unwrap();
            let mut together = Outcomes::new();
            let mut running = 0;
            for (id, wanted) in requests.iter().enumerate() {
                engine.submit(id as u64, request(wanted.clone())).unwrap();
                for _ in 0..numbers.below(6) {
                    engine.step(net);
                    collect(&mut engine, &mut together);
                    running = running.max(engine.stats().running);
                }
            }
            finish(&mut engine, net, &mut together);
            assert_eq!(running, 7, "the batch was full at times");
            for (id, wanted) in requests.iter().enumerate() {
                let alone = alone(net, as_in_batch(cache), request(wanted.clone()));
                let together = &together[&(id as u64)];
                assert!(together.error.is_none(), "{together:?}");
                expect_near(&together.samples, &alone.samples, tolerance, &format!("{cache:?}: request {id}"));
            }
        }
    });
}

#[test]
fn caches_bite() {
    let model = model();
    on_owner(&model, |net| {
        let long = || Request::new((0..60).map(|at| at * at % 96).collect(), options(30, 0., &[]));
        let plain = alone(net, CacheOptions::default(), long());
        let off = |cache| {
            let other = alone(net, cache, long());
            let pairs = plain.samples[0].logprobs.iter().zip(&other.samples[0].logprobs);
            pairs.map(|(a, b)| (a - b).abs()).fold(0., f32::max)
        };
        let (sinks, none) = (off(bounded(24, None)), off(bounded(24, Some(0))));
        assert!(sinks > 0.05 && none > 0.05 && (sinks - none).abs() > 1e-3, "{sinks} {none}");
        assert_eq!(off(bounded(200, None)), 0., "all of it fits");
        assert!(off(quantized(4, 0)) > 1e-3);
        // The same sums in other groups: the last token of the prompt is read apart.
        assert!(off(quantized(4, 200)) < 1e-5, "it never gets there");
    });
}

fn prefixes(max_bytes: usize) -> Arc<Mutex<PrefixCache>> {
    Arc::new(Mutex::new(PrefixCache::new(PrefixOptions { max_bytes, ..PrefixOptions::default() })))
}

/// Conversations that grow: each prompt is an earlier one, its answer, and some more.
fn converse(net: &dyn CausalLm, cache: CacheOptions, prefixes: Option<Arc<Mutex<PrefixCache>>>) -> Vec<(Vec<BatchRow>, Summary)> {
    let vocabulary = net.config().vocab_size;
    let mut engine = Engine::new(vocabulary, EngineOptions { cache, ..small() }).unwrap().with_prefixes(prefixes);
    engine.set_version(1);
    let mut numbers = Numbers(21);
    let mut talks: Vec<Vec<i32>> =
        (0..3).map(|talk| (0..9 + 5 * talk).map(|_| numbers.below(vocabulary as usize) as i32).collect()).collect();
    let mut answers = Vec::new();
    for turn in 0..4u64 {
        let mut outcomes = Outcomes::new();
        for (talk, prompt) in talks.iter().enumerate() {
            // A stop token, which some answers meet: it is read too.
            engine.submit(turn * 10 + talk as u64, Request::new(prompt.clone(), options(7, 0., &[3, 40, 41]))).unwrap();
            engine.step(net);
            collect(&mut engine, &mut outcomes);
        }
        finish(&mut engine, net, &mut outcomes);
        for (talk, prompt) in talks.iter_mut().enumerate() {
            let outcome = outcomes.remove(&(turn * 10 + talk as u64)).unwrap();
            assert!(outcome.error.is_none(), "{outcome:?}");
            prompt.extend(&outcome.samples[0].tokens);
            prompt.extend((0..4).map(|_| numbers.below(vocabulary as usize) as i32));
            answers.push((outcome.samples, outcome.summary.unwrap()));
        }
    }
    answers
}

#[test]
fn prompts_that_begin_alike_are_read_once_and_answered_the_same() {
    let model = model();
    on_owner(&model, |net| {
        for (cache, tolerance) in kinds() {
            let plain = converse(net, cache, None);
            let cached = converse(net, cache, Some(prefixes(usize::MAX)));
            for (at, ((wanted, before), (got, after))) in plain.iter().zip(&cached).enumerate() {
                expect_near(got, wanted, tolerance, &format!("{cache:?}: answer {at}"));
                assert_eq!((before.prompt_tokens, before.cached_tokens), (after.prompt_tokens, 0));
                // Of each turn after the first all was known but the last token of the answer, if that was not read, and the new ones.
                let unread = after.prompt_tokens - after.cached_tokens;
                assert!(if at < 3 { after.cached_tokens == 0 } else { (4..=5).contains(&unread) }, "{cache:?} {at}: {after:?}");
            }
        }
    });
}

#[test]
fn samples_of_one_prompt_and_repeated_prompts_use_what_is_known() {
    let model = model();
    on_owner(&model, |net| {
        for (cache, tolerance) in kinds() {
            let known = prefixes(usize::MAX);
            let vocabulary = net.config().vocab_size;
            let mut engine = Engine::new(vocabulary, EngineOptions { cache, ..small() }).unwrap().with_prefixes(Some(known));
            engine.set_version(1);
            let request = || Request { n: 3, ..Request::new((5..45).collect(), options(12, 1., &[])) };
            let wanted = alone(net, as_in_batch(cache), request());
            for (id, cached) in [(0, 0), (1, 39)] {
                let mut outcomes = Outcomes::new();
                engine.submit(id, request()).unwrap();
                finish(&mut engine, net, &mut outcomes);
                expect_near(&outcomes[&id].samples, &wanted.samples, tolerance, &format!("{cache:?}: time {id}"));
                // A bounded cache that has dropped tokens serves whole, so the one of the prompt alone has none to leave.
                let cached = if cache.max_kv_size == Some(24) { 0 } else { cached };
                assert_eq!(outcomes[&id].summary.unwrap().cached_tokens, cached, "{cache:?}: time {id}");
            }
            // The prompt and more: that of a bounded cache was kept before the answers pushed it out.
            let longer = || Request::new((5..50).collect(), options(5, 0., &[]));
            let mut outcomes = Outcomes::new();
            engine.submit(9, longer()).unwrap();
            finish(&mut engine, net, &mut outcomes);
            expect_near(
                &outcomes[&9].samples,
                &alone(net, as_in_batch(cache), longer()).samples,
                tolerance,
                &format!("{cache:?}"),
            );
            assert_eq!(outcomes[&9].summary.unwrap().cached_tokens, 40, "{cache:?}");
            let stats = engine.stats();
            assert_eq!(stats.cached_tokens, if cache.max_kv_size == Some(24) { 40 } else { 79 });
        }
    });
}

#[test]
fn what_fails_or_is_cancelled_or_of_other_weights_leaves_nothing() {
    let model = model();
    on_owner(&model, |net| {
        let net = Fragile::new(net);
        let known = prefixes(usize::MAX);
        let vocabulary = net.config().vocab_size;
        let mut engine = Engine::new(vocabulary, small()).unwrap().with_prefixes(Some(known.clone()));
        engine.set_version(1);
        let prompt: Vec<i32> = (1..50).collect();
        let request = || Request::new(prompt.clone(), options(10, 0., &[]));
        let entries = || known.lock().unwrap().len();
        let mut outcomes = Outcomes::new();
        let run = |engine: &mut Engine, id: u64, outcomes: &mut Outcomes| {
            engine.submit(id, request()).unwrap();
            finish(engine, &net, outcomes);
        };
        // Cancelled while it is read, and while it is answered; then failing at each step there is.
        for steps in [1, 3, 5, 8] {
            engine.submit(steps, request()).unwrap();
            (0..steps).for_each(|_| _ = engine.step(&net));
            engine.cancel(steps);
            finish(&mut engine, &net, &mut outcomes);
            engine.submit(100 + steps, request()).unwrap();
            (0..steps).for_each(|_| _ = engine.step(&net));
            net.fail();
            finish(&mut engine, &net, &mut outcomes);
            assert_eq!(outcomes[&(100 + steps)].error.as_ref().map(Error::code), Some("ERR_MLX_OOM"));
            assert_eq!(entries(), 0, "after {steps} steps");
        }
        run(&mut engine, 20, &mut outcomes);
        let wanted = alone(&net, CacheOptions::default(), request());
        assert_eq!(entries(), 1);
        // A hit that fails, or is cancelled, does not harm the entry.
        for steps in [1, 2, 4] {
            engine.submit(30 + steps, request()).unwrap();
            (0..steps).for_each(|_| _ = engine.step(&net));
            net.fail();
            finish(&mut engine, &net, &mut outcomes);
            engine.submit(40 + steps, request()).unwrap();
            (0..steps).for_each(|_| _ = engine.step(&net));
            engine.cancel(40 + steps);
            run(&mut engine, 50 + steps, &mut outcomes);
            let outcome = &outcomes[&(50 + steps)];
            assert_eq!(outcome.summary.unwrap().cached_tokens, 48);
            expect_near(&outcome.samples, &wanted.samples, 1e-4, "after a failure");
        }
        // Other weights: what is known is forgotten, and what was under way with the old ones is not put in.
        engine.submit(60, request()).unwrap();
        (0..5).for_each(|_| _ = engine.step(&net));
        engine.set_version(2);
        finish(&mut engine, &net, &mut outcomes);
        assert!(outcomes[&60].error.is_none());
        assert_eq!(entries(), 0);
        run(&mut engine, 61, &mut outcomes);
        assert_eq!((outcomes[&61].summary.unwrap().cached_tokens, entries()), (0, 1));
        // Another kind of cache in the same place has entries of its own.
        let options = EngineOptions { cache: bounded(200, None), ..small() };
        let mut other = Engine::new(vocabulary, options).unwrap().with_prefixes(Some(known.clone()));
        other.set_version(2);
        run(&mut other, 62, &mut outcomes);
        assert_eq!((outcomes[&62].summary.unwrap().cached_tokens, entries()), (0, 2));
    });
}

#[test]
fn the_bytes_of_prefixes_are_bounded() {
    let model = model();
    on_owner(&model, |net| {
        let vocabulary = net.config().vocab_size;
        // 2 layers of keys and values of 2 heads of 32 numbers of 4 bytes: 1 KiB a token.
        let max_bytes = 100 << 10;
        let known = prefixes(max_bytes);
        let mut engine = Engine::new(vocabulary, small()).unwrap().with_prefixes(Some(known));
        engine.set_version(1);
        let (mut numbers, mut outcomes, mut most) = (Numbers(4), Outcomes::new(), 0);
        for id in 0..40 {
            engine.submit(id, request(numbers.request(vocabulary))).unwrap();
            for _ in 0..8 {
                engine.step(net);
                collect(&mut engine, &mut outcomes);
                most = most.max(engine.stats().prefix_bytes);
                assert!(engine.stats().prefix_entries <= 10);
            }
        }
        finish(&mut engine, net, &mut outcomes);
        assert!(most > max_bytes / 2 && most <= max_bytes, "{most} of {max_bytes}");
    });
}

#[test]
fn a_request_goes_on_from_its_own_caches() {
    let model = model();
    on_owner(&model, |net| {
        let vocabulary = net.config().vocab_size;
        let (first, more): (Vec<i32>, Vec<i32>) = ((5..35).collect(), (50..58).collect());
        for (cache, tolerance) in kinds().into_iter().chain([(bounded(24, Some(4)), 1e-4)]) {
            let engine = |cache| Engine::new(vocabulary, EngineOptions { alone: true, cache, ..small() }).unwrap();
            let run = |request: Request| {
                // The options of the engine are those of requests without caches of their own.
                let mut engine = engine(CacheOptions::default());
                engine.submit(0, request).unwrap();
                let mut returned = None;
                let mut row = BatchRow::default();
                loop {
                    let step = engine.step(net);
                    for event in engine.take_events() {
                        match event {
                            Event::Token { token, logprob, finish, .. } => {
                                row.tokens.push(token);
                                row.logprobs.push(logprob);
                                row.finish = finish;
                            }
                            Event::Finished { caches, .. } => returned = caches,
                            Event::Failed { error, .. } => panic!("{error}"),
                            Event::Prefill { .. } => {}
                        }
                    }
                    if step == Step::Idle {
                        break;
                    }
                }
                (row, returned.expect("its caches come back"))
            };
            let caches = net.new_caches_with(&as_in_batch_unless_kept(cache)).unwrap();
            let (one, caches) = run(Request { caches: Some(caches), ..Request::new(first.clone(), options(6, 0., &[])) });
            assert_eq!(caches[0].offset() as usize, first.len() + one.tokens.len() - 1, "all but the last token is read");
            let next = [&one.tokens[5..], &more].concat();
            let (two, after) = run(Request { caches: Some(caches.clone()), ..Request::new(next.clone(), options(9, 0., &[])) });
            assert_eq!(after[0].offset() as usize, caches[0].offset() as usize + next.len() + 8);
            let whole = [first.as_slice(), &one.tokens, &more].concat();
            let wanted = alone(net, as_in_batch_unless_kept(cache), Request::new(whole, options(9, 0., &[])));
            expect_near(std::slice::from_ref(&two), &wanted.samples, tolerance, &format!("{cache:?}"));
            // The caches that were given are as before: the same again.
            let (again, _) = run(Request { caches: Some(caches), ..Request::new(next, options(9, 0., &[])) });
            expect_near(&[again], &[two], 1e-6, "again");
        }
        let mut caches = net.new_caches();
        let refused = |request: Request, limits: EngineOptions| Engine::new(vocabulary, limits).unwrap().submit(0, request).err();
        let given = |caches| Request { caches: Some(caches), ..Request::new(vec![1], options(2, 0., &[])) };
        let own = EngineOptions { alone: true, ..small() };
        let batch = net.new_batch_caches(&[0]).unwrap();
        for error in [
            refused(given(caches.clone()), small()),
            refused(Request { n: 2, ..given(caches.clone()) }, own),
            refused(given(batch), own),
        ] {
            assert_eq!(error.map(|error| error.code()), Some("ERR_MLX_ARGUMENT"));
        }
        // Too few layers: found when it runs, and the request fails alone.
        caches.pop();
        let outcome = alone(net, CacheOptions::default(), given(caches));
        assert_eq!(outcome.error.as_ref().map(Error::code), Some("ERR_MLX_ARGUMENT"));
    });
}

fn as_in_batch_unless_kept(cache: CacheOptions) -> CacheOptions {
    if cache.keep.is_some() { cache } else { as_in_batch(cache) }
}

#[test]
fn bad_options_of_caches_are_refused_by_name() {
    let cases = [
        (bounded(0, None), "maxKvSize"),
        (bounded(4, Some(4)), "keep"),
        (CacheOptions { keep: Some(2), ..CacheOptions::default() }, "keep"),
        (quantized(7, 0), "kvBits"),
        (CacheOptions { kv_group_size: 48, ..quantized(4, 0) }, "kvGroupSize"),
        (quantized(4, -1), "quantizedKvStart"),
    ];
    for (cache, name) in cases {
        let error = Engine::new(10, EngineOptions { cache, ..small() }).err().expect(name);
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        assert!(error.to_string().contains(name), "{error}");
    }
}
