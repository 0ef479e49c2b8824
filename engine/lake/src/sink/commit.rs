//! Lands a round of files: intent → manifest entry → one create-only PUT each → checkpoint, each step taken again until it
//! holds.

use std::sync::Arc;

use futures::StreamExt;
use millstream_protocol::{Offset, Timestamp};

use super::intake::ClosedFile;
use super::lane::{Lane, Trouble, blocking};
use super::shared::Context;
use crate::file::{FileContext, Spool};
use crate::judge::{Found, Verdict};
use crate::manifest::{self, Entry};
use crate::state::{Intent, LakeState, Round};
use crate::store::{Proof, Store};
use crate::{LakeError, LakeSettings};

/// A round on its way: what it is, and how far it is.
#[derive(Debug)]
pub(super) struct Pending {
    pub round: Round,
    parts: Vec<Part>,
    /// Everything below is in files once this round is.
    floor: Offset,
    /// Whether the round is durable in the partition's state.
    is_written: bool,
    is_claimed: bool,
    /// Whether an earlier start may have been at it.
    is_again: bool,
    entry: Option<Entry>,
    newest: Timestamp,
}

/// One file of a round.
#[derive(Debug)]
struct Part {
    /// None for one that was found to be there.
    spool: Option<Arc<Spool>>,
    proof: Proof,
    rows: u64,
    bytes: u64,
    is_put: bool,
}

/// By what a file of that intent is recognised.
pub(super) fn proof(context: &FileContext, intent: &Intent) -> Proof {
    if intent.is_errors() {
        Proof::Errors
    } else if context.extension() == "parquet" {
        Proof::Footer(context.proof_entries(intent))
    } else {
        Proof::Lines
    }
}

impl Pending {
    /// A round of files that were just completed. `retried` is the error file that they come from, if they do.
    pub fn new(context: &FileContext, closed: Vec<ClosedFile>, floor: Offset, retried: Option<String>) -> Pending {
        let mut round = Round { retried, ..Round::default() };
        for file in &closed {
            round.intents.push(file.intent.clone());
            let is_known = |version| round.schemas.iter().any(|known| known.version == version);
            round.schemas.extend(file.schema.clone().filter(|schema| !is_known(schema.version)));
        }
        let newest = closed.iter().map(|file| file.newest).max().unwrap_or_default();
        let mut pending = Pending {
            round,
            parts: Vec::new(),
            floor,
            is_written: false,
            is_claimed: false,
            is_again: false,
            entry: None,
            newest,
        };
        pending.parts = closed.into_iter().map(|file| Part::new(context, file)).collect();
        pending
    }

    /// A round of an earlier attempt or start, of which no file is known yet.
    pub fn again(context: &FileContext, round: Round, floor: Offset) -> Pending {
        let part = |intent: &Intent| Part {
            spool: None,
            proof: proof(context, intent),
            rows: intent.rows,
            bytes: 0,
            is_put: false,
        };
        let parts = round.intents.iter().map(part).collect();
        let newest = Timestamp(0);
        Pending { round, parts, floor, is_written: true, is_claimed: false, is_again: true, entry: None, newest }
    }

    /// Whether files have to be built before it can go on.
    pub fn needs_building(&self) -> bool {
        self.parts.iter().any(|part| part.spool.is_none() && !part.is_put)
    }

    /// Looks which files of an earlier attempt are there.
    pub async fn look(&mut self, store: &Store) -> Result<(), Trouble> {
        for (part, intent) in self.parts.iter_mut().zip(&self.round.intents) {
            if part.is_put || part.spool.is_some() {
                continue;
            }
            match store.find_landed(&intent.name, &part.proof).await {
                Found::Same => {
                    part.bytes = store.size(&intent.name).await.map_err(|error| Trouble::Retry(error.to_string()))?;
                    part.is_put = true;
                }
                Found::Unreadable(why) => return Err(Trouble::Retry(format!("cannot read {}: {why}", intent.name))),
                // Foreign or not there: the put will tell.
                Found::Different(_) | Found::Nothing | Found::NotAsked => {}
            }
        }
        Ok(())
    }

