//! What each operator gives: the table of the peers' operators, CEL's own rules, ours; and each error, with its words.
//!
//! One record for all of the table; a row is a text and what it gives.
#![allow(missing_docs)]

mod common;

use common::{NOON, evaluate, header, record, with_ref};
use millstream_filter::{Candidate, Filter, Reason};
use millstream_protocol::{Record, Timestamp};

const VALUE: &str = r#"{
    "carrier": "UA", "fare": 75.5, "distance": 2475, "n": 7, "colors": ["red", "blue"], "a": 0, "b": 2, "file": "x.png",
    "color": "Red", "empty": "", "path": "img/2026/full.jpg", "ip": "10.1.2.3", "ip6": "2001:db8::1", "a.b": 1, "dep_delay": null,
    "order": {"total": 10, "lines": [{"sku": "A-1", "q": 1}, {"sku": "B-2", "q": 2}]}, "flag": true, "big": 9223372036854775808,
    "escaped": "a\nb\u00fc", "nested": [[1, 2], [3]], "when": "2026-01-01T00:00:00Z", "first": 1, "first": 2
}"#;

fn ride() -> Record {
    Record {
        key: Some("N14228".into()),
        headers: vec![
            header("priority", Some(b"1")),
            header("subject", Some(b"orders.eu.new")),
            header("type", Some(b"ride")),
            header("nothing", None),
            header("JMSPriority", Some(b"6")),
            header("region", Some(b"eu-west")),
            header("raw", Some(b"\xff\x00")),
            header("priority", Some(b"5")),
        ],
        ..record(VALUE.as_bytes())
    }
}

fn check(rows: &[(&str, bool)]) {
    let ride = ride();
    for (text, expected) in rows {
        assert_eq!(evaluate(text, &ride), Ok(*expected), "{text}");
    }
}

fn check_errors(rows: &[(&str, usize, &str)]) {
    let ride = ride();
    for (text, position, reason) in rows {
        let error = evaluate(text, &ride).expect_err(text);
        assert!(error.to_string().contains(reason), "{text}: {error}");
        assert_eq!(error.position, *position, "{text}: {error}");
    }
}

