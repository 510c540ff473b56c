//! The settings of all rows as tensors, made when rows change and not at each step.
//!
//! What no row uses is `None` and costs nothing. Rows that do not use what another row uses hold its neutral value.

use super::options::{FilterOrder, SamplerOptions};
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

pub(super) struct Settings {
    /// Token ids and values, `[B, N]`.
    pub(super) bias: Option<(Array, Array)>,
    pub(super) repetition: Option<Penalty>,
    pub(super) presence: Option<Penalty>,
    pub(super) frequency: Option<Penalty>,
    pub(super) greedy: Greedy,
    /// What the logits are divided by for the log-probs; 1 for greedy rows.
    pub(super) temperature: Option<Array>,
    /// Before the filters, for rows that want it there.
    pub(super) temperature_first: Option<Array>,
    /// After the filters, for rows that want it there.
    pub(super) temperature_last: Option<Array>,
    pub(super) top_k_first: Option<Counts>,
    pub(super) top_p: Option<Array>,
    pub(super) min_p: Option<(Array, Counts)>,
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

impl Settings {
    pub(super) fn new(rows: &[&SamplerOptions]) -> Result<Settings> {
        let ordered = |row: &SamplerOptions, order| !row.greedy() && row.filter_order == order;
        let temperature_in = |order| column(rows, 1., move |row| if ordered(row, order) { row.temperature } else { 1. });
        let top_k_in = |order| counts(rows, 0, move |row| if ordered(row, order) { row.top_k } else { 0 });
        let greedy: Vec<bool> = rows.iter().map(|row| row.greedy()).collect();
        let min_p = match column(rows, 0., |row| if row.greedy() { 0. } else { row.min_p })? {
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
            temperature: column(rows, 1., |row| if row.greedy() { 1. } else { row.temperature })?,
            temperature_first: temperature_in(FilterOrder::Hf)?,
            temperature_last: temperature_in(FilterOrder::Mlx)?,
            top_k_first: top_k_in(FilterOrder::Hf)?,
            top_p: column(rows, 1., |row| if row.greedy() { 1. } else { row.top_p })?,
            min_p,
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
        self.bias.is_some() || self.repetition.is_some() || self.presence.is_some() || self.frequency.is_some()
    }

    pub(super) fn filter(&self) -> bool {
        self.top_k_first.is_some() || self.top_p.is_some() || self.min_p.is_some() || self.top_k_last.is_some()
    }
}
