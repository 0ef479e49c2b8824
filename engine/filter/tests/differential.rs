//! Our interpreter against the crate's, on random expressions and random records: the same truth, or both none.
//!
//! Left out is what ours refuses when it compiles (constants that have no value, what is never a truth) and what only one
//! of them has (`like`, `in_cidr`, `subject`; time zones). The generator is typed loosely: most operands fit their operator.
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::extensions::strings;
use cel::{Context, Env, Value};
use common::{header, record, with_ref};
use millstream_filter::{Candidate, Filter};
use millstream_protocol::Record;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(strings).expect("a fresh environment");
    Arc::new(env)
});

/// JSON as the crate is to see it: by rule 1, never unsigned.
fn value_of(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().expect("a double")), Value::Int)
        }
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(list) => list.iter().map(value_of).collect::<Vec<_>>().into(),
        serde_json::Value::Object(map) => {
            map.iter().map(|(name, value)| (name.clone(), value_of(value))).collect::<HashMap<_, _>>().into()
        }
    }
}

/// What the crate says; `None` for its errors and for results that are no truth.
fn theirs(text: &str, record: &Record) -> Option<bool> {
    let program = ENV.compile(text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
    let mut context = Context::with_env(Arc::clone(&ENV));
    let json = serde_json::from_slice(record.value.as_deref().expect("a value")).expect("JSON");
    context.add_variable_from_value("value", value_of(&json));
    context.add_variable_from_value("key", std::str::from_utf8(record.key.as_deref().expect("a key")).expect("text"));
    let headers = record.headers.iter().map(|header| {
        let value =
            header.value.as_deref().map_or(Value::Null, |value| std::str::from_utf8(value).expect("text").into());
        (header.name.clone(), value)
    });
    context.add_variable_from_value("headers", headers.collect::<HashMap<_, _>>());
    let time = chrono::DateTime::from_timestamp_millis(record.timestamp.0).expect("a time").fixed_offset();
    context.add_variable_from_value("timestamp", Value::Timestamp(time));
    match program.execute(&context) {
        Ok(Value::Bool(truth)) => Some(truth),
        _ => None,
    }
}

/// `None`: ours refuses the text. Otherwise the answers must agree.
fn compare(text: &str, record: &Record) -> Option<Option<bool>> {
    let filter = Filter::compile(text).ok()?;
    let ours = with_ref(record, |record| filter.matches(&Candidate::new(record)));
    assert_eq!(ours.ok(), theirs(text, record), "{text}\nours: {ours:?}\non {:?}", record.value);
    Some(ours.ok())
}

fn boxed(options: Vec<&'static str>) -> BoxedStrategy<String> {
    prop::sample::select(options).prop_map(str::to_owned).boxed()
}

fn numbers() -> BoxedStrategy<String> {
    boxed(vec![
        "value.i",
        "value.j",
        "value.d",
        "value.big",
        "value.m.i",
        "0",
        "1",
        "-1",
        "2",
        "7",
        "0.0",
        "1.0",
        "-2.5",
        "1e3",
        "9223372036854775807",
        "-9223372036854775808",
        "9007199254740993",
        "size(value.l)",
        "int(value.d)",
        "double(value.i)",
        "int(headers.n)",
        "size(value.s)",
        "int(timestamp)",
        "timestamp.getHours()",
        "timestamp.getDayOfYear()",
        "value.l[0]",
        "value.l[value.i]",
        "value[\"i\"]",
        "double(\"NaN\")",
    ])
}

fn texts() -> BoxedStrategy<String> {
    boxed(vec![
        "value.s",
        "value.t",
        "value.m.s",
        "key",
        "headers.h",
        "headers.n",
        "\"\"",
        "\"a\"",
        "\"A\"",
        "\"ab\"",
        "\"ü\"",
        "value.s + value.t",
        "value.s.lowerAscii()",
        "string(value.i)",
        "string(value.d)",
        "string(value.b)",
        "value[\"s\"]",
        "value.ls[0]",
    ])
}

fn lists() -> BoxedStrategy<String> {
    boxed(vec![
        "value.l",
        "value.ls",
        "value.lm",
        "[]",
        "[1, 2]",
        "[1.0, 2]",
        "[\"a\", \"b\"]",
        "[value.i, value.d]",
        "[null]",
        "[[1], [2]]",
        "value.l + [1]",
        "value.l.map(x, x)",
        "value.l.filter(x, x > 1)",
        "value.lm.map(x, x.i)",
        "[value.s]",
        "[value.l]",
        "value.l.map(x, x > 0, x + 1)",
    ])
}

fn anything() -> BoxedStrategy<String> {
    prop_oneof![
        4 => numbers(),
        4 => texts(),
        2 => lists(),
        2 => boxed(vec![
            "value", "value.m", "value.missing", "value.m.missing", "headers", "headers.missing", "null", "true", "false", "value.b", "value.n",
            "timestamp", "timestamp(0)", "timestamp(\"2026-03-01T12:30:45.25Z\")", "duration(\"1h\")", "timestamp - timestamp(0)", "b\"a\"",
            "bytes(value.s)", "headers.none", "value.i.x", "value.s.x", "value.l.x", "timestamp(value.s)", "bool(value.s)",
        ]),
    ]
    .boxed()
}

fn numeric() -> BoxedStrategy<String> {
    numbers()
        .prop_recursive(2, 6, 2, |inner| {
            let operator = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
            prop_oneof![
                5 => (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
                1 => inner.clone().prop_map(|a| format!("-({a})")),
                1 => (truths(0), inner.clone(), inner).prop_map(|(c, a, b)| format!("({c} ? {a} : {b})")),
            ]
        })
        .boxed()
}

fn truths(depth: u32) -> BoxedStrategy<String> {
    let relation = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let equality = prop::sample::select(vec!["==", "!="]);
    let method = prop::sample::select(vec!["startsWith", "endsWith", "contains"]);
    let each = prop::sample::select(vec!["all", "exists", "exists_one"]);
    let body = prop::sample::select(vec![
        "x == 1",
        "x != null",
        "x > 1",
        "x.i == 1",
        "has(x.i)",
        "x == value.i",
        "x in value.l",
        "x.startsWith(\"a\")",
        "size(x) == 1",
        "x",
        "!(x > 1)",
        "x.i > 1 || x == 1",
        "x == 1 && true",
        "x == value.s",
    ]);
    let flat = |depth: u32| if depth == 0 { numbers() } else { numeric() };
    let leaf = prop_oneof![
        4 => (flat(depth), relation.clone(), flat(depth)).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        3 => (texts(), relation.clone(), texts()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        2 => (lists(), equality, lists()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        2 => (anything(), relation, anything()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        2 => (anything(), lists()).prop_map(|(a, b)| format!("{a} in {b}")),
        1 => (anything(), anything()).prop_map(|(a, b)| format!("{a} in {b}")),
        1 => (anything(), anything()).prop_map(|(a, b)| format!("{a}[{b}] == 1")),
        2 => (texts(), method, texts()).prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
        2 => (prop_oneof![3 => lists(), 1 => anything()], each, body).prop_map(|(a, f, b)| format!("{a}.{f}(x, {b})")),
        2 => boxed(vec![
            "value.b", "has(value.i)", "has(value.missing)", "has(value.m.i)", "has(value.m.missing)", "has(value.missing.i)", "has(value.s.i)",
            "has(headers.h)", "has(value.n)", "value.n", "value.missing", "true", "false", "value.i", "bool(value.s)",
        ]),
    ];
    leaf.prop_recursive(depth, 12, 3, |inner| {
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            2 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
    .boxed()
}

/// Records in which most of the names above exist, with values that meet each other.
fn records() -> impl Strategy<Value = Record> {
    let number = boxed(vec![
        "0",
        "1",
        "2",
        "-1",
        "7",
        "9223372036854775807",
        "1.0",
        "2.5",
        "-2.5",
        "9223372036854775808",
        "1e300",
    ]);
    let text = boxed(vec![
        "\"\"",
        "\"a\"",
        "\"A\"",
        "\"ab\"",
        "\"b\"",
        "\"1\"",
        "\"true\"",
        "\"\\u00fc\"",
        "\"2026-03-01T12:30:45.25Z\"",
    ]);
    let list =
        prop::collection::vec(prop_oneof![6 => number.clone(), 1 => text.clone(), 1 => Just("null".to_owned())], 0..4)
            .prop_map(|list| format!("[{}]", list.join(",")));
    let objects = prop::collection::vec(number.clone(), 0..3).prop_map(|list| {
        let objects: Vec<_> = list.iter().map(|number| format!("{{\"i\":{number}}}")).collect();
        format!("[{}]", objects.join(","))
    });
    let odd = boxed(vec!["null", "true", "false", "{}", "[]", "\"x\""]);
    (
        (number.clone(), number.clone(), number.clone(), text.clone(), text.clone()),
        (list, prop::collection::vec(text.clone(), 0..3), objects, odd.clone(), any::<bool>()),
        (boxed(vec!["i", "j", "d", "s", "l", "zz"]), odd),
        prop::sample::select(vec!["1", "5", "-3", "x", ""]),
    )
        .prop_map(|((i, j, d, s, t), (l, ls, lm, n, b), (replaced, odd), header_number)| {
            let ls = ls.join(",");
            let value = format!(
                "{{\"i\":{i},\"j\":{j},\"d\":{d},\"s\":{s},\"t\":{t},\"l\":{l},\"ls\":[{ls}],\"lm\":{lm},\"n\":{n},\"b\":{b},\
                 \"big\":9223372036854775808,\"m\":{{\"i\":{j},\"s\":{t}}},\"{replaced}\":{odd}}}"
            );
            Record {
                key: Some("ab".into()),
                headers: vec![
                    header("h", Some(b"a")),
                    header("n", Some(header_number.as_bytes())),
                    header("none", None),
                ],
                ..record(value.as_bytes())
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn ours_and_theirs_agree(text in truths(3), records in prop::collection::vec(records(), 2)) {
        for record in &records {
            compare(&text, record);
        }
    }
}

#[test]
fn most_random_expressions_have_an_answer() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut compiled, mut answered, mut matched) = (0, 0, 0);
    for _ in 0..1_000 {
        let text = truths(3).new_tree(&mut runner).expect("a text").current();
        let record = records().new_tree(&mut runner).expect("a record").current();
        if let Some(answer) = compare(&text, &record) {
            compiled += 1;
            answered += usize::from(answer.is_some());
            matched += usize::from(answer == Some(true));
        }
    }
    assert!(compiled > 700 && answered > 350 && matched > 100, "{compiled} {answered} {matched}");
}
