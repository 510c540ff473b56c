//! The sampler's rows: the distribution of draws, and that every row of a changing batch is as it is alone. Numbers of the processors
//! and filters against their peers are in the TypeScript tests.

use super::*;
use crate::mlx::random;

fn options(row: u64) -> SamplerOptions {
    SamplerOptions { row, seed: 7, ..Default::default() }
}

/// Pearson's statistic of `rows` draws from one distribution, with the degrees of freedom.
fn chi_squared(options: &SamplerOptions, logits: &[f32], expected: &[f64], rows: usize) -> (f64, usize) {
    let mut sampler = Sampler::new();
    (0..rows as u64).for_each(|row| sampler.push(&SamplerOptions { row, ..options.clone() }, &[0]).unwrap());
    let logits =
        Array::from_slice(logits, &[1, logits.len() as i32]).unwrap().broadcast_to(&[rows as i32, logits.len() as i32]).unwrap();
    let tokens = sampler.sample(&logits, None).unwrap().tokens.to_i32().unwrap();
    let mut counts = vec![0f64; expected.len()];
    tokens.iter().for_each(|&token| counts[token as usize] += 1.);
    let mut statistic = 0.;
    let mut freedom = 0;
    for (&count, &probability) in counts.iter().zip(expected) {
        if probability == 0. {
            assert_eq!(count, 0., "a removed token was drawn");
        } else {
            statistic += (count - rows as f64 * probability).powi(2) / (rows as f64 * probability);
            freedom += 1;
        }
    }
    (statistic, freedom - 1)
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0f32, 0.2, -0.5, 2.0, 0.0, -3.0];
    let softmax = |temperature: f64, keep: &[bool]| {
        let weights: Vec<f64> =
            logits.iter().zip(keep).map(|(&l, &keep)| if keep { (l as f64 / temperature).exp() } else { 0. }).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect::<Vec<_>>()
    };
    let all = [true; 6];
    let cases = [
        (SamplerOptions { seed: 1, ..Default::default() }, softmax(1., &all)),
        (SamplerOptions { seed: 2, temperature: 0.7, ..Default::default() }, softmax(0.7, &all)),
        (SamplerOptions { seed: 3, top_k: 3, ..Default::default() }, softmax(1., &[true, true, false, true, false, false])),
        // At temperature 2 the masses in order are .36 .22 .15 .13 .10 .03: 0.6 needs three tokens.
        (
            SamplerOptions { seed: 4, temperature: 2., top_p: 0.6, ..Default::default() },
            softmax(2., &[true, true, false, true, false, false]),
        ),
        (SamplerOptions { seed: 5, min_p: 0.2, ..Default::default() }, softmax(1., &[true, false, false, true, false, false])),
    ];
    for (options, expected) in cases {
        let (statistic, freedom) = chi_squared(&options, &logits, &expected, 20_000);
        // Mean `freedom`, variance `2 * freedom`; six standard deviations above (p < 1e-5 for these few degrees).
        let bound = freedom as f64 + 6. * (2. * freedom as f64).sqrt();
        assert!(statistic < bound, "{options:?}: chi-squared {statistic:.1} with {freedom} degrees of freedom");
    }
}

#[test]
fn logprobs_are_of_the_unfiltered_distribution() {
    let logits = Array::from_slice(&[1f32, 2., 3., 0.5], &[1, 4]).unwrap();
    let options = SamplerOptions { temperature: 0.5, top_k: 1, repetition_penalty: 1.01, ..Default::default() };
    let mut sampler = Sampler::new();
    sampler.push(&options, &[0, 2]).unwrap();
    let sampled = sampler.sample(&logits, None).unwrap();
    assert_eq!(sampled.tokens.to_i32().unwrap(), [2]);
    let scaled = [2f64, 4., 6., 1.];
    let wanted = 6. - scaled.iter().map(|value| value.exp()).sum::<f64>().ln();
    assert!((sampled.logprobs.item().unwrap() as f64 - wanted).abs() < 1e-5);
}

