//! What a receiver does with the messages that it has: most are acknowledged, and the others meet all that can be said of a
//! message, in time and too late.

use std::time::Duration;

use millstream_check::history::InQueue;
use millstream_check::history::queue::{Answer, Delivery, Receipt, Verb};
use millstream_check::seeded::Seeded;
use millstream_client::{Client, Code, Error, Message, Outcome, Said};

use super::book::Book;
use super::orders;
use crate::failure::Failure;
use crate::load::consumer::seen;

/// How long a message is worked on that is acknowledged in time.
const WORK_MS_MAX: u64 = 20;
const NACK_MS_MAX: u64 = 500;
/// Of those behind a failed one in its run, so many are tried though their receipts are void.
const STALE_PERCENT: u64 = 20;

/// Who works, on what.
#[derive(Clone)]
pub struct Worker {
    pub client: Client,
    pub book: Book,
    /// The queue's number in the history, and its name.
    pub queue: u32,
    pub name: &'static str,
    /// As the history names this life of the receiver.
    pub receiver: u64,
    pub visibility: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ack,
    /// Acknowledged at some time around the end of its lease.
    AckLate,
    AckTwice,
    /// By its receipt, over another stream.
    AckElsewhere,
    ExtendAndAck,
    Nack,
    NackAndAck,
    Release,
    Reject,
    Forget,
}

impl Fate {
    fn choose(seeded: &mut Seeded) -> Self {
        match seeded.of(0..=99) {
            0..=69 => Self::Ack,
            70..=73 => Self::AckLate,
            74..=76 => Self::AckTwice,
            77..=78 => Self::AckElsewhere,
            79..=81 => Self::ExtendAndAck,
            82..=88 => Self::Nack,
            89..=90 => Self::NackAndAck,
            91..=94 => Self::Release,
            95 => Self::Reject,
            _ => Self::Forget,
        }
    }
}

/// A message as a history has it.
pub fn delivery(message: &Message) -> Delivery {
    let record = message.record();
    Delivery {
        partition: message.partition().0,
        offset: message.offset().0,
        value: seen(record),
        receives: message.receive_count().into(),
        fence: message.fencing_token(),
        group: orders::group(record),
        redriven: message.redriven().into(),
    }
}

impl Worker {
    /// Works on the messages of one run, one after the other.
    pub async fn work(self, run: Vec<Message>, mut seeded: Seeded) -> Result<(), Failure> {
        let mut has_failed = false;
        for message in run {
            if has_failed && !seeded.percent(STALE_PERCENT) {
                continue;
            }
            let fate = Fate::choose(&mut seeded);
            has_failed |= !self.meets(&message, fate, &mut seeded).await?;
        }
        Ok(())
    }

    /// Whether it is settled, as far as this receiver is concerned.
    async fn meets(&self, message: &Message, fate: Fate, seeded: &mut Seeded) -> Result<bool, Failure> {
        let nack = |seeded: &mut Seeded| {
            let delay_ms = seeded.percent(50).then(|| seeded.of(0..=NACK_MS_MAX));
            Verb::Nack { delay_ms }
        };
        match fate {
            Fate::Ack => {
                tokio::time::sleep(Duration::from_millis(seeded.of(0..=WORK_MS_MAX))).await;
                self.say(message, Verb::Ack).await
            }
            Fate::AckLate => {
                tokio::time::sleep(self.visibility * (seeded.of(50..=150) as u32) / 100).await;
                self.say(message, Verb::Ack).await
            }
            Fate::AckTwice => {
                let first = self.say(message, Verb::Ack).await?;
                Ok(self.say(message, Verb::Ack).await? && first)
            }
            Fate::AckElsewhere => self.ack_elsewhere(message).await,
            Fate::ExtendAndAck => {
                tokio::time::sleep(self.visibility / 2).await;
                let by_ms = u64::try_from(self.visibility.as_millis()).unwrap_or(u64::MAX);
                self.say(message, Verb::Extend { by_ms }).await?;
                tokio::time::sleep(self.visibility * 7 / 10).await;
                self.say(message, Verb::Ack).await
            }
            Fate::Nack => self.say(message, nack(seeded)).await.map(|_| false),
            Fate::NackAndAck => {
                self.say(message, nack(seeded)).await?;
                self.say(message, Verb::Ack).await
            }
            Fate::Release => self.say(message, Verb::Release).await.map(|_| false),
            Fate::Reject => self.say(message, Verb::Reject).await.map(|_| false),
            Fate::Forget => Ok(false),
        }
    }

