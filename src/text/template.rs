//! Chat templates: conversation in, prompt text out, as transformers' `apply_chat_template` renders it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value as Item};
use minijinja_contrib::pycompat;
use serde_json::{Map, Value};

use super::files::{describe, read_text};
use super::json::tojson;
use crate::mlx::{Error, Result};

/// Work a single rendering may do, in minijinja's unit (an instruction or 64 bytes): enough for conversations of many million
/// characters; an endless loop reaches it within a second.
const FUEL: u64 = 10_000_000;
/// Templates come from strangers, and minijinja recurses over chained operators and nested values: a template of this size, or
/// the values that the fuel can nest, need about half of this stack (of which only the pages in use take memory).
const MAX_TEMPLATE: usize = 128 << 10;
const STACK: usize = 256 << 20;
/// Deeper conversations than this are refused instead of exhausting the stack.
const MAX_DEPTH: usize = 128;
/// Names under which callers pass a message's reasoning, as in transformers; the first is the one templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Marks the end of the message to be continued. The space shows whether the template trims.
const CONTINUE: &str = "<mlx-node continues here> ";

/// The templates of one model by name; a model with a single one calls it `default`.
#[derive(Debug, Default)]
pub(super) struct ChatTemplates {
    sources: BTreeMap<String, String>,
}

impl ChatTemplates {
    /// Reads `chat_template.jinja` and `additional_chat_templates/*.jinja`, or else the `chat_template` of
    /// `tokenizer_config.json`: one template, or a list of `{name, template}`.
    pub fn load(dir: &Path, config_path: &Path, config: &Map<String, Value>) -> Result<Self> {
        let mut sources = BTreeMap::new();
        if let Some(source) = read_text(&dir.join("chat_template.jinja"))? {
            sources.insert("default".to_string(), source);
        }
        if let Ok(entries) = std::fs::read_dir(dir.join("additional_chat_templates")) {
            for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "jinja"))
            {
                if let (Some(name), Some(source)) = (path.file_stem().and_then(|name| name.to_str()), read_text(&path)?) {
                    sources.insert(name.to_string(), source);
                }
            }
        }
        if sources.is_empty() {
            return Self::from_config(config_path, config);
        }
        Ok(Self { sources })
    }

    /// What `tokenizer_config.json` says.
    pub fn from_config(path: &Path, config: &Map<String, Value>) -> Result<Self> {
        let sources = Self::parse(config.get("chat_template").unwrap_or(&Value::Null))
            .map_err(|found| Error::load(path, format!("chat_template {found}")))?;
        Ok(Self { sources })
    }

    fn parse(value: &Value) -> std::result::Result<BTreeMap<String, String>, String> {
        match value {
            Value::Null => Ok(BTreeMap::new()),
            Value::String(source) => Ok(BTreeMap::from([("default".to_string(), source.clone())])),
            Value::Array(list) => list
                .iter()
                .map(|entry| match (&entry["name"], &entry["template"]) {
                    (Value::String(name), Value::String(source)) => Ok((name.clone(), source.clone())),
                    _ => Err(format!("must list objects with strings `name` and `template`, found {}", describe(entry))),
                })
                .collect(),
            other => Err(format!("must be a string or a list of named templates, found {}", describe(other))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Picks as transformers does: the option (a name, or else a template itself), `tool_use` when there are tools, `default`.
    fn select<'a>(&'a self, wanted: Option<&'a str>, with_tools: bool) -> Result<&'a str> {
        if let Some(wanted) = wanted {
            return Ok(self.sources.get(wanted).map_or(wanted, String::as_str));
        }
        let tools = if with_tools { self.sources.get("tool_use") } else { None };
        if let Some(source) = tools.or_else(|| self.sources.get("default")) {
            return Ok(source);
        }
        Err(Error::Template(if self.is_empty() {
            "this model has no chat template (neither chat_template.jinja nor `chat_template` in tokenizer_config.json): \
             pass one as the option chat_template, or pass the prompt as plain text instead of messages"
                .to_string()
        } else {
            let names = self.sources.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!(
                "this model has several chat templates and none is the default: name one as the option chat_template ({names})"
            )
        }))
    }

    /// Renders `messages` (an array of objects). `special_tokens` (`bos_token` …) are in the template's scope below `options`.
    ///
    /// Options, all optional: `tools`, `documents` (arrays of objects), `add_generation_prompt`, `continue_final_message`
    /// (true, or the name of the field to continue), `chat_template` (a name or a template); any other key goes to the
    /// template (`enable_thinking` …).
    pub fn render(&self, special_tokens: &Map<String, Value>, messages: &Value, options: &Value) -> Result<String> {
        let none = Map::new();
        let options = match options {
            Value::Object(options) => options,
            Value::Null => &none,
            other => return Err(Error::Argument(format!("chat template options must be an object, found {}", describe(other)))),
        };
        check_depth(messages, MAX_DEPTH)?;
        options.values().try_for_each(|value| check_depth(value, MAX_DEPTH))?;
        let mut chat = conversation(messages)?;
        let tools = objects(options, "tools")?;
        let documents = objects(options, "documents")?;
        let add_generation_prompt = flag(options, "add_generation_prompt")?;
        let wanted = match options.get("chat_template") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(other) => return Err(Error::Argument(format!("chat_template must be a string, found {}", describe(other)))),
        };
        let source = self.select(wanted, !tools.is_null())?;
        if source.len() > MAX_TEMPLATE {
            let size = source.len();
            return Err(Error::Template(format!(
                "the chat template has {size} bytes; more than {MAX_TEMPLATE} are not accepted"
            )));
        }
        let continued = match options.get("continue_final_message") {
            None | Some(Value::Null | Value::Bool(false)) => None,
            Some(Value::Bool(true)) => Some("content"),
            Some(Value::String(field)) => Some(field.as_str()),
            Some(other) => {
                let found = describe(other);
                return Err(Error::Argument(format!("continue_final_message must be a boolean or a field name, found {found}")));
            }
        };
        if continued.is_some() && add_generation_prompt {
            return Err(Error::Argument(
                "continue_final_message and add_generation_prompt exclude each other: the first continues the last message, \
                 the second starts a new one"
                    .into(),
            ));
        }
        let last = continued.map(|field| mark_final_message(&mut chat, field, source)).transpose()?;

        let mut scope = special_tokens.clone();
        let own = ["tools", "documents", "add_generation_prompt", "chat_template", "continue_final_message"];
        scope.extend(options.iter().filter(|(key, _)| !own.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())));
        scope.insert("messages".into(), Value::Array(chat));
        scope.insert("tools".into(), tools);
        scope.insert("documents".into(), documents);
        scope.insert("add_generation_prompt".into(), Value::Bool(add_generation_prompt));
        let text = on_large_stack(|| {
            environment()
                .template_from_named_str("chat_template", &without_generation_tags(source))
                .and_then(|template| template.render(Item::from(Serde(&scope))))
                .map_err(template_error)
        })?;
        match last {
            Some(last) => cut_final_message(text, &last),
            None => Ok(text),
        }
    }
}

