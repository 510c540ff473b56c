//! Measurements of the small benchmark model, `bench/configs/small.json`. They assert nothing about time.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::step::{StepOptions, TextRow, Trainer};
use crate::generate::{Batch, EngineOptions, RequestOptions, SamplerOptions};
use crate::mlx::{Dtype, blas};
use crate::models::{self, Model};
use crate::runtime::{Cancel, block_on_owner};

fn model() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/configs/small.json");
    let config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    models::init(config, &path, Dtype::Float32, 1).unwrap()
}

/// Wall time and processor time of all threads, in milliseconds.
fn timed(work: impl FnOnce()) -> (f64, f64) {
    let processor = || {
        // SAFETY: clock_gettime fills a plain struct of ours.
        unsafe {
            let mut time: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
            time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
        }
    };
    let (wall, used) = (Instant::now(), processor());
    work();
    (wall.elapsed().as_secs_f64() * 1e3, processor() - used)
}

fn report(what: &str, times: &mut [(f64, f64)]) {
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = times.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0])
    };
    let ((wall, best), (used, least)) = (median(|time| time.0), median(|time| time.1));
    println!("{what}: {wall:.1} ms (best {best:.1}), processor {used:.1} ms (least {least:.1}); {}", blas());
}

#[test]
#[ignore = "a measurement: cargo test train_step -- --ignored --nocapture"]
fn train_step() {
    let mut model = model();
    let mut trainer = Trainer::new(&mut model, StepOptions::default()).unwrap();
    let row = |row: i32| TextRow { ids: (0..129).map(|i| (i * 7919 + row * 104_729) % 8192).collect(), mask: vec![true; 129] };
    let rows: Vec<TextRow> = (0..8).map(row).collect();
    let mut step = || {
        timed(|| {
            trainer.supervised(&mut model, &rows, 1024., 0.).unwrap();
            trainer.step(&mut model, 1e-4).unwrap();
        })
    };
    step();
    report("training step, 8 x 128 tokens", &mut (0..7).map(|_| step()).collect::<Vec<_>>());
}

#[test]
#[ignore = "a measurement: cargo test decode_step -- --ignored --nocapture"]
fn decode_step() {
    let mut model = model();
    let options = |temperature: f32| RequestOptions {
        max_tokens: 129,
        stop_tokens: HashSet::new(),
        sampler: SamplerOptions { temperature, ..Default::default() },
        ..Default::default()
    };
    for (what, temperature) in [("greedy", 0.), ("sampled", 1.)] {
        let prompts = (0..16).map(|row| (0..32).map(|i| (i * 7919 + row * 104_729) % 8192).collect()).collect();
        let model = &mut model;
        block_on_owner(move || {
            let net = model.net.as_ref();
            let limits = EngineOptions { prefill_batch_size: 16, ..Default::default() };
            let mut batch = Batch::new(net.config().vocab_size, prompts, 1, &options(temperature), None, limits)?;
            batch.step(net, &Cancel::default())?;
            let (mut times, mut more) = (Vec::new(), true);
            while more {
                times.push(timed(|| more = batch.step(net, &Cancel::default()).unwrap()));
            }
            report(&format!("{what} decoding step, 16 rows"), &mut times);
            Ok(())
        })
        .unwrap();
    }
}
