//! Rewards to advantages, as in TRL: float64 on the host, a few hundred numbers per step.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mlx::{Error, Result};

/// Keeps a division by a tiny standard deviation finite.
const EPSILON: f64 = 1e-4;

/// What the deviation from the group's mean is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of the whole batch.
    Batch,
    /// Nothing (Dr. GRPO).
    None,
}

/// How several reward functions become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiObjectiveAggregation {
    #[default]
    SumThenNormalize,
    /// Each function normalised within its group first, then summed and normalised over the batch (GDPO). Ignores `scale_rewards`.
    NormalizeThenSum,
}

/// Options of `compute_advantages`; the defaults are TRL's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdvantageOptions {
    /// Consecutive rows that share a prompt.
    pub num_generations: usize,
    /// One weight per reward function; `None` weighs all with 1.
    pub reward_weights: Option<Vec<f64>>,
    pub scale_rewards: ScaleRewards,
    pub multi_objective_aggregation: MultiObjectiveAggregation,
}

impl Default for AdvantageOptions {
    fn default() -> Self {
        AdvantageOptions {
            num_generations: 8,
            reward_weights: None,
            scale_rewards: ScaleRewards::default(),
            multi_objective_aggregation: MultiObjectiveAggregation::default(),
        }
    }
}

impl AdvantageOptions {
    /// Options from a JSON object in camelCase.
    pub fn from_json(value: Value) -> Result<Self> {
        crate::options::from_json(value, "computeAdvantages")
    }
}

/// Mean and Bessel-corrected standard deviation of one reward function over the batch, without the rows it did not score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RewardStatistics {
    pub mean: f64,
    pub std: f64,
}

/// Advantages `[N]` and what to log with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// 0 for rows that no function scored, and where a group has too few scores to normalise.
    pub advantages: Vec<f64>,
    /// The weighted sum per row; NaN for rows that no function scored.
    pub rewards: Vec<f64>,
    /// Mean of `rewards` (TRL's metric `reward`).
    pub reward: f64,
    /// Standard deviation of `rewards` over the whole batch.
    pub reward_std: f64,
    /// Share of rows whose standard deviation is about 0, so that they teach nothing.
    pub frac_reward_zero_std: f64,
    pub per_function: Vec<RewardStatistics>,
    /// Rows that no function scored.
    pub num_unscorable: usize,
}

/// Advantages of `rewards` `[N][F]`: `num_generations` consecutive rows share a prompt, NaN is a function that gave no score.
/// Unscored entries take part in no mean and no deviation.
pub fn compute_advantages(rewards: &[Vec<f64>], options: &AdvantageOptions) -> Result<Advantages> {
    let functions = check(rewards, options)?;
    let group = options.num_generations;
    let weights = options.reward_weights.clone().unwrap_or_else(|| vec![1.0; functions]);
    let columns: Vec<Vec<f64>> = (0..functions).map(|column| rewards.iter().map(|row| row[column]).collect()).collect();

    let totals = weighted_sums(&columns, &weights);
    let batch_std = nan_std(&totals);
    let (mut advantages, zero_std) = match options.multi_objective_aggregation {
        MultiObjectiveAggregation::SumThenNormalize => {
            let group_std: Vec<f64> = per_group(&totals, group, nan_std);
            let centred = subtract(&totals, &per_group(&totals, group, nan_mean));
            let (divisors, stds) = match options.scale_rewards {
                ScaleRewards::Group => (Some(group_std.clone()), group_std),
                ScaleRewards::Batch => (Some(vec![batch_std; totals.len()]), vec![batch_std; totals.len()]),
                ScaleRewards::None => (None, group_std),
            };
            let scaled = match divisors {
                Some(divisors) => centred.iter().zip(&divisors).map(|(value, std)| value / (std + EPSILON)).collect(),
                None => centred,
            };
            (scaled, zero_share(&stds))
        }
        MultiObjectiveAggregation::NormalizeThenSum => {
            // A score without a deviation to divide it by (the only one of its group) is worth 0.
            let normalised: Vec<Vec<f64>> = columns
                .iter()
                .map(|column| {
                    let (means, stds) = (per_group(column, group, nan_mean), per_group(column, group, nan_std));
                    let scaled = subtract(column, &means).into_iter().zip(stds).map(|(value, std)| value / (std + EPSILON));
                    scaled.zip(column).map(|(value, raw)| if value.is_nan() && !raw.is_nan() { 0.0 } else { value }).collect()
                })
                .collect();
            let sums = weighted_sums(&normalised, &weights);
            let (mean, std) = (nan_mean(&sums), nan_std(&sums));
            (sums.iter().map(|value| (value - mean) / (std + EPSILON)).collect::<Vec<f64>>(), zero_share(&[std]))
        }
    };
    for value in &mut advantages {
        if value.is_nan() {
            *value = 0.0;
        }
    }
    Ok(Advantages {
        advantages,
        reward: nan_mean(&totals),
        reward_std: batch_std,
        frac_reward_zero_std: zero_std,
        per_function: columns.iter().map(|column| RewardStatistics { mean: nan_mean(column), std: nan_std(column) }).collect(),
        num_unscorable: totals.iter().filter(|total| total.is_nan()).count(),
        rewards: totals,
    })
}

