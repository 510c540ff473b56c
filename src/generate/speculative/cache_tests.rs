//! Speculative decoding with every kind of cache, with prefixes, masks and several requests: greedy answers are those of plain decoding.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::tests::*;
use super::{SpeculationOptions, Speculator};
use crate::cache::{Cache, CacheOptions, PrefixCache, PrefixOptions};
use crate::generate::engine::{Engine, EngineOptions, Event, Request, RequestOptions, Step};
use crate::generate::{SamplerOptions, TokenMask};
use crate::mlx::{Dtype, Error, Result};
use crate::models::{CausalLm, Model, init};

const VOCABULARY: i32 = 96;

/// Heads of 32 features, so that they can be quantised.
fn model(seed: u64) -> Model {
    let config = json!({
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        "max_position_embeddings": 512, "rope_theta": 10000.0, "initializer_range": 0.2, "eos_token_id": 1
    });
    init(config, "test".as_ref(), Dtype::Float32, seed).unwrap()
}

fn alone(cache: CacheOptions) -> EngineOptions {
    EngineOptions { alone: true, cache, ..limits() }
}

fn plain(net: &dyn CausalLm, limits: EngineOptions, requests: Vec<Request>) -> Answers {
    let mut engine = Engine::new(VOCABULARY, limits).unwrap();
    for (id, request) in requests.into_iter().enumerate() {
        engine.submit(id as u64, request).unwrap();
    }
    let mut answers = Answers::new();
    while engine.step(net) != Step::Idle {
        collect(engine.take_events(), &mut answers);
    }
    collect(engine.take_events(), &mut answers);
    answers
}

/// Where guesses come from: the draft model (an index) or the text, and the grammar.
type Source = (&'static str, Option<usize>, Option<(usize, usize)>, bool);

const SOURCES: [Source; 5] = [
    ("lookup", None, Some((3, 1)), false),
    ("itself", Some(0), None, false),
    ("another model", Some(1), None, false),
    ("what is forced", None, None, true),
    ("another model and what is forced", Some(1), None, true),
];

fn speculator((_, _, lookup, fast_forward): Source, limits: EngineOptions) -> Speculator {
    Speculator::new(VOCABULARY, SpeculationOptions { num_draft_tokens: 5, lookup, fast_forward }, limits).unwrap()
}

fn expect_same(got: &Answers, wanted: &Answers, tolerance: f32, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (id, (tokens, logprobs, _)) in wanted {
        assert_eq!(&got[id].0, tokens, "{what}, request {id}");
        for (a, b) in got[id].1.iter().flatten().zip(logprobs.iter().flatten()) {
            assert!((a - b).abs() < tolerance, "{what}, request {id}: {a} {b}");
        }
    }
}

fn total(answers: &Answers, count: impl Fn(&crate::generate::engine::Summary) -> usize) -> usize {
    answers.values().map(|(_, _, summary)| count(&summary.unwrap())).sum()
}

#[test]
fn every_cache_gives_the_answers_of_plain_decoding() {
    let models = [model(3), model(4)];
    on_owner(&[&models[0], &models[1]], |nets| {
        let bounded = |size| CacheOptions { max_kv_size: Some(size), ..CacheOptions::default() };
        let coded =
            |start| CacheOptions { kv_bits: Some(8), kv_group_size: 32, quantized_kv_start: start, ..CacheOptions::default() };
        // Codes may differ by one where sums are rounded otherwise: a 255th of a group's range.
        let kinds = [
            ("bounded, full", bounded(24), 1e-4),
            ("bounded, with room", bounded(400), 1e-4),
            ("quantised", coded(0), 1e-2),
            ("quantised on the way", coded(30), 1e-2),
            ("bounded and quantised", CacheOptions { max_kv_size: Some(24), ..coded(0) }, 1e-2),
        ];
        for (kind, cache, tolerance) in kinds {
            let wanted = plain(nets[0], alone(cache), requests(VOCABULARY));
            for source in SOURCES {
                let draft = source.1.map(|index| nets[index]);
                let got = run(speculator(source, alone(cache)), nets[0], draft, requests(VOCABULARY));
                expect_same(&got, &wanted, tolerance, &format!("{kind}, {}", source.0));
                let (guesses, unguessed) =
                    (total(&got, |summary| summary.draft_tokens), total(&got, |summary| summary.plain_tokens));
                assert_eq!(guesses > 0, source.0 != "what is forced", "{kind}, {}", source.0);
                if kind == "bounded, full" {
                    assert!(unguessed > 50, "{kind}, {}: {unguessed}", source.0);
                } else if kind == "bounded, with room" || kind == "quantised" {
                    assert_eq!(unguessed, 0, "{kind}, {}", source.0);
                }
            }
        }
    });
}

/// At even places the ids of one remainder, which changes with the last token; at odd ones a single id, which is then forced, as are some
/// after it.
#[derive(Default)]
struct Pattern {
    tokens: Vec<i32>,
}

impl Pattern {
    fn only(tokens: &[i32]) -> Option<i32> {
        let last = tokens.last()?;
        (!tokens.len().is_multiple_of(4)).then_some((last * 7 + 3) % VOCABULARY)
    }
}

impl TokenMask for Pattern {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        let remainder = self.tokens.last().map_or(0, |last| last % 3);
        for (id, allowed) in (0..).zip(allowed) {
            *allowed = Self::only(&self.tokens).map_or(id % 3 == remainder, |only| id == only);
        }
        Ok(())
    }

    fn accept(&mut self, token: i32) -> Result<()> {
        let mut allowed = vec![true; VOCABULARY as usize];
        self.mask(&mut allowed)?;
        self.tokens.push(token);
        if allowed[token as usize] { Ok(()) } else { Err(Error::Internal(format!("token {token} is masked"))) }
    }

    fn reversible(&self) -> bool {
        true
    }

    fn rollback(&mut self, count: usize) -> Result<()> {
        self.tokens.truncate(self.tokens.len() - count);
        Ok(())
    }

    fn forced(&mut self) -> Vec<i32> {
        let mut tokens = self.tokens.clone();
        while let Some(only) = Self::only(&tokens) {
            tokens.push(only);
        }
        tokens.split_off(self.tokens.len())
    }
}

