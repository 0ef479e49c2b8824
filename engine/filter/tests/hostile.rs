//! No text and no record aborts, panics or stalls: not the compiler, not an evaluation on a thread with a small stack.
//!
//! An overflown stack ends this process, and a panic on the compiler's thread is told apart by its words, so neither can
//! pass unseen.
#![allow(missing_docs)]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{header, record, with_ref};
use millstream_filter::{Candidate, Filter, Reason};
use millstream_protocol::Record;
use millstream_protocol::limits::{FILTER_TEXT_BYTES_MAX, FILTER_VALUE_PARTS_MAX};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// Far more than any text takes on an idle machine, without optimisation; a stall takes for ever.
const COMPILE_MAX: Duration = Duration::from_secs(2);
/// The same for one evaluation: its steps are counted, not its time.
const EVALUATE_MAX: Duration = Duration::from_secs(2);
/// A quarter of what threads get by default.
const EVALUATION_STACK_BYTES: usize = 512 << 10;

/// Compiles; whatever compiles is asked about each of the records.
fn attack(text: &str, records: &[Record]) -> Option<Filter> {
    let began = Instant::now();
    let outcome = Filter::compile(text);
    assert!(began.elapsed() < COMPILE_MAX, "{:?} for {text}", began.elapsed());
    match outcome {
        Ok(filter) => {
            for record in records {
                with_ref(record, |record| {
                    let candidate = Candidate::new(record);
                    let began = Instant::now();
                    let _ = filter.matches(&candidate);
                    assert!(began.elapsed() < EVALUATE_MAX, "{:?} for {text}", began.elapsed());
                });
            }
            Some(filter)
        }
        Err(error) => {
            assert!(!error.reason.contains("parser failed"), "a panic: {text}");
            assert!(error.position <= text.len() && !error.reason.is_empty(), "{error:?}");
            None
        }
    }
}

fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(EVALUATION_STACK_BYTES).spawn(test).expect("a thread");
    thread.join().expect("no panic");
}

fn small_record() -> Record {
    Record {
        key: Some("k".into()),
        headers: vec![header("h", Some(b"x")), header("n", None)],
        ..record(
            br#"{"a": {"a": {"a": 1}}, "l": [1, "x", {"a": 1}, [2]], "s": "text", "n": null, "t": true, "d": 1.5}"#,
        )
    }
}