/// The number of reward functions, after refusing what does not fit together.
fn check(rewards: &[Vec<f64>], options: &AdvantageOptions) -> Result<usize> {
    let (rows, group) = (rewards.len(), options.num_generations);
    if group == 0 {
        return Err(Error::Argument("numGenerations is 0; it must be at least 1".into()));
    }
    if rows == 0 || rows % group != 0 {
        return Err(Error::Argument(format!("{rows} rows of rewards are not a positive multiple of numGenerations ({group})")));
    }
    let functions = rewards[0].len();
    if functions == 0 {
        return Err(Error::Argument("rewards need at least one reward function".into()));
    }
    if let Some((row, scores)) = rewards.iter().enumerate().find(|(_, scores)| scores.len() != functions) {
        return Err(Error::Argument(format!("row {row} has {} rewards; row 0 has {functions}", scores.len())));
    }
    if let Some((row, scores)) = rewards.iter().enumerate().find(|(_, scores)| scores.iter().any(|score| score.is_infinite())) {
        return Err(Error::Argument(format!("row {row} has an infinite reward: {scores:?}")));
    }
    if let Some(weights) = &options.reward_weights {
        if weights.len() != functions {
            return Err(Error::Argument(format!("{} rewardWeights for {functions} reward functions", weights.len())));
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::Argument(format!("rewardWeights hold {weight}; weights must be finite")));
        }
    }
    Ok(functions)
}

/// The weighted sum of what each row has; NaN where it has nothing.
fn weighted_sums(columns: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    (0..columns[0].len())
        .map(|row| {
            let scored = || columns.iter().zip(weights).filter(|(column, _)| !column[row].is_nan());
            match scored().next() {
                Some(_) => scored().map(|(column, weight)| column[row] * weight).sum(),
                None => f64::NAN,
            }
        })
        .collect()
}

/// A statistic of each group, repeated for each of its rows.
fn per_group(values: &[f64], group: usize, statistic: fn(&[f64]) -> f64) -> Vec<f64> {
    values.chunks(group).flat_map(|rows| std::iter::repeat_n(statistic(rows), rows.len())).collect()
}

fn subtract(values: &[f64], means: &[f64]) -> Vec<f64> {
    values.iter().zip(means).map(|(value, mean)| value - mean).collect()
}