#[test]
fn options_out_of_range_are_refused_before_anything_runs() {
    let plain = SamplerOptions::default;
    let bad = [
        SamplerOptions { temperature: -1., ..plain() },
        SamplerOptions { temperature: f32::NAN, ..plain() },
        SamplerOptions { top_k: -1, ..plain() },
        SamplerOptions { top_p: 0., ..plain() },
        SamplerOptions { top_p: 1.1, ..plain() },
        SamplerOptions { min_p: 2., ..plain() },
        SamplerOptions { min_tokens_to_keep: 0, ..plain() },
        SamplerOptions { xtc_threshold: 0.6, ..plain() },
        SamplerOptions { xtc_probability: f32::NAN, ..plain() },
        SamplerOptions { typical_p: 0., ..plain() },
        SamplerOptions { top_n_sigma: -1., ..plain() },
        SamplerOptions { dynatemp_range: -1., ..plain() },
        SamplerOptions { repetition_penalty: 0., ..plain() },
        SamplerOptions { repetition_context_size: Some(-3), ..plain() },
        SamplerOptions { presence_penalty: f32::INFINITY, ..plain() },
        SamplerOptions { frequency_penalty: f32::NAN, ..plain() },
        SamplerOptions { dry_base: 0.5, ..plain() },
        SamplerOptions { dry_allowed_length: 0, ..plain() },
        SamplerOptions { no_repeat_ngram_size: -1, ..plain() },
        SamplerOptions { bad_words: vec![vec![]], ..plain() },
        SamplerOptions { logit_bias: vec![(-1, 1.)], ..plain() },
        SamplerOptions { logit_bias: vec![(1, f32::INFINITY)], ..plain() },
    ];
    let mut sampler = Sampler::new();
    for options in bad {
        let error = sampler.push(&options, &[1]).err().unwrap_or_else(|| panic!("{options:?} was accepted"));
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
    }
    assert_eq!(sampler.rows(), 0);
    sampler.push(&SamplerOptions { logit_bias: vec![(4, 1.)], ..plain() }, &[]).unwrap();
    let refused = |sampler: &mut Sampler, shape: &[i32]| sampler.sample(&ops::zeros(shape, Dtype::Float32).unwrap(), None).err();
    assert_eq!(refused(&mut sampler, &[1, 4]).unwrap().code(), "ERR_MLX_ARGUMENT", "a token outside the vocabulary");
    assert_eq!(refused(&mut sampler, &[2, 8]).unwrap().code(), "ERR_MLX_SHAPE", "two rows of logits for one");
    assert!(refused(&mut sampler, &[1, 8]).is_none(), "what was refused leaves the sampler as it was");
    assert!(sampler.keep(&[0, 0]).is_err() && sampler.keep(&[1]).is_err() && sampler.put(1, &plain(), &[]).is_err());
}

/// Options of every kind, each for a row.
fn kinds() -> Vec<SamplerOptions> {
    let changes: Vec<fn(&mut SamplerOptions)> = vec![
        |_| {},
        |o| o.temperature = 0.,
        |o| o.temperature = 0.6,
        |o| (o.temperature, o.top_p, o.filter_order) = (1.5, 0.7, FilterOrder::Mlx),
        |o| (o.temperature, o.top_k) = (1.5, 4),
        |o| (o.temperature, o.top_k, o.filter_order) = (1.5, 6, FilterOrder::Mlx),
        |o| (o.min_p, o.min_tokens_to_keep) = (0.5, 3),
        |o| o.typical_p = 0.5,
        |o| o.top_n_sigma = 1.,
        |o| (o.xtc_probability, o.xtc_threshold, o.xtc_special_tokens) = (0.5, 0.05, vec![1, 2]),
        |o| (o.temperature, o.dynatemp_range) = (1.2, 0.8),
        |o| (o.temperature, o.dynatemp_range, o.filter_order, o.top_k) = (1.2, 0.8, FilterOrder::Mlx, 8),
        |o| o.repetition_penalty = 1.7,
        |o| (o.repetition_penalty, o.repetition_context_size, o.temperature) = (1.7, None, 0.),
        |o| (o.presence_penalty, o.presence_context_size) = (2., Some(3)),
        |o| (o.frequency_penalty, o.frequency_context_size) = (1., None),
        |o| o.logit_bias = vec![(3, 2.), (5, -4.)],
        |o| (o.dry_multiplier, o.dry_sequence_breakers) = (1., vec![2]),
        |o| (o.dry_multiplier, o.dry_allowed_length, o.dry_context_size) = (1., 1, Some(6)),
        |o| o.no_repeat_ngram_size = 2,
        |o| o.bad_words = vec![vec![0], vec![1, 2], vec![3, 3, 4]],
        |o| (o.min_tokens, o.stop_tokens) = (4, vec![1, 2, 3, 4, 5]),
    ];
    let with = |(row, change): (usize, fn(&mut SamplerOptions))| {
        let mut options = options(row as u64);
        change(&mut options);
        options
    };
    changes.into_iter().enumerate().map(with).collect()
}

