//! Reads dead-letter streams: while they grow, and all of them in the end.

use millstream_check::history::queue::{DeadLetter, Origin, Reason};
use millstream_check::history::{InQueue, OfQueue, Place, Recorder, What};
use millstream_client::{Client, ConsumedBatch, Consumer, Error, Record, Start};
use tokio::sync::watch;

use super::plan::{DEAD, Plan, STREAM};
use crate::failure::Failure;
use crate::load::consumer::seen;
use crate::load::{PATIENCE, patiently};

/// Follows one dead-letter stream.
pub struct Follower {
    pub client: Client,
    pub stream: &'static str,
    pub queues: Vec<Plan>,
    pub recorder: Recorder,
    pub stop: watch::Receiver<bool>,
}

impl Follower {
    pub async fn run(mut self) -> Result<(), Failure> {
        let attempt = || {
            let consumer = self.client.consumer(self.stream).start(Start::Earliest).follow();
            consumer.reconnect_timeout(PATIENCE).build()
        };
        let mut consumer = patiently("a reader of dead letters cannot be opened", attempt).await?;
        loop {
            let item = tokio::select! {
                item = consumer.next_batch() => item,
                _ = self.stop.wait_for(|stop| *stop) => break,
            };
            let batch = item.ok_or_else(|| Failure::run("dead letters end"))?.map_err(failed)?;
            tell(&mut self.recorder, &self.queues, &batch)?;
        }
        self.recorder.finish()?;
        Ok(())
    }
}

/// Reads all dead letters from the first to the last.
pub async fn read_all(client: &Client, queues: &[Plan], recorder: &mut Recorder) -> Result<u64, Failure> {
    let mut read = 0;
    for (stream, name) in (1..).zip(DEAD) {
        let invoked_ns = recorder.clock().now_ns();
        let consumer = client.consumer(name).start(Start::Earliest).bounded().build();
        let mut consumer: Consumer = consumer.await.map_err(failed)?;
        while let Some(batch) = consumer.next_batch().await {
            read += tell(recorder, queues, &batch.map_err(failed)?)?;
        }
        for (queue, _) in (0..).zip(queues).filter(|(_, plan)| plan.dead_letter() == Some(stream)) {
            let what = InQueue::DeadLettersEnd { invoked_ns };
            recorder.record(What::Queue(OfQueue { queue, receiver: 0, what }));
        }
    }
    Ok(read)
}

fn failed(error: Error) -> Failure {
    Failure::run(format!("dead letters cannot be read: {error}"))
}

fn tell(recorder: &mut Recorder, queues: &[Plan], batch: &ConsumedBatch) -> Result<u64, Failure> {
    let partition = batch.partition.0;
    let letter = |found: millstream_client::ConsumedRecord| letter(queues, partition, found.offset.0, &found.record);
    let records = batch.records().map_err(failed)?;
    let records: Vec<DeadLetter> = records.map(|found| found.map(letter).map_err(failed)).collect::<Result<_, _>>()?;
    let count = records.len() as u64;
    // The checker gives each to the queue that it says it comes from.
    recorder.record(What::Queue(OfQueue { queue: 0, receiver: 0, what: InQueue::DeadLetters { records } }));
    Ok(count)
}

fn letter(queues: &[Plan], partition: u32, offset: u64, record: &Record) -> DeadLetter {
    let text = |name: &str| {
        let header = record.headers.iter().find(|header| header.name == name)?;
        std::str::from_utf8(header.value.as_deref()?).ok()
    };
    let number = |name: &str| text(name)?.parse::<u64>().ok();
    let origin = || {
        let queue = text("ms-dl-queue")?;
        let queue = queues.iter().position(|plan| plan.name == queue)? as u32;
        let stream = (text("ms-dl-stream")? == STREAM).then_some(0)?;
        let at = Place { stream, partition: number("ms-dl-partition")?.try_into().ok()? };
        Some(Origin { queue, at, offset: number("ms-dl-offset")? })
    };
    let reason = match text("ms-dl-reason") {
        Some("max_receives") => Some(Reason::MaxReceives),
        Some("rejected") => Some(Reason::Rejected),
        Some("no_group") => Some(Reason::NoGroup),
        Some("expired") => Some(Reason::Expired),
        Some("filter_error") => Some(Reason::FilterError),
        _ => None,
    };
    let receives = number("ms-dl-receives").and_then(|receives| receives.try_into().ok());
    DeadLetter { partition, offset, value: seen(record), origin: origin(), receives, reason }
}

#[cfg(test)]
mod tests {
    use millstream_check::value::{self, ValueId};
    use millstream_client::Header;

    use super::super::plan::queues;
    use super::*;

    #[test]
    fn a_letter_says_where_it_is_from_and_what_it_does_not_say_is_none() {
        let mut record = Record::new(value::encode(ValueId::new(1, 5), 9));
        let headers = [
            ("ms-dl-queue", "odd"),
            ("ms-dl-stream", STREAM),
            ("ms-dl-partition", "3"),
            ("ms-dl-offset", "77"),
            ("ms-dl-receives", "2"),
            ("ms-dl-reason", "rejected"),
        ];
        let header = |(name, value): (&str, &str)| Header { name: name.into(), value: Some(value.to_owned().into()) };
        record.headers = headers.map(header).into();
        let found = letter(&queues(), 0, 8, &record);
        let origin = Origin { queue: 4, at: Place { stream: 0, partition: 3 }, offset: 77 };
        assert_eq!((found.origin, found.receives, found.reason), (Some(origin), Some(2), Some(Reason::Rejected)));
        assert_eq!((found.value, found.offset), (Some(ValueId::new(1, 5)), 8));
        record.headers.remove(3);
        assert_eq!(letter(&queues(), 0, 8, &record).origin, None);
    }
}