/// One that cannot go back.
struct Onward(Pattern);

impl TokenMask for Onward {
    fn mask(&mut self, allowed: &mut [bool]) -> Result<()> {
        self.0.mask(allowed)
    }

    fn accept(&mut self, token: i32) -> Result<()> {
        self.0.accept(token)
    }
}

fn masked(onward: bool) -> Vec<Request> {
    let mask =
        || -> Box<dyn TokenMask> { if onward { Box::new(Onward(Pattern::default())) } else { Box::new(Pattern::default()) } };
    requests(VOCABULARY).into_iter().map(|request| Request { masks: vec![mask()], ..request }).collect()
}

#[test]
fn masked_answers_are_those_of_plain_decoding() {
    let models = [model(3), model(4)];
    on_owner(&[&models[0], &models[1]], |nets| {
        let wanted = plain(nets[0], alone(CacheOptions::default()), masked(false));
        for source in SOURCES {
            let draft = source.1.map(|index| nets[index]);
            let got = run(speculator(source, limits()), nets[0], draft, masked(false));
            expect_same(&got, &wanted, 1e-4, source.0);
            let (guesses, right) = (total(&got, |summary| summary.draft_tokens), total(&got, |summary| summary.accepted_tokens));
            assert!(guesses > 20 || source.0 == "lookup", "{}: {guesses}", source.0);
            match source.0 {
                "what is forced" | "itself" => assert_eq!(guesses, right, "{}", source.0),
                _ => assert!(right <= guesses),
            }
            let got = run(speculator(source, limits()), nets[0], draft, masked(true));
            expect_same(&got, &wanted, 1e-4, "a mask that cannot go back");
            assert_eq!(total(&got, |summary| summary.draft_tokens), 0, "nothing is guessed for it");
        }
    });
}

#[test]
fn a_known_beginning_is_not_read_again() {
    let models = [model(3), model(4)];
    on_owner(&[&models[0], &models[1]], |nets| {
        let bounded = CacheOptions { max_kv_size: Some(24), ..CacheOptions::default() };
        for cache in [CacheOptions::default(), bounded] {
            let options = EngineOptions { cache, ..limits() };
            // Alone, but with as many first tokens as rows of a batch keep.
            let wanted =
                plain(nets[0], alone(CacheOptions { keep: cache.max_kv_size.map(|_| 0), ..cache }), requests(VOCABULARY));
            for source in [SOURCES[0], SOURCES[2]] {
                let draft = source.1.map(|index| nets[index]);
                let prefixes =
                    Arc::new(Mutex::new(PrefixCache::new(PrefixOptions { max_entries: 100, ..PrefixOptions::default() })));
                let with = || speculator(source, options).with_prefixes(Some(prefixes.clone()));
                let first = run(with(), nets[0], draft, requests(VOCABULARY));
                expect_same(&first, &wanted, 1e-4, source.0);
                let again = run(with(), nets[0], draft, requests(VOCABULARY));
                expect_same(&again, &wanted, 1e-4, &format!("{} again", source.0));
                let known = total(&again, |summary| summary.cached_tokens);
                let all = total(&again, |summary| summary.prompt_tokens) - again.len();
                let bound = if cache.max_kv_size.is_none() { all } else { all / 2 };
                assert!(known >= bound && known <= all, "{}: {known} of {all}", source.0);
                // An answer's own tokens are known too, but for the last.
                let (tokens, ..) = &wanted[&3];
                let longer = [requests(VOCABULARY)[3].prompt.clone(), tokens[0].clone(), vec![5]].concat();
                let options = RequestOptions { max_tokens: 4, ..requests(VOCABULARY)[3].options.clone() };
                let more = || vec![Request::new(longer.clone(), options.clone())];
                let got = run(with(), nets[0], draft, more());
                if cache.max_kv_size.is_none() {
                    assert!(total(&got, |summary| summary.cached_tokens) + 3 > longer.len() - 1);
                    expect_same(&got, &plain(nets[0], alone(cache), more()), 1e-4, "a longer prompt");
                }
            }
        }
    });
}

