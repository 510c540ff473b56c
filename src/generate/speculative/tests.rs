//! Speculative decoding against plain decoding.

use std::collections::HashMap;

use super::{SpeculationOptions, Speculator};
use crate::generate::engine::{Engine, EngineOptions, Event, Request, RequestOptions, Step, Summary};
use crate::generate::{SamplerOptions, TokenMask};
use crate::mlx::{Array, Dtype, Result, ops};
use crate::models::{self, CausalLm, Forward, Hidden, LoadOptions, Model, ModelConfig};
use crate::nn::{Head, Module, Weight};
use crate::runtime;
use crate::testing::golden_path;

fn load(name: &str) -> Model {
    models::load(&golden_path(name), &LoadOptions { dtype: Some(Dtype::Float32), ..LoadOptions::default() }, &mut |_, _| Ok(()))
        .unwrap()
}

/// Runs `work` on the owner thread, with the models.
pub(super) fn on_owner<T>(models: &[&Model], work: impl FnOnce(&[&dyn CausalLm]) -> T) -> T {
    struct Assert<T>(T);
    // SAFETY: the models are borrowed by one thread at a time, as this one waits.
    unsafe impl<T> Send for Assert<T> {}
    let nets: Vec<&dyn CausalLm> = models.iter().map(|model| model.net.as_ref()).collect();
    let run = Assert((nets, work));
    let result = runtime::block_on_owner(move || {
        let run = run;
        let (nets, work) = run.0;
        Ok(Assert(work(&nets)))
    });
    result.unwrap().0
}

/// Tokens and log-probs of each sample, and the summary, by request.
pub(super) type Answers = HashMap<u64, (Vec<Vec<i32>>, Vec<Vec<f32>>, Option<Summary>)>;

pub(super) fn collect(events: Vec<Event>, answers: &mut Answers) {
    for event in events {
        match event {
            Event::Token { request, sample, token, logprob, .. } => {
                let (tokens, logprobs, _) = answers.entry(request).or_default();
                tokens.resize_with(tokens.len().max(sample + 1), Vec::new);
                logprobs.resize_with(logprobs.len().max(sample + 1), Vec::new);
                tokens[sample].push(token);
                logprobs[sample].push(logprob);
            }
            Event::Finished { request, summary, .. } => answers.entry(request).or_default().2 = Some(summary),
            Event::Failed { request, error } => panic!("request {request}: {error}"),
            Event::Prefill { .. } => {}
        }
    }
}

pub(super) fn limits() -> EngineOptions {
    EngineOptions { max_batch_size: 4096, prefill_step_size: 4, ..Default::default() }
}

fn speculate(
    net: &dyn CausalLm,
    draft: Option<&dyn CausalLm>,
    vocabulary: i32,
    options: SpeculationOptions,
    requests: Vec<Request>,
) -> Answers {
    run(Speculator::new(vocabulary, options, limits()).unwrap(), net, draft, requests)
}

pub(super) fn run(
    mut speculator: Speculator,
    net: &dyn CausalLm,
    draft: Option<&dyn CausalLm>,
    requests: Vec<Request>,
) -> Answers {
    for (id, request) in requests.into_iter().enumerate() {
        speculator.submit(id as u64, request).unwrap();
    }
    let mut answers = Answers::new();
    loop {
        let step = speculator.step(net, draft);
        collect(speculator.take_events(), &mut answers);
        if step == Step::Idle {
            return answers;
        }
    }
}

pub(super) fn requests(vocabulary: i32) -> Vec<Request> {
    // Some repeat themselves, for the lookup.
    let prompts: Vec<Vec<i32>> =
        (0..8).map(|row| (0..3 + 5 * row).map(|i| (17 * row + 7 * (i % 6) + row * (i / 12)) % vocabulary).collect()).collect();
    let options = |row: usize| RequestOptions {
        max_tokens: 1 + 5 * row,
        stop_tokens: if row.is_multiple_of(2) { (0..20).collect() } else { Default::default() },
        sampler: SamplerOptions {
            temperature: 0.,
            repetition_penalty: if row.is_multiple_of(3) { 1.2 } else { 1. },
            ..Default::default()
        },
        ..Default::default()
    };
    prompts.into_iter().enumerate().map(|(row, prompt)| Request::new(prompt, options(row))).collect()
}

