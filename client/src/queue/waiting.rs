//! What was said of deliveries and is not answered yet. Pure.
//!
//! Words that are the same and of messages that follow one another go out as one run. Frames are answered whole; what a lost
//! connection left unanswered is said again, in the order it was said, before anything new.

use std::collections::{HashMap, VecDeque};

use millstream_protocol::Code;
use millstream_protocol::frame::FrameError;
use millstream_protocol::frame::delivery::{Receipt, Verb, VerbRun, decode_results, encode_verbs};

/// Words in one frame at most, well below the protocol's limit.
const FRAME_WORDS_MAX: usize = 4_096;
/// Bytes of texts in one frame at most.
const FRAME_TEXT_MAX: usize = 256 << 10;

/// One word on one delivery; `A` is who waits for its answer.
#[derive(Debug)]
pub(super) struct Word<A> {
    pub receipt: Receipt,
    pub verb: Verb,
    pub answer: A,
}

/// A word, and why it does not hold; `None`: it holds.
pub(super) type Answered<A> = (Word<A>, Option<Code>);

#[derive(Debug)]
pub(super) struct Waiting<A> {
    unsent: VecDeque<Word<A>>,
    /// Frames by correlation.
    sent: HashMap<u64, Vec<Word<A>>>,
}

impl<A> Default for Waiting<A> {
    fn default() -> Self {
        Self { unsent: VecDeque::new(), sent: HashMap::new() }
    }
}

impl<A> Waiting<A> {
    pub fn say(&mut self, word: Word<A>) {
        self.unsent.push_back(word);
    }

    pub fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.sent.is_empty()
    }

    /// What the words are of.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.unsent.iter().chain(self.sent.values().flatten()).map(|word| &word.receipt)
    }

    /// The next frame to be sent, under that correlation.
    pub fn next_frame(&mut self, correlation: u64) -> Option<Vec<u8>> {
        let (mut text, mut count) = (0, 0);
        for word in self.unsent.iter().take(FRAME_WORDS_MAX) {
            text += match &word.verb {
                Verb::Nack { error, .. } | Verb::Reject { error } => error.len().min(256) + 64,
                _ => 64,
            };
            if text > FRAME_TEXT_MAX {
                break;
            }
            count += 1;
        }
        let words: Vec<Word<A>> = self.unsent.drain(..count).collect();
        if words.is_empty() {
            return None;
        }
        let mut runs: Vec<VerbRun> = Vec::new();
        for word in &words {
            match runs.last_mut() {
                Some(run) if run.verb == word.verb && run.first.nth(run.count) == word.receipt => run.count += 1,
                _ => runs.push(VerbRun { first: word.receipt, count: 1, verb: word.verb.clone() }),
            }
        }
        let frame = encode_verbs(&runs);
        self.sent.insert(correlation, words);
        Some(frame)
    }

    /// A frame's answer: each word with what became of it; `None`: it holds.
    ///
    /// # Errors
    /// [`FrameError`]: it is no answer to that frame.
    pub fn answered(&mut self, correlation: u64, body: &[u8]) -> Result<Vec<Answered<A>>, FrameError> {
        let unknown = FrameError::Unknown { what: "frame of verbs answered", value: correlation };
        let words = self.sent.get(&correlation).ok_or(unknown)?;
        let codes = decode_results(body, words.len())?;
        let words = self.sent.remove(&correlation).unwrap_or_default();
        Ok(words.into_iter().zip(codes).collect())
    }

    /// The connection was lost: what was not answered is to be said again.
    pub fn lost(&mut self) {
        let mut frames: Vec<(u64, Vec<Word<A>>)> = self.sent.drain().collect();
        frames.sort_unstable_by_key(|(correlation, _)| *correlation);
        for word in frames.into_iter().rev().flat_map(|(_, words)| words.into_iter().rev()) {
            self.unsent.push_front(word);
        }
    }

    /// All that is not answered.
    pub fn take_all(&mut self) -> impl Iterator<Item = Word<A>> + use<'_, A> {
        self.lost();
        self.unsent.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use millstream_protocol::QueueId;
    use millstream_protocol::frame::delivery::{decode_verbs, encode_results};

    use super::*;

    fn word(offset: u64, verb: Verb) -> Word<u64> {
        let receipt = Receipt { queue: QueueId(1), epoch: 1, partition: 0, offset, redriven: 0, fence: offset + 100 };
        Word { receipt, verb, answer: offset }
    }

    #[test]
    fn what_follows_goes_out_as_one_run_and_what_is_lost_is_said_again_in_its_order() {
        let mut waiting = Waiting::default();
        for offset in [1, 2, 3, 5] {
            waiting.say(word(offset, Verb::Ack));
        }
        waiting.say(word(6, Verb::Release));
        let first = waiting.next_frame(1).expect("words wait");
        let counts: Vec<u32> = decode_verbs(&first).expect("a frame").iter().map(|run| run.count).collect();
        assert_eq!(counts, [3, 1, 1]);
        waiting.say(word(7, Verb::Ack));
        assert!(waiting.next_frame(2).is_some() && waiting.next_frame(3).is_none());
        assert!(waiting.answered(9, &[]).is_err());
        assert!(waiting.answered(1, &encode_results([None; 4])).is_err(), "five words were said");
        waiting.say(word(8, Verb::Ack));
        waiting.lost();
        let again = waiting.next_frame(3).expect("words wait");
        let said: Vec<u64> = decode_verbs(&again).expect("a frame").iter().map(|run| run.first.offset).collect();
        assert_eq!(said, [1, 5, 6, 7]);
        let codes = [None, None, None, None, Some(Code::ReceiptExpired), None, None];
        let answered = waiting.answered(3, &encode_results(codes)).expect("an answer");
        let heard: Vec<(u64, Option<Code>)> = answered.into_iter().map(|(word, code)| (word.answer, code)).collect();
        assert_eq!(heard[4], (6, Some(Code::ReceiptExpired)));
        assert_eq!(heard.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7, 8]);
        assert!(waiting.is_empty());
    }
}