fn on_large_stack(work: impl FnOnce() -> Result<String> + Send) -> Result<String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| Error::OutOfMemory(format!("no thread to render the chat template: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Error::Template("the chat template made the template engine fail".into())))
    })
}

fn flag(options: &Map<String, Value>, name: &str) -> Result<bool> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(Error::Argument(format!("{name} must be a boolean, found {}", describe(other)))),
    }
}

/// `tools` or `documents`: an array of objects, or null.
fn objects(options: &Map<String, Value>, name: &str) -> Result<Value> {
    let value = options.get(name).unwrap_or(&Value::Null);
    match value {
        Value::Null => Ok(Value::Null),
        Value::Array(list) => match list.iter().position(|entry| !entry.is_object()) {
            Some(at) => Err(Error::Argument(format!("{name}[{at}] must be an object, found {}", describe(&list[at])))),
            None => Ok(value.clone()),
        },
        other => Err(Error::Argument(format!("{name} must be an array of objects, found {}", describe(other)))),
    }
}

fn check_depth(value: &Value, left: usize) -> Result<()> {
    let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(entries) => Box::new(entries.values()),
        _ => return Ok(()),
    };
    if left == 0 {
        return Err(Error::Argument(format!("the conversation is nested deeper than {MAX_DEPTH} levels")));
    }
    inner.try_for_each(|value| check_depth(value, left - 1))
}

/// The messages as templates expect them: keys whose value is null are absent (many templates would print "None"), and the
/// reasoning of a message is found under the name that templates read, whatever the caller called it.
fn conversation(messages: &Value) -> Result<Vec<Value>> {
    let Value::Array(list) = messages else {
        return Err(Error::Argument(format!("messages must be an array, found {}", describe(messages))));
    };
    if list.is_empty() {
        return Err(Error::Argument("messages is empty: a chat template needs at least one message".into()));
    }
    list.iter()
        .enumerate()
        .map(|(at, message)| {
            let Value::Object(fields) = message else {
                return Err(Error::Argument(format!("messages[{at}] must be an object, found {}", describe(message))));
            };
            let mut fields: Map<String, Value> =
                fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
            if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
                fields.entry("thinking").or_insert_with(|| reasoning.clone());
                fields.insert("reasoning_content".into(), reasoning);
            }
            Ok(Value::Object(fields))
        })
        .collect()
}