    /// All its files are there: the error file that they come from is gone.
    pub fn all_put(&mut self) {
        self.parts.iter_mut().for_each(|part| part.is_put = true);
    }

    /// Takes over files that were built again.
    pub fn built(&mut self, closed: Vec<ClosedFile>, may_miss: bool) -> Result<(), Trouble> {
        for file in closed {
            let at = self.round.intents.iter().position(|intent| intent.name == file.intent.name);
            let Some(part) = at.map(|at| &mut self.parts[at]) else { continue };
            let intended = self.round.intents[at.unwrap_or_default()].rows;
            if file.rows != intended && !may_miss {
                return Err(Trouble::Halt(LakeError::Bug(format!(
                    "{} was to have {intended} rows, and has {} when it is built again",
                    file.intent.name, file.rows
                ))));
            }
            if part.is_put {
                continue;
            }
            part.rows = file.rows;
            part.bytes = file.spool.size();
            part.spool = Some(file.spool);
        }
        let missing = self.parts.iter().zip(&self.round.intents).find(|(part, _)| part.spool.is_none() && !part.is_put);
        match missing {
            Some((_, intent)) => Err(Trouble::Halt(LakeError::Bug(format!("{} cannot be built again", intent.name)))),
            None => Ok(()),
        }
    }
}

impl Part {
    fn new(context: &FileContext, file: ClosedFile) -> Part {
        let (proof, bytes) = (proof(context, &file.intent), file.spool.size());
        Part { spool: Some(file.spool), proof, rows: file.rows, bytes, is_put: false }
    }
}

impl Lane {
    /// Takes a round to its end. On failure it stays as far as it came.
    pub(super) async fn commit(
        &mut self,
        context: &Arc<Context>,
        store: &Store,
        pending: &mut Pending,
    ) -> Result<(), Trouble> {
        if !pending.is_written {
            let schema = context.schema.lock().settled().clone();
            let state = LakeState { schema, round: Some(pending.round.clone()), ..self.state.clone() };
            self.write(context, state).await?;
            pending.is_written = true;
        }
        let entry = pending.entry.get_or_insert_with(|| {
            let bytes: Vec<u64> = pending.parts.iter().map(|part| part.bytes).collect();
            Entry::new(&self.files, &context.writer, &self.state, &pending.round, &bytes)
        });
        if !pending.is_claimed {
            let verdict = tokio::select! {
                verdict = context.ledger.claim(store, entry) => verdict,
                () = context.shared.aborting() => return Err(Trouble::Stopped),
            };
            let name = manifest::name(self.source.partition(), self.state.entry);
            settled(verdict, &name, |reason| LakeError::Fenced { object: store.object(&name), reason })?;
            pending.is_claimed = true;
            if pending.is_again {
                // Now it is certain that nobody else puts them.
                store
                    .sweep(pending.round.intents.iter().map(|intent| intent.name.as_str()).chain([name.as_str()]))
                    .await;
            }
        }
        put_all(context, store, pending).await?;
        let published = context.ledger.publish(store, entry_of(pending)?).await;
        settled(published, "the ledger", |reason| LakeError::Fenced { object: store.object(""), reason })?;
        if let Some(retried) = &pending.round.retried {
            store.delete(retried).await.map_err(|error| Trouble::Retry(error.to_string()))?;
        }
        self.checkpoint(context, pending).await
    }

