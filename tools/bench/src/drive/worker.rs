//! A queue's worker: takes messages as they come, and acknowledges each; answers are waited for beside it.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::subscription::{Read, Subscription, take};
use super::{Jobs, Shared};
use crate::failure::Failure;
use crate::record::Probe;
use crate::verify::Place;

struct Settling<A> {
    said_ns: u64,
    bytes: u64,
    counts: bool,
    answer: A,
}

/// Runs it until all is done, or it is told.
pub async fn run<J: Jobs>(
    mut jobs: J,
    subscription: Arc<Subscription>,
    mut delivered: Probe,
    settled: Probe,
    shared: Arc<Shared>,
) -> Result<(), Failure> {
    let (settling, answers) = mpsc::unbounded_channel();
    // A task of its own: an answer that waits for the next message's turn would be counted late.
    let answering = wait::<J>(answers, settled, Arc::clone(&subscription), Arc::clone(&shared));
    let mut answering = tokio::spawn(answering);
    let mut answered = None;
    loop {
        let next = tokio::select! {
            biased;
            () = shared.done.cancelled() => break,
            () = subscription.complete.cancelled() => break,
            ended = &mut answering => {
                answered = Some(ended);
                break;
            }
            next = jobs.next() => next,
        };
        let Some(next) = next else { break };
        let (job, handle) = next?;
        let at = shared.clock.now();
        let key = if shared.fifo { job.key.as_deref() } else { None };
        let place = Place { partition: job.partition, offset: job.offset, key, again: job.receives > 1 };
        let read = Read { place, value: &job.value, stamp: job.stamp.as_deref(), timestamp: job.timestamp };
        let taken = subscription.look(|ledger| take(ledger, &read, &shared));
        let bytes = job.value.len() as u64;
        delivered.count(at, 1, bytes);
        if let Some(intended_ns) = taken.intended_ns {
            delivered.latency(at, intended_ns);
        }
        let (said_ns, answer) = (shared.clock.now(), jobs.ack(handle));
        // One that has ended has an error to tell, in the next turn.
        let _ = settling.send(Settling { said_ns, bytes, counts: taken.counts, answer });
    }
    drop(settling);
    let answered = match answered {
        Some(answered) => answered,
        None => answering.await,
    };
    answered.expect("the waiting does not panic")?;
    jobs.close().await
}

async fn wait<J: Jobs>(
    mut answers: mpsc::UnboundedReceiver<Settling<J::Answer>>,
    mut probe: Probe,
    subscription: Arc<Subscription>,
    shared: Arc<Shared>,
) -> Result<(), Failure> {
    while let Some(Settling { said_ns, bytes, counts, answer }) = answers.recv().await {
        J::settled(answer).await?;
        let at = shared.clock.now();
        probe.count(at, 1, bytes);
        probe.latency(at, said_ns);
        if counts {
            if let Some(room) = &shared.room {
                room.add_permits(1);
            }
            subscription.did(1);
        }
    }
    Ok(())
}