/// Texts that grow in one dimension until a limit stops them.
fn grown() -> Vec<String> {
    let fitting = |make: &dyn Fn(usize) -> String| {
        (1..=FILTER_TEXT_BYTES_MAX).map(make).take_while(|text| text.len() <= FILTER_TEXT_BYTES_MAX).collect::<Vec<_>>()
    };
    let repeat = |part: &'static str, count: usize| part.repeat(count);
    let families: Vec<Vec<String>> = vec![
        fitting(&|n| format!("1{} == 1", repeat("+1", n))),
        fitting(&|n| format!("value.a{} == 1", repeat("-value.a", n))),
        fitting(&|n| format!("true{}", repeat("&&true", n))),
        fitting(&|n| format!("value.t{}", repeat("||key", n))),
        fitting(&|n| format!("1{}", repeat("==1", n))),
        fitting(&|n| format!("1{}", repeat("<1", n))),
        fitting(&|n| format!("1{}", repeat(" in[1]", n))),
        fitting(&|n| format!("{}true", repeat("!", n))),
        fitting(&|n| format!("{}1==1", repeat("-", n))),
        fitting(&|n| format!("{}1==1", repeat("- ", n))),
        fitting(&|n| format!("{}true{}", repeat("!(", n), repeat(")", n))),
        fitting(&|n| format!("{}true{}", repeat("(", n), repeat(")", n))),
        fitting(&|n| format!("{}1{}==key", repeat("[", n), repeat("]", n))),
        fitting(&|n| format!("{}1{}==key", repeat("-(", n), repeat(")", n))),
        fitting(&|n| format!("{}1{}==key", repeat("size(", n), repeat(")", n))),
        fitting(&|n| format!("{}1{}==key", repeat("{1:", n), repeat("}", n))),
        fitting(&|n| format!("value{}", repeat(".a", n))),
        fitting(&|n| format!("value{}==1", repeat("[0]", n))),
        fitting(&|n| format!("value{}==1", repeat("[\"a\"]", n))),
        fitting(&|n| format!("key{}==key", repeat(".lowerAscii()", n))),
        fitting(&|n| format!("value{}==1", repeat(".filter(x,true)", n))),
        fitting(&|n| format!("value.l{}==1", repeat(".map(x,[x,x])", n))),
        fitting(&|n| format!("{}key{}", repeat("value.l.all(x,", n), repeat(")", n))),
        fitting(&|n| format!("{}key", repeat("true?", n))),
        fitting(&|n| format!("{}true", repeat("value.t?true:", n))),
        fitting(&|n| format!("{}true{}", repeat("true?", n), repeat(":true", n))),
        fitting(&|n| format!("[{}1]==key", repeat("1,", n))),
        fitting(&|n| format!("f({}1)", repeat("1,", n))),
        fitting(&|n| format!("key==\"{}\"", repeat("\\n", n))),
        fitting(&|n| format!("key==\"{}\"", repeat("\\u00fc", n))),
        fitting(&|n| format!("key==b'{}'", repeat("\\377", n))),
        fitting(&|n| format!("{}1", repeat("\n", n))),
        fitting(&|n| format!("{}1", repeat("//\n", n))),
        fitting(&|n| repeat("\"", n)),
        fitting(&|n| repeat("1.", n)),
        fitting(&|n| repeat("1 ", n)),
        fitting(&|n| repeat("in ", n)),
        fitting(&|n| repeat(",", n)),
        fitting(&|n| format!("{}==1", repeat("9", n))),
        fitting(&|n| format!("{}.0==1", repeat("9", n))),
        fitting(&|n| format!("0x{}==1", repeat("f", n))),
        fitting(&|n| format!("duration(\"{}\")==key", repeat("9h", n))),
        fitting(&|n| format!("timestamp(\"{}\")==key", repeat("9", n))),
        fitting(&|n| format!("like(key,\"{}\")", repeat("*a", n))),
        fitting(&|n| format!("{}==1", repeat("a", n))),
    ];
    // The longest of a family that compile are near a limit; both sides of it, and a few smaller ones, say enough.
    let mut texts = Vec::new();
    for family in families {
        let count = family.len();
        let picked = [0, 1, 7, 8, 15, 16, 17, 64, 127, 128, 254, 255, 256, 257, count.saturating_sub(2), count - 1];
        texts.extend(picked.into_iter().filter(|at| *at < count).map(|at| family[at].clone()));
    }
    texts
}

#[test]
fn texts_that_grow_in_one_dimension_compile_or_are_refused() {
    on_a_small_stack(|| {
        let records = [small_record()];
        let compiled = grown().iter().filter_map(|text| attack(text, &records)).count();
        assert!(compiled > 200, "only {compiled}: these texts no longer reach the evaluation");
    });
}

const TOKENS: &[&str] = &[
    "value",
    "key",
    "headers",
    "timestamp",
    ".a",
    ".l",
    ".s",
    ".n",
    "x",
    "1",
    "0",
    "1.5",
    "\"s\"",
    "b'\\xff'",
    "null",
    "true",
    "false",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    " in ",
    "!",
    "&&",
    "||",
    "?",
    ":",
    ".",
    "has(",
    "size(",
    ".all(x,",
    ".exists(x,",
    ".map(x,",
    ".filter(x,",
    ".exists_one(x,",
    "like(",
    "subject(",
    "in_cidr(",
    "int(",
    "string(",
    "timestamp(",
    "duration(\"1h\")",
    ".startsWith(",
    ".contains(",
    ".lowerAscii()",
    ".getHours()",
    "9223372036854775807",
    "'",
    "\"",
    "\n",
    "//",
    "if",
    "1u",
    "r'\\'",
    "`a`",
    "ü",
    "\\",
    "=",
    "@",
    "$",
];