    async fn checkpoint(&mut self, context: &Context, pending: &Pending) -> Result<(), Trouble> {
        let mut state = LakeState { round: None, entry: self.state.entry + 1, ..self.state.clone() };
        let is_retry = pending.round.retried.is_some();
        for (part, intent) in pending.parts.iter().zip(&pending.round.intents) {
            if intent.is_errors() {
                if !is_retry {
                    state.rejected += intent.rows;
                    state.lost += intent.lost;
                }
            } else {
                state.files += 1;
                state.rows += part.rows;
                state.bytes += part.bytes;
                if is_retry {
                    state.rejected = state.rejected.saturating_sub(part.rows);
                }
            }
            if !is_retry {
                let end = state.landed.above.entry(intent.directory.clone()).or_default();
                *end = (*end).max(intent.last.next());
            }
        }
        state.landed.raise(pending.floor);
        self.write(context, state).await?;
        self.source.set_hold(&context.key, Some(self.state.landed.floor));
        let newest = pending.newest;
        // A flush that waits for this sees the success and no error of before at once.
        context.shared.update(self.index, |progress| {
            progress.set(&self.state);
            progress.error.clear();
            if newest.0 > 0 {
                progress.newest_landed = progress.newest_landed.max(Some(newest));
            }
        });
        let files = pending.round.intents.len();
        tracing::debug!(lake = context.config.name, entry = self.state.entry, files, "landed");
        Ok(())
    }
}

fn entry_of(pending: &Pending) -> Result<&Entry, Trouble> {
    pending.entry.as_ref().ok_or_else(|| Trouble::Halt(LakeError::Bug("a round without its entry".into())))
}

/// Puts what has not been put yet, some at a time.
async fn put_all(context: &Arc<Context>, store: &Store, pending: &mut Pending) -> Result<(), Trouble> {
    let mut puts = Vec::new();
    for (part, intent) in pending.parts.iter().zip(&pending.round.intents) {
        if part.is_put {
            puts.push(None);
            continue;
        }
        let spool =
            part.spool.clone().ok_or_else(|| Trouble::Halt(LakeError::Bug("a file without its bytes".into())))?;
        puts.push(Some((intent.name.clone(), spool, part.proof.clone())));
    }
    let puts = puts.into_iter().enumerate().filter_map(|(at, put)| put.map(|put| (at, put)));
    let mut putting = futures::stream::iter(puts.map(|(at, (name, spool, proof))| {
        let (context, store) = (Arc::clone(context), store.clone());
        async move { (at, put(&context, &store, &name, spool, &proof).await) }
    }))
    .buffer_unordered(context.settings.parallel_puts.max(1));
    let mut trouble = Ok(());
    while let Some((at, result)) = putting.next().await {
        match result {
            // What it held goes: a round may have many files.
            Ok(()) => {
                pending.parts[at].is_put = true;
                pending.parts[at].spool = None;
            }
            Err(error @ Trouble::Retry(_)) => trouble = trouble.and(Err(error)),
            Err(error) => return Err(error),
        }
    }
    trouble
}

async fn put(context: &Context, store: &Store, name: &str, spool: Arc<Spool>, proof: &Proof) -> Result<(), Trouble> {
    let permits = LakeSettings::put_permits(spool.size());
    let aborting = context.shared.aborting();
    let putting = async {
        let permit = context.settings.putting.acquire_many(permits).await;
        let _permit = permit.map_err(|_| Trouble::Stopped)?;
        let body = blocking(move || spool.read()).await?;
        let body = body.map_err(|error| Trouble::Retry(format!("cannot read the spool: {error}")))?;
        settled(store.put(name, body, proof).await, name, |reason| LakeError::Foreign {
            object: store.object(name),
            reason,
        })
    };
    tokio::select! {
        put = putting => put,
        // A put that goes on without us is found by the redo.
        () = aborting => Err(Trouble::Stopped),
    }
}

fn settled(verdict: Verdict, name: &str, foreign: impl FnOnce(String) -> LakeError) -> Result<(), Trouble> {
    match verdict {
        Verdict::Created | Verdict::Ours => Ok(()),
        Verdict::Foreign(reason) => Err(Trouble::Halt(foreign(reason))),
        Verdict::Retry(text) => Err(Trouble::Retry(format!("cannot put {name}: {text}"))),
    }
}
