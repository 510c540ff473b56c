//! From logits to tokens, for all rows of a batch at once and without leaving the device.
//!
//! Every row has its own options, seed and history. A step applies, in this order: logit bias, repetition, presence and frequency
//! penalty, DRY, no-repeat-n-gram, bad words and the least number of tokens; then temperature and filters in the row's
//! `FilterOrder`; then it draws. Greedy rows take the best token after the first part. The log-prob returned is that of the token
//! under the model's own `logits / temperature` (plain logits for greedy rows) in float32, before penalties, bias, masks and
//! filters: what training compares with (TRL).

mod distribution;
mod draw;
mod filters;
mod functions;
mod history;
mod lists;
mod options;
mod penalties;
mod repeats;
mod settings;
#[cfg(test)]
mod tests;

pub(super) use distribution::{Draws, draw_from, likeliest};
pub use functions::*;
pub use options::{FilterOrder, SamplerOptions};

use draw::{Blocks, LANES, RandomRow};
use history::{Columns, History};
use penalties::Seen;
use settings::{Greedy, Penalty, Settings, Temperature};

use crate::mlx::{Array, Dtype, Error, Result, kernels, ops};

/// One step's choice: tokens int32 `[B]` and their log-probs float32 `[B]`.
pub struct Sampled {
    pub tokens: Array,
    pub logprobs: Array,
    /// Where a row asks for `top_logprobs`: ids int32 and log-probs float32, `[B, K]`, the best first; `K` is the most that a row
    /// asks for.
    pub top: Option<(Array, Array)>,
}

struct Row {
    options: SamplerOptions,
    random: RandomRow,
    /// Tokens chosen so far.
    step: u64,
}

impl Row {
    fn new(options: &SamplerOptions) -> Result<Row> {
        options.validate()?;
        Ok(Row { options: options.clone(), random: RandomRow::new(options), step: 0 })
    }

    /// Sequences whose last token may not follow the others now.
    fn bans(&self) -> Vec<&[i32]> {
        let early = self.step < self.options.min_tokens as u64;
        let stops: &[i32] = if early { &self.options.stop_tokens } else { &[] };
        self.options.bad_words.iter().map(Vec::as_slice).chain(stops.chunks(1)).collect()
    }
}

/// The sampling state of the rows of a batch.
#[derive(Default)]
pub struct Sampler {
    rows: Vec<Row>,
    history: History,
    /// Made again after rows have changed.
    settings: Option<Settings>,
}

impl Sampler {
    /// Without rows.
    pub fn new() -> Sampler {
        Sampler::default()
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// A row joins at the end; `history` are the ids of its prompt, which penalties see.
    pub fn push(&mut self, options: &SamplerOptions, history: &[i32]) -> Result<()> {
        self.rows.push(Row::new(options)?);
        self.history.push(options, history);
        self.settings = None;
        Ok(())
    }

    /// A joining row takes the place of one that has finished.
    pub fn put(&mut self, row: usize, options: &SamplerOptions, history: &[i32]) -> Result<()> {
        self.check_rows(&[row])?;
        self.rows[row] = Row::new(options)?;
        self.history.put(row, options, history);
        self.settings = None;
        Ok(())
    }

    /// Only these rows stay, in this order; none may be named twice.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        self.check_rows(rows)?;
        let mut old: Vec<Option<Row>> = std::mem::take(&mut self.rows).into_iter().map(Some).collect();
        self.rows = rows.iter().filter_map(|&row| old[row].take()).collect();
        self.history.keep(rows);
        self.settings = None;
        Ok(())
    }

    fn check_rows(&self, rows: &[usize]) -> Result<()> {
        let mut seen = vec![false; self.rows.len()];
        for &row in rows {
            if seen.get_mut(row).is_none_or(|seen| std::mem::replace(seen, true)) {
                let count = self.rows.len();
                return Err(Error::Argument(format!(
                    "row {row} of the sampler is named twice or not there: it has {count} rows"
                )));
            }
        }
        Ok(())
    }

    /// Chooses a token for each row of `logits` `[B, V]`. `allowed` (bool `[B, V]`) rules out every other token, as a grammar does;
    /// each row must leave some.
    pub fn sample(&mut self, logits: &Array, allowed: Option<&Array>) -> Result<Sampled> {
        self.sample_processed(logits, None, allowed)
    }

