//! Bad input, each kind with its error and its exit code.

mod support;

use std::net::UdpSocket;

use support::Place;

#[test]
fn an_unknown_stream_is_named_with_the_one_that_was_probably_meant() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create flights").ok();
    for command in
        ["consume flihgts", "stream describe flihgts", "stream delete flihgts --yes", "produce flihgts - --no-create"]
    {
        let done = place.sh(command).exits(10).says("unknown stream 'flihgts': did you mean 'flights'?");
        done.says("millstream stream create flihgts");
    }
    place.sh("lake add nyc --stream flihgts --url ./lake").exits(10).says("did you mean 'flights'?");
    place.sh("lake status nyc").exits(10).says("unknown lake 'nyc'");
    let error: serde_json::Value =
        serde_json::from_str(&place.sh("consume nothing --json").exits(10).stderr).expect("JSON");
    assert_eq!((&error["error"]["code"], &error["error"]["exit"]), (&101.into(), &10.into()));
}

#[test]
fn an_illegal_name_is_refused_before_anything_is_asked() {
    let place = Place::new();
    let long = "a".repeat(300);
    for name in ["../x", "", &long, "UPPER", "a b", "_hidden"] {
        for command in
            [&["stream", "create"][..], &["stream", "describe"], &["consume"], &["produce"], &["lake", "status"]]
        {
            place.run(command.iter().copied().chain([name])).exits(10).says("illegal");
        }
    }
}

#[test]
fn a_record_above_the_limit_is_named_by_its_line() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create a --record-bytes-max 100B").ok();
    let file = format!("{{}}\n{{\"a\":\"{}\"}}\n{{}}\n", "x".repeat(200));
    place.write("f.ndjson", &file);
    let done = place
        .sh("produce a f.ndjson")
        .exits(10)
        .says("f.ndjson line 2: it has 208 B, above the stream's limit of 100 B");
    done.says("1 record is stored");
    place.sh("produce a f.ndjson --on-error skip").ok().says("line 2").prints("1 line skipped");
    // Beyond every stream's limit, and far beyond what is kept in memory.
    let huge = [&b"{\"a\":\""[..], &vec![b'x'; 20 << 20], b"\"}\n{}\n"].concat();
    place.sh_with("produce a", &huge).exits(10).says("stdin line 1").says("above the stream's limit");
}

#[test]
fn a_malformed_line_is_named_and_stops_or_is_skipped() {
    let place = Place::new();
    let _server = place.serve();
    place.write("f.ndjson", "{\"id\":0}\n{\"id\":1}\n{\"id\":2\n{\"id\":3}\n");
    let done = place.sh("produce a f.ndjson").exits(10).says("f.ndjson line 3: it is not a JSON object");
    done.says("2 records are stored").says("--on-error skip").prints("stored 2 records");
    assert_eq!(support::consume(&place, "a").len(), 2);
    let done = place.sh("produce a f.ndjson --on-error skip --json").ok().says("line 3");
    assert_eq!(
        (&done.json()["records"], &done.json()["skipped"], &done.json()["complete"]),
        (&3.into(), &1.into(), &true.into())
    );
    assert_eq!(support::consume(&place, "a").len(), 5);
    place.sh_with("produce a", b"hello\n").exits(10).says("stdin line 1").says("--format lines");
    place.sh_with("produce a --format lines", b"hello\n").ok();
}

#[test]
fn an_input_that_cannot_be_read_is_local_and_makes_no_stream() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("produce a nowhere.ndjson").exits(70).says("nowhere.ndjson");
    place.sh("produce a .").exits(70).says("directory");
    place.sh("stream describe a").exits(10);
    place.write("bad.zst", [&[0x28, 0xb5, 0x2f, 0xfd][..], b"this is not it"].concat());
    place.sh("produce a bad.zst").exits(70).says("bad.zst");
}

