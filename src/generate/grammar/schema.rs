//! What can be said about a JSON schema before it is compiled, with the place of what is wrong.

use serde_json::{Map, Value, json};

use super::{JsonOptions, Whitespace};
use crate::mlx::{Error, Result};

/// Deepest nesting of a schema.
const DEEPEST: usize = 100;

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Keywords of JSON schema that change what is valid and that llguidance cannot enforce.
const UNSUPPORTED: [&str; 19] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$recursiveRef",
    "$recursiveAnchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "x-guidance",
];

/// Checks a schema, and adds the options as llguidance takes them.
pub(super) fn prepare(schema: &Value, options: JsonOptions) -> Result<String> {
    check_depth(schema)?;
    check(schema, schema, &mut String::new(), options.lenient)?;
    let mut schema = match schema {
        Value::Object(entries) => entries.clone(),
        Value::Bool(true) => Map::new(),
        _ => return Err(refused("", "false allows no value")),
    };
    let flexible = options.whitespace == Whitespace::Flexible;
    let whitespace = flexible.then_some(r"[ \t]|\r?\n[ \t]{0,64}");
    schema.insert(
        "x-guidance".into(),
        json!({"whitespace_flexible": flexible, "whitespace_pattern": whitespace, "lenient": options.lenient,
               "coerce_one_of": options.lenient}),
    );
    Ok(Value::Object(schema).to_string())
}

fn refused(place: &str, reason: impl std::fmt::Display) -> Error {
    let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
    Error::Argument(format!("the JSON schema{place}: {reason}"))
}

/// Without recursion: it comes before everything that recurs.
fn check_depth(schema: &Value) -> Result<()> {
    let mut left = vec![(schema, 1)];
    while let Some((value, depth)) = left.pop() {
        if depth > DEEPEST {
            return Err(refused("", format!("it is nested more than {DEEPEST} deep")));
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(entries) => left.extend(entries.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

fn check(root: &Value, schema: &Value, place: &mut String, lenient: bool) -> Result<()> {
    let entries = match schema {
        Value::Object(entries) => entries,
        Value::Bool(_) => return Ok(()),
        _ => return Err(refused(place, "a schema must be an object or a boolean")),
    };
    for (key, value) in entries {
        let length = place.len();
        place.push('/');
        place.push_str(&key.replace('~', "~0").replace('/', "~1"));
        match key.as_str() {
            "x-guidance" => return Err(refused(place, "options of the compiler do not belong into a schema")),
            key if !lenient && UNSUPPORTED.contains(&key) => {
                let advice = "leave it out, or let keywords that cannot be enforced be ignored (strict: false)";
                let reason = format!("the keyword `{key}` cannot be enforced while text is generated: {advice}");
                return Err(refused(place, reason));
            }
            "type" => check_type(value, place)?,
            "$ref" => check_reference(root, value, place)?,
            "enum" if value.as_array().is_none_or(Vec::is_empty) => {
                return Err(refused(place, "must be a list of at least one value"));
            }
            "required" if !value.as_array().is_some_and(|names| names.iter().all(Value::is_string)) => {
                return Err(refused(place, "must be a list of the names of properties"));
            }
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                let Value::Object(named) = value else { return Err(refused(place, "must be an object of schemas")) };
                for (name, schema) in named {
                    let length = place.len();
                    place.push('/');
                    place.push_str(&name.replace('~', "~0").replace('/', "~1"));
                    check(root, schema, place, lenient)?;
                    place.truncate(length);
                }
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                let Value::Array(list) = value else { return Err(refused(place, "must be a list of schemas")) };
                check_list(root, list, place, lenient)?;
            }
            // A list in drafts before 2020-12.
            "items" if value.is_array() => check_list(root, value.as_array().unwrap_or(&Vec::new()), place, lenient)?,
            "items" | "additionalItems" | "additionalProperties" => check(root, value, place, lenient)?,
            _ => {}
        }
        place.truncate(length);
    }
    Ok(())
}

fn check_list(root: &Value, list: &[Value], place: &mut String, lenient: bool) -> Result<()> {
    for (index, schema) in list.iter().enumerate() {
        let length = place.len();
        place.push_str(&format!("/{index}"));
        check(root, schema, place, lenient)?;
        place.truncate(length);
    }
    Ok(())
}

fn check_type(value: &Value, place: &str) -> Result<()> {
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let fine = match value {
        Value::Array(names) => !names.is_empty() && names.iter().all(known),
        name => known(name),
    };
    if fine { Ok(()) } else { Err(refused(place, format!("{value} is not a type; the types are {}", TYPES.join(", ")))) }
}

fn check_reference(root: &Value, value: &Value, place: &str) -> Result<()> {
    let Some(reference) = value.as_str() else { return Err(refused(place, "must be a string")) };
    let Some(pointer) = reference.strip_prefix('#') else {
        let advice = "only references within the schema are followed, for example #/$defs/item";
        return Err(refused(place, format!("{reference:?} leads out of the schema: {advice}")));
    };
    // The compiler takes the parts of a reference as they are written.
    if pointer.contains(['~', '%']) {
        return Err(refused(place, format!("{reference:?} has an escaped name: use names without /, ~ and %")));
    }
    match pointer == "/" || root.pointer(pointer).is_some() {
        true => Ok(()),
        false => Err(refused(place, format!("{reference:?} leads nowhere"))),
    }
}
