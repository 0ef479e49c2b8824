//! Real records in, the same records out.

mod common;

use std::collections::BTreeMap;

use common::{Machine, TIMEOUT, World, rows};
use millstream_lake::reader::normalised;
use millstream_protocol::frame::control::LakeFormat;
use serde_json::{Value, json};

/// Sends the lines round robin, lands them, and compares every record with its row.
async fn land(lines: &[&str], partitions: usize) -> World {
    let mut world = World::new(partitions);
    let mut sent = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let partition = number % partitions;
        sent.insert((partition as u32, (number / partitions) as u64), line);
    }
    for partition in 0..partitions {
        let of_partition: Vec<&str> = lines.iter().copied().skip(partition).step_by(partitions).collect();
        of_partition.chunks(700).for_each(|batch| world.append(partition as u32, batch));
    }
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    assert_eq!(sink.status().rows, lines.len() as u64);
    sink.stop().await;
    let rows = rows(&world);
    assert_eq!(rows.len(), lines.len());
    for row in rows {
        let line = sent.remove(&(row.partition.0, row.offset.0)).expect("each row once");
        let value: Value = serde_json::from_str(line).expect("json");
        assert_eq!(normalised(&Value::Object(row.fields)), normalised(&value), "{line}");
        assert_eq!(row.timestamp.map(|time| time.0), Some(1_700_000_000_123));
    }
    assert!(sent.is_empty());
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_lands_and_comes_back() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/millstream/data/flights-sample.ndjson");
    let text = std::fs::read_to_string(file).expect("the sample is committed");
    let lines: Vec<&str> = text.lines().collect();
    let world = land(&lines, 4).await;
    let rows = rows(&world);
    assert_eq!(rows.len(), 5_000);
    let distance: i64 = rows.iter().filter_map(|row| row.fields["distance"].as_i64()).sum();
    assert_eq!(distance, 5_276_585);
    assert_eq!(rows.iter().filter(|row| !row.fields.contains_key("dep_time")).count(), 32);
    for file in world.files("parquet") {
        let columns = millstream_lake::reader::parquet_summary(&file).expect("a footer").columns;
        assert_eq!(columns[..3], ["id", "event_time", "carrier"]);
        assert_eq!(columns[columns.len() - 4..], ["_rest", "_partition", "_offset", "_timestamp"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nulls_first_then_whole_numbers_then_fractions_is_a_float_column() {
    let mut lines: Vec<String> = (0..6_000).map(|n| format!(r#"{{"id":{n},"pressure":null}}"#)).collect();
    lines.extend((0..6_000).map(|n| format!(r#"{{"id":{n},"pressure":1012}}"#)));
    lines.push(r#"{"id":1,"pressure":1012.3,"wind_gust":0.1}"#.to_owned());
    let world = land(&lines.iter().map(String::as_str).collect::<Vec<_>>(), 1).await;
    let values: Vec<Value> = rows(&world).into_iter().filter_map(|row| row.fields.get("pressure").cloned()).collect();
    assert_eq!(values.len(), 6_001);
    assert!(values.iter().all(Value::is_f64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_wide_and_odd_records_come_back() {
    let records = [
        json!({"a": {"b": [{"c": 1, "d": null}, {"c": 2.5}], "e": {"f": "x"}}, "list": [[1], [], null, [2, 3]]}),
        json!({"a": {"b": [], "e": {"g": true}}, "empty_later": null, "t": "2024-02-29T12:00:00.123456Z"}),
        json!({"a": null, "list": [], "t": "0001-01-01T00:00:00+00:00", "ü": "ünï\u{0}\n\"\\ \u{1F600}"}),
        json!({"_offset": "mine", "_partition": 5, "": "no name", "_Offset": 7, "big": 9_007_199_254_740_993_i64}),
        json!({}),
    ];
    let mut lines: Vec<String> = records.iter().map(Value::to_string).collect();
    lines.push(" {\n \"a\" : { } }".into());
    let mut world = World::new(1);
    lines.iter().for_each(|line| world.append(0, &[line]));
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    sink.stop().await;
    let rows = rows(&world);
    assert_eq!(rows.len(), lines.len());
    for (row, record) in rows.iter().zip(&records).take(3) {
        // An absent field of a struct is a null one, and an empty struct is not told from one with only nulls.
        let (mine, theirs) = (normalised(&Value::Object(row.fields.clone())), normalised(record));
        assert_eq!(mine, theirs);
    }
    let odd = &rows[3].fields;
    assert_eq!(odd["_offset_3"], json!("mine"));
    assert_eq!(odd["_partition_2"], json!(5));
    assert_eq!(odd["_Offset_2"], json!(7));
    assert_eq!(odd["_empty"], json!("no name"));
    assert_eq!(odd["big"], json!(9_007_199_254_740_993_i64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_kinds_and_numbers_that_fit_nowhere_keep_their_text() {
    let world = {
        let mut world = World::new(1);
        for value in [
            r#"{"mixed":1,"n":123456789012345678901234567890,"u":18446744073709551615,"only_empty":{},"nothing":[]}"#,
            r#"{"mixed":"two","n":1,"u":1,"when":"2024-01-01T00:00:00Z"}"#,
            r#"{"mixed":{"k": [true, null]},"when":"2024-01-01T00:00:00+02:00","nothing":[null]}"#,
            r#"{"mixed":true,"f":1.5,"l":9007199254740993}"#,
            r#"{"f":9007199254740993}"#,
        ] {
            world.append(0, &[value]);
        }
        let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
        sink.flush(TIMEOUT).await.expect("it lands");
        assert_eq!(sink.status().rejected, 0);
        sink.stop().await;
        world
    };
    let rows = rows(&world);
    let column =
        |name: &str| rows.iter().map(|row| row.fields.get(name).cloned().unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(column("mixed"), [json!("1"), json!("two"), json!("{\"k\":[true,null]}"), json!("true"), Value::Null]);
    // What no number column holds exactly is in `_rest`, as it was sent.
    assert_eq!(column("n")[..2], [Value::Null, json!(1)]);
    assert_eq!(column("u")[..2], [Value::Null, json!(1)]);
    let rest = r#"{"n":123456789012345678901234567890,"u":18446744073709551615}"#;
    assert_eq!(
        column("_rest"),
        [json!(rest), Value::Null, Value::Null, Value::Null, json!(r#"{"f":9007199254740993}"#)]
    );
    assert_eq!(column("when")[1..3], [json!("2024-01-01T00:00:00Z"), json!("2024-01-01T00:00:00+02:00")]);
    assert_eq!(column("f")[3..], [json!(1.5), Value::Null]);
    assert_eq!(column("l")[3], json!(9_007_199_254_740_993_i64));
    assert_eq!(column("only_empty")[0], json!("{}"));
    assert_eq!(column("nothing")[0], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_beyond_the_bound_are_kept_in_rest() {
    let mut world = World::new(1);
    let wide: Vec<String> = (0..2_100).map(|n| format!("\"f{n}\":{n}")).collect();
    world.append(0, &[&format!("{{{}}}", wide.join(","))]);
    world.append(0, &[r#"{"f1":1,"other":{"a": [1, "x y"]},"nil":null}"#, r#"{"f7":"seven","f8":8}"#]);
    let sink = world.start(world.config(LakeFormat::Parquet), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    sink.stop().await;
    let rows = rows(&world);
    let rest: Value = serde_json::from_str(rows[0].fields["_rest"].as_str().expect("text")).expect("json");
    assert_eq!(rest.as_object().map(|rest| rest.len()), Some(100));
    assert_eq!(rows[1].fields["_rest"], json!(r#"{"other":{"a":[1,"x y"]}}"#));
    assert_eq!((rows[2].fields["f7"].clone(), rows[2].fields["f8"].clone()), (json!("seven"), json!(8)), "f7 is mixed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ndjson_keeps_the_bytes_and_compacts_raw_line_breaks() {
    let mut world = World::new(1);
    world.append(0, &[r#" {"b" : 1.50,  "a":"x" }"#, "{\n  \"a\": \"b c\"\r\n}"]);
    let sink = world.start(world.config(LakeFormat::Ndjson), &Machine::immortal(), &[]);
    sink.flush(TIMEOUT).await.expect("it lands");
    sink.stop().await;
    let text = std::fs::read_to_string(&world.files("ndjson")[0]).expect("a file");
    assert_eq!(text, " {\"b\" : 1.50,  \"a\":\"x\" }\n{\"a\":\"b c\"}\n");
}
