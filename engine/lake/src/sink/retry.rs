//! Tries again to land what is in the error prefix: a round for each error file of which something fits now.
//!
//! The records come from the error file, not from the log, which may have them no longer. What still does not fit goes into a new
//! error file of the same round; the old one is deleted when all files of the round are there, and before the checkpoint. A
//! redo that does not find it any more knows thereby that they are.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use millstream_protocol::{Offset, Timestamp};

use super::commit::Pending;
use super::intake::{ClosedFile, Intake, Taken};
use super::lane::{Lane, Trouble, working};
use super::shared::Context;
use crate::file::{BuildError, ErrorFile, ErrorLine, Row};
use crate::json::Parser;
use crate::layout::ERRORS;
use crate::plan;
use crate::state::{Intent, Landed, Round};
use crate::store::Store;

/// What an attempt at one error file came to.
struct Attempt {
    closed: Vec<ClosedFile>,
    landed: u64,
    left: u64,
}

impl Lane {
    /// Makes a round of the first error file of which something fits now; when there is none any more, the request is done.
    pub(super) async fn retry_errors(&mut self, context: &Arc<Context>) -> Result<(), Trouble> {
        let request = context.shared.retries();
        let store = self.store(context).await.ok_or(Trouble::Stopped)?;
        let prefix = plan::error_prefix(self.source.partition());
        let files = store.list(ERRORS).await.map_err(|error| Trouble::Retry(error.to_string()))?;
        let mut left = 0;
        for (name, _) in files.into_iter().filter(|(name, _)| name.starts_with(&prefix)) {
            let object = store.get(&name).await.map_err(|error| Trouble::Retry(error.to_string()))?;
            let Some(object) = object else { continue };
            let attempt = self.attempt(context, &name, object, None).await?;
            left += attempt.left;
            if attempt.landed > 0 {
                let floor = self.state.landed.floor;
                self.pending = Some(Pending::new(&self.files, attempt.closed, floor, Some(name)));
                let retries_done = request - 1;
                self.note_retry(context, retries_done, attempt.landed, left);
                return Ok(());
            }
        }
        self.note_retry(context, request, 0, left);
        Ok(())
    }

    /// Builds the files of a retried round again, unless its error file is gone.
    pub(super) async fn build_retried_again(
        &mut self,
        context: &Arc<Context>,
        store: &Store,
        pending: &mut Pending,
        name: &str,
    ) -> Result<(), Trouble> {
        let object = store.get(name).await.map_err(|error| Trouble::Retry(error.to_string()))?;
        let Some(object) = object else {
            pending.all_put();
            return Ok(());
        };
        let attempt = self.attempt(context, name, object, Some(pending.round.clone())).await?;
        pending.built(attempt.closed, false)
    }

    async fn attempt(
        &self,
        context: &Arc<Context>,
        name: &str,
        object: Bytes,
        round: Option<Round>,
    ) -> Result<Attempt, Trouble> {
        let (files, layout, limits) = (Arc::clone(&self.files), context.layout.clone(), self.limits.clone());
        let (entry, epoch) = (self.state.entry, self.source.epoch());
        let name = name.to_owned();
        let attempt = working(context, move || -> Result<Attempt, BuildError> {
            let mut intake = match &round {
                Some(round) => Intake::redo(Arc::clone(&files), layout, limits, round)?,
                None => Intake::new(Arc::clone(&files), layout, limits, Offset::ZERO),
            };
            // Whatever has landed above the floor has nothing to do with these records.
            let landed_before = Landed::default();
            let (mut rest, mut parser) = (ErrorFile::create(&files)?, Parser::default());
            let (mut landed, mut range) = (0, None::<(u64, u64)>);
            for line in serde_json::Deserializer::from_slice(&object).into_iter::<ErrorLine>() {
                let mut line = line.map_err(|error| BuildError::Encode(format!("{name} does not decode: {error}")))?;
                match take(&mut intake, &mut parser, &line, &landed_before)? {
                    Ok(()) => {
                        landed += 1;
                        continue;
                    }
                    Err(Some(reason)) => line.reason = reason,
                    Err(None) => {}
                }
                rest.again(&line)?;
                let last = line.last_offset.unwrap_or(line.offset);
                let (first, so_far) = range.unwrap_or((line.offset, last));
                range = Some((first.min(line.offset), so_far.max(last)));
            }
            let left = rest.rejected;
            let mut closed = match &round {
                Some(round) => intake.finish_redo(round)?,
                None => {
                    intake.close_all()?;
                    std::mem::take(&mut intake.closed)
                }
            };
            if let Some((first, last)) = range {
                let (first, last) = (Offset(first), Offset(last));
                let (rows, lost) = (rest.rejected, rest.lost);
                let file = plan::file_name(ERRORS, files.partition, first, last, &format!("r{entry}.ndjson"));
                let intent =
                    Intent { epoch, directory: ERRORS.to_owned(), first, last, rows, lost, name: file, schema: 0 };
                let spool = Arc::new(rest.finish()?);
                let (newest, oldest) = (Timestamp(0), Timestamp(0));
                closed.retain(|file| !file.intent.is_errors());
                closed.push(ClosedFile { intent, spool, schema: None, newest, oldest, rows });
            }
            Ok(Attempt { closed, landed, left })
        })
        .await?;
        attempt.map_err(|error| Trouble::Retry(error.to_string()))
    }
}

/// Brings a line's record to its file. `Err`: it stays an error, with a new reason if there is one.
fn take(
    intake: &mut Intake,
    parser: &mut Parser,
    line: &ErrorLine,
    landed: &Landed,
) -> Result<Result<(), Option<String>>, BuildError> {
    let decode = |text: &Option<String>| text.as_ref().map(|text| STANDARD.decode(text)).transpose();
    let (Ok(key), Ok(value)) = (decode(&line.key_base64), decode(&line.value_base64)) else { return Ok(Err(None)) };
    if line.last_offset.is_some() || value.is_none() {
        return Ok(Err(None));
    }
    let headers: Result<Vec<_>, _> = line
        .headers
        .iter()
        .map(|header| decode(&header.value_base64).map(|value| (header.name.as_str(), value)))
        .collect();
    let Ok(headers) = headers else { return Ok(Err(None)) };
    let row = Row {
        offset: Offset(line.offset),
        timestamp: Timestamp(line.timestamp.unwrap_or_default()),
        key: key.as_deref(),
        value: value.as_deref(),
        headers: headers.iter().map(|(name, value)| (*name, value.as_deref())).collect(),
    };
    let appended = Timestamp(line.appended.or(line.timestamp).unwrap_or_default());
    Ok(match intake.take_only(parser, &row, appended, landed)? {
        Taken::Row => Ok(()),
        // In a redo: it was not among the rows.
        Taken::Elsewhere => Err(None),
        Taken::Misfit(reason) => Err(Some(reason)),
    })
}
