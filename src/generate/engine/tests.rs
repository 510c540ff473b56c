//! Batches against golden numbers, and the scheduler with requests that come, go and fail at random.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use super::*;
use crate::generate::SamplerOptions;
use crate::mlx::{Array, Dtype, Error, Result};
use crate::models::{self, CausalLm, Forward, Hidden, LoadOptions, Model, ModelConfig};
use crate::nn::{Head, Module};
use crate::runtime::{self, Cancel};
use crate::testing::{golden_path, load_tensors};

fn qwen3() -> Model {
    models::load(
        &golden_path("models/qwen3"),
        &LoadOptions { dtype: Some(Dtype::Float32), ..LoadOptions::default() },
        &mut |_, _| Ok(()),
    )
    .unwrap()
}

pub(super) fn options(max_tokens: usize, temperature: f32, stop: &[i32]) -> RequestOptions {
    RequestOptions {
        max_tokens,
        stop_tokens: stop.iter().copied().collect(),
        sampler: SamplerOptions { temperature, seed: 11, ..Default::default() },
        ..Default::default()
    }
}

fn batch(net: &dyn CausalLm, prompts: Vec<Vec<i32>>, generations: usize, options: &RequestOptions) -> Result<Batch> {
    let all = EngineOptions { max_batch_size: 64, prefill_batch_size: 64, ..Default::default() };
    Batch::new(net.config().vocab_size, prompts, generations, options, None, all)
}

fn decode(model: &Model, prompts: Vec<Vec<i32>>, generations: usize, options: RequestOptions) -> BatchOutput {
    on_owner(model, |net| {
        let mut batch = batch(net, prompts, generations, &options).unwrap();
        while batch.step(net, &Cancel::default()).unwrap() {}
        batch.take_output()
    })
}

/// Runs `work` on the owner thread.
pub(super) fn on_owner<T>(model: &Model, work: impl FnOnce(&dyn CausalLm) -> T) -> T {
    struct Assert<T>(T);
    // SAFETY: the model is borrowed by one thread at a time, as this one waits.
    unsafe impl<T> Send for Assert<T> {}
    let run = Assert((model.net.as_ref(), work));
    let result = runtime::block_on_owner(move || {
        let run = run;
        let (net, work) = run.0;
        Ok(Assert(work(net)))
    });
    result.unwrap().0
}

/// The golden batch: prompts without their padding, and the greedy continuation of each.
fn golden_batch() -> (Vec<Vec<i32>>, Vec<Vec<i32>>) {
    let io = load_tensors(golden_path("models/qwen3/io.safetensors"));
    let (ids, mask) = (&io["input_ids"], &io["attention_mask"]);
    let width = ids.dim(1) as usize;
    let (ids, mask) = (ids.to_i32().unwrap(), mask.to_i32().unwrap());
    let prompts = ids
        .chunks(width)
        .zip(mask.chunks(width))
        .map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, real)| **real == 1).map(|(id, _)| *id).collect());
    let greedy = &io["greedy_batch"];
    (prompts.collect(), greedy.to_i32().unwrap().chunks(greedy.dim(1) as usize).map(<[i32]>::to_vec).collect())
}

#[test]
fn greedy_batches_equal_transformers() {
    let (prompts, wanted) = golden_batch();
    let output = decode(&qwen3(), prompts.clone(), 1, options(24, 0., &[]));
    for (row, wanted) in output.rows.iter().zip(&wanted) {
        assert_eq!(&row.tokens, wanted);
        assert_eq!(row.finish, Some(FinishReason::Length));
    }
    assert_eq!(output.generated_tokens, 3 * 24);
    assert_eq!(output.prompt_tokens, prompts.iter().map(Vec::len).sum::<usize>());
}

