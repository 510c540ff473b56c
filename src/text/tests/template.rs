//! Chat templates beyond Qwen3's own: the environment, the options, the refusals.

use serde_json::{Value, json};

use super::{Folder, small_tokenizer};
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;
use crate::text::json::float;

fn with_template(template: impl Into<Value>) -> Tokenizer {
    let config = json!({"chat_template": template.into(), "eos_token": "<|end|>", "bos_token": null});
    Folder::small(&[("tokenizer_config.json", config)]).load().unwrap()
}

fn render(template: &str, options: Value) -> Result<String> {
    with_template(template).apply_chat_template(&json!([{"role": "user", "content": "hi"}]), &options)
}

/// Renders an expression over the variable `x`.
fn print(expression: &str, x: Value) -> String {
    render(&format!("{{{{ {expression} }}}}"), json!({"x": x})).unwrap()
}

fn template_error(template: &str) -> String {
    match render(template, json!({})) {
        Err(Error::Template(message)) => message,
        other => panic!("expected a template error, got {other:?}"),
    }
}

#[test]
fn tojson_is_python_s() {
    // Expected texts are json.dumps's of Python 3.
    let value = json!({"b": [1, -2.0, 1e16, 1e-5, 0.1], "a": {"é": "<&'\"\\/\n\t\u{8}\u{c}\u{1}\u{7f}😀"}, "n": null, "t": true, "e": [{}, []]});
    assert_eq!(
        print("x|tojson", value.clone()),
        r#"{"b": [1, -2.0, 1e+16, 1e-05, 0.1], "a": {"é": "<&'\"\\/\n\t\b\f\u0001DEL😀"}, "n": null, "t": true, "e": [{}, []]}"#
            .replace("DEL", "\u{7f}")
    );
    assert_eq!(print("x|tojson(ensure_ascii=true)", json!("é😀\u{7f}~")), r#""\u00e9\ud83d\ude00\u007f~""#);
    assert_eq!(
        print("x|tojson(indent=2)", json!({"a": [1, {}], "b": {"c": []}})),
        "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": {\n    \"c\": []\n  }\n}"
    );
    assert_eq!(print("x|tojson(separators=(',', ':'), sort_keys=true)", json!({"b": 1, "a": [1, 2]})), r#"{"a":[1,2],"b":1}"#);
    assert_eq!(print("x|tojson(indent=none)", json!([1, "a"])), r#"[1, "a"]"#);
    assert_eq!(print("{1: 2, none: true, 1.5: 0}|tojson", json!(null)), r#"{"1": 2, "null": true, "1.5": 0}"#);
    assert_eq!(print("x|tojson", json!(18446744073709551615u64)), "18446744073709551615");
    for (x, text) in [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e15, "1000000000000000.0"),
        (123456789012345680.0, "1.2345678901234568e+17"),
        (1e-4, "0.0001"),
        (1.5e-7, "1.5e-07"),
        (1e100, "1e+100"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
    ] {
        assert_eq!(float(x), text);
    }
    assert!(template_error("{{ nothing|tojson }}").contains("undefined has no JSON form"));
    assert!(template_error("{{ [1]|tojson(indent=100000000000) }}").contains("indent is limited"));
    assert!(template_error("{{ 1|tojson(wrong=1) }}").contains("wrong"));
}

#[test]
fn the_environment_is_transformers_s() {
    assert_eq!(
        render("{% if true %}\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\n{% endif %}\n", json!({})).unwrap(),
        "hi\n"
    );
    assert_eq!(render("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", json!({})).unwrap(), "02");
    assert_eq!(render("a {%- generation %}b{% endgeneration -%} c", json!({})).unwrap(), "abc");
    assert_eq!(render("{% generation %}{% set y = 1 %}{% endgeneration %}{{ y is defined }}", json!({})).unwrap(), "False");
    assert_eq!(
        render("{{ eos_token }}{{ bos_token is defined }}{{ add_generation_prompt }}{{ tools is none }}", json!({})).unwrap(),
        "<|end|>FalseFalseTrue"
    );
    assert_eq!(render("{{ eos_token }}", json!({"eos_token": "mine"})).unwrap(), "mine");
    assert_eq!(render("{{ '<b>&' }}{{ [1, 'a', none, true] }}", json!({})).unwrap(), "<b>&[1, 'a', None, True]");
    assert_eq!(print("x.strip() ~ '|' ~ x.lstrip() ~ '|' ~ x|trim", json!("\u{1c} a\u{85}")), "a|a\u{85}|a");
    assert_eq!(print("x.removeprefix('a').removesuffix('c') ~ x.split('b')[-1] ~ x.replace('a', 'zz')", json!("abc")), "bczzbc");
    assert_eq!(
        print("(x is sequence, 'a' is sequence, {} is sequence, 1 is sequence)|list|tojson", json!([])),
        "[true, true, true, false]"
    );
    assert_eq!(print("x.items()|list|tojson", json!({"z": 1, "a": 2})), r#"[["z", 1], ["a", 2]]"#);
    let year = render("{{ strftime_now('%Y-%m-%d')[:2] }}", json!({})).unwrap();
    assert!(year == "20" || year == "21", "{year}");
    assert!(template_error("{{ strftime_now('%Q%') }}").contains("not a date format"));
}

#[test]
fn templates_are_chosen_as_transformers_does() {
    let list =
        json!([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]);
    let tokenizer = with_template(list);
    let user = json!([{"role": "user", "content": "hi"}]);
    let get = |options: Value| tokenizer.apply_chat_template(&user, &options).unwrap();
    assert_eq!(get(json!({})) + &get(json!({"tools": [{}]})) + &get(json!({"chat_template": "rag"})), "DTR");
    assert_eq!(get(json!({"chat_template": "own {{ messages[0].role }}"})), "own user");
    let nameless = with_template(json!([{"name": "rag", "template": "R"}]));
    let error = nameless.apply_chat_template(&user, &json!({})).unwrap_err().to_string();
    assert!(error.contains("none is the default") && error.contains("rag"), "{error}");

    let small = small_tokenizer().to_string();
    let config: &[u8] = br#"{"chat_template": "old"}"#;
    let folder = Folder::new(&[
        ("tokenizer.json", small.as_bytes()),
        ("tokenizer_config.json", config),
        ("chat_template.jinja", b"file"),
        ("additional_chat_templates/rag.jinja", b"more"),
    ]);
    let tokenizer = folder.load().unwrap();
    let get = |options: Value| tokenizer.apply_chat_template(&user, &options).unwrap();
    assert_eq!(get(json!({})) + &get(json!({"chat_template": "rag"})), "filemore");
}

#[test]
fn messages_are_prepared_as_transformers_does() {
    let tokenizer = with_template("{% for m in messages %}{{ m|tojson }}{% endfor %}");
    let get = |message: Value| tokenizer.apply_chat_template(&json!([message]), &json!({})).unwrap();
    assert_eq!(get(json!({"role": "a", "content": null, "z": 1})), r#"{"role": "a", "z": 1}"#);
    let aliased: Value = serde_json::from_str(&get(json!({"role": "a", "reasoning": "r"}))).unwrap();
    assert_eq!(aliased, json!({"role": "a", "reasoning": "r", "thinking": "r", "reasoning_content": "r"}));
}

#[test]
fn the_final_message_can_be_continued() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}</s>{% endfor %}";
    let get = |content: Value, option: Value| {
        let messages = json!([{"role": "u", "content": "q"}, {"role": "a", "content": content}]);
        with_template(template).apply_chat_template(&messages, &json!({"continue_final_message": option}))
    };
    assert_eq!(get(json!("It is"), json!(true)).unwrap(), "<u>q</s><a>It is");
    assert_eq!(get(json!("It is "), json!("content")).unwrap(), "<u>q</s><a>It is");
    let verbatim = with_template("{{ messages[0].content }}!");
    let kept = verbatim.apply_chat_template(&json!([{"content": "It is "}]), &json!({"continue_final_message": true}));
    assert_eq!(kept.unwrap(), "It is ");
    let blocks = with_template("{{ messages[0].content[0].text }}!");
    let kept = blocks.apply_chat_template(&json!([{"content": [{"text": "It"}]}]), &json!({"continue_final_message": true}));
    assert_eq!(kept.unwrap(), "It");
    assert!(matches!(get(json!(null), json!(true)), Err(Error::Template(_))));
    assert!(matches!(get(json!("x"), json!("other")), Err(Error::Template(_))));
    assert!(matches!(get(json!("x"), json!(3)), Err(Error::Argument(_))));
    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    assert!(matches!(render(template, both), Err(Error::Argument(_))));
    let dropped = render("no messages, just the word content", json!({"continue_final_message": true}));
    assert!(matches!(dropped, Err(Error::Template(_))));
}

#[test]
fn refusals_and_wrong_arguments() {
    assert_eq!(template_error("{{ raise_exception('Only user roles are supported!') }}"), "Only user roles are supported!");
    let nested = "{% macro m() %}{{ raise_exception('in a macro') }}{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}";
    assert_eq!(template_error(nested), "in a macro");
    assert!(template_error("{% if %}").contains("syntax error"));
    assert!(template_error("{{ messages[0].content + 1 }}").contains("chat_template:1"));
    let none = Folder::small(&[]).load().unwrap().apply_chat_template(&json!([{}]), &json!({})).unwrap_err();
    assert!(matches!(&none, Error::Template(message) if message.contains("no chat template")), "{none}");

    let tokenizer = with_template("x");
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    for (messages, options, reason) in [
        (json!({}), json!({}), "messages must be an array"),
        (json!([]), json!({}), "messages is empty"),
        (json!([[{}]]), json!({}), "messages[0] must be an object"),
        (json!([{"a": deep}]), json!({}), "nested deeper"),
        (json!([{}]), json!([]), "options must be an object"),
        (json!([{}]), json!({"tools": "x"}), "tools must be an array"),
        (json!([{}]), json!({"tools": [{}, 1]}), "tools[1] must be an object"),
        (json!([{}]), json!({"add_generation_prompt": 1}), "add_generation_prompt must be a boolean"),
        (json!([{}]), json!({"chat_template": 1}), "chat_template must be a string"),
    ] {
        match tokenizer.apply_chat_template(&messages, &options) {
            Err(Error::Argument(message)) => assert!(message.contains(reason), "{message}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn runaway_templates_are_stopped() {
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}";
    for template in [
        endless,
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x.join(ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    ] {
        assert!(template_error(template).contains("was stopped"), "{template}");
    }
    for template in [
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{{ 'x' * 100000000000 }}",
        "{{ '{:100000000000}'.format(1) }}",
        "{{ '%100000000000d'|format(1) }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    ] {
        template_error(template);
    }
    // Deep values and long chains would exhaust an ordinary stack.
    let deep = "{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% for j in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    assert!(template_error(deep).contains("was stopped"));
    assert_eq!(render(&format!("{{{{ {}1 }}}}", "-".repeat(120_000)), json!({})).unwrap(), "1");
    assert_eq!(render(&format!("{{{{ 1{} }}}}", "+1".repeat(60_000)), json!({})).unwrap(), "60001");
    template_error(&"[".repeat(120_000).replace('[', "{{["));
    assert!(template_error(&" ".repeat(200_000)).contains("not accepted"));
}

#[test]
fn a_conversation_of_five_million_characters_is_rendered() {
    let template = "{% for m in messages[::-1] %}{% endfor %}{% for m in messages %}{% if m.role == 'user' or loop.last %}\
                    {{ '<|im_start|>' + m.role + '\\n' + m.content.strip() + '<|im_end|>' }}{% endif %}{% endfor %}{{ messages|tojson }}";
    let messages: Value = (0..5_000).map(|_| json!({"role": "user", "content": "x".repeat(1_000)})).collect();
    let text = with_template(template).apply_chat_template(&messages, &json!({})).unwrap();
    assert_eq!(text.len(), 5_000 * (1_027 + 1_033));
}