/// Expressions that are legal, of many shapes, with operands of all types.
fn legal() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "value",
        "value.a",
        "value.a.a.a",
        "value.l",
        "value.s",
        "value.n",
        "value.t",
        "value.d",
        "value.missing",
        "key",
        "headers",
        "headers.h",
        "timestamp",
        "1",
        "-3",
        "0",
        "2.5",
        "\"text\"",
        "\"1\"",
        "null",
        "true",
        "[1, 2.0]",
        "duration(\"1h\")",
        "b\"x\"",
        "9223372036854775807",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator =
            prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", " in ", "&&", "||"]);
        let function = prop::sample::select(vec![
            "size",
            "int",
            "double",
            "string",
            "bool",
            "bytes",
            "timestamp",
            "duration",
            "!",
            "-",
            "has",
        ]);
        let call = prop::sample::select(vec!["like", "in_cidr", "subject"]);
        let method = prop::sample::select(vec!["startsWith", "endsWith", "contains"]);
        let getter = prop::sample::select(vec!["lowerAscii", "getHours", "getFullYear", "getDayOfYear", "size"]);
        let each = prop::sample::select(vec!["all", "exists", "exists_one", "filter", "map"]);
        prop_oneof![
            4 => (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a}{op}{b})")),
            1 => (function, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            1 => (call, inner.clone(), inner.clone()).prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
            1 => (inner.clone(), method, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
            1 => (inner.clone(), getter).prop_map(|(a, f)| format!("{a}.{f}()")),
            1 => (inner.clone(), each, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}(x, x == {b})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("[{a}, {b}]")),
        ]
    })
}

/// JSON of all shapes, as text.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        (-3..4_i64).prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no others", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "[a-c1-3]{0,3}".prop_map(|text| format!("\"{text}\"")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec(("[alsntd]", inner), 0..6).prop_map(|members| {
                let members: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_texts_compile_or_are_refused(text in "\\PC{0,80}") {
        attack(&text, &[small_record()]);
    }

    #[test]
    fn random_bytes_compile_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        attack(&String::from_utf8_lossy(&bytes), &[]);
    }

    #[test]
    fn random_tokens_compile_or_are_refused(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..300)) {
        attack(&tokens.concat(), &[small_record()]);
    }

    #[test]
    fn random_expressions_on_random_json_never_panic(
        text in legal(),
        values in prop::collection::vec(json(), 3),
        junk in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut records: Vec<_> = values.iter().map(|value| record(value.as_bytes())).collect();
        records.extend([record(&junk), small_record()]);
        attack(&format!("({text}) == ({text}) || value.t"), &records);
        attack(&text, &records);
    }
}

#[test]
fn what_the_random_expressions_reach() {
    // Most of them compile and many have an answer: what is above is no test of refusals only.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut compiled, mut answered) = (0, 0);
    for _ in 0..300 {
        let text = legal().new_tree(&mut runner).expect("a text").current();
        let Ok(filter) = Filter::compile(&format!("({text}) != null")) else { continue };
        compiled += 1;
        answered += usize::from(with_ref(&small_record(), |record| filter.matches(&Candidate::new(record)).is_ok()));
    }
    assert!(compiled > 100 && answered > 10, "{compiled} {answered}");
}

/// Records that make work.
fn heavy() -> Vec<(&'static str, Record)> {
    let list = |element: &str, count: usize| {
        let elements = vec![element; count].join(",");
        record(format!("{{\"l\":[{elements}],\"s\":\"x\"}}").as_bytes())
    };
    let members: Vec<String> = (0..100_000).map(|at| format!("\"m{at}\":{at}")).collect();
    let text = "a".repeat(6 << 20);
    vec![
        ("as many values as may be", list("1", FILTER_VALUE_PARTS_MAX - 4)),
        ("lists in a list", list("[[],[]]", 80_000)),
        ("objects in a list", list("{\"a\":1,\"b\":2}", 80_000)),
        (
            "strings in a list",
            list("\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", 80_000),
        ),
        ("escaped strings in a list", list("\"\\n\"", 200_000)),
        ("a long string", record(format!("{{\"l\":[1,2,3],\"s\":\"{text}\"}}").as_bytes())),
        ("a long escaped string", record(format!("{{\"l\":[1,2,3],\"s\":\"\\n{text}\"}}").as_bytes())),
        ("many members", record(format!("{{\"l\":[1],\"s\":{{{}}}}}", members.join(",")).as_bytes())),
        ("a member many times", record(format!("{{{}\"s\":1}}", "\"l\":[1],".repeat(100_000)).as_bytes())),
    ]
}

