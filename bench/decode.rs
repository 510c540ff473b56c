//! The Rust side of bench/generation.mjs: decoding with nothing around the model, and through the engine.
//! Usage: cargo bench --bench decode -- MODEL_FOLDER; one JSON object a line in, one out.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::Path;
use std::time::Instant;

use mlx_node::generate::{Engine, EngineOptions, Event, Request, RequestOptions, SamplerOptions, Step};
use mlx_node::mlx::{Array, Dtype, Result, async_eval, eval};
use mlx_node::models::{CausalLm, Forward, LoadOptions, load};
use mlx_node::runtime::block_on_owner;
use serde_json::{Value, json};

fn grid(request: &Value) -> Vec<Vec<i32>> {
    serde_json::from_value(request["prompts"].clone()).expect("prompts")
}

/// The model with a cache, and the best token, which the next step starts from before it is read.
fn bare(net: &dyn CausalLm, prompts: &[Vec<i32>], steps: usize) -> Result<(f64, Vec<Vec<i32>>)> {
    let rows = prompts.len() as i32;
    let mut caches = net.new_caches();
    let mut next = |ids: &Array| -> Result<Array> {
        let hidden = net.hidden(Forward::cached(ids, &mut caches))?;
        let length = hidden.dim(1);
        net.logits(&hidden.slice_axis(1, length - 1, length)?)?.argmax(-1, false)?.astype(Dtype::Int32)
    };
    let mut token = next(&Array::from_slice(&prompts.concat(), &[rows, prompts[0].len() as i32])?)?;
    eval(&[&token])?;
    let mut columns = Vec::new();
    let start = Instant::now();
    for _ in 1..steps {
        let following = next(&token)?;
        async_eval(&[&following])?;
        columns.push(token.to_vec::<i32>()?);
        token = following;
    }
    columns.push(token.to_vec::<i32>()?);
    let ms = start.elapsed().as_secs_f64() * 1e3 / (steps - 1) as f64;
    Ok((ms, (0..prompts.len()).map(|row| columns.iter().map(|column| column[row]).collect()).collect()))
}

/// The same rows through the engine, from the first token to the last.
fn engine(net: &dyn CausalLm, prompts: &[Vec<i32>], steps: usize) -> Result<(f64, Vec<Vec<i32>>)> {
    let limits = EngineOptions { max_batch_size: prompts.len(), prefill_batch_size: prompts.len(), ..Default::default() };
    let mut engine = Engine::new(net.config().vocab_size, limits)?;
    for (id, prompt) in prompts.iter().enumerate() {
        let sampler = SamplerOptions { temperature: 0., ..Default::default() };
        engine.submit(
            id as u64,
            Request::new(prompt.clone(), RequestOptions { max_tokens: steps, sampler, ..Default::default() }),
        )?;
    }
    let mut tokens = vec![Vec::new(); prompts.len()];
    let mut start = None;
    loop {
        let step = engine.step(net);
        for event in engine.take_events() {
            match event {
                Event::Token { request, token, .. } => tokens[request as usize].push(token),
                Event::Failed { error, .. } => return Err(error),
                _ => {}
            }
        }
        if start.is_none() && !tokens[0].is_empty() {
            start = Some(Instant::now());
        }
        if step == Step::Idle {
            break;
        }
    }
    let ms = start.unwrap_or_else(Instant::now).elapsed().as_secs_f64() * 1e3 / (steps - 1) as f64;
    Ok((ms, tokens))
}

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).expect("usage: decode MODEL_FOLDER");
    let answer = block_on_owner(move || {
        let model =
            load(Path::new(&folder), &LoadOptions { dtype: Some(Dtype::Float32), ..Default::default() }, &mut |_, _| Ok(()))?;
        let say = |value: Value| {
            println!("{value}");
            stdout().flush().expect("standard output");
        };
        say(json!({ "peer": "mlx-node in Rust" }));
        for line in stdin().lock().lines() {
            let request: Value = serde_json::from_str(&line.expect("standard input")).expect("a JSON object");
            let (prompts, steps) = (grid(&request), request["steps"].as_u64().expect("steps") as usize);
            let run = if request["case"] == "engine" { engine } else { bare };
            let (step_ms, tokens) = run(model.net.as_ref(), &prompts, steps)?;
            say(json!({ "stepMs": step_ms, "tokens": tokens }));
        }
        Ok(())
    });
    if let Err(error) = answer {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