#[test]
fn a_server_that_is_not_there_is_unreachable_within_the_connect_timeout() {
    let place = Place::new();
    let pin = format!("sha256:{}", "ab".repeat(32));
    // One that is silent, and one where nobody listens.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let gone = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    for address in [silent.local_addr().expect("its address"), gone] {
        let started = std::time::Instant::now();
        let command = format!("stream list --server {address} --fingerprint {pin} --connect-timeout 1s");
        place.sh(&command).exits(60).says(&address.to_string()).says("millstream serve");
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }
    place.sh("stream list").exits(60).says("millstream serve");
    place.sh("consume a --server no-such-host.invalid:1 --fingerprint x").exits(2);
    place.sh(&format!("consume a --server no-such-host.invalid:1 --fingerprint {pin}")).exits(60);
}

#[test]
fn another_certificate_than_the_pinned_one_is_refused() {
    let place = Place::new();
    let server = place.serve();
    let pin = format!("sha256:{}", "ab".repeat(32));
    let done = place.sh(&format!("stream list --server {} --fingerprint {pin}", server.address)).exits(60);
    done.says("has the fingerprint").says(&server.fingerprint);
}

#[test]
fn a_port_in_use_a_locked_directory_and_a_newer_format_are_local() {
    let place = Place::new();
    let server = place.serve();
    let in_use = format!("serve --data-dir other --listen {} --http off", server.address);
    place.sh(&in_use).exits(70).says("in use").says("--listen");
    place.sh("serve --listen 127.0.0.1:0 --http off").exits(70).says("in use by another process").says("--data-dir");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let http = taken.local_addr().expect("its address");
    place.sh(&format!("serve --data-dir other --listen 127.0.0.1:0 --http {http}")).exits(70).says("--http");
    std::fs::create_dir(place.path("newer")).expect("made");
    place.write("newer/FORMAT", "millstream data directory\nformat 99\ndirectory 0000000000000001\n");
    place.sh("serve --data-dir newer --listen 127.0.0.1:0 --http off").exits(70).says("format 99");
    std::fs::create_dir(place.path("foreign")).expect("made");
    place.write("foreign/thesis.txt", "dear");
    place
        .sh("serve --data-dir foreign --listen 127.0.0.1:0 --http off")
        .exits(70)
        .says("not a Millstream data directory");
}

#[test]
fn a_lake_that_cannot_be_written_is_refused() {
    let place = Place::new();
    let _server = place.serve();
    place.sh("stream create a").ok();
    place.write("file", "not a directory");
    for url in ["./file", "./file/below", "file:///proc/nothing/here", "ftp://x/y", "file://host/x"] {
        let done = place.sh(&format!("lake add nyc --stream a --url {url}"));
        assert!([10, 20].contains(&done.status.code().expect("an exit code")), "{url}: {done:?}");
    }
    assert_eq!(place.sh("lake list --json").ok().json(), serde_json::json!([]));
    place.sh("lake add nyc --stream a --url ./ok").ok();
    place.sh("lake add nyc --stream a --url ./ok").exits(10).says("exists");
    place.sh("lake add small --stream a --url ./ok2 --roll-size 1B").exits(10);
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let place = Place::new();
    let _server = place.serve();
    for command in [
        "",
        "strem list",
        "stream create",
        "consume a --from yesterday",
        "produce a - --repeat 2",
        "produce a --key k --format lines",
    ] {
        place.sh(command).exits(2);
    }
    place.sh("serve --listen nowhere").exits(2).says("address:port");
    place.sh("serve --set lisen=x").exits(2).says("did you mean 'listen'?");
    place.write("bad.toml", "lisen = 'x'");
    place.sh("serve --config bad.toml").exits(70).says("did you mean 'listen'?");
    place.sh("stream create a --partitions 0").exits(10);
    place.sh("stream create a --partitions 10001").exits(10);
    place.sh("stream create a --partitions 1").ok();
    place.sh("consume a --partition 7").exits(10);
    place.sh("consume a --from 99").exits(30).says("outside");
}