    /// As `sample`, but tokens are chosen from `processed` `[B, V]`, made from `logits` by processors from outside. Log-probs are
    /// still those of `logits`.
    pub fn sample_processed(&mut self, logits: &Array, processed: Option<&Array>, allowed: Option<&Array>) -> Result<Sampled> {
        let settings = match self.settings.take() {
            Some(settings) => settings,
            None => Settings::new(&self.rows)?,
        };
        self.check_shapes(&settings, logits, processed, allowed)?;
        let uniforms = match settings.greedy {
            Greedy::All => None,
            _ => Some(self.uniforms()?),
        };
        let raw = logits.astype(Dtype::Float32)?;
        let mut changed = processed.map(|processed| processed.astype(Dtype::Float32)).transpose()?;
        // Asked for in any case: the history must not keep rows that have left.
        let history = self.history.columns()?;
        if settings.process() {
            changed = Some(process(changed.as_ref().unwrap_or(&raw), &settings, history)?);
        }
        if let Some(allowed) = allowed {
            changed = Some(filters::only(changed.as_ref().unwrap_or(&raw), allowed)?);
        }
        let sampled = choose(&raw, changed.as_ref(), &settings, uniforms.as_ref())?;
        self.history.append(&sampled.tokens)?;
        self.rows.iter_mut().for_each(|row| row.step += 1);
        let may_stop_now = |row: &Row| row.step > 0 && row.step == row.options.min_tokens as u64;
        self.settings = if self.rows.iter().any(may_stop_now) { None } else { Some(settings) };
        Ok(sampled)
    }

    fn check_shapes(
        &self,
        settings: &Settings,
        logits: &Array,
        processed: Option<&Array>,
        allowed: Option<&Array>,
    ) -> Result<()> {
        let rows = self.rows.len() as i32;
        if logits.ndim() != 2 || logits.dim(0) != rows || rows == 0 || logits.dim(1) == 0 {
            let shape = logits.shape();
            return Err(Error::Shape(format!("a sampler of {rows} rows needs logits [{rows}, vocabulary], got {shape:?}")));
        }
        for (what, array) in [("processed logits", processed), ("allowed tokens", allowed)] {
            if let Some(array) = array.filter(|array| array.shape() != logits.shape()) {
                let (shape, wanted) = (array.shape(), logits.shape());
                return Err(Error::Shape(format!("{what} have shape {shape:?}, the logits {wanted:?}")));
            }
        }
        let vocabulary = logits.dim(1);
        if settings.largest_id >= vocabulary {
            return self.rows.iter().try_for_each(|row| row.options.validate_ids(vocabulary));
        }
        Ok(())
    }

    /// The random numbers of this step, `[B, LANES]`.
    fn uniforms(&self) -> Result<Array> {
        let values: Vec<f32> = self.rows.iter().flat_map(|row| row.random.uniforms(row.step)).collect();
        Array::from_slice(&values, &[self.rows.len() as i32, LANES as i32])
    }

    /// What must be evaluated with a step so that graphs do not grow from step to step.
    pub fn state(&self) -> Vec<Array> {
        self.history.arrays()
    }
}

type ApplyPenalty = fn(&Array, &Seen, &Array) -> Result<Array>;

/// Bias, penalties and bans.
fn process(logits: &Array, settings: &Settings, history: Option<&Columns>) -> Result<Array> {
    let mut logits = match &settings.bias {
        Some((ids, values)) => penalties::bias(logits, ids, values)?,
        None => logits.clone(),
    };
    if let Some(history) = history {
        let penalties: [(&Option<Penalty>, ApplyPenalty); 3] = [
            (&settings.repetition, penalties::repetition),
            (&settings.presence, penalties::presence),
            (&settings.frequency, penalties::frequency),
        ];
        for (penalty, apply) in penalties {
            if let Some(penalty) = penalty {
                let seen = Seen::new(&history.tokens, &penalty.windows, penalty.widest)?;
                logits = apply(&logits, &seen, &penalty.value)?;
            }
        }
        if let Some(dry) = &settings.dry {
            logits = repeats::dry(&logits, history, dry)?;
        }
        if let Some(sizes) = &settings.no_repeat_ngram {
            logits = repeats::no_repeat_ngram(&logits, history, &sizes.values)?;
        }
    }
    settings.bans.as_ref().map_or(Ok(logits.clone()), |bans| bans.apply(&logits, history))
}

