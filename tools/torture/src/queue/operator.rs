//! Who meddles with queues: pauses them for a moment, and has their dead brought back.

use std::time::Duration;

use millstream_check::history::queue::Answer;
use millstream_check::history::{InQueue, OfQueue, Recorder, What};
use millstream_check::seeded::Seeded;
use millstream_client::{Client, Code, RedriveInfo, RedriveOptions, RedriveStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::Plan;
use crate::failure::Failure;
use crate::load::{PATIENCE, patiently};

const REST_MS: std::ops::RangeInclusive<u64> = 500..=2_500;
const PAUSE_MS: std::ops::RangeInclusive<u64> = 100..=1_000;
const ASK_EVERY: Duration = Duration::from_millis(50);

pub struct Operator {
    pub client: Client,
    pub queues: Vec<Plan>,
    pub recorder: Recorder,
    pub seeded: Seeded,
    pub stop: watch::Receiver<bool>,
}

impl Operator {
    /// How often it had dead messages brought back.
    pub async fn run(mut self) -> Result<u64, Failure> {
        let mut redrives = 0;
        loop {
            let rest = Duration::from_millis(self.seeded.of(REST_MS));
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = self.stop.wait_for(|stop| *stop) => break,
            }
            let queue = self.seeded.index(self.queues.len());
            if self.queues[queue].config.dead_letter.is_some() && self.seeded.percent(60) {
                redrives += u64::from(self.redrives(queue).await?);
            } else {
                self.pauses(queue).await?;
            }
        }
        self.recorder.finish()?;
        Ok(redrives)
    }

    async fn pauses(&mut self, queue: usize) -> Result<(), Failure> {
        let name = self.queues[queue].name;
        let pause = Duration::from_millis(self.seeded.of(PAUSE_MS));
        for is_paused in [true, false] {
            let invoked_ns = self.recorder.clock().now_ns();
            // It may stand still from before the answer on.
            if is_paused {
                self.tell(queue, InQueue::Paused { invoked_ns });
            }
            let since = Instant::now();
            loop {
                match self.client.pause_queue(name, is_paused).await {
                    Ok(()) => break,
                    Err(error) if error.code() == Code::UnknownQueue => break,
                    Err(error) if error.is_retryable() && since.elapsed() < PATIENCE => {
                        tokio::time::sleep(ASK_EVERY).await;
                    }
                    Err(error) => return Err(Failure::run(format!("the queue {name:?} cannot be paused: {error}"))),
                }
            }
            match is_paused {
                true => tokio::time::sleep(pause).await,
                false => self.tell(queue, InQueue::Resumed { invoked_ns }),
            }
        }
        Ok(())
    }

    /// Brings back what is dead by now, and waits until it is. `false`: it surely was not begun.
    async fn redrives(&mut self, queue: usize) -> Result<bool, Failure> {
        let name = self.queues[queue].name;
        let before = self.newest(name).await?.map(|info| info.id);
        let invoked_ns = self.recorder.clock().now_ns();
        let began = self.client.redrive_queue(name, RedriveOptions::default()).await;
        if let Err(error) = &began
            && !error.is_retryable()
        {
            return Err(Failure::run(format!("the dead of {name:?} cannot be redriven: {error}")));
        }
        loop {
            match self.newest(name).await?.filter(|info| Some(info.id) != before) {
                Some(info) if info.status == RedriveStatus::Running => tokio::time::sleep(ASK_EVERY).await,
                Some(info) => {
                    let is_whole = info.status == RedriveStatus::Done && info.failed == 0;
                    let answer = if is_whole { Answer::Ok } else { Answer::Unknown { code: 0 } };
                    self.tell(queue, InQueue::Redriven { invoked_ns, all: true, answer });
                    return Ok(true);
                }
                None if began.is_ok() => return Err(Failure::run(format!("the redrive of {name:?} is gone"))),
                None => return Ok(false),
            }
        }
    }

    async fn newest(&self, name: &str) -> Result<Option<RedriveInfo>, Failure> {
        patiently("a redrive cannot be described", || self.client.describe_redrive(name)).await
    }

    fn tell(&mut self, queue: usize, what: InQueue) {
        self.recorder.record(What::Queue(OfQueue { queue: queue as u32, receiver: 0, what }));
    }
}
