//! Python's `json.dumps` for template values, byte for byte: models were trained on its spacing and escapes, so a template's
//! `tojson` must not differ in a single character.

use std::fmt::Write;

use minijinja::value::{DynObject, Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Deeper values than this are refused instead of exhausting the stack.
const MAX_DEPTH: usize = 256;
const MAX_INDENT: usize = 64;

/// The `tojson` filter of transformers: `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    state: &mut State,
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let option = |given: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
        let value = if given.is_some() { given } else { kwargs.get::<Option<Value>>(name)? };
        Ok(value.filter(|value| !value.is_none()))
    };
    let ensure_ascii = option(ensure_ascii, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = option(indent, "indent")?.map(indentation).transpose()?;
    let separators = option(None, "separators")?;
    let sort_keys = option(None, "sort_keys")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let (item, key) = match separators {
        Some(pair) => {
            let pair = pair.try_iter()?.map(|part| part.as_str().map(str::to_string)).collect::<Option<Vec<_>>>();
            let [item, key] = pair
                .and_then(|pair| <[String; 2]>::try_from(pair).ok())
                .ok_or_else(|| invalid("tojson: separators must be a pair of strings"))?;
            (item, key)
        }
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
    };
    let mut writer = Writer { out: String::new(), state, ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn indentation(indent: Value) -> Result<String, Error> {
    let text = match indent.as_str() {
        Some(text) => text.to_string(),
        None => {
            let width = indent.as_i64().ok_or_else(|| invalid(format!("tojson: indent must be an integer, found {indent}")))?;
            " ".repeat(usize::try_from(width).unwrap_or(0).min(MAX_INDENT + 1))
        }
    };
    if text.len() > MAX_INDENT { Err(invalid(format!("tojson: indent is limited to {MAX_INDENT}"))) } else { Ok(text) }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

struct Writer<'a, 'env, 'vm> {
    out: String,
    state: &'a State<'env, 'vm>,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("tojson: the value is nested deeper than {MAX_DEPTH} levels")));
        }
        let before = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.container('[', ']', value.try_iter()?, depth, |writer, item| writer.value(&item, depth + 1))?
            }
            ValueKind::Map => {
                let mut pairs = value.as_object().and_then(DynObject::try_iter_pairs).into_iter().flatten().collect::<Vec<_>>();
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container('{', '}', pairs.into_iter(), depth, |writer, (key, value)| {
                    let name = match key.kind() {
                        ValueKind::String => key.to_string(),
                        ValueKind::None => "null".to_string(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
                        ValueKind::Number => number(&key),
                        kind => return Err(invalid(format!("tojson: a key must be a string or a number, found {kind}"))),
                    };
                    writer.string(&name);
                    writer.out.push_str(&writer.key.clone());
                    writer.value(&value, depth + 1)
                })?
            }
            ValueKind::Invalid => return Err(invalid(value.to_string())),
            kind => return Err(invalid(format!("tojson: a value of type {kind} has no JSON form"))),
        }
        // A value may contain itself many times over; what it costs is what it writes.
        self.state.consume_fuel(1 + (self.out.len() - before) as u64 / 64)
    }

    fn container<T>(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.out.push_str(&self.item);
            }
            empty = false;
            self.newline(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.newline(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn newline(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}"); // a String takes every write
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Python's `repr` of a float: shortest digits that read back, exponent form outside 1e-4 .. 1e16.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}