#[test]
fn a_row_is_the_same_alone_and_in_a_batch_that_shrinks() {
    let model = qwen3();
    let (prompts, wanted) = golden_batch();
    // Each row stops where its own greedy text first has a token of this set, at different steps.
    let stop = [wanted[0][4], wanted[1][9], wanted[2][15]];
    let together = decode(&model, prompts.clone(), 1, options(24, 0., &stop));
    let mut lengths = HashSet::new();
    for (prompt, row) in prompts.iter().zip(&together.rows) {
        let alone = decode(&model, vec![prompt.clone()], 1, options(24, 0., &stop));
        assert_eq!(alone.rows[0].tokens, row.tokens);
        assert_eq!(row.finish, Some(FinishReason::Stop));
        assert!(stop.contains(row.tokens.last().unwrap()));
        lengths.insert(row.tokens.len());
        for (a, b) in alone.rows[0].logprobs.iter().zip(&row.logprobs) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
    assert!(lengths.len() > 1, "the rows must end at different steps for the batch to shrink");
}

#[test]
fn generations_of_a_prompt_share_its_prefill_and_differ() {
    let model = qwen3();
    let (prompts, _) = golden_batch();
    let output = decode(&model, prompts.clone(), 4, options(12, 1., &[]));
    assert_eq!(output.rows.len(), 12);
    assert_eq!(output.prompt_tokens, prompts.iter().map(Vec::len).sum::<usize>(), "a prompt counts once per group");
    assert_ne!(output.rows[0].tokens, output.rows[1].tokens);
    let again = decode(&model, prompts.clone(), 4, options(12, 1., &[]));
    assert!(output.rows.iter().zip(&again.rows).all(|(a, b)| a.tokens == b.tokens), "the seed decides");

    // The sampler's log-probs are those of a plain forward pass over the finished text.
    for (index, row) in output.rows.iter().enumerate() {
        let prompt = &prompts[index / 4];
        let ids = [prompt.as_slice(), &row.tokens].concat();
        let ids = Array::from_slice(&ids, &[1, ids.len() as i32]).unwrap();
        let hidden = model.net.hidden(crate::models::Forward { ids: &ids, left_padding: None, caches: None }).unwrap();
        let logprobs = model.net.logits(&hidden).unwrap().log_softmax(-1).unwrap();
        let vocabulary = logprobs.dim(-1) as usize;
        let logprobs = logprobs.to_f32().unwrap();
        for (step, (&token, &logprob)) in row.tokens.iter().zip(&row.logprobs).enumerate() {
            let wanted = logprobs[(prompt.len() - 1 + step) * vocabulary + token as usize];
            assert!((wanted - logprob).abs() < 1e-4, "row {index} step {step}: {logprob} {wanted}");
        }
    }
}

#[test]
fn a_rows_draws_do_not_depend_on_who_else_has_left() {
    let model = qwen3();
    let (prompts, _) = golden_batch();
    let free = decode(&model, prompts.clone(), 4, options(16, 1., &[]));
    // Stop tokens that some rows meet early: the others go on with the same draws.
    let stop = [free.rows[0].tokens[2], free.rows[5].tokens[6]];
    let cut = decode(&model, prompts, 4, options(16, 1., &stop));
    let mut shortened = 0;
    for (free, cut) in free.rows.iter().zip(&cut.rows) {
        assert_eq!(free.tokens[..cut.tokens.len()], cut.tokens);
        shortened += usize::from(cut.tokens.len() < free.tokens.len());
    }
    assert!(shortened >= 2 && shortened < free.rows.len());
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let model = qwen3();
    let vocabulary = model.net.config().vocab_size;
    let cases: [(Vec<Vec<i32>>, usize, usize); 6] = [
        (vec![], 1, 4),
        (vec![vec![]], 1, 4),
        (vec![vec![1], vec![vocabulary]], 1, 4),
        (vec![vec![-1]], 1, 4),
        (vec![vec![1]], 0, 4),
        (vec![vec![1]], 1, 0),
    ];
    for (prompts, generations, max_tokens) in cases {
        let result = batch(model.net.as_ref(), prompts.clone(), generations, &options(max_tokens, 0., &[]));
        assert_eq!(result.err().expect("must be refused").code(), "ERR_MLX_ARGUMENT", "{prompts:?} {generations} {max_tokens}");
    }
}

/// What has come of a request.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub samples: Vec<BatchRow>,
    pub summary: Option<Summary>,
    pub error: Option<Error>,
}