#[test]
fn each_operator_of_sns_and_eventbridge_works() {
    check(&[
        (r#"value.carrier == "UA""#, true),
        (r#"value.carrier == "DL""#, false),
        (r#"value.carrier in ["UA", "DL"]"#, true),
        (r#"value.carrier in ["AA", "DL"]"#, false),
        (r#""red" in value.colors"#, true),
        (r#""green" in value.colors"#, false),
        ("value.fare >= 50 && value.distance >= 10", true),
        ("value.a == 1 || value.b == 2", true),
        (r#"value.carrier.startsWith("U")"#, true),
        (r#"value.file.endsWith(".png")"#, true),
        (r#"value.color.lowerAscii() == "red""#, true),
        (r#"value.color.lowerAscii().startsWith("re")"#, true),
        (r#"value.empty == """#, true),
        (r#"value.color == """#, false),
        (r#"has(value.carrier) && !(value.carrier in ["AA", "DL"])"#, true),
        (r#"has(value.missing) && !(value.missing in ["AA", "DL"])"#, false),
        (r#"has(value.path) && !like(value.path, "*/lib/*")"#, true),
        ("value.fare > 50 && value.fare <= 100", true),
        ("value.n == 7.0 && 7.0 == value.n && value.n < 7.5 && value.fare == 75.5", true),
        ("value.distance >= 2000.0", true),
        ("has(value.order.total)", true),
        ("!has(value.refund)", true),
        (r#""type" in headers"#, true),
        (r#""kind" in headers"#, false),
        ("value.dep_delay != null && value.dep_delay > 60", false),
        ("value.dep_delay == null", true),
        (r#"like(value.path, "img/*/full*")"#, true),
        (r#"like(value.path, "img/*/half*")"#, false),
        (r#"in_cidr(value.ip, "10.0.0.0/8")"#, true),
        (r#"in_cidr(value.ip, "10.2.0.0/16")"#, false),
        (r#"in_cidr(value.ip6, "2001:db8::/32")"#, true),
        (r#"value.order.lines.exists(l, l.sku == "B-2")"#, true),
        (r#"value["a.b"] == 1"#, true),
        (r#"int(headers["priority"]) >= 5"#, true),
        (r#"key.startsWith("N1")"#, true),
        (r#"timestamp >= timestamp("2026-01-01T00:00:00Z")"#, true),
        (r#"subject(headers.subject, "orders.*.new")"#, true),
        (r#"subject(headers.subject, "orders.>")"#, true),
        (r#"subject(headers.subject, "orders.us.*")"#, false),
        (r#"int(headers["JMSPriority"]) > 5 && like(headers.region, "eu*")"#, true),
    ]);
}

#[test]
fn numbers_are_int_or_double_and_compare_with_each_other() {
    check(&[
        ("value.n + 1 == 8", true),
        ("value.n - 10 == -3", true),
        ("value.fare + 1.0 == 76.5", true),
        ("double(value.n) / 2.0 == 3.5", true),
        ("value.n / 2 == 3 && value.n % 4 == 3 && -value.n == -7", true),
        ("value.big == 9223372036854775808.0", true),
        ("value.n in [1.0, 7.0]", true),
        ("[1, 2.0] == [1.0, 2]", true),
        ("value.n > -1 && value.n != 8", true),
        ("int(value.fare) == 75", true),
        ("int(\"42\") == 42 && double(\"1.5\") == 1.5 && string(7) == \"7\" && string(1.5) == \"1.5\"", true),
        ("0x10 == 16 && 1e3 == 1000", true),
        ("value.first == 2", true),
    ]);
    check_errors(&[
        ("value.n + 1.0 == 8.0", 8, "`+` does not take an int and a double"),
        ("value.n / value.a == 1", 8, "division by zero"),
        ("value.n % value.a == 1", 8, "division by zero"),
        ("value.n * 9223372036854775807 > 0", 8, "`*` overflows"),
        ("int(value.big) == 1", 0, "int overflows"),
        ("int(value.carrier) == 1", 0, "int cannot read"),
        ("value.fare % 2.0 == 1.0", 11, "`%` does not take a double and a double"),
    ]);
}

#[test]
fn what_a_record_lacks_is_an_error_and_has_asks_for_it() {
    check_errors(&[
        ("value.missing == 1", 5, "no such member"),
        ("value.order.missing.x == 1", 11, "no such member"),
        ("has(value.missing.total)", 9, "no such member"),
        ("has(value.carrier.total)", 0, "`.` does not take a string"),
        ("headers.missing == \"\"", 7, "no such member"),
        ("value[\"missing\"] == 1", 5, "no such member"),
        ("value.dep_delay > 60", 16, "`>` does not take null and an int"),
        ("value.carrier > 1", 14, "`>` does not take a string and an int"),
        ("value.carrier", 0, "the result is a string, not true or false"),
        ("value.colors[2] == \"x\"", 12, "no element at that index"),
        ("value.colors[-1] == \"x\"", 12, "no element at that index"),
        ("value.colors[\"0\"] == \"x\"", 12, "`[]` does not take a list and a string"),
        ("value.carrier in value.order.total", 14, "`in` does not take a string and an int"),
        ("value.n.exists(x, true)", 8, "exists does not take an int"),
        ("!value.n", 0, "`!` does not take an int"),
        ("value.n ? true : false", 8, "`?` does not take an int"),
        ("value.n.startsWith(\"x\")", 8, "startsWith does not take an int and a string"),
        ("in_cidr(value.carrier, \"10.0.0.0/8\")", 0, "in_cidr cannot read"),
        ("in_cidr(value.ip, value.carrier)", 0, "in_cidr cannot read"),
        ("subject(value.carrier, value.empty)", 0, "subject cannot read"),
        ("size(value.n) == 1", 0, "size does not take an int"),
        ("headers.raw.startsWith(\"x\")", 12, "startsWith does not take bytes and a string"),
        ("timestamp(value.carrier) < timestamp", 0, "timestamp cannot read"),
    ]);
    check(&[
        ("has(value.order) && has(value.order.total) && !has(value.order.x)", true),
        ("has(headers.type) && !has(headers.kind)", true),
        ("has(headers.nothing) && headers.nothing == null", true),
        ("value.carrier == 1", false),
        ("value.carrier != 1", true),
        ("value == null", false),
    ]);
}

#[test]
fn or_and_and_outweigh_an_error_if_the_other_side_decides() {
    check(&[
        ("value.missing == 1 || value.flag", true),
        ("value.flag || value.missing == 1", true),
        ("value.missing == 1 && !value.flag", false),
        ("!value.flag && value.missing == 1", false),
        ("value.n || value.flag", true),
        ("value.colors.exists(c, c.x == 1 || c == \"blue\")", true),
        ("[value.n, value.flag].exists(x, x)", true),
        ("[value.n, value.flag].all(x, !x)", false),
        ("value.flag ? true : value.missing == 1", true),
    ]);
    check_errors(&[
        ("value.missing == 1 || !value.flag", 5, "no such member"),
        ("!value.flag || value.missing == 1", 20, "no such member"),
        ("value.missing == 1 && value.flag", 5, "no such member"),
        ("value.n && value.flag", 8, "`&&` does not take an int"),
        ("[value.n, value.flag].all(x, x)", 29, "the result is an int"),
    ]);
}

#[test]
fn macros_run_over_lists_and_the_names_of_maps() {
    check(&[
        ("value.order.lines.all(l, l.q > 0)", true),
        ("value.order.lines.all(l, l.q > 1)", false),
        ("value.order.lines.exists_one(l, l.q > 1)", true),
        ("value.order.lines.exists_one(l, l.q > 0)", false),
        ("value.order.lines.map(l, l.q) == [1, 2]", true),
        ("value.order.lines.map(l, l.q > 1, l.sku) == [\"B-2\"]", true),
        ("size(value.order.lines.filter(l, l.q > 1)) == 1", true),
        ("value.order.lines.filter(l, l.q > 1).exists(l, l.sku == \"B-2\")", true),
        ("value.order.exists(name, name == \"total\")", true),
        ("headers.exists(h, h.startsWith(\"JMS\"))", true),
        ("[].all(x, false) && ![].exists(x, true)", true),
        ("value.nested.exists(l, l == [3])", true),
        ("value.nested[0][1] == 2 && value.colors[0] == \"red\" && value.colors[1.0] == \"blue\"", true),
        ("value.colors + [\"x\"] == [\"red\", \"blue\", \"x\"]", true),
    ]);
}

#[test]
fn texts_times_and_bytes() {
    check(&[
        ("size(value.escaped) == 4 && value.escaped.contains(\"b\") && value.escaped == \"a\\nbü\"", true),
        ("value.carrier + value.color == \"UARed\"", true),
        ("\"a\" < \"b\" && b\"\\x00\" < b\"\\x01\" && false < true", true),
        ("headers.raw == b\"\\xff\\x00\" && size(headers.raw) == 2", true),
        ("bytes(\"a\") + b\"b\" == b\"ab\" && string(b\"a\") == \"a\"", true),
        ("bool(\"true\") && !bool(\"0\")", true),
        ("size(key) == 6 && size(headers) == 7 && size(value.colors) == 2", true),
        ("timestamp == timestamp(\"2026-03-01T13:30:45.250+01:00\")", true),
        ("timestamp - timestamp(value.when) > duration(\"59d\".startsWith(\"5\") ? \"1416h\" : \"1h\")", true),
        ("timestamp + duration(\"1h\") == timestamp(\"2026-03-01T13:30:45.25Z\")", true),
        ("timestamp - duration(\"30m45.25s\") == timestamp(\"2026-03-01T12:00:00Z\")", true),
        ("timestamp.getFullYear() == 2026 && timestamp.getMonth() == 2 && timestamp.getDate() == 1", true),
        ("timestamp.getDayOfMonth() == 0 && timestamp.getDayOfWeek() == 0 && timestamp.getDayOfYear() == 59", true),
        ("timestamp.getHours() == 12 && timestamp.getMinutes() == 30 && timestamp.getSeconds() == 45", true),
        ("timestamp.getMilliseconds() == 250 && int(timestamp) == 1772368245", true),
        ("duration(\"90m\").getHours() == 1 && duration(\"90m\").getSeconds() == 5400", true),
        ("duration(\"1h\") - duration(\"1m\") < duration(\"1h\") && timestamp(0) < timestamp", true),
        ("r\"\\d\" == \"\\\\d\" && '''a\"b''' == \"a\\\"b\"", true),
    ]);
}

#[test]
fn tombstones_and_absent_keys_are_null_and_other_bytes_are_not_json() {
    let tombstone = Record { value: None, ..record(b"") };
    assert_eq!(evaluate("value == null && key == null && size(headers) == 0", &tombstone), Ok(true));
    assert_eq!(
        evaluate("value.a == 1", &tombstone).map_err(|e| e.to_string()),
        Err("`.` does not take null (at byte 5 of the filter)".into())
    );
    for (value, position) in [(&b""[..], (1, 0)), (b"{\"a\": 1,}", (1, 9)), (b"{}\n x", (2, 2)), (b"\xff", (1, 1))] {
        let reason = evaluate("value.a == 1", &record(value)).expect_err("not JSON").reason;
        assert_eq!(reason, Reason::NotJson { line: position.0, column: position.1 }, "{value:?}");
    }
    assert_eq!(evaluate("key == null", &record(b"not JSON")), Ok(true));
    let bytes = Record { key: Some(b"\xff".as_slice().into()), ..record(b"1") };
    assert_eq!(evaluate("key == b\"\\xff\" && value == 1", &bytes), Ok(true));
    let late = Record { timestamp: Timestamp(i64::MAX), ..record(b"1") };
    assert_eq!(evaluate("timestamp > timestamp(0)", &late).map_err(|e| e.reason), Err(Reason::TimeOutOfRange));
    assert_eq!(NOON, ride().timestamp.0);
}

#[test]
fn what_could_never_match_is_refused_with_its_place() {
    for (text, position, reason) in [
        (
            "distance > 1",
            0,
            "unknown name `distance`: a filter reads key, headers, timestamp and value (value.distance?)",
        ),
        ("value.a == 1 && valu.b == 2", 16, "unknown name `valu`"),
        ("value.l.all(x, y > 1)", 15, "unknown name `y`"),
        ("value.l.all(x, x > 1) && x", 25, "unknown name `x`"),
        (".value.a == 1", 1, "not a value"),
        ("like == 1", 0, "`like` is not a value"),
        ("value.a.matches(\"x\")", 8, "regular expressions are off"),
        ("matches(value.a, \"x\")", 0, "regular expressions are off"),
        ("value.a.frob()", 8, "unknown function `frob`"),
        ("value.a.startswith(\"x\")", 8, "write x.startsWith(text)"),
        ("like(value.a)", 0, "`like` is called as like(text, pattern)"),
        ("value.a.like(\"x\")", 8, "`like` is called as"),
        ("value.a.startsWith(\"x\", \"y\")", 8, "`startsWith` is called as x.startsWith(text)"),
        ("startsWith(value.a, \"x\")", 0, "`startsWith` is called as"),
        ("size() == 1", 0, "`size` is called as size(x)"),
        ("timestamp.getHours(\"UTC\") == 1", 10, "times are UTC"),
        ("value.l.all(x)", 8, "list.all(variable, expression)"),
        ("value.l.exists(1, true)", 15, "begins with the name of a variable"),
        ("value.l.exists(value, true)", 15, "a variable cannot be named `value`"),
        ("value.l.exists(x, x.l.exists(y, true))", 22, "macros do not nest"),
        ("value.l.all(x, size(x.l.filter(y, y)) > 1)", 24, "macros do not nest"),
        ("all(value.l, x, true)", 0, "list.all(variable, expression)"),
        ("has(value)", 4, "has() asks for a member"),
        ("has(value[\"a\"])", 9, "write \"a.b\" in value"),
        ("has()", 0, "has(value.a)"),
        ("1u == value.a", 0, "unsigned numbers are not used: write 1"),
        ("{\"a\": 1}.a == 1", 0, "maps and messages"),
        ("Foo{a: 1} == 1", 3, "maps and messages"),
        ("value.?a == 1", 5, "?"),
        ("1", 0, "the filter gives an int, never true or false"),
        ("\"x\"", 0, "a string, never true or false"),
        ("value.n * 2", 0, "never true or false"),
        ("size(value.l)", 0, "an int, never"),
        ("value.l.map(x, x)", 0, "a list, never"),
        ("value.a && 1", 11, "`&&` joins truths, this is an int"),
        ("!\"x\"", 1, "`!` turns a truth, this is a string"),
        ("1 ? true : false", 0, "`?` asks for a truth"),
        ("value.l.all(x, 1)", 15, "`all` asks for a truth, this is an int"),
        ("in_cidr(value.ip, \"10.0.0.0/99\")", 18, "no network"),
        ("in_cidr(value.ip, 7)", 18, "takes a string here, not an int"),
        ("subject(headers.s, \"a..b\")", 19, "no subject pattern"),
        ("like(value.a, null)", 14, "takes a string here, not null"),
        ("timestamp > timestamp(\"yesterday\")", 12, "timestamp cannot read"),
        ("value.a > 1 / 0", 12, "division by zero"),
        ("value.a == 1 +", 14, "ends where more is due"),
        ("value.a ==", 10, "ends where more is due"),
        ("value.a b", 8, "'b' is not expected here"),
        ("(value.a == 1) (value.b)", 15, "'(' is not expected here"),
        ("value..a == 1", 6, "'..' makes no expression"),
        ("value.a == 1 == == 2", 16, "'=='"),
        ("value.a == 99999999999999999999", 11, ""),
        ("\"\\q\" == key", 0, ""),
        ("value.if == 1 && if", 17, "if"),
    ] {
        let error = Filter::compile(text).expect_err(text);
        assert!(error.reason.contains(reason), "{text}: {error}");
        assert_eq!(error.position, position, "{text}: {error}");
    }
}

#[test]
fn places_are_bytes_and_lines_behind_other_letters() {
    let error = Filter::compile("key == \"ü€𝄞\" && distance > 1").expect_err("unknown");
    assert_eq!(error.position, "key == \"ü€𝄞\" && ".len());
    let error = Filter::compile("key == \"ü€𝄞\" && == 1").expect_err("syntax");
    assert_eq!(error.position, "key == \"ü€𝄞\" && ".len());
    let error = Filter::compile("// ü\nkey == \"ü\"\n  && distance > 1").expect_err("unknown");
    assert_eq!((error.line, error.column), (3, 6));
    assert!(error.to_string().starts_with("filter, line 3, column 6: unknown name"), "{error}");
    let error = Filter::compile("key == \"ü\"\n  && == 1").expect_err("syntax");
    assert_eq!((error.line, error.column), (2, 6));
    let error = with_ref(&record(b"{}"), |record| {
        Filter::compile("key == \"ü\" || value.x").expect("compiles").matches(&Candidate::new(record))
    });
    assert_eq!(error.expect_err("missing").position, "key == \"ü\" || value".len());
}

#[test]
fn a_filter_says_what_it_needs() {
    let needs = |text| {
        let filter = Filter::compile(text).expect(text);
        (filter.needs_value(), filter.needs_headers(), filter.is_always_true())
    };
    assert_eq!(needs("true"), (false, false, true));
    assert_eq!(needs("1 + 1 == 2"), (false, false, true));
    assert_eq!(needs("false"), (false, false, false));
    assert_eq!(needs("key == \"value\""), (false, false, false));
    assert_eq!(needs("headers.a == \"x\""), (false, true, false));
    assert_eq!(needs("[1].all(x, value.a == x)"), (true, false, false));
    assert_eq!(needs("has(value.a) || has(headers.b)"), (true, true, false));
    let filter = Filter::compile(" true ").expect("compiles");
    assert_eq!((filter.text(), filter.clone() == filter), (" true ", true));
}

#[test]
fn a_value_is_read_once_and_only_if_a_filter_names_it() {
    let filters: Vec<Filter> = ["key == null", "value.a == 1", "value.a == 2", "value.b"]
        .map(|text| Filter::compile(text).expect(text))
        .into();
    with_ref(&record(br#"{"a": 1}"#), |record| {
        let candidate = Candidate::new(record);
        assert_eq!(filters[0].matches(&candidate), Ok(true));
        assert!(!candidate.is_value_read());
        assert_eq!(filters[1].matches(&candidate), Ok(true));
        assert!(candidate.is_value_read());
        assert_eq!(filters[2].matches(&candidate), Ok(false));
        assert_eq!(filters[3].matches(&candidate).map_err(|error| error.reason), Err(Reason::NoSuchMember));
    });
}