fn greedy() -> Vec<String> {
    let mut texts: Vec<String> = [
        "value.l.all(x, x in value.l)",
        "value.l.all(x, x != value.l)",
        "value.l.all(x, value.l == value.l)",
        "value.l.exists(x, value.s.contains(\"b\"))",
        "value.l.exists(x, value.s < value.s)",
        "value.l.exists(x, value.s + value.s == value.s)",
        "value.l.exists(x, value.l + value.l == value.l)",
        "value.l.exists(x, size(value.s) < 0)",
        "value.l.exists(x, 1 < value.s)",
        "value.l.exists(x, value.s.lowerAscii() == \"b\")",
        "value.l.exists(x, like(value.s, \"*b*c*\"))",
        "value.l.exists(x, x.nothing || x.nothing.nothing)",
        "value.l.map(x, [x, value.l, value.s]) == value.l.map(x, [x, value.l, value.s])",
        "value.s.exists(x, value.s.exists_one == 1)",
        "value.s.all(x, has(value.s.m1) && x in value.s && value.s[x] >= 0)",
        "value.l.exists_one(x, headers.h == \"y\")",
    ]
    .map(str::to_owned)
    .into();
    texts.push(format!("value.l{} == 1", ".map(x, x + x)".repeat(60)));
    texts.push(format!("[value.s]{} == 1", ".map(x, x + x)".repeat(60)));
    texts.push(format!("[value.l]{} == 1", ".map(x, x + x)".repeat(60)));
    texts.push(format!("[value.l]{} == 1", ".map(x, [x, x])".repeat(50)));
    texts.push(format!("value.s{} == \"\"", " + value.s".repeat(90)));
    texts.push(format!("value.s{}", " == value.s".repeat(80)));
    texts.push(format!("value.l == value.l{}", " && value.l == value.l".repeat(40)));
    texts.push(format!("value.l.all(x, {}true)", "x != 2 && ".repeat(90)));
    texts
}

#[test]
fn heavy_records_and_greedy_filters_end_at_their_bounds() {
    let records = heavy();
    let filters: Vec<Filter> = greedy().iter().map(|text| Filter::compile(text).expect(text)).collect();
    let mut spent = 0;
    for (name, record) in &records {
        with_ref(record, |record| {
            let candidate = Candidate::new(record);
            for filter in &filters {
                let began = Instant::now();
                let outcome = filter.matches(&candidate);
                assert!(began.elapsed() < EVALUATE_MAX, "{:?} for {filter:?} on {name}", began.elapsed());
                spent += usize::from(outcome.is_err_and(|error| error.reason == Reason::Steps));
            }
        });
    }
    assert!(spent > 50, "only {spent} evaluations met the bound: these filters are no longer greedy");
}

#[test]
fn spent_steps_are_hidden_by_nothing() {
    let (_, record) = &heavy()[0];
    for text in [
        "value.l.all(x, x in value.l && x == 1 && x != 2) || true",
        "true == true && (value.l.all(x, x == 1 && x != 2 && x != 3) && false)",
        "[1].exists(x, value.l == value.l && value.l == value.l)",
        "value.missing == 1 || value.l.exists(x, x in value.l && x != 1 && x != 2)",
    ] {
        let filter = Filter::compile(text).expect(text);
        let reason = with_ref(record, |record| filter.matches(&Candidate::new(record)).map_err(|error| error.reason));
        assert_eq!(reason, Err(Reason::Steps), "{text}");
    }
}

#[test]
fn nesting_of_values_ends_at_its_bound_on_a_small_stack() {
    on_a_small_stack(|| {
        let filter = Filter::compile("value == value && [value] == [value] && value in [value]").expect("compiles");
        for depth in [1, 63, 64, 65, 127, 128, 129, 100_000] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                let outcome = with_ref(&record(text.as_bytes()), |record| {
                    filter.matches(&Candidate::new(record)).map_err(|error| error.reason)
                });
                assert_eq!(outcome, if depth <= 64 { Ok(true) } else { Err(Reason::TooDeep) }, "{depth} {open}");
            }
        }
    });
}
