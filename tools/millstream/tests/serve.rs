//! `serve`: the ready line, settings, signals, restarts.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use support::{Place, lines};

#[test]
fn one_line_says_that_it_is_ready_and_where() {
    let place = Place::new();
    let server = place.serve_with("--listen 127.0.0.1:0 --http 127.0.0.1:0 --data-dir here");
    let words: Vec<&str> = server.line.split(' ').collect();
    let ["millstream", "ready", "on", address, "fingerprint", pin, "data", "here", "http", http] = words.as_slice()
    else {
        panic!("{}", server.line)
    };
    assert!(pin.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64));
    let client: Value =
        serde_json::from_slice(&std::fs::read(place.path("here/client.json")).expect("it is there")).expect("JSON");
    assert_eq!(
        (&client["address"], &client["fingerprint"], &client["http"]),
        (&(*address).into(), &(*pin).into(), &(*http).into())
    );
    assert!(server.terminate().success());
    assert!(!place.path("here/client.json").exists(), "nobody is to be found there now");
}

#[test]
fn machines_get_the_line_as_json() {
    let place = Place::new();
    let server = place.serve_with("--listen 127.0.0.1:0 --http off --json");
    let ready: Value = serde_json::from_str(&server.line).expect("JSON");
    assert_eq!(
        (&ready["ready"], &ready["http"], &ready["data_dir"]),
        (&true.into(), &Value::Null, &"./millstream-data".into())
    );
    assert!(ready["address"].as_str().is_some_and(|address| !address.ends_with(":0")));
}

#[test]
fn settings_come_from_defaults_file_environment_and_flags_in_this_order() {
    let place = Place::new();
    place.write("m.toml", "lanes = 1\nread_size = '128 KiB'\nsend_window = '8 MiB'\n");
    let mut command = place.command("serve --print-config --config m.toml --set lanes=3".split(' '));
    let done = support::finish(
        command.env("MILLSTREAM_LANES", "2").env("MILLSTREAM_READ_SIZE", "256 KiB").spawn().expect("it starts"),
    )
    .ok();
    let printed = done.prints("lanes = 3").prints("read_size = \"256 KiB\"").prints("send_window = \"8 MiB\"");
    let printed = printed.prints("listen = \"127.0.0.1:4650\"").stdout;
    place.write("printed.toml", &printed);
    assert_eq!(
        place.sh("serve --print-config --config printed.toml").ok().stdout,
        printed,
        "what is printed is a configuration"
    );
    assert_eq!(place.sh("serve --print-config --config m.toml --json").ok().json()["lanes"], 1);
    let mut command = place.command(["serve", "--print-config"]);
    support::finish(command.env("MILLSTREAM_LISEN", "x").spawn().expect("it starts"))
        .ok()
        .says("did you mean MILLSTREAM_LISTEN?");
    assert!(!place.path("millstream-data").exists(), "printing makes nothing");
}

#[test]
fn records_survive_a_stop_and_a_crash() {
    let place = Place::new();
    let server = place.serve();
    place.sh_with("produce a", lines(1_000, 3).as_bytes()).ok();
    assert!(server.terminate().success());
    place.sh("stream list").exits(60).says("millstream serve");
    let server = place.serve();
    place.sh_with("produce a", lines(1_000, 3).as_bytes()).ok();
    server.kill();
    place.sh("stream list --connect-timeout 1s").exits(60);
    let server = place.serve();
    assert_eq!(support::consume(&place, "a").len(), 2_000);
    assert!(server.signal(Signal::INT).wait().success());
}

#[test]
fn stopping_does_not_wait_for_a_consumer_that_follows() {
    let place = Place::new();
    let server = place.serve();
    place.sh_with("produce a", b"{}\n").ok();
    let mut following = place.command("consume a --follow".split(' ')).spawn().expect("it starts");
    let mut out = std::io::BufReader::new(following.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut String::new()).expect("it follows");
    let started = std::time::Instant::now();
    assert!(server.terminate().success());
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    following.kill().expect("it still waits for the server, or has ended");
    following.wait().expect("it ends");
}