pub(super) type Outcomes = HashMap<RequestId, Outcome>;

pub(super) fn collect(engine: &mut Engine, outcomes: &mut Outcomes) {
    for event in engine.take_events() {
        match event {
            Event::Token { request, sample, token, logprob, finish, .. } => {
                let samples = &mut outcomes.entry(request).or_default().samples;
                samples.resize_with(samples.len().max(sample + 1), BatchRow::default);
                let row = &mut samples[sample];
                assert!(row.finish.is_none(), "request {request} goes on after its end");
                row.tokens.push(token);
                row.logprobs.push(logprob);
                row.finish = finish;
            }
            Event::Finished { request, summary, .. } => {
                assert!(outcomes.entry(request).or_default().summary.replace(summary).is_none());
            }
            Event::Failed { request, error } => outcomes.entry(request).or_default().error = Some(error),
            Event::Prefill { processed, total, .. } => assert!(processed <= total),
        }
    }
}

pub(super) fn finish(engine: &mut Engine, net: &dyn CausalLm, outcomes: &mut Outcomes) {
    for _ in 0..10_000 {
        let step = engine.step(net);
        collect(engine, outcomes);
        match step {
            Step::Idle => return,
            Step::Working => {}
            Step::Processing => panic!("nobody processes logits here"),
        }
    }
    panic!("the engine does not come to an end: {:?}", engine.stats());
}

/// A little generator of numbers (SplitMix64), so that a failure can be repeated.
pub(super) struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    pub fn request(&mut self, vocabulary: i32) -> (Vec<i32>, usize, RequestOptions) {
        let longest = if self.below(4) == 0 { 90 } else { 12 };
        let length = 1 + self.below(longest);
        let prompt = (0..length).map(|_| self.below(vocabulary as usize) as i32).collect();
        let sampler = SamplerOptions {
            temperature: [0., 0., 1., 0.7][self.below(4)],
            repetition_penalty: [1., 1.3][self.below(2)],
            seed: self.below(1000) as u64,
            ..Default::default()
        };
        let stop_tokens = (0..self.below(3)).map(|_| self.below(vocabulary as usize) as i32).collect();
        (prompt, 1 + self.below(3), RequestOptions { max_tokens: 1 + self.below(24), stop_tokens, sampler, ..Default::default() })
    }
}

pub(super) fn request((prompt, n, options): (Vec<i32>, usize, RequestOptions)) -> Request {
    Request { n, ..Request::new(prompt, options) }
}

pub(super) fn small() -> EngineOptions {
    EngineOptions { max_batch_size: 7, prefill_batch_size: 3, prefill_step_size: 16, ..Default::default() }
}

fn assert_same(got: &[BatchRow], wanted: &[BatchRow], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (got, wanted) in got.iter().zip(wanted) {
        assert_eq!(got.tokens, wanted.tokens, "{what}");
        assert_eq!(got.finish, wanted.finish, "{what}");
        for (a, b) in got.logprobs.iter().zip(&wanted.logprobs) {
            assert!((a - b).abs() < 1e-4, "{what}: log-probs {a} and {b}");
        }
    }
}

