//! Probes a store and says what a lake on it can promise.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_protocol::frame::control::LakeDelivery;

use crate::LakeError;
use crate::judge::PutAnswer;
use crate::store::Store;

/// How many times two creates race.
const RACES: usize = 16;
/// Nothing waits longer for a store.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What: `two racing creates`.
    pub name: &'static str,
    /// Whether the store did what a lake needs.
    pub passed: bool,
    /// What it did.
    pub detail: String,
    /// How long the slowest of its requests took.
    pub took: Duration,
}

/// What a store can promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was tried, in order.
    pub checks: Vec<Check>,
    /// Whether a lake there can promise each record once.
    pub exactly_once: bool,
    /// Whether a lake can be there at all, with `delivery = at-least-once` if not `exactly_once`.
    pub at_least_once: bool,
}

/// Probes the store of that URL: puts, reads, lists and deletes small objects named `_millstream-doctor-…`, and leaves none.
///
/// # Errors
/// `IllegalLake`: the URL is not understood or nothing can be written there; `LakeUnavailable`: the store does not answer.
pub async fn doctor(url: &str) -> Result<Report, LakeError> {
    let owned = url.to_owned();
    let opened = tokio::task::spawn_blocking(move || Store::open(&owned, LakeDelivery::ExactlyOnce)).await;
    let store = opened.map_err(|error| LakeError::Bug(error.to_string()))??;
    let late = || LakeError::Unavailable {
        url: url.to_owned(),
        reason: format!("it did not answer all questions within {} s", PATIENCE.as_secs()),
    };
    tokio::time::timeout(PATIENCE, examine(&store)).await.unwrap_or_else(|_| Err(late()))
}

/// The same over an opened store.
pub(crate) async fn examine(store: &Store) -> Result<Report, LakeError> {
    let unique = format!("_millstream-doctor-{}-{:x}", std::process::id(), std::ptr::from_ref(store) as usize);
    let name = |n: usize| format!("{unique}-{n}");
    let report = examine_as(store, &name).await;
    for n in 0..=RACES {
        let deleted = store.delete(&name(n)).await;
        // What went wrong first says more than that nothing can be deleted either.
        if report.is_ok() {
            deleted?;
        }
    }
    report
}

async fn examine_as(store: &Store, name: &impl Fn(usize) -> String) -> Result<Report, LakeError> {
    let mut checks = Vec::new();
    let mut clock = Instant::now();
    let mut check = |name, passed, detail: String, took: Option<Duration>| {
        let took = took.unwrap_or_else(|| clock.elapsed());
        clock = Instant::now();
        checks.push(Check { name, passed, detail, took });
        passed
    };
    let first = name(0);
    let body = Bytes::from_static(b"how do you do");
    match store.create(&first, body.clone()).await? {
        PutAnswer::Created => check("write", true, "an object was created".into(), None),
        PutAnswer::Exists => check("write", false, "a new object is said to exist".into(), None),
        PutAnswer::Failed(why) => return Err(LakeError::Unavailable { url: store.url().to_owned(), reason: why }),
    };
    let read = store.get(&first).await?;
    let reads = read.as_ref() == Some(&body);
    let detail = match &read {
        Some(read) if *read == body => "it reads as it was written".to_owned(),
        Some(read) => format!("{} bytes were written, others are read ({})", body.len(), read.len()),
        None => "it is not there".to_owned(),
    };
    check("read after write", reads, detail, None);
    let answer = store.create(&first, Bytes::from_static(b"something else")).await?;
    let refused = answer == PutAnswer::Exists;
    let detail = match answer {
        PutAnswer::Exists => "refused".to_owned(),
        PutAnswer::Created => "it was overwritten".to_owned(),
        PutAnswer::Failed(why) => why,
    };
    check("create what exists", refused, detail, None);
    let (mut winners, mut slowest) = (Vec::new(), Duration::ZERO);
    for n in 1..=RACES {
        let began = Instant::now();
        let name = name(n);
        let (a, b) =
            tokio::join!(store.create(&name, Bytes::from_static(b"a")), store.create(&name, Bytes::from_static(b"b")));
        let won = [a?, b?].iter().filter(|answer| **answer == PutAnswer::Created).count();
        winners.push(won);
        slowest = slowest.max(began.elapsed());
    }
    let one = winners.iter().filter(|won| **won == 1).count();
    let both = winners.iter().filter(|won| **won > 1).count();
    let races = check(
        "two racing creates",
        both == 0 && one > 0,
        format!("{one} of {RACES} won by exactly one, {both} by both"),
        Some(slowest),
    );
    let range = store.get_range(&first, 4..6).await.map_or_else(|error| error.to_string(), |_| String::new());
    let ranges = check("read a range", range.is_empty(), if range.is_empty() { "it does".into() } else { range }, None);
    let names = |listed: Vec<(String, u64)>| listed.into_iter().filter(|(name, _)| *name == first).count();
    let listed = names(store.list("").await?) == 1;
    check("list after write", listed, if listed { "it is listed" } else { "it is not listed yet" }.into(), None);
    store.delete(&first).await?;
    let gone = store.get(&first).await?.is_none();
    check("delete", gone, if gone { "it is gone" } else { "it is still there" }.into(), None);
    let exactly_once = refused && races && reads && ranges;
    Ok(Report { checks, exactly_once, at_least_once: reads && ranges })
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };

    use super::*;
    use millstream_protocol::Code;

    /// A store that knows no conditions, as some that call themselves S3-compatible.
    #[derive(Debug, Default)]
    struct Careless(InMemory);

    impl fmt::Display for Careless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a careless store")
        }
    }

    #[async_trait::async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.0.put_opts(location, payload, PutOptions { mode: PutMode::Overwrite, ..options }).await
        }
        async fn put_multipart_opts(
            &self,
            location: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(location, options).await
        }
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(location, options).await
        }
        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(locations)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn a_store_without_conditions_promises_at_least_once_and_is_refused_unless_asked_for_by_name() {
        let store = Store::over(Arc::new(Careless::default()), LakeDelivery::ExactlyOnce);
        let report = examine(&store).await.expect("a report");
        assert!(!report.exactly_once && report.at_least_once, "{report:?}");
        let failed: Vec<&str> = report.checks.iter().filter(|check| !check.passed).map(|check| check.name).collect();
        assert_eq!(failed, ["create what exists", "two racing creates"]);
        assert_eq!(store.list("").await.expect("listed"), [], "nothing is left");
        let error = store.probe("x").await.expect_err("it cannot keep two writers apart");
        assert_eq!(error.code(), Code::IllegalLake);
        assert!(error.to_string().contains("ask for `at-least-once` by name"), "{error}");
        let store = Store::over(Arc::new(Careless::default()), LakeDelivery::AtLeastOnce);
        store.probe("x").await.expect("it was asked for");
    }

    #[tokio::test]
    async fn a_store_with_conditions_promises_each_record_once() {
        let report = examine(&Store::over(Arc::new(InMemory::new()), LakeDelivery::ExactlyOnce)).await;
        let report = report.expect("a report");
        assert!(report.exactly_once && report.checks.iter().all(|check| check.passed), "{report:?}");
    }
}
