//! The outermost service: asks which fault happens to a request, and makes it happen.
//!
//! Out here, around the protocol, because half of them are no S3 answers at all: connections that are closed, bodies that are cut.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use s3s::service::S3Service;
use s3s::{Body, HttpError, S3Error, S3ErrorCode};

use crate::asked::Asked;
use crate::faults::{Act, Faults, Refusal};
use crate::store::Store;

/// See the module.
#[derive(Clone)]
pub struct Front {
    service: S3Service,
    faults: Arc<Faults>,
    store: Arc<Store>,
}

impl Front {
    /// Before that service, which works on that store.
    pub fn new(service: S3Service, faults: Arc<Faults>, store: Arc<Store>) -> Self {
        Self { service, faults, store }
    }

    /// Answers one request; an error closes its connection.
    pub async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let (head, body) = request.into_parts();
        let Some(asked) = Asked::parse(&head) else {
            return self.service.call(Request::from_parts(head, Body::from(body))).await;
        };
        let (number, act) = self.faults.draw(&asked);
        tracing::debug!(operation = ?asked.operation, key = asked.key, ?act, "asked");
        let Some(act) = act else {
            return self.apply(number, Request::from_parts(head, Body::from(body))).await;
        };
        if act == Act::CutRequest {
            read_half(body).await;
            return Err(hang_up());
        }
        // The rest take the whole request first, so that whoever sends it is not cut off before it has asked.
        let body = body.collect().await.map_err(|error| HttpError::new(error.into()))?.to_bytes();
        let request = Request::from_parts(head, Body::from(body));
        match act {
            Act::Refuse(refusal) => refuse(refusal),
            Act::HangUp | Act::CutRequest => Err(hang_up()),
            Act::ApplyThenRefuse(refusal) => {
                self.apply(number, request).await?;
                refuse(refusal)
            }
            Act::ApplyThenHangUp => {
                self.apply(number, request).await?;
                Err(hang_up())
            }
            Act::ApplyThenAnswerAfter(late) => {
                let answer = self.apply(number, request).await;
                tokio::time::sleep(late).await;
                answer
            }
            Act::HangUpThenApplyAfter(late) => {
                // Of its own: this one ends with its connection.
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    self.apply(number, request).await
                });
                Err(hang_up())
            }
            Act::CutAnswer => cut(self.apply(number, request).await?).await,
            Act::Unlisted { lists } => {
                // Before it can be listed at all.
                self.store.hide(&asked.bucket, &asked.key, lists);
                self.apply(number, request).await
            }
        }
    }

    async fn apply(&self, number: u64, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        let answer = self.service.call(request).await?;
        self.faults.carried_out(number, answer.status().as_u16());
        Ok(answer)
    }
}

fn hang_up() -> HttpError {
    HttpError::new("the connection is closed on command".into())
}

fn refuse(refusal: Refusal) -> Result<Response<Body>, HttpError> {
    let code = match refusal {
        Refusal::InternalError => S3ErrorCode::InternalError,
        Refusal::SlowDown | Refusal::TooManyRequests => S3ErrorCode::SlowDown,
        Refusal::Conflict => S3ErrorCode::ConditionalRequestConflict,
        Refusal::AccessDenied => S3ErrorCode::AccessDenied,
    };
    let mut error = S3Error::with_message(code, "a fault on command");
    if refusal == Refusal::TooManyRequests {
        error.set_status_code(StatusCode::TOO_MANY_REQUESTS);
    }
    error.to_http_response().map_err(|error| HttpError::new(error.into()))
}

/// Reads a body until half of it has come.
async fn read_half(mut body: Incoming) {
    let half = body.size_hint().lower() / 2;
    let mut read = 0;
    while read < half {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => return,
        }
    }
}

/// Takes half of an answer's body away; an answer without one is not sent at all.
async fn cut(answer: Response<Body>) -> Result<Response<Body>, HttpError> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.map_err(HttpError::new)?.to_bytes();
    if body.is_empty() {
        return Err(hang_up());
    }
    head.headers.insert(hyper::header::CONTENT_LENGTH, body.len().into());
    let half = BytesMut::from(&body[..body.len() / 2]).freeze();
    let parts = stream::unfold(Some(half), async |half| match half {
        Some(half) => Some((Ok::<_, s3s::StdError>(Frame::data(half)), None)),
        None => {
            // What was sent goes out before the connection is closed.
            tokio::task::yield_now().await;
            Some((Err("the answer is cut on command".into()), None))
        }
    });
    Ok(Response::from_parts(head, Body::http_body_unsync(StreamBody::new(parts))))
}