    /// A canary: it is acknowledged before anybody has written down that it came.
    pub async fn ack_first(self, opened_ns: u64, message: Message) -> Result<(), Failure> {
        let invoked_ns = self.book.now_ns();
        let answer = answer(message.ack().await)?;
        tokio::time::sleep(Duration::from_millis(WORK_MS_MAX)).await;
        let deliveries = vec![delivery(&message)];
        let received = InQueue::Received { stream: 0, invoked_ns: opened_ns, visibility_ms: None, deliveries };
        self.tell(received)?;
        self.settled(&message, Verb::Ack, invoked_ns, answer)
    }

    async fn say(&self, message: &Message, verb: Verb) -> Result<bool, Failure> {
        let invoked_ns = self.settle(message, verb)?;
        let settling = match verb {
            Verb::Ack => message.ack(),
            Verb::Nack { delay_ms: None } => message.nack("torture"),
            Verb::Nack { delay_ms: Some(delay_ms) } => message.nack_after(Duration::from_millis(delay_ms), "torture"),
            Verb::Release => message.release(),
            Verb::Reject => message.reject("torture"),
            Verb::Extend { by_ms } => message.extend(Duration::from_millis(by_ms)),
        };
        let answer = answer(settling.await)?;
        self.settled(message, verb, invoked_ns, answer)?;
        Ok(matches!(answer, Answer::Ok | Answer::AlreadySettled))
    }

    async fn ack_elsewhere(&self, message: &Message) -> Result<bool, Failure> {
        let invoked_ns = self.settle(message, Verb::Ack)?;
        let answer = answer(self.client.queue(self.name).ack(message.receipt()).await)?;
        self.settled(message, Verb::Ack, invoked_ns, answer)?;
        Ok(matches!(answer, Answer::Ok | Answer::AlreadySettled))
    }

    fn settle(&self, message: &Message, verb: Verb) -> Result<u64, Failure> {
        let invoked_ns = self.book.now_ns();
        self.tell(InQueue::Settle { verb, of: vec![receipt(message)] })?;
        Ok(invoked_ns)
    }

    fn settled(&self, message: &Message, verb: Verb, invoked_ns: u64, answer: Answer) -> Result<(), Failure> {
        self.tell(InQueue::Settled { verb, of: vec![receipt(message)], invoked_ns, answer })
    }

    pub fn tell(&self, what: InQueue) -> Result<(), Failure> {
        self.book.tell(self.queue, self.receiver, what)
    }
}

fn receipt(message: &Message) -> Receipt {
    Receipt { partition: message.partition().0, offset: message.offset().0, fence: message.fencing_token() }
}

/// What a history says of an answer.
///
/// # Errors
/// It is one that no receiver here must get.
fn answer(answer: Result<Said, Error>) -> Result<Answer, Failure> {
    let error = match answer {
        Ok(Said::Done) => return Ok(Answer::Ok),
        Ok(Said::AlreadySettled) => return Ok(Answer::AlreadySettled),
        Err(error) => error,
    };
    let code = error.code().number();
    match error.code() {
        Code::AlreadySettled => Ok(Answer::AlreadySettled),
        Code::ReceiptExpired | Code::OutOfGroupOrder | Code::NoDeadLetter => Ok(Answer::Refused { code }),
        _ if error.outcome() == Outcome::Indefinite => Ok(Answer::Unknown { code }),
        // Another stream than the message's could not be opened.
        _ if error.is_retryable() => Ok(Answer::Refused { code }),
        _ => Err(Failure::run(format!("something was said of a message, and the answer is {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_comes_and_most_messages_are_done() {
        let mut seeded = Seeded::new(1);
        let fates: Vec<Fate> = (0..10_000).map(|_| Fate::choose(&mut seeded)).collect();
        let count = |fate| fates.iter().filter(|one| **one == fate).count();
        assert!((6_800..7_200).contains(&count(Fate::Ack)));
        for fate in
            [Fate::AckLate, Fate::AckTwice, Fate::AckElsewhere, Fate::ExtendAndAck, Fate::Nack, Fate::NackAndAck]
        {
            assert!(count(fate) > 100, "{fate:?}");
        }
        for fate in [Fate::Release, Fate::Reject, Fate::Forget] {
            assert!(count(fate) > 50, "{fate:?}");
        }
    }
}