const VOCABULARY: i32 = 12;

/// Logits that depend on row and step only, `[1, V]`.
fn logits(row: u64, step: u64) -> Array {
    let key = random::key(1000 * row + step).unwrap();
    random::normal(0., 1.5, &[1, VOCABULARY], Dtype::Float32, &key).unwrap()
}

fn prompt(row: u64) -> Vec<i32> {
    (0..(row * 5 % 17) as i32).map(|place| place * place % 5).collect()
}

/// What a row draws alone.
fn alone(options: &SamplerOptions, steps: u64) -> Vec<(i32, f32)> {
    let mut sampler = Sampler::new();
    sampler.push(options, &prompt(options.row)).unwrap();
    (0..steps)
        .map(|step| {
            let sampled = sampler.sample(&logits(options.row, step), None).unwrap();
            (sampled.tokens.to_i32().unwrap()[0], sampled.logprobs.item().unwrap())
        })
        .collect()
}

/// A batch in which rows join at the end, take the place of others, leave and change places.
#[test]
fn every_row_of_a_changing_batch_is_as_it_is_alone() {
    const STEPS: u64 = 14;
    let kinds = kinds();
    let mut sampler = Sampler::new();
    let mut rows: Vec<(usize, u64)> = Vec::new();
    let mut waiting: Vec<usize> = (0..kinds.len()).rev().collect();
    let mut drawn: Vec<Vec<(i32, f32)>> = vec![Vec::new(); kinds.len()];
    let mut turn = 0;
    while !waiting.is_empty() || !rows.is_empty() {
        // Two join at the end while there is room, others take the places of rows that are done.
        for (place, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.1 == STEPS) {
            if let Some(next) = waiting.pop() {
                sampler.put(place, &kinds[next], &prompt(next as u64)).unwrap();
                *row = (next, 0);
            }
        }
        for _ in 0..2 {
            if rows.len() < 8
                && let Some(next) = waiting.pop()
            {
                sampler.push(&kinds[next], &prompt(next as u64)).unwrap();
                rows.push((next, 0));
            }
        }
        let mut stay: Vec<usize> = (0..rows.len()).filter(|&place| rows[place].1 < STEPS).collect();
        if turn % 3 == 2 {
            stay.reverse();
        }
        sampler.keep(&stay).unwrap();
        rows = stay.iter().map(|&place| rows[place]).collect();
        if rows.is_empty() {
            break;
        }
        let parts: Vec<Array> = rows.iter().map(|&(kind, step)| logits(kind as u64, step)).collect();
        let sampled = sampler.sample(&ops::concatenate(&parts, 0).unwrap(), None).unwrap();
        let (tokens, logprobs) = (sampled.tokens.to_i32().unwrap(), sampled.logprobs.to_f32().unwrap());
        for ((row, token), logprob) in rows.iter_mut().zip(tokens).zip(logprobs) {
            drawn[row.0].push((token, logprob));
            row.1 += 1;
        }
        turn += 1;
    }
    for (kind, drawn) in kinds.iter().zip(&drawn) {
        let alone = alone(kind, STEPS);
        assert_eq!(drawn.len(), alone.len());
        for (a, b) in drawn.iter().zip(&alone) {
            assert_eq!(a.0, b.0, "{kind:?}");
            // Greedy rows sum their exponentials in another order beside rows that draw: float32 rounding of 12 terms.
            assert!((a.1 - b.1).abs() < 1e-5, "{a:?} {b:?} {kind:?}");
        }
    }
}

#[test]
fn stop_tokens_come_only_after_the_least_number_of_tokens() {
    let logits = Array::from_slice(&[0f32, 9., 1., 0.], &[1, 4]).unwrap();
    let mut sampler = Sampler::new();
    let own = SamplerOptions { temperature: 0., min_tokens: 2, stop_tokens: vec![1], ..Default::default() };
    sampler.push(&own, &[]).unwrap();
    let tokens: Vec<i32> = (0..4).map(|_| sampler.sample(&logits, None).unwrap().tokens.to_i32().unwrap()[0]).collect();
    assert_eq!(tokens, [2, 2, 1, 1]);
}

