//! Reads the small files beside a checkpoint; every error names the file.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::mlx::{Error, Result};

/// The bytes of a file, `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::load(path, format!("cannot be read: {error}"))),
    }
}

/// The text of a file, `None` when there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    read(path)?
        .map(|bytes| String::from_utf8(bytes).map_err(|error| Error::load(path, format!("is not UTF-8 text: {error}"))))
        .transpose()
}

/// The JSON object in a file; empty when there is no such file.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let Some(bytes) = read(path)? else { return Ok(Map::new()) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Error::load(path, format!("must hold a JSON object, found {}", describe(&other)))),
        Err(error) => Err(Error::load(path, broken_json(bytes.len(), &error))),
    }
}

/// What to say about a file that is not JSON.
pub(super) fn broken_json(bytes: usize, error: &serde_json::Error) -> String {
    let cause = if error.is_eof() { "the file ends too early, fetch it again" } else { "the file is damaged" };
    format!("is not valid JSON ({error}; {bytes} bytes): {cause}")
}

/// A JSON value in an error message: its type, and the value itself when short.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() <= 40 => format!("{text:?}"),
        Value::String(text) => format!("a string of {} bytes", text.len()),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(entries) => format!("an object with {} keys", entries.len()),
    }
}
