//! Option objects from JSON. Unknown names and values are refused with the nearest known one.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::mlx::{Error, Result};

/// Reads the options of `what`. `T` should carry `#[serde(rename_all = "camelCase", default, deny_unknown_fields)]`.
pub fn from_json<T: DeserializeOwned>(value: Value, what: &str) -> Result<T> {
    T::deserialize(&value).map_err(|error| {
        let text = error.to_string();
        let message = with_hint(&text).unwrap_or_else(|| match culprit::<T>(&value, &text) {
            Some(name) => format!("{name}: {text}"),
            None => text,
        });
        Error::Argument(format!("{what}: {message}"))
    })
}

/// The option that alone makes the same error: serde does not name it where a value is of the wrong type.
fn culprit<T: DeserializeOwned>(value: &Value, error: &str) -> Option<String> {
    let alone = |(name, value): &(&String, &Value)| {
        let alone = Value::Object([((*name).clone(), (*value).clone())].into_iter().collect());
        T::deserialize(alone).is_err_and(|own| own.to_string() == error)
    };
    value.as_object()?.iter().find(alone).map(|(name, _)| name.clone())
}

/// Serde lists what it expected in backquotes: first the unknown name, then the known ones.
fn with_hint(text: &str) -> Option<String> {
    let kind = if text.starts_with("unknown field") {
        "option"
    } else if text.starts_with("unknown variant") {
        "value"
    } else {
        return None;
    };
    let mut names = text.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let known: Vec<&str> = names.collect();
    let hint = nearest(unknown, &known).map_or(".".into(), |name| format!("; did you mean '{name}'?"));
    Some(format!("unknown {kind} '{unknown}'{hint} Known: {}", known.join(", ")))
}

/// The known name closest to `name`, if one is close enough to be a slip of the pen, or the only one that begins like it.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = fold(name);
    let close = known
        .iter()
        .map(|&candidate| (edit_distance(&folded, &fold(candidate)), candidate))
        .min_by_key(|&(distance, _)| distance)
        .filter(|&(distance, candidate)| distance <= (candidate.chars().count() / 3).max(2));
    if let Some((_, candidate)) = close {
        return Some(candidate);
    }
    let mut alike = known.iter().filter(|candidate| begin_alike(&folded, &fold(candidate)));
    alike.next().filter(|_| alike.next().is_none()).copied()
}

/// Whether two names begin alike for at least four letters and more than half of each, as singular and plural do.
fn begin_alike(a: &[char], b: &[char]) -> bool {
    let same = a.iter().zip(b).take_while(|(left, right)| left == right).count();
    same >= 4 && 2 * same > a.len().max(b.len())
}

/// Case and separators aside: `epsilon_high` is `epsilonHigh`.
fn fold(name: &str) -> Vec<char> {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &left) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, Default)]
    #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
    #[allow(dead_code)]
    struct Options {
        epsilon_high: f64,
        level: Level,
    }

    #[derive(serde::Deserialize, Debug, Default)]
    #[serde(rename_all = "snake_case")]
    enum Level {
        #[default]
        Token,
        Sequence,
    }

    fn message(text: &str) -> String {
        let error = from_json::<Options>(serde_json::from_str(text).unwrap(), "grpoLoss").unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        error.to_string()
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest_one() {
        assert_eq!(
            message(r#"{"epsilonHi": 1}"#),
            "grpoLoss: unknown option 'epsilonHi'; did you mean 'epsilonHigh'? Known: epsilonHigh, level"
        );
        assert!(message(r#"{"epsilon_high": 1}"#).contains("did you mean 'epsilonHigh'?"));
        assert!(message(r#"{"level": "sequense"}"#).contains("did you mean 'sequence'?"));
        assert!(message(r#"{"epsilonHighest": 1}"#).contains("did you mean 'epsilonHigh'?"));
        assert_eq!(message(r#"{"colour": 1}"#), "grpoLoss: unknown option 'colour'. Known: epsilonHigh, level");
        assert_eq!(
            message(r#"{"level": "token", "epsilonHigh": "x"}"#),
            "grpoLoss: epsilonHigh: invalid type: string \"x\", expected f64"
        );
    }
}
