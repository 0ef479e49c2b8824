//! Judges a put. Pure: the one place where "it is there now" is decided.
//!
//! A create-only PUT that is answered "already exists" may mean that another's object is there, or our own whose
//! answer was lost, or (S3's 409 for a racing put) that nothing is there at all. Only reading it back tells.

/// What the store answered to the PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutAnswer {
    /// It stored the object.
    Created,
    /// It says that something is there.
    Exists,
    /// Anything else, an answer that never came included: the object may or may not be there.
    Failed(String),
}

/// What is found at the object's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nobody looked: the answer needs no proof.
    NotAsked,
    /// Nothing.
    Nothing,
    /// What this intent puts there.
    Same,
    /// Something else, and what.
    Different(String),
    /// It could not be read.
    Unreadable(String),
}

/// What a put came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This put made it.
    Created,
    /// An earlier put of the same intent made it.
    Ours,
    /// It is another's: stop, and overwrite nothing.
    Foreign(String),
    /// Not known, or not there: put again later.
    Retry(String),
}

/// Whether the answer has to be checked against what is there.
pub fn needs_reading(answer: &PutAnswer) -> bool {
    *answer == PutAnswer::Exists
}

/// Judges a put by the store's answer and what was found.
pub fn judge(answer: PutAnswer, found: Found) -> Verdict {
    match (answer, found) {
        (PutAnswer::Created, _) => Verdict::Created,
        (PutAnswer::Exists, Found::Same) => Verdict::Ours,
        (PutAnswer::Exists, Found::Different(what)) => Verdict::Foreign(what),
        (PutAnswer::Exists, Found::Nothing) => Verdict::Retry(
            "the store says that the object exists, and that it does not: another put was under way".into(),
        ),
        (PutAnswer::Exists, Found::Unreadable(why)) => Verdict::Retry(format!("what is there cannot be read: {why}")),
        (PutAnswer::Exists, Found::NotAsked) => Verdict::Retry("what is there was not read".into()),
        (PutAnswer::Failed(why), _) => Verdict::Retry(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_or_a_reading_proves_anything() {
        let found = || {
            [Found::NotAsked, Found::Nothing, Found::Same, Found::Different("d".into()), Found::Unreadable("u".into())]
        };
        for found in found() {
            assert_eq!(judge(PutAnswer::Created, found.clone()), Verdict::Created);
            assert_eq!(judge(PutAnswer::Failed("f".into()), found.clone()), Verdict::Retry("f".into()));
            let verdict = judge(PutAnswer::Exists, found.clone());
            match found {
                Found::Same => assert_eq!(verdict, Verdict::Ours),
                Found::Different(_) => assert_eq!(verdict, Verdict::Foreign("d".into())),
                _ => assert!(matches!(verdict, Verdict::Retry(_))),
            }
        }
        assert!(needs_reading(&PutAnswer::Exists) && !needs_reading(&PutAnswer::Created));
    }
}