#[test]
fn requests_that_join_and_leave_at_any_step_get_what_they_get_alone() {
    let model = qwen3();
    on_owner(&model, |net| {
        let vocabulary = net.config().vocab_size;
        let mut numbers = Numbers(1);
        let requests: Vec<_> = (0..60).map(|_| numbers.request(vocabulary)).collect();
        let mut engine = Engine::new(vocabulary, small()).unwrap();
        let mut together = Outcomes::new();
        let (mut running, mut shared) = (0, 0);
        for (id, wanted) in requests.iter().enumerate() {
            engine.submit(id as u64, request(wanted.clone())).unwrap();
            for _ in 0..numbers.below(6) {
                engine.step(net);
                collect(&mut engine, &mut together);
                assert!(engine.stats().running <= 7);
                running = running.max(engine.stats().running);
                shared += usize::from(engine.stats().running > 0 && engine.stats().prefilling > 0);
            }
        }
        finish(&mut engine, net, &mut together);
        assert_eq!(running, 7, "the batch was full at times");
        assert!(shared > 5, "prompts were read between decoding steps: {shared}");
        let mut finishes = HashSet::new();
        for (id, wanted) in requests.iter().enumerate() {
            let mut engine = Engine::new(vocabulary, EngineOptions::default()).unwrap();
            let mut alone = Outcomes::new();
            engine.submit(0, request(wanted.clone())).unwrap();
            finish(&mut engine, net, &mut alone);
            let (together, alone) = (&together[&(id as u64)], &alone[&0]);
            assert!(together.error.is_none() && alone.error.is_none(), "request {id}: {together:?}");
            assert_same(&together.samples, &alone.samples, &format!("request {id}"));
            assert_eq!(together.samples.len(), wanted.1);
            let summary = together.summary.unwrap();
            assert_eq!(summary.prompt_tokens, wanted.0.len());
            assert_eq!(summary.generated_tokens, together.samples.iter().map(|row| row.tokens.len()).sum::<usize>());
            finishes.extend(together.samples.iter().map(|row| row.finish.unwrap().name()));
        }
        assert_eq!(finishes.len(), 2, "some stopped, some were cut");
    });
}

#[test]
fn chunks_of_a_prompt_make_no_difference() {
    let model = qwen3();
    let (prompts, wanted) = golden_batch();
    for prefill_step_size in [1, 3, 512] {
        on_owner(&model, |net| {
            let limits = EngineOptions { prefill_step_size, ..Default::default() };
            let vocabulary = net.config().vocab_size;
            let mut batch = Batch::new(vocabulary, prompts.clone(), 1, &options(24, 0., &[]), None, limits).unwrap();
            while batch.step(net, &Cancel::default()).unwrap() {}
            let tokens: Vec<Vec<i32>> = batch.take_output().rows.into_iter().map(|row| row.tokens).collect();
            assert_eq!(tokens, wanted, "steps of {prefill_step_size}");
        });
    }
}

#[test]
fn cancelled_requests_leave_and_the_others_do_not_notice() {
    let model = qwen3();
    on_owner(&model, |net| {
        let vocabulary = net.config().vocab_size;
        let (with, gone) = {
            let mut numbers = Numbers(2);
            let mut engine = Engine::new(vocabulary, small()).unwrap();
            let mut outcomes = Outcomes::new();
            let mut gone = HashSet::new();
            for id in 0..40u64 {
                engine.submit(id, request(numbers.request(vocabulary))).unwrap();
                for _ in 0..numbers.below(4) {
                    engine.step(net);
                    collect(&mut engine, &mut outcomes);
                }
                let other = numbers.below(id as usize + 1) as u64;
                if numbers.below(3) == 0 && outcomes.get(&other).is_none_or(|outcome| outcome.summary.is_none()) {
                    gone.insert(other);
                    engine.cancel(other);
                }
            }
            finish(&mut engine, net, &mut outcomes);
            (outcomes, gone)
        };
        assert!(gone.len() > 5);
        let mut numbers = Numbers(2);
        let mut kept = 0;
        for id in 0..40u64 {
            // The same numbers as above, for the request alone.
            let wanted = numbers.request(vocabulary);
            let _ = (numbers.below(4), numbers.below(id as usize + 1), numbers.below(3));
            if gone.contains(&id) {
                assert!(with.get(&id).is_none_or(|outcome| outcome.summary.is_none() && outcome.error.is_none()));
                continue;
            }
            let mut engine = Engine::new(vocabulary, EngineOptions::default()).unwrap();
            let mut alone = Outcomes::new();
            engine.submit(0, request(wanted)).unwrap();
            finish(&mut engine, net, &mut alone);
            assert_same(&with[&id].samples, &alone[&0].samples, &format!("request {id}"));
            kept += 1;
        }
        assert!(kept > 10);
    });
}