fn nan_mean(values: &[f64]) -> f64 {
    let (sum, count) =
        values.iter().filter(|value| !value.is_nan()).fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

/// Bessel-corrected; of fewer than two values NaN, but 0 for a group of one.
fn nan_std(values: &[f64]) -> f64 {
    if values.len() == 1 {
        return 0.0;
    }
    let mean = nan_mean(values);
    let (squares, count) = values
        .iter()
        .filter(|value| !value.is_nan())
        .fold((0.0, 0.0), |(sum, count), value| (sum + (value - mean).powi(2), count + 1.0));
    if count < 2.0 { f64::NAN } else { (squares / (count - 1.0)).sqrt() }
}

/// The share of standard deviations that are about 0.
fn zero_share(stds: &[f64]) -> f64 {
    stds.iter().filter(|std| std.abs() <= 1e-8).count() as f64 / stds.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn number(value: &Value) -> f64 {
        value.as_f64().unwrap_or_else(|| match value.as_str() {
            Some("NaN") => f64::NAN,
            _ => panic!("{value} is no number"),
        })
    }

    #[test]
    fn agrees_with_trl() {
        let tensors = testing::load_tensors(testing::golden_path("advantages/tensors.safetensors"));
        let cases = testing::cases("advantages");
        let cases = cases["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 52);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let options = &case["options"];
            let options = AdvantageOptions::from_json(serde_json::json!({
                "numGenerations": options["num_generations"],
                "rewardWeights": options["reward_weights"],
                "scaleRewards": options["scale_rewards"],
                "multiObjectiveAggregation": options["multi_objective_aggregation"],
            }))
            .unwrap();
            let rewards = &tensors[case["inputs"]["rewards"]["tensor"].as_str().unwrap()];
            let rows: Vec<Vec<f64>> = rewards
                .to_f32()
                .unwrap()
                .chunks(rewards.dim(1) as usize)
                .map(|row| row.iter().map(|&value| value as f64).collect())
                .collect();
            let got = compute_advantages(&rows, &options).unwrap();

            let (atol, rtol) = (number(&case["tolerance"]["atol"]), number(&case["tolerance"]["rtol"]));
            let close = |got: f64, want: f64, what: &str| {
                let agrees = (got.is_nan() && want.is_nan()) || (got - want).abs() <= atol + rtol * want.abs();
                assert!(agrees, "{name} {what}: {got} should be {want}");
            };
            let expected = &case["expected"];
            let want = tensors[expected["advantages"]["tensor"].as_str().unwrap()].to_f32().unwrap();
            assert_eq!(got.advantages.len(), want.len());
            got.advantages.iter().zip(want).for_each(|(&got, want)| close(got, want.into(), "advantages"));
            close(got.reward, number(&expected["reward"]), "reward");
            close(got.reward_std, number(&expected["reward_std"]), "reward_std");
            close(got.frac_reward_zero_std, number(&expected["frac_reward_zero_std"]), "frac_reward_zero_std");
            let per_function = expected["per_function"].as_array().unwrap();
            assert_eq!(got.per_function.len(), per_function.len());
            for (got, want) in got.per_function.iter().zip(per_function) {
                close(got.mean, number(&want["mean"]), "mean");
                close(got.std, number(&want["std"]), "std");
            }
            assert_eq!(got.num_unscorable as u64, expected["num_unscorable"].as_u64().unwrap(), "{name}");
        }
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        let options = |group, weights: Option<&[f64]>| AdvantageOptions {
            num_generations: group,
            reward_weights: weights.map(<[f64]>::to_vec),
            ..Default::default()
        };
        let rows = vec![vec![1.0, 2.0]; 6];
        let message = |rows: &[Vec<f64>], options: AdvantageOptions| compute_advantages(rows, &options).unwrap_err().to_string();
        assert!(message(&rows, options(4, None)).contains("6 rows"));
        assert!(message(&rows, options(0, None)).contains("numGenerations"));
        assert!(message(&[], options(2, None)).contains("0 rows"));
        assert!(message(&rows, options(3, Some(&[1.0]))).contains("1 rewardWeights for 2"));
        assert!(message(&rows, options(3, Some(&[1.0, f64::NAN]))).contains("finite"));
        assert!(message(&[vec![1.0], vec![]], options(2, None)).contains("row 1"));
        assert!(message(&[vec![1.0], vec![f64::INFINITY]], options(2, None)).contains("infinite"));
        assert!(
            AdvantageOptions::from_json(serde_json::json!({ "scaleRewards": "groups" }))
                .unwrap_err()
                .to_string()
                .contains("'group'")
        );
    }

    #[test]
    fn a_group_of_one_has_no_deviation() {
        let options = AdvantageOptions { num_generations: 1, ..Default::default() };
        let got = compute_advantages(&[vec![1.0], vec![3.0]], &options).unwrap();
        assert_eq!(got.advantages, [0.0, 0.0]);
        assert_eq!(got.frac_reward_zero_std, 1.0);
    }
}
