//! S3's operations on the store: what the protocol's library hands over, translated.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use s3s::dto::{
    CommonPrefix, CreateBucketInput, CreateBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object as ListedObject, PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::listing::{After, Listing, PAGE_MAX};
use crate::store::{Condition, Object, Store, StoreError};

/// S3's operations on a store.
#[derive(Debug)]
pub struct Backend {
    store: Arc<Store>,
}

impl Backend {
    /// On that store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Object> {
        match self.store.get(bucket, key) {
            Some(object) => Ok(object),
            None if self.store.has_bucket(bucket) => Err(StoreError::NoSuchKey(key.to_owned()).into()),
            None => Err(StoreError::NoSuchBucket(bucket.to_owned()).into()),
        }
    }
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> S3Error {
        let code = match &error {
            StoreError::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
            StoreError::NoSuchKey(_) => S3ErrorCode::NoSuchKey,
            StoreError::ConditionFailed(_) => S3ErrorCode::PreconditionFailed,
            StoreError::IllegalName(_) => S3ErrorCode::InvalidArgument,
            StoreError::Io { .. } => S3ErrorCode::InternalError,
        };
        S3Error::with_message(code, error.to_string())
    }
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        if !self.store.create_bucket(&bucket)? {
            return Err(S3Error::with_message(S3ErrorCode::BucketAlreadyOwnedByYou, format!("{bucket:?} is there")));
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{bucket}")) }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let bucket = request.input.bucket;
        if !self.store.has_bucket(&bucket) {
            return Err(StoreError::NoSuchBucket(bucket).into());
        }
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let condition = match (input.if_none_match, input.if_match) {
            (None, None) => Condition::None,
            (Some(ETagCondition::Any), None) => Condition::Absent,
            (None, Some(ETagCondition::ETag(etag))) => Condition::Unchanged(etag.into_value()),
            _ => {
                return Err(S3Error::with_message(
                    S3ErrorCode::NotImplemented,
                    "only If-None-Match: * or If-Match: etag",
                ));
            }
        };
        let body = match input.body {
            Some(body) => read(body).await?,
            None => Bytes::new(),
        };
        if input.content_length.is_some_and(|length| length != body.len() as i64) {
            let text = format!("{} bytes came, Content-Length said {:?}", body.len(), input.content_length);
            return Err(S3Error::with_message(S3ErrorCode::IncompleteBody, text));
        }
        let object = self.store.put(&input.bucket, &input.key, body, &condition)?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(object.etag)), ..PutObjectOutput::default() }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let object = self.find(&input.bucket, &input.key)?;
        if let Some(ETagCondition::ETag(etag)) = &input.if_match
            && etag.value() != object.etag
        {
            return Err(StoreError::ConditionFailed(input.key).into());
        }
        let size = object.body.len() as u64;
        let range = input.range.map(|range| range.check(size)).transpose()?;
        let body = match &range {
            Some(range) => object.body.slice(range.start as usize..range.end as usize),
            None => object.body,
        };
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(body.len() as i64),
            content_range: range.map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            body: Some(StreamingBlob::from(Body::from(body))),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            content_length: Some(object.body.len() as i64),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.modified.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.store.delete(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            self.store.delete(&input.bucket, &object.key)?;
            deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
        }
        let is_quiet = input.delete.quiet.unwrap_or_default();
        let deleted = (!is_quiet).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..DeleteObjectsOutput::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let after = match &input.continuation_token {
            Some(token) => After::decode(token).ok_or_else(|| {
                S3Error::with_message(S3ErrorCode::InvalidArgument, format!("{token:?} is no continuation token"))
            })?,
            None => After::Key(input.start_after.clone().unwrap_or_default()),
        };
        let count_max = input.max_keys.map_or(PAGE_MAX, |max| usize::try_from(max).unwrap_or(0).min(PAGE_MAX));
        let listing = Listing {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after,
            count_max,
        };
        let output = self.store.page(&input.bucket, &listing, |page| {
            let contents: Vec<ListedObject> = page.items.into_iter().map(|(key, object)| listed(key, object)).collect();
            let prefixes = page.prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) });
            let prefixes: Vec<CommonPrefix> = prefixes.collect();
            ListObjectsV2Output {
                key_count: Some((contents.len() + prefixes.len()) as i32),
                max_keys: Some(count_max as i32),
                is_truncated: Some(page.next.is_some()),
                next_continuation_token: page.next.map(|next| next.encode()),
                contents: Some(contents),
                common_prefixes: Some(prefixes),
                ..ListObjectsV2Output::default()
            }
        })?;
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            ..output
        }))
    }
}

fn listed(key: &str, object: &Object) -> ListedObject {
    ListedObject {
        key: Some(key.to_owned()),
        size: Some(object.body.len() as i64),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        last_modified: Some(object.modified.into()),
        ..ListedObject::default()
    }
}

async fn read(body: StreamingBlob) -> S3Result<Bytes> {
    let read = body.try_fold(BytesMut::new(), |mut all, part| {
        all.extend_from_slice(&part);
        std::future::ready(Ok(all))
    });
    let read = read.await.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error));
    read.map(BytesMut::freeze)
}