#[test]
fn greedy_answers_are_those_of_plain_decoding() {
    let (target, other) = (load("models/qwen3"), load("models/qwen3_yarn"));
    on_owner(&[&target, &other], |nets| {
        let (net, other) = (nets[0], nets[1]);
        let vocabulary = net.config().vocab_size;
        assert_eq!(other.config().vocab_size, vocabulary);
        let mut engine = Engine::new(vocabulary, limits()).unwrap();
        for (id, request) in requests(vocabulary).into_iter().enumerate() {
            engine.submit(id as u64, request).unwrap();
        }
        let mut plain = Answers::new();
        while engine.step(net) != Step::Idle {
            collect(engine.take_events(), &mut plain);
        }
        collect(engine.take_events(), &mut plain);
        type Case<'a> = (&'a str, Option<&'a dyn CausalLm>, Option<(usize, usize)>);
        let cases: [Case; 3] =
            [("lookup", None, Some((3, 1))), ("itself", Some(net), None), ("another model", Some(other), None)];
        for (what, draft, lookup) in cases {
            let options = SpeculationOptions { num_draft_tokens: 5, lookup, fast_forward: false };
            let answers = speculate(net, draft, vocabulary, options, requests(vocabulary));
            let mut guesses = (0, 0);
            for (id, (tokens, logprobs, summary)) in &plain {
                let (own_tokens, own_logprobs, own_summary) = &answers[id];
                assert_eq!(own_tokens, tokens, "{what}, request {id}");
                for (a, b) in own_logprobs[0].iter().zip(&logprobs[0]) {
                    assert!((a - b).abs() < 1e-4, "{what}: {a} {b}");
                }
                let (own, plain) = (own_summary.unwrap(), summary.unwrap());
                assert_eq!((own.prompt_tokens, own.generated_tokens), (plain.prompt_tokens, plain.generated_tokens));
                guesses.0 += own.draft_tokens;
                guesses.1 += own.accepted_tokens;
            }
            assert!(guesses.0 > 20, "{what}: {guesses:?}");
            match what {
                "itself" => assert_eq!(guesses.0, guesses.1, "a model agrees with itself"),
                "lookup" => assert!(guesses.1 > 0 && guesses.1 < guesses.0, "{guesses:?}"),
                _ => assert!(guesses.1 < guesses.0, "{guesses:?}"),
            }
        }
    });
}

/// A model whose next token depends on the last one only, by a table of logits.
struct Markov<'a> {
    like: &'a dyn CausalLm,
    /// `[V, V]`
    logits: Weight,
}

const SIZE: usize = 5;

// SAFETY: used by the owner thread only.
unsafe impl Send for Markov<'_> {}

impl Module for Markov<'_> {
    fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Array)) {}

    fn visit_mut(&mut self, _prefix: &str, _f: &mut dyn FnMut(String, &mut Array)) {}
}

impl CausalLm for Markov<'_> {
    fn config(&self) -> &ModelConfig {
        self.like.config()
    }

    fn forward(&self, input: Forward) -> Result<Hidden> {
        // What it remembers says how much it has read, and no more.
        let nothing = ops::zeros(&[1, 1, input.ids.dim(1), 1], Dtype::Float32)?;
        for cache in input.caches.into_iter().flatten() {
            cache.update(&nothing, &nothing)?;
        }
        Ok(Hidden { states: self.logits.rows(input.ids)?, router_logits: Vec::new() })
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        Ok(hidden.clone())
    }

    fn head(&self) -> Head<'_> {
        Head::from(&self.logits)
    }

    fn set_checkpoint_layers(&mut self, _on: bool) {}
}

/// Forbids the successor of the last token.
struct NoSuccessor {
    tokens: Vec<i32>,
}

impl TokenMask for NoSuccessor {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        allowed[(self.tokens[self.tokens.len() - 1] as usize + 1) % SIZE] = false;
        Ok(())
    }

    fn accept(&mut self, token: i32) -> Result<()> {
        self.tokens.push(token);
        Ok(())
    }

    fn reversible(&self) -> bool {
        true
    }

    fn rollback(&mut self, count: usize) -> Result<()> {
        self.tokens.truncate(self.tokens.len() - count);
        Ok(())
    }
}