fn divided(logits: &Array, temperature: Option<&Array>) -> Result<Array> {
    temperature.map_or_else(|| Ok(logits.clone()), |temperature| logits.divide(temperature))
}

fn tempered(logits: &Array, temperature: &Temperature) -> Result<Array> {
    let Some(dynamic) = &temperature.dynamic else { return divided(logits, temperature.value.as_ref()) };
    let one = Array::scalar(1.);
    let value = filters::dynamic_temperature(logits, temperature.value.as_ref().unwrap_or(&one), dynamic)?;
    logits.divide(&value)
}

/// Temperature and filters: what the draw is from, up to normalisation.
fn filter(logits: &Array, settings: &Settings, uniforms: &Array) -> Result<Array> {
    let mut logits = tempered(logits, &settings.temperature_first)?;
    if let Some(n) = &settings.top_n_sigma {
        logits = filters::top_n_sigma(&logits, n)?;
    }
    if let Some(k) = &settings.top_k_first {
        logits = filters::top_k(&logits, &k.values, k.largest)?;
    }
    if let Some(p) = &settings.top_p {
        logits = filters::top_p(&logits, p)?;
    }
    if let Some((p, least)) = &settings.min_p {
        logits = filters::min_p(&logits, p, &least.values, least.largest)?;
    }
    if let Some(p) = &settings.typical_p {
        logits = filters::typical_p(&logits, p)?;
    }
    if let Some(xtc) = &settings.xtc {
        logits = filters::xtc(&logits, xtc, &uniforms.slice_axis(1, 2, 3)?)?;
    }
    if let Some(k) = &settings.top_k_last {
        logits = filters::top_k(&logits, &k.values, k.largest)?;
    }
    tempered(&logits, &settings.temperature_last)
}

/// `raw` are the model's logits, `changed` those to choose from where they differ.
fn choose(raw: &Array, changed: Option<&Array>, settings: &Settings, uniforms: Option<&Array>) -> Result<Sampled> {
    let scaled = divided(raw, settings.temperature.as_ref())?;
    let source = changed.unwrap_or(raw);
    let (tokens, normalizer) = match uniforms {
        None => (draw::best(source)?, kernels::logsumexp(&scaled)?),
        Some(uniforms) => {
            let (drawn, normalizer) = drawn(&scaled, changed, raw, settings, uniforms)?;
            match &settings.greedy {
                Greedy::Some(rows) => (ops::where_(rows, &draw::best(source)?, &drawn)?, normalizer),
                _ => (drawn, normalizer),
            }
        }
    };
    let logprobs = scaled.take_along_axis(&tokens, -1)?.subtract(&normalizer)?;
    let top = match settings.top_logprobs.min(scaled.dim(-1)) {
        0 => None,
        count => Some(draw::top(&scaled, &normalizer, count)?),
    };
    Ok(Sampled { tokens: tokens.squeeze(&[-1])?, logprobs: logprobs.squeeze(&[-1])?, top })
}

/// Tokens int32 `[B, 1]` and the logarithm of the sum of exponentials of `scaled`, `[B, 1]`. Where nothing changes the logits, one
/// exponential per logit serves both, filters included.
fn drawn(scaled: &Array, changed: Option<&Array>, raw: &Array, settings: &Settings, uniforms: &Array) -> Result<(Array, Array)> {
    if changed.is_some() || settings.dynamic() {
        let filtered = filter(changed.unwrap_or(raw), settings, uniforms)?;
        let weights = kernels::exp(&filtered.subtract(&filtered.max(&[-1], true)?)?)?;
        return Ok((Blocks::new(&weights)?.draw(uniforms)?, kernels::logsumexp(scaled)?));
    }
    let best = scaled.max(&[-1], true)?;
    let weights = kernels::exp(&scaled.subtract(&best)?)?;
    let blocks = Blocks::new(&weights)?;
    let normalizer = blocks.total()?.log()?.add(&best)?;
    if !settings.filter() {
        return Ok((blocks.draw(uniforms)?, normalizer));
    }
    let removed = filter(raw, settings, uniforms)?.equal(&Array::scalar(f32::NEG_INFINITY))?;
    let kept = ops::where_(&removed, &Array::scalar(0.), &weights)?;
    Ok((Blocks::new(&kept)?.draw(uniforms)?, normalizer))
}