/// Appends the mark to the text to be continued and returns that text.
fn mark_final_message(chat: &mut [Value], field: &str, source: &str) -> Result<String> {
    let missing = || Error::Template(format!("continue_final_message: the last message has no text in `{field}` to continue"));
    let message = chat.last_mut().and_then(Value::as_object_mut).ok_or_else(missing)?;
    let value = message.get(field).cloned().ok_or_else(missing)?;
    let fields: Vec<&str> = if REASONING.contains(&field) {
        REASONING.into_iter().filter(|name| message.get(*name) == Some(&value)).collect()
    } else {
        vec![field]
    };
    if !fields.iter().any(|field| source.contains(field)) {
        return Err(Error::Template(format!("continue_final_message: the chat template does not use the field `{field}`")));
    }
    match value {
        Value::String(text) => {
            for field in fields {
                message.insert(field.into(), Value::String(format!("{text}{CONTINUE}")));
            }
            Ok(text)
        }
        Value::Array(_) => {
            let blocks = message.get_mut(field).and_then(Value::as_array_mut).ok_or_else(missing)?;
            let block = blocks.iter_mut().rev().find_map(|block| block.get_mut("text")).ok_or_else(missing)?;
            let text = block.as_str().ok_or_else(missing)?.to_string();
            *block = Value::String(format!("{text}{CONTINUE}"));
            Ok(text)
        }
        _ => Err(missing()),
    }
}

/// Cuts the rendered text where the final message ends.
fn cut_final_message(mut text: String, last: &str) -> Result<String> {
    let at = text.rfind(CONTINUE.trim_end()).filter(|_| text.contains(python_strip(last)));
    let Some(at) = at else {
        return Err(Error::Template(
            "continue_final_message: the final message is not in the rendered text, the template drops or changes it".into(),
        ));
    };
    let verbatim = text[at..].starts_with(CONTINUE);
    text.truncate(at);
    if !verbatim {
        text.truncate(text.trim_end_matches(is_python_space).len());
    }
    Ok(text)
}

/// `{% generation %}` blocks mark the assistant's words for transformers and render their body in a scope of its own, which is
/// what `{% with %}` does.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (tag, marks) = (&rest[start + 2..start + length], ['-', '+']);
        let inner = tag.strip_prefix(marks).unwrap_or(tag);
        let inner = inner.strip_suffix(marks).unwrap_or(inner).trim();
        let plain = match inner {
            "generation" => tag.replacen(inner, "with", 1),
            "endgeneration" => tag.replacen(inner, "endwith", 1),
            _ => tag.to_string(),
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&plain);
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// transformers' template environment.
fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Environment::new();
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(method);
        env.add_filter("tojson", tojson);
        env.add_filter("trim", |text: Cow<'_, str>, chars: Option<Cow<'_, str>>| match chars {
            Some(chars) => text.trim_matches(|c| chars.contains(c)).to_string(),
            None => python_strip(&text).to_string(),
        });
        // In Jinja2 strings and mappings are sequences too: they have a length and items.
        env.add_test("sequence", |value: &Item| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
        });
        env.add_function("raise_exception", |message: String| -> std::result::Result<Item, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "refused").with_source(Refusal(message)))
        });
        env.add_function("strftime_now", |format: String| {
            let mut text = String::new();
            write!(text, "{}", chrono::Local::now().format(&format)).map(|()| text).map_err(|_| {
                minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {format:?} is not a date format"))
            })
        });
        env
    })
}

/// What a template passes to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn template_error(error: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Refusal(message)) = current.downcast_ref() {
            return Error::Template(message.clone());
        }
        cause = current.source();
    }
    Error::Template(match error.kind() {
        ErrorKind::OutOfFuel => "the chat template does more work than any conversation needs (an endless loop?): rendering \
                                 was stopped"
            .to_string(),
        _ => format!("the chat template cannot be rendered: {error}"),
    })
}

/// Python's methods of strings, lists and dicts, where pycompat lacks them, differs in what white space is, or would allocate
/// before the fuel is charged.
fn method(state: &mut State, value: &Item, name: &str, args: &[Item]) -> std::result::Result<Item, minijinja::Error> {
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, name, args) };
    let first = args.first().and_then(Item::as_str);
    let bare = args.first().is_none_or(Item::is_none);
    match name {
        "strip" if bare => Ok(python_strip(text).into()),
        "lstrip" if bare => Ok(text.trim_start_matches(is_python_space).into()),
        "rstrip" if bare => Ok(text.trim_end_matches(is_python_space).into()),
        "removeprefix" if first.is_some() => Ok(first.and_then(|prefix| text.strip_prefix(prefix)).unwrap_or(text).into()),
        "removesuffix" if first.is_some() => Ok(first.and_then(|suffix| text.strip_suffix(suffix)).unwrap_or(text).into()),
        "replace" | "join" => {
            let bytes =
                match (name, first, args.get(1).and_then(Item::as_str)) {
                    ("replace", Some(old), Some(new)) => text.matches(old).count().saturating_mul(new.len()),
                    ("join", _, _) => args.iter().filter_map(|list| list.try_iter().ok()).flatten().fold(0usize, |sum, item| {
                        sum.saturating_add(text.len()).saturating_add(item.as_str().map_or(0, str::len))
                    }),
                    _ => 0,
                };
            state.consume_fuel(bytes as u64 / 64)?;
            pycompat::unknown_method_callback(state, value, name, args)
        }
        "format" if text.split(|c: char| !c.is_ascii_digit()).any(|width| width.len() > 4) => {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "format: a width or precision is limited to four digits"))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Python also counts the four ASCII separators as white space.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn python_strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}