fn table(seed: usize) -> Vec<f32> {
    (0..SIZE * SIZE).map(|i| ((i * 7919 + seed * 104_729) % 97) as f32 / 30.).collect()
}

#[test]
fn samples_are_distributed_as_without_guessing() {
    let model = load("models/qwen3");
    on_owner(&[&model], |nets| {
        let markov =
            |seed| Markov { like: nets[0], logits: Array::from_slice(&table(seed), &[SIZE as i32, SIZE as i32]).unwrap().into() };
        let (target, draft) = (markov(1), markov(5));
        let (n, temperature) = (3000, 0.8f32);
        // Exact probabilities of the first three tokens after token 2.
        let row = |last: usize, masked: bool| -> Vec<f64> {
            let logits = &table(1)[last * SIZE..(last + 1) * SIZE];
            let open = |token: usize| !masked || token != (last + 1) % SIZE;
            let weight = |(token, &logit)| if open(token) { (f64::from(logit) / f64::from(temperature)).exp() } else { 0. };
            let weights: Vec<f64> = logits.iter().enumerate().map(weight).collect();
            let total: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / total).collect()
        };
        let quoting = || vec![2, 0, 1, 4, 3, 2, 1, 1, 2];
        type Case<'a> = (&'a str, Option<&'a dyn CausalLm>, Vec<i32>, bool);
        let cases: [Case; 4] = [
            ("draft model", Some(&draft), vec![2], false),
            ("lookup", None, quoting(), false),
            ("draft model under a mask", Some(&draft), vec![2], true),
            ("lookup under a mask", None, quoting(), true),
        ];
        for (what, draft, prompt, masked) in cases {
            let options =
                SpeculationOptions { num_draft_tokens: 3, lookup: draft.is_none().then_some((2, 1)), fast_forward: false };
            let sampler = SamplerOptions { temperature, seed: 7, ..Default::default() };
            let wanted = RequestOptions { max_tokens: 3, sampler, ..Default::default() };
            let mask = || Box::new(NoSuccessor { tokens: vec![2] }) as Box<dyn TokenMask>;
            let masks = (0..n).filter(|_| masked).map(|_| mask()).collect();
            let request = Request { n, masks, ..Request::new(prompt, wanted) };
            let answers = speculate(&target, draft, SIZE as i32, options, vec![request]);
            let (samples, _, summary) = &answers[&0];
            let mut counts = vec![0f64; SIZE * SIZE * SIZE];
            for tokens in samples {
                counts[tokens.iter().fold(0, |index, &token| index * SIZE + token as usize)] += 1.;
            }
            let (mut statistic, mut freedom, mut rare) = (0., 0, (0., 0.));
            for (index, &count) in counts.iter().enumerate() {
                let (a, b, c) = (index / SIZE / SIZE, index / SIZE % SIZE, index % SIZE);
                let expected = n as f64 * row(2, masked)[a] * row(a, masked)[b] * row(b, masked)[c];
                assert!(expected > 0. || count == 0., "{what}: tokens {a} {b} {c} are masked");
                // Cells of few expected counts are taken together.
                if expected < 8. {
                    rare = (rare.0 + count, rare.1 + expected);
                    continue;
                }
                statistic += (count - expected) * (count - expected) / expected;
                freedom += 1;
            }
            if rare.1 > 0. {
                statistic += (rare.0 - rare.1) * (rare.0 - rare.1) / rare.1;
                freedom += 1;
            }
            let freedom = (freedom - 1) as f64;
            // Mean `freedom`, variance twice that; five standard deviations above.
            let bound = freedom + 5. * (2. * freedom).sqrt();
            assert!(freedom > 20. && statistic < bound, "{what}: chi-squared {statistic:.1} with {freedom} degrees of freedom");
            let summary = summary.unwrap();
            assert!(summary.accepted_tokens > n / 10 && summary.accepted_tokens < summary.draft_tokens, "{what}: {summary:?}");
        }
    });
}