/// Allows the ids of one remainder, and fails at a token of one's choice.
struct Remainder {
    divisor: i32,
    fail_after: usize,
}

impl TokenMask for Remainder {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        allowed.iter_mut().enumerate().for_each(|(id, allowed)| *allowed = id as i32 % self.divisor == 0);
        Ok(())
    }

    fn accept(&mut self, token: i32) -> Result<()> {
        assert_eq!(token % self.divisor, 0);
        self.fail_after -= 1;
        if self.fail_after == 0 { Err(Error::Argument("the grammar has had enough".into())) } else { Ok(()) }
    }
}

#[test]
fn masks_constrain_their_rows_and_fail_alone() {
    let model = qwen3();
    on_owner(&model, |net| {
        let vocabulary = net.config().vocab_size;
        let free = || Request::new(vec![5, 6, 7], options(10, 0., &[]));
        let masked = |divisor, fail_after| {
            let masks: Vec<Box<dyn TokenMask>> = vec![Box::new(Remainder { divisor, fail_after })];
            Request { masks, ..Request::new(vec![5, 6, 7], options(10, 1., &[])) }
        };
        let mut engine = Engine::new(vocabulary, EngineOptions::default()).unwrap();
        let mut outcomes = Outcomes::new();
        engine.submit(0, free()).unwrap();
        engine.submit(1, masked(7, 100)).unwrap();
        engine.submit(2, masked(2, 4)).unwrap();
        // Leaves no token at all.
        engine.submit(3, masked(100_000, 100)).unwrap();
        let nothing: Vec<Box<dyn TokenMask>> = vec![Box::new(Nothing)];
        engine.submit(4, Request { masks: nothing, ..free() }).unwrap();
        finish(&mut engine, net, &mut outcomes);
        assert!(outcomes[&1].samples[0].tokens.iter().all(|token| token % 7 == 0));
        assert_eq!(outcomes[&1].samples[0].tokens.len(), 10);
        assert!(outcomes[&2].error.as_ref().unwrap().to_string().contains("had enough"));
        assert_eq!(outcomes[&2].samples[0].tokens.len(), 3);
        assert_eq!(outcomes[&3].samples[0].tokens, [0; 10]);
        assert!(outcomes[&4].error.as_ref().unwrap().to_string().contains("allows no token"));
        let mut alone = Outcomes::new();
        engine.submit(9, free()).unwrap();
        finish(&mut engine, net, &mut alone);
        assert_same(&outcomes[&0].samples, &alone[&9].samples, "the free row");
    });
}

struct Nothing;

impl TokenMask for Nothing {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        allowed.fill(false);
        Ok(())
    }

    fn accept(&mut self, _token: i32) -> Result<()> {
        Ok(())
    }
}

/// A model whose forward pass fails once, when told to.
pub(super) struct Fragile<'a> {
    net: &'a dyn CausalLm,
    fail: Cell<bool>,
}

impl<'a> Fragile<'a> {
    pub fn new(net: &'a dyn CausalLm) -> Self {
        Fragile { net, fail: Cell::new(false) }
    }

    pub fn fail(&self) {
        self.fail.set(true);
    }
}

// SAFETY: used by the owner thread only.
unsafe impl Send for Fragile<'_> {}

impl Module for Fragile<'_> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.net.visit(prefix, f);
    }

    fn visit_mut(&mut self, _prefix: &str, _f: &mut dyn FnMut(String, &mut Array)) {}
}

impl CausalLm for Fragile<'_> {
    fn config(&self) -> &ModelConfig {
        self.net.config()
    }

    fn forward(&self, input: Forward) -> Result<Hidden> {
        if self.fail.replace(false) { Err(Error::OutOfMemory("a test".into())) } else { self.net.forward(input) }
    }

    fn head(&self) -> Head<'_> {
        self.net.head()
    }

    fn set_checkpoint_layers(&mut self, _on: bool) {}
}

