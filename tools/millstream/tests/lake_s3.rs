//! Lakes on S3 at the command line: what works with credentials from the environment, and what is said when a bucket is missing
//! or may not be written.

mod support;

use millstream_s3::{Act, Fault, Operation, Refusal, Server, Settings};
use support::{Place, sample};
use tokio::runtime::Runtime;

/// An S3 server on threads of its own, and a place whose commands find it.
fn place() -> (Runtime, Server, Place) {
    let runtime = Runtime::new().expect("a runtime");
    let store = runtime.block_on(Server::start(Settings::default())).expect("a server");
    let mut place = Place::new();
    place.set_environment(store.environment());
    (runtime, store, place)
}

fn produce(place: &Place) {
    place.run([std::ffi::OsStr::new("produce"), "flights".as_ref(), sample().as_os_str()]).ok();
}

#[test]
fn a_stream_lands_in_a_bucket_and_the_audit_proves_it() {
    let (_runtime, store, place) = place();
    place.sh("lake doctor s3://test/nyc").ok().prints("lands each record once");
    assert_eq!(store.store().list("test", ""), Vec::<String>::new(), "the doctor leaves nothing");
    let _server = place.serve();
    produce(&place);
    place.sh("lake add nyc --stream flights --url s3://test/nyc --layout carrier={carrier}").ok();
    place.sh("lake flush nyc").ok().prints("5,000 rows");
    place.sh("lake audit nyc").ok().prints("complete: 5,000 rows");
    assert!(store.store().list("test", "nyc/").iter().any(|key| key.starts_with("nyc/carrier=UA/")));
    // The audit reads the store, not what it remembers.
    let gone = store.store().list("test", "nyc/carrier=UA/").pop().expect("a file");
    store.store().delete("test", &gone).expect("deleted");
    place.sh("lake audit nyc").exits(50).says("lake 'nyc' is not complete");
}

#[test]
fn a_missing_bucket_and_one_that_may_not_be_written_are_said_so() {
    let (_runtime, store, mut place) = place();
    let server = place.serve();
    produce(&place);
    let add = |place: &Place, url: &str| place.sh(&format!("lake add nyc --stream flights --url {url}"));
    add(&place, "s3://nowhere/nyc")
        .exits(10)
        .says("bucket is not there")
        .says("millstream lake doctor s3://nowhere/nyc");
    place.sh("lake doctor s3://nowhere/nyc").exits(10).says("nowhere");
    store.faults().push(Fault::new(Act::Refuse(Refusal::AccessDenied)).on(Operation::Put));
    add(&place, "s3://test/nyc").exits(10).says("cannot be written").says("AccessDenied");
    add(&place, "s3://key:secret@test/nyc").exits(10).says("environment");
    add(&place, "s3://").exits(10).says("bucket");
    assert_eq!(place.sh("lake list --json").ok().json(), serde_json::json!([]));
    assert!(server.terminate().success());

    // With a key that the store does not know.
    let mut variables = store.environment();
    for (name, value) in &mut variables {
        if *name == "AWS_SECRET_ACCESS_KEY" {
            "not-the-secret".clone_into(value);
        }
    }
    place.set_environment(variables);
    let _server = place.serve();
    add(&place, "s3://test/nyc").exits(10).says("cannot be written");
    let probed = place.sh("lake doctor s3://test/nyc").says("403");
    assert!([10, 20].contains(&probed.status.code().expect("an exit code")), "{probed:?}");
}
