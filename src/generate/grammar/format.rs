//! Grammars as OpenAI's API names them.

use serde_json::{Map, Value};

use super::{Grammar, JsonOptions};
use crate::mlx::{Error, Result};

impl Grammar {
    /// The grammar of a `response_format`; `None` where it asks for plain text.
    ///
    /// `{type: 'text'}`, `{type: 'json_object'}`, `{type: 'json_schema', json_schema: {schema, strict?, name?, description?}}`,
    /// `{type: 'regex', regex}`, `{type: 'grammar', grammar: {syntax: 'lark' | 'regex', definition}}`. Schemas are strict by default;
    /// `strict: false` ignores keywords that cannot be enforced.
    pub fn from_response_format(format: &Value) -> Result<Option<Grammar>> {
        let entries = object(format, "responseFormat")?;
        let kind = text(entries, "type", "responseFormat")?;
        let own: &[&str] = match kind {
            "text" | "json_object" => &["type"],
            "json_schema" => &["type", "json_schema"],
            "regex" => &["type", "regex"],
            "grammar" => &["type", "grammar"],
            other => {
                let known = "text, json_object, json_schema, regex and grammar";
                return Err(Error::Argument(format!("responseFormat.type {other:?} is not known; the types are {known}")));
            }
        };
        only(entries, own, "responseFormat")?;
        match kind {
            "text" => Ok(None),
            "json_object" => Grammar::json().map(Some),
            "json_schema" => json_schema(entries.get("json_schema")).map(Some),
            "regex" => Grammar::regex(text(entries, "regex", "responseFormat")?).map(Some),
            _ => grammar(entries.get("grammar")).map(Some),
        }
    }
}

fn json_schema(value: Option<&Value>) -> Result<Grammar> {
    let place = "responseFormat.json_schema";
    let entries = object(value.unwrap_or(&Value::Null), place)?;
    only(entries, &["schema", "strict", "name", "description"], place)?;
    let strict = match entries.get("strict") {
        None | Some(Value::Null) => true,
        Some(Value::Bool(strict)) => *strict,
        Some(other) => return Err(Error::Argument(format!("{place}.strict must be true or false, got {other}"))),
    };
    let Some(schema) = entries.get("schema") else {
        return Err(Error::Argument(format!("{place}.schema is missing: it is the JSON schema of the answer")));
    };
    Grammar::json_schema(schema, JsonOptions { lenient: !strict, ..JsonOptions::default() })
}

fn grammar(value: Option<&Value>) -> Result<Grammar> {
    let place = "responseFormat.grammar";
    let entries = object(value.unwrap_or(&Value::Null), place)?;
    only(entries, &["syntax", "definition"], place)?;
    let definition = text(entries, "definition", place)?;
    match text(entries, "syntax", place)? {
        "lark" => Grammar::lark(definition),
        "regex" => Grammar::regex(definition),
        other => Err(Error::Argument(format!("{place}.syntax must be 'lark' or 'regex', got {other:?}"))),
    }
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| Error::Argument(format!("{place} must be an object")))
}

fn text<'a>(entries: &'a Map<String, Value>, key: &str, place: &str) -> Result<&'a str> {
    entries.get(key).and_then(Value::as_str).ok_or_else(|| Error::Argument(format!("{place}.{key} must be a string")))
}

fn only(entries: &Map<String, Value>, known: &[&str], place: &str) -> Result<()> {
    match entries.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Error::Argument(format!("{place} has no key {key:?} here; it has {}", known.join(", ")))),
        None => Ok(()),
    }
}
