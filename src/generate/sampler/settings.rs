//! The settings of all rows as tensors, made when rows change and not at each step.
//!
//! What no row uses is `None` and costs nothing. Rows that do not use what another row uses hold its neutral value.

use super::Row;
use super::filters::{Dynamic, Xtc};
use super::lists::IdLists;
use super::options::{FilterOrder, SamplerOptions};
use super::repeats::{Bans, Dry};
use crate::mlx::{Array, Result};

/// A penalty and how far it looks back.
pub(super) struct Penalty {
    /// float32 `[B, 1]`
    pub(super) value: Array,
    /// int32 `[B, 1]`
    pub(super) windows: Array,
    pub(super) widest: i32,
}

/// Counts of which the largest is known.
pub(super) struct Counts {
    /// int32 `[B, 1]`
    pub(super) values: Array,
    pub(super) largest: i32,
}

/// Which rows take the most likely token.
pub(super) enum Greedy {
    All,
    None,
    /// bool `[B, 1]`
    Some(Array),
}

/// What logits are divided by at one place among the filters.
pub(super) struct Temperature {
    pub(super) value: Option<Array>,
    pub(super) dynamic: Option<Dynamic>,
}

impl Temperature {
    fn new(rows: &[&SamplerOptions], order: FilterOrder) -> Result<Temperature> {
        let here = |row: &SamplerOptions| !row.greedy() && row.filter_order == order;
        let range = column(rows, 0., |row| if here(row) { row.dynatemp_range } else { 0. })?;
        Ok(Temperature {
            value: column(rows, 1., |row| if here(row) { row.temperature } else { 1. })?,
            dynamic: match range {
                None => None,
                Some(range) => Some(Dynamic { range, exponent: filled(rows, |row| row.dynatemp_exponent)? }),
            },
        })
    }
}

pub(super) struct Settings {
    /// Token ids and values, `[B, N]`.
    pub(super) bias: Option<(Array, Array)>,
    pub(super) repetition: Option<Penalty>,
    pub(super) presence: Option<Penalty>,
    pub(super) frequency: Option<Penalty>,
    pub(super) dry: Option<Dry>,
    pub(super) no_repeat_ngram: Option<Counts>,
    /// Bad words, and stop tokens before `min_tokens`.
    pub(super) bans: Option<Bans>,
    pub(super) greedy: Greedy,
    /// What the logits are divided by for the log-probs; 1 for greedy rows.
    pub(super) temperature: Option<Array>,
    /// Before the filters, for rows that want it there.
    pub(super) temperature_first: Temperature,
    /// After the filters, for rows that want it there.
    pub(super) temperature_last: Temperature,
    pub(super) top_n_sigma: Option<Array>,
    pub(super) top_k_first: Option<Counts>,
    pub(super) top_p: Option<Array>,
    pub(super) min_p: Option<(Array, Counts)>,
    pub(super) typical_p: Option<Array>,
    pub(super) xtc: Option<Xtc>,
    pub(super) top_k_last: Option<Counts>,
    pub(super) top_logprobs: i32,
    pub(super) largest_id: i32,
}

/// One value per row, `[B, 1]`; `None` where all are neutral.
fn column(rows: &[&SamplerOptions], neutral: f32, value: impl Fn(&SamplerOptions) -> f32) -> Result<Option<Array>> {
    let values: Vec<f32> = rows.iter().map(|row| value(row)).collect();
    if values.iter().all(|&value| value == neutral) {
        return Ok(None);
    }
    Array::from_slice(&values, &[values.len() as i32, 1]).map(Some)
}

/// One value per row, `[B, 1]`.
fn filled(rows: &[&SamplerOptions], value: impl Fn(&SamplerOptions) -> f32) -> Result<Array> {
    let values: Vec<f32> = rows.iter().map(|row| value(row)).collect();
    Array::from_slice(&values, &[values.len() as i32, 1])
}

/// As `column` for whole numbers.
fn counts(rows: &[&SamplerOptions], neutral: i32, value: impl Fn(&SamplerOptions) -> i32) -> Result<Option<Counts>> {
    let values: Vec<i32> = rows.iter().map(|row| value(row)).collect();
    if values.iter().all(|&value| value == neutral) {
        return Ok(None);
    }
    let largest = values.iter().copied().max().unwrap_or(neutral);
    Ok(Some(Counts { values: Array::from_slice(&values, &[values.len() as i32, 1])?, largest }))
}

fn penalty(
    rows: &[&SamplerOptions],
    neutral: f32,
    setting: impl Fn(&SamplerOptions) -> (f32, Option<i32>),
) -> Result<Option<Penalty>> {
    let Some(value) = column(rows, neutral, |row| setting(row).0)? else { return Ok(None) };
    let windows: Vec<i32> = rows
        .iter()
        .map(|row| match setting(row) {
            (value, _) if value == neutral => 1,
            (_, size) => size.unwrap_or(i32::MAX),
        })
        .collect();
    let widest = windows.iter().copied().max().unwrap_or(1);
    Ok(Some(Penalty { value, windows: Array::from_slice(&windows, &[windows.len() as i32, 1])?, widest }))
}

