//! A client that is not ours, impatient: it tries once and waits two seconds.
#![allow(dead_code)]

use std::time::Duration;

use millstream_s3::{ACCESS_KEY, REGION, SECRET_KEY, Server, Settings};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, RetryConfig,
};

pub async fn server() -> Server {
    Server::start(Settings::default()).await.expect("a server")
}

pub fn builder(server: &Server, bucket: &str) -> AmazonS3Builder {
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(2));
    AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_bucket_name(bucket)
        .with_region(REGION)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .with_retry(retry)
        .with_client_options(options)
}

pub fn client(server: &Server) -> AmazonS3 {
    builder(server, "test").build().expect("a client")
}

pub async fn put(client: &AmazonS3, key: &str, body: &'static str) -> Result<PutResult, Error> {
    client.put(&Path::from(key), PutPayload::from_static(body.as_bytes())).await
}

/// Puts what must not be there yet.
pub async fn create(client: &AmazonS3, key: &str, body: String) -> Result<PutResult, Error> {
    client.put_opts(&Path::from(key), PutPayload::from(body), PutOptions::from(PutMode::Create)).await
}

pub async fn get(client: &AmazonS3, key: &str) -> Result<Vec<u8>, Error> {
    let body = client.get(&Path::from(key)).await?.bytes().await?;
    Ok(body.to_vec())
}
