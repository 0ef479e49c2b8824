//! Connecting: who is trusted, and how a server that is not there differs from one that is not the right one.

mod support;

use std::time::{Duration, Instant};

use millstream_client::{Client, Code, Error, Outcome};
use support::{Fake, Quirks, certificate};

async fn refused(fake: &Fake, pin: &str) -> Error {
    let error = Client::connect(fake.address.to_string(), pin).await.expect_err("it must not be trusted");
    assert!(!error.is_unreachable(), "{error}");
    assert_eq!(error.outcome(), Outcome::Definite);
    error
}

#[tokio::test]
async fn the_server_with_the_pinned_key_is_trusted() {
    let fake = Fake::start();
    let client = fake.client().await;
    assert!(client.list_streams().await.expect("it answers").is_empty());
    client.close().await;
}

#[tokio::test]
async fn another_key_is_refused_and_both_pins_are_named() {
    let (fake, other) = (Fake::start(), Fake::start());
    let error = refused(&fake, &other.fingerprint).await;
    assert!(error.is_wrong_fingerprint() && !error.is_retryable(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&fake.fingerprint) && text.contains(&other.fingerprint), "{text}");
}

#[tokio::test]
async fn the_right_certificate_without_its_key_is_refused() {
    let fake = Fake::with(Quirks { wrong_key: true, ..Quirks::default() }, certificate());
    let error = refused(&fake, &fake.fingerprint).await;
    assert!(error.is_wrong_fingerprint(), "{error:?}");
}

#[tokio::test]
async fn a_ca_file_vouches_for_the_name_and_no_other_certificate() {
    let (trusted, other) = (certificate(), certificate());
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        base64(&trusted.0)
            .as_bytes()
            .chunks(64)
            .map(|line| str::from_utf8(line).expect("ASCII"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    let path = std::env::temp_dir().join(format!("millstream-client-ca-{}.pem", std::process::id()));
    std::fs::write(&path, pem).expect("a temporary file");
    let connect = async |fake: &Fake| {
        Client::builder(format!("localhost:{}", fake.address.port())).ca_file(&path).connect().await
    };
    let good = connect(&Fake::with(Quirks::default(), trusted)).await;
    let bad = connect(&Fake::with(Quirks::default(), other)).await;
    std::fs::remove_file(&path).expect("it was written");
    good.expect("its certificate is in the file");
    assert!(bad.expect_err("its certificate is not").is_wrong_fingerprint());
    let missing = Client::builder("localhost:1").ca_file(&path).connect().await.expect_err("there is no file");
    assert_eq!(missing.code(), Code::IllegalSetting);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[tokio::test]
async fn nothing_listening_is_known_at_once() {
    let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let started = Instant::now();
    let error = Client::connect(port.to_string(), Fake::start().fingerprint.clone()).await.expect_err("it is closed");
    assert!(error.is_unreachable() && error.is_retryable() && !error.is_wrong_fingerprint(), "{error:?}");
    assert_eq!(error.outcome(), Outcome::Definite);
    assert!(started.elapsed() < Duration::from_secs(3), "it does not wait for the timeout");
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_the_connect_timeout() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("it is bound").to_string();
    let builder = Client::builder(address).fingerprint(Fake::start().fingerprint.clone());
    let error = builder.connect_timeout(Duration::from_millis(200)).connect().await.expect_err("it says nothing");
    assert!(error.is_unreachable(), "{error:?}");
}

#[tokio::test]
async fn another_version_is_told_apart() {
    for quirks in [
        Quirks { alpn: b"millstream/9", ..Quirks::default() },
        Quirks { version: 9, ..Quirks::default() },
        Quirks { refuse: Some(Code::Unsupported), ..Quirks::default() },
    ] {
        let fake = Fake::with(quirks, certificate());
        let error = refused(&fake, &fake.fingerprint).await;
        assert_eq!(error.code(), Code::Unsupported, "{error:?}");
        assert!(!error.is_wrong_fingerprint());
    }
}

#[tokio::test]
async fn addresses_and_pins_that_are_none_are_said_to_be() {
    for (address, pin) in [("localhost", "0".repeat(64)), (":1", "0".repeat(64)), ("localhost:1", "sha256:xyz".into())]
    {
        let error = Client::connect(address, pin).await.expect_err("it cannot be used");
        assert_eq!(error.code(), Code::IllegalSetting, "{error}");
    }
}