fn bias(rows: &[&SamplerOptions]) -> Result<Option<(Array, Array)>> {
    let width = rows.iter().map(|row| row.logit_bias.len()).max().unwrap_or(0);
    if width == 0 {
        return Ok(None);
    }
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for row in rows {
        let entries = row.logit_bias.iter().copied().chain(std::iter::repeat((0, 0.))).take(width);
        entries.for_each(|(id, value)| {
            ids.push(id);
            values.push(value);
        });
    }
    let shape = [rows.len() as i32, width as i32];
    Ok(Some((Array::from_slice(&ids, &shape)?, Array::from_slice(&values, &shape)?)))
}

fn dry(rows: &[&SamplerOptions]) -> Result<Option<Dry>> {
    let Some(penalty) = penalty(rows, 0., |row| (row.dry_multiplier, row.dry_context_size))? else { return Ok(None) };
    let allowed: Vec<i32> = rows.iter().map(|row| row.dry_allowed_length).collect();
    Ok(Some(Dry {
        multiplier: penalty.value,
        windows: penalty.windows,
        base: filled(rows, |row| row.dry_base)?,
        allowed: Array::from_slice(&allowed, &[allowed.len() as i32, 1])?,
        breakers: IdLists::new(rows.iter().map(|row| row.dry_sequence_breakers.as_slice()))?,
    }))
}

fn xtc(rows: &[&SamplerOptions]) -> Result<Option<Xtc>> {
    let probability = column(rows, 0., |row| if row.greedy() { 0. } else { row.xtc_probability })?;
    let Some(probability) = probability else { return Ok(None) };
    Ok(Some(Xtc {
        probability,
        threshold: filled(rows, |row| row.xtc_threshold)?,
        special: IdLists::new(rows.iter().map(|row| row.xtc_special_tokens.as_slice()))?,
    }))
}

fn bans(rows: &[Row]) -> Result<Option<Bans>> {
    Bans::new(&rows.iter().map(Row::bans).collect::<Vec<_>>())
}

impl Settings {
    pub(super) fn new(batch: &[Row]) -> Result<Settings> {
        let rows: &[&SamplerOptions] = &batch.iter().map(|row| &row.options).collect::<Vec<_>>();
        let ordered = |row: &SamplerOptions, order| !row.greedy() && row.filter_order == order;
        let top_k_in = |order| counts(rows, 0, move |row| if ordered(row, order) { row.top_k } else { 0 });
        let unless_greedy = |neutral: f32, value: fn(&SamplerOptions) -> f32| {
            column(rows, neutral, move |row| if row.greedy() { neutral } else { value(row) })
        };
        let greedy: Vec<bool> = rows.iter().map(|row| row.greedy()).collect();
        let min_p = match unless_greedy(0., |row| row.min_p)? {
            None => None,
            Some(p) => {
                // 0 is no count that a row may ask for, so there is always a tensor.
                counts(rows, 0, |row| row.min_tokens_to_keep)?.map(|least| (p, least))
            }
        };
        Ok(Settings {
            bias: bias(rows)?,
            repetition: penalty(rows, 1., |row| (row.repetition_penalty, row.repetition_context_size))?,
            presence: penalty(rows, 0., |row| (row.presence_penalty, row.presence_context_size))?,
            frequency: penalty(rows, 0., |row| (row.frequency_penalty, row.frequency_context_size))?,
            dry: dry(rows)?,
            no_repeat_ngram: counts(rows, 0, |row| row.no_repeat_ngram_size)?,
            bans: bans(batch)?,
            temperature: column(rows, 1., |row| if row.greedy() { 1. } else { row.temperature })?,
            temperature_first: Temperature::new(rows, FilterOrder::Hf)?,
            temperature_last: Temperature::new(rows, FilterOrder::Mlx)?,
            top_n_sigma: unless_greedy(0., |row| row.top_n_sigma)?,
            top_k_first: top_k_in(FilterOrder::Hf)?,
            top_p: unless_greedy(1., |row| row.top_p)?,
            min_p,
            typical_p: unless_greedy(1., |row| row.typical_p)?,
            xtc: xtc(rows)?,
            top_k_last: top_k_in(FilterOrder::Mlx)?,
            top_logprobs: rows.iter().map(|row| row.top_logprobs).max().unwrap_or(0),
            largest_id: rows.iter().map(|row| row.largest_id()).max().unwrap_or(-1),
            greedy: match (greedy.iter().all(|&is| is), greedy.iter().any(|&is| is)) {
                (true, _) => Greedy::All,
                (_, false) => Greedy::None,
                _ => Greedy::Some(Array::from_slice(&greedy, &[rows.len() as i32, 1])?),
            },
        })
    }

    /// Whether any logit may change before the temperature.
    pub(super) fn process(&self) -> bool {
        let penalties = [&self.repetition, &self.presence, &self.frequency].into_iter().any(Option::is_some);
        self.bias.is_some() || penalties || self.dry.is_some() || self.no_repeat_ngram.is_some() || self.bans.is_some()
    }

    /// Whether any token may be removed.
    pub(super) fn filter(&self) -> bool {
        let masses = [&self.top_n_sigma, &self.top_p, &self.typical_p].into_iter().any(Option::is_some);
        let ranks = [&self.top_k_first, &self.top_k_last].into_iter().any(Option::is_some);
        masses || ranks || self.min_p.is_some() || self.xtc.is_some()
    }

    /// Whether a temperature follows the entropy.
    pub(super) fn dynamic(&self) -> bool {
        self.temperature_first.dynamic.is_some() || self.temperature_last.dynamic.is_some()
    }
}