/// The answer, and the caches that it went on from.
fn with_caches(
    mut speculator: Speculator,
    net: &dyn CausalLm,
    draft: Option<&dyn CausalLm>,
    request: Request,
) -> (Vec<i32>, Vec<Cache>) {
    speculator.submit(0, request).unwrap();
    let (mut tokens, mut returned) = (Vec::new(), None);
    while speculator.step(net, draft) != Step::Idle {}
    for event in speculator.take_events() {
        match event {
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished { caches, .. } => returned = caches,
            Event::Failed { error, .. } => panic!("{error}"),
            Event::Prefill { .. } => {}
        }
    }
    (tokens, returned.unwrap())
}

#[test]
fn own_caches_come_back_with_what_was_read() {
    let models = [model(3), model(4)];
    on_owner(&[&models[0], &models[1]], |nets| {
        let options = |stop: &[i32]| RequestOptions {
            max_tokens: 20,
            stop_tokens: stop.iter().copied().collect(),
            sampler: SamplerOptions { temperature: 0., ..Default::default() },
            ..Default::default()
        };
        let prompt: Vec<i32> = (0..12).map(|i| i * 5 % 11).collect();
        let wanted = plain(nets[0], alone(CacheOptions::default()), vec![Request::new(prompt.clone(), options(&[]))]);
        let wanted = wanted[&0].0[0].clone();
        // A stop token among guesses that are right: those behind it were read and go.
        for stop in [vec![], vec![wanted[7]]] {
            for source in SOURCES {
                let draft = source.1.map(|index| nets[index]);
                let mut caches = nets[0].new_caches();
                // The draft model's come along once.
                if source.0 == "itself" {
                    caches.extend(nets[0].new_caches());
                }
                let count = caches.len();
                let request = Request { caches: Some(caches), ..Request::new(prompt.clone(), options(&stop)) };
                let (tokens, caches) = with_caches(speculator(source, alone(CacheOptions::default())), nets[0], draft, request);
                assert!(wanted.starts_with(&tokens) && (stop.is_empty() || tokens.last() == stop.last()));
                let all = [prompt.clone(), tokens].concat();
                let read = caches[0].offset() as usize;
                assert!(caches.len() == count && caches.iter().all(|cache| cache.offset() as usize == read));
                assert!(read == all.len() || read + 1 == all.len(), "{}: {read} of {}", source.0, all.len());
                // They go on like a text that was read at once.
                let rest = [&all[read..], &[7, 8]].concat();
                let request = Request { caches: Some(caches), ..Request::new(rest, options(&[])) };
                let (more, _) = with_caches(speculator(source, alone(CacheOptions::default())), nets[0], draft, request);
                let whole = Request::new([all, vec![7, 8]].concat(), options(&[]));
                assert_eq!(more, plain(nets[0], alone(CacheOptions::default()), vec![whole])[&0].0[0], "{}", source.0);
            }
        }
        let mut caches = nets[0].new_caches();
        caches.pop();
        let mut speculator = speculator(SOURCES[0], alone(CacheOptions::default()));
        speculator.submit(0, Request { caches: Some(caches), ..Request::new(prompt, options(&[])) }).unwrap();
        while speculator.step(nets[0], None) != Step::Idle {}
        let failed = speculator.take_events().into_iter().find_map(|event| match event {
            Event::Failed { error, .. } => Some(error.to_string()),
            _ => None,
        });
        assert!(failed.unwrap().contains("the model has 2 layers and needs as many caches, not 1"));
    });
}

#[test]
fn requests_take_turns() {
    let model = model(3);
    on_owner(&[&model], |nets| {
        let request = |max_tokens, start: i32| {
            let sampler = SamplerOptions { temperature: 0., ..Default::default() };
            Request::new((start..start + 9).collect(), RequestOptions { max_tokens, sampler, ..Default::default() })
        };
        let mut speculator = speculator(SOURCES[0], EngineOptions { max_batch_size: 2, ..limits() });
        for (id, (max_tokens, start)) in [(60, 1), (4, 20), (4, 40)].into_iter().enumerate() {
            speculator.submit(id as u64, request(max_tokens, start)).unwrap();
        }
        let mut ended = Vec::new();
        loop {
            let step = speculator.step(nets[0], None);
            assert!(speculator.stats().running + speculator.stats().prefilling <= 2);
            ended.extend(speculator.take_events().into_iter().filter_map(|event| match event {
                Event::Finished { request, .. } => Some(request),
                _ => None,
            }));
            if step == Step::Idle {
                break;
            }
        }
        assert_eq!(ended, [1, 2, 0], "nobody waits for the long one");
    });
}
