//! The server without faults, asked by a client that is not ours.

mod client;

use std::time::SystemTime;

use client::{builder, client, create, get, put, server};
use futures::{StreamExt, TryStreamExt, stream};
use millstream_s3::{Server, Settings};
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

/// Five clients, two hundred times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_creates_exactly_one_wins() {
    let server = server().await;
    let clients: Vec<_> = (0..5).map(|_| client(&server)).collect();
    for round in 0..200 {
        let key = format!("dir/{round}.parquet");
        let racing = clients.iter().enumerate().map(|(number, client)| create(client, &key, format!("{number}")));
        let outcomes = futures::future::join_all(racing).await;
        let winners: Vec<usize> = (0..5).filter(|number| outcomes[*number].is_ok()).collect();
        let [winner] = winners[..] else { panic!("round {round}: {outcomes:?}") };
        let lost = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::AlreadyExists { .. })));
        assert_eq!(lost.count(), 4, "{outcomes:?}");
        assert_eq!(server.store().get("test", &key).expect("there").body, winner.to_string());
    }
}

#[tokio::test]
async fn an_object_comes_back_whole_and_in_ranges() {
    let server = server().await;
    let client = client(&server);
    let key = "day=2024-01-01/a b+c.parquet";
    let result = put(&client, key, "0123456789").await.expect("put");
    assert_eq!(result.e_tag.as_deref(), Some("\"781e5e245d69b566979b86e28d23f2c7\""));
    assert_eq!(server.store().list("test", "day"), [key]);
    let path = Path::from(key);
    let head = client.head(&path).await.expect("there");
    assert_eq!((head.size, head.e_tag), (10, result.e_tag.clone()));
    assert_eq!(SystemTime::from(head.last_modified), server.store().get("test", key).expect("there").modified);
    assert_eq!(get(&client, key).await.expect("there"), b"0123456789");
    assert_eq!(client.get_range(&path, 2..5).await.expect("there"), "234");
    let suffix = GetOptions { range: Some(object_store::GetRange::Suffix(3)), ..GetOptions::default() };
    assert_eq!(client.get_opts(&path, suffix).await.expect("there").bytes().await.expect("there"), "789");
    client.get_range(&path, 10..12).await.expect_err("nothing is there");
    assert_eq!(
        put(&client, key, "").await.expect("replaced").e_tag,
        Some("\"d41d8cd98f00b204e9800998ecf8427e\"".into())
    );
    assert_eq!(client.head(&path).await.expect("there").size, 0);
    client.delete(&path).await.expect("deleted");
    assert!(matches!(client.head(&path).await, Err(Error::NotFound { .. })));
    assert!(matches!(get(&client, key).await, Err(Error::NotFound { .. })));
    client.delete(&path).await.expect("deleting nothing is no error");
}

#[tokio::test]
async fn an_update_is_done_to_what_it_was_meant_for_only() {
    let server = server().await;
    let client = client(&server);
    let update = async |e_tag| {
        let mode = PutMode::Update(UpdateVersion { e_tag, version: None });
        client.put_opts(&Path::from("a"), PutPayload::from_static(b"two"), PutOptions::from(mode)).await
    };
    let first = put(&client, "a", "one").await.expect("put");
    update(first.e_tag.clone()).await.expect("unchanged");
    assert!(matches!(update(first.e_tag.clone()).await, Err(Error::Precondition { .. })));
    client.delete(&Path::from("a")).await.expect("deleted");
    assert!(matches!(update(first.e_tag).await, Err(Error::Precondition { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_go_over_pages_and_know_directories() {
    let server = server().await;
    let client = client(&server);
    let keys: Vec<String> = (0..2_345).map(|n| format!("lake/day={}/{n:05}.parquet", n % 10)).collect();
    let puts = stream::iter(&keys).map(async |key| put(&client, key, "x").await.expect("put"));
    puts.buffer_unordered(16).collect::<Vec<_>>().await;
    put(&client, "lake/top", "x").await.expect("put");
    put(&client, "other/z", "x").await.expect("put");

    let lake = Path::from("lake");
    let names = |metas: Vec<object_store::ObjectMeta>| -> Vec<String> {
        metas.into_iter().map(|meta| meta.location.to_string()).collect()
    };
    let listed = names(client.list(Some(&lake)).try_collect().await.expect("listed"));
    assert_eq!(listed, server.store().list("test", "lake/"));
    assert_eq!(listed.len(), 2_346);
    let after = &listed[1_500];
    let behind = client.list_with_offset(Some(&lake), &Path::from(after.as_str()));
    assert_eq!(names(behind.try_collect().await.expect("listed")), listed[1_501..]);
    let level = client.list_with_delimiter(Some(&lake)).await.expect("listed");
    assert_eq!(names(level.objects), ["lake/top"]);
    let days: Vec<String> = (0..10).map(|day| format!("lake/day={day}")).collect();
    assert_eq!(level.common_prefixes.iter().map(Path::to_string).collect::<Vec<_>>(), days);

    let locations = client.list(Some(&lake)).map_ok(|meta| meta.location).boxed();
    let deleted: Vec<Path> = client.delete_stream(locations).try_collect().await.expect("deleted");
    assert_eq!(deleted.len(), 2_346);
    assert_eq!(server.store().list("test", ""), ["other/z"]);
}

#[tokio::test]
async fn strangers_and_missing_buckets_are_refused() {
    let server = server().await;
    let stranger = builder(&server, "test").with_secret_access_key("another").build().expect("a client");
    let error = put(&stranger, "a", "x").await.expect_err("a wrong secret");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    let unknown = builder(&server, "test").with_access_key_id("nobody").build().expect("a client");
    let error = put(&unknown, "a", "x").await.expect_err("an unknown key");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    let unsigned = builder(&server, "test").with_skip_signature(true).build().expect("a client");
    let error = put(&unsigned, "a", "x").await.expect_err("not signed");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    let lost = builder(&server, "nowhere").build().expect("a client");
    for error in [put(&lost, "a", "x").await.map(drop), get(&lost, "a").await.map(drop)] {
        let error = format!("{:?}", error.expect_err("there is no such bucket"));
        assert!(error.contains("NoSuchBucket"), "{error}");
    }
    assert!(server.store().create_bucket("nowhere").expect("made"));
    put(&lost, "a", "x").await.expect("now there is");
    assert_eq!(server.store().list("test", ""), Vec::<String>::new());
}

#[tokio::test]
async fn a_directory_outlives_its_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = || Settings { directory: Some(directory.path().join("s3")), ..Settings::default() };
    let server = Server::start(settings()).await.expect("a server");
    let first = put(&client(&server), "x/a", "one").await.expect("put");
    drop(server);
    let server = Server::start(settings()).await.expect("a server");
    assert_eq!(client(&server).head(&Path::from("x/a")).await.expect("there").e_tag, first.e_tag);
    create(&client(&server), "x/a", "two".into()).await.expect_err("it is there");
    assert_eq!(std::fs::read(directory.path().join("s3/test/x/a")).expect("a file"), b"one");
}