#[test]
fn masks_and_processed_logits_decide_the_token_and_not_its_logprob() {
    let logits = Array::from_slice(&[0f32, 9., 1., 0.], &[1, 4]).unwrap();
    let allowed = Array::from_slice(&[true, false, false, false], &[1, 4]).unwrap();
    let processed = Array::from_slice(&[0f32, 0., 0., 50.], &[1, 4]).unwrap();
    let total = [0f64, 9., 1., 0.].iter().map(|value| value.exp()).sum::<f64>().ln();
    for temperature in [0., 1.] {
        let mut sampler = Sampler::new();
        sampler.push(&SamplerOptions { temperature, ..Default::default() }, &[]).unwrap();
        for (processed, allowed, token) in [(None, Some(&allowed), 0), (Some(&processed), None, 3)] {
            let sampled = sampler.sample_processed(&logits, processed, allowed).unwrap();
            assert_eq!(sampled.tokens.to_i32().unwrap(), [token]);
            assert!((sampled.logprobs.item().unwrap() as f64 + total).abs() < 1e-5);
        }
    }
}

/// Runs by their definition.
fn runs_by_hand(tokens: &[i32], breakers: &[i32]) -> Vec<i32> {
    let last = tokens.len() - 1;
    let run = |place: usize| {
        (0..=place)
            .take_while(|&back| tokens[place - back] == tokens[last - back] && !breakers.contains(&tokens[last - back]))
            .count() as i32
    };
    (0..last).map(run).collect()
}

#[test]
fn runs_are_the_same_by_definition_at_once_and_step_by_step() {
    let tokens: Vec<i32> = (0..60i32).map(|place| (place * place / 7 + place / 3) % 3).collect();
    for breakers in [&[][..], &[2]] {
        for length in 2..tokens.len() {
            let part = &tokens[..length];
            let wanted = runs_by_hand(part, breakers);
            assert_eq!(history::ending_runs(part, breakers)[..length - 1], wanted, "{length} {breakers:?}");
            let array = Array::from_slice(part, &[1, length as i32]).unwrap();
            let lists = lists::IdLists::new([breakers].into_iter()).unwrap();
            let written = history::written_runs(&array, 60, lists.as_ref()).unwrap().to_i32().unwrap();
            assert_eq!(written[..length - 1], wanted, "{length} {breakers:?}");
        }
    }
}

/// Time of a step at the size of a rollout with Qwen's vocabulary.
#[test]
#[ignore = "a measurement: cargo test --release sampler_speed -- --ignored --nocapture"]
fn sampler_speed() {
    const ROWS: u64 = 64;
    let key = random::key(1).unwrap();
    let logits = random::normal(0., 2.5, &[ROWS as i32, 151_936], Dtype::Float32, &key).unwrap();
    logits.eval().unwrap();
    let penalties = SamplerOptions { repetition_penalty: 1.1, presence_penalty: 0.5, frequency_penalty: 0.5, ..options(0) };
    let cases = [
        ("greedy", SamplerOptions { temperature: 0., ..options(0) }),
        ("plain", options(0)),
        ("temperature", SamplerOptions { temperature: 0.7, ..options(0) }),
        ("top-p", SamplerOptions { temperature: 0.7, top_p: 0.9, ..options(0) }),
        ("top-k", SamplerOptions { temperature: 0.7, top_k: 20, ..options(0) }),
        ("min-p", SamplerOptions { temperature: 0.7, min_p: 0.05, ..options(0) }),
        ("top-p, top-k", SamplerOptions { temperature: 0.7, top_p: 0.9, top_k: 20, ..options(0) }),
        ("penalties", SamplerOptions { temperature: 0.7, ..penalties }),
    ];
    for (name, case) in cases {
        let mut sampler = Sampler::new();
        (0..ROWS).for_each(|row| sampler.push(&SamplerOptions { row, ..case.clone() }, &[1, 2, 3, 4, 5, 6, 7]).unwrap());
        let mut times: Vec<f64> = (0..7)
            .map(|_| {
                let start = std::time::Instant::now();
                let sampled = sampler.sample(&logits, None).unwrap();
                let mut all = sampler.state();
                all.extend([sampled.tokens, sampled.logprobs]);
                crate::mlx::eval(&all).unwrap();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{name}: {:.1} ms (best {:.1})", times[3], times[0]);
    }
}