#[test]
fn a_failing_step_ends_its_rows_and_the_engine_goes_on() {
    let model = qwen3();
    on_owner(&model, |net| {
        let net = Fragile::new(net);
        let limits = EngineOptions { max_batch_size: 2, ..Default::default() };
        let mut engine = Engine::new(net.config().vocab_size, limits).unwrap();
        let mut outcomes = Outcomes::new();
        for id in 0..4 {
            engine.submit(id, Request::new(vec![1, 2, 3 + id as i32], options(6, 0., &[]))).unwrap();
        }
        engine.step(&net);
        engine.step(&net);
        net.fail();
        finish(&mut engine, &net, &mut outcomes);
        for id in 0..4 {
            let failed = outcomes[&id].error.as_ref().map(Error::code);
            assert_eq!(failed, (id < 2).then_some("ERR_MLX_OOM"), "request {id}");
        }
        assert!(outcomes[&2].summary.is_some() && outcomes[&3].summary.is_some());
        // A failing prefill ends the requests whose prompts were being read.
        net.fail();
        engine.submit(10, Request::new(vec![1], options(2, 0., &[]))).unwrap();
        finish(&mut engine, &net, &mut outcomes);
        assert_eq!(outcomes[&10].error.as_ref().map(Error::code), Some("ERR_MLX_OOM"));
        assert!(engine.idle());
    });
}

#[test]
fn processors_see_the_tokens_and_change_the_logits() {
    let model = qwen3();
    on_owner(&model, |net| {
        let vocabulary = net.config().vocab_size;
        let mut engine = Engine::new(vocabulary, EngineOptions::default()).unwrap();
        let mut outcomes = Outcomes::new();
        let processed = |max_tokens| Request { processed: true, n: 2, ..Request::new(vec![3, 4], options(max_tokens, 0., &[])) };
        engine.submit(0, processed(5)).unwrap();
        engine.submit(1, Request::new(vec![8, 9], options(7, 0., &[]))).unwrap();
        engine.submit(2, processed(5)).unwrap();
        loop {
            let step = engine.step(net);
            collect(&mut engine, &mut outcomes);
            match step {
                Step::Idle => break,
                Step::Working => {}
                Step::Processing => {
                    let rows = engine.to_process().unwrap();
                    let answers = rows.into_iter().filter_map(|row| {
                        check(&row);
                        // Request 2 gets no answer at its third token.
                        if row.request == 2 && row.tokens.len() == 4 {
                            return None;
                        }
                        // The token that follows is the number of tokens so far, plus the sample.
                        let wanted = (row.tokens.len() + row.sample) as i32;
                        let ids: Vec<f32> = (0..vocabulary).map(|id| if id == wanted { 1. } else { 0. }).collect();
                        Some((row.row, Array::from_slice(&ids, &[1, vocabulary]).unwrap()))
                    });
                    let answers = answers.collect();
                    engine.processed(answers);
                }
            }
        }
        assert_eq!(outcomes[&0].samples[0].tokens, [2, 3, 4, 5, 6]);
        assert_eq!(outcomes[&0].samples[1].tokens, [3, 4, 5, 6, 7]);
        assert_eq!(outcomes[&2].error.as_ref().map(Error::code), Some("ERR_MLX_ARGUMENT"));
        let mut alone = Outcomes::new();
        engine.submit(9, Request::new(vec![8, 9], options(7, 0., &[]))).unwrap();
        finish(&mut engine, net, &mut alone);
        assert_same(&outcomes[&1].samples, &alone[&9].samples, "the row without processors");
    });
}

/// The prompt of two, and every token that came after.
fn check(row: &ToProcess) {
    assert_eq!(row.tokens[..2], [3, 4]);
    let wanted: Vec<i32> = (2..row.tokens.len()).map(|at| (at + row.sample) as i32).collect();
    assert_eq!(row.tokens[2..], wanted);
    assert_eq!(row.logits.dim(0), 1);
}
