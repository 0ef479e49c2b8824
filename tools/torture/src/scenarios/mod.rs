//! What is done to a server, one scenario per file. Each gives a report or says why there is none.

mod killer;

pub mod groups;
pub mod kill;
pub mod lake;
pub mod producers;
pub mod queues;
pub mod sim;

use std::path::PathBuf;

use millstream_check::log::Rules;
use millstream_check::verdict::Verdict;

use crate::failure::Failure;
use crate::judge::judge;
use crate::run_dir::RunDir;

/// Whether what a run leaves is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Always,
    IfBad,
}

/// A run's verdict, and where everything of it is, if it is kept. Prints what was found. `killed`: processes whose files may
/// end in the middle of a line.
async fn judged(dir: &mut RunDir, killed: Vec<u32>, keep: Keep) -> Result<(Verdict, Option<PathBuf>), Failure> {
    judged_by(dir, killed, keep, Rules::default()).await
}

/// The same, by other rules.
async fn judged_by(
    dir: &mut RunDir,
    killed: Vec<u32>,
    keep: Keep,
    rules: Rules,
) -> Result<(Verdict, Option<PathBuf>), Failure> {
    let history = dir.history();
    let judged = tokio::task::spawn_blocking(move || judge(&history, &killed, rules)).await;
    let verdict = judged.map_err(|error| Failure::run(format!("the judge panicked: {error}")))??;
    let kept = (!verdict.is_good() || keep == Keep::Always).then(|| dir.path().to_owned());
    if kept.is_some() {
        dir.keep();
    }
    verdict.violations().iter().for_each(|violation| eprintln!("{violation}"));
    Ok((verdict, kept))
}

/// A run that ended too early: where, what is kept and how to make it again are added to why.
fn ended_early(why: Failure, dir: &mut RunDir, (done, of): (u32, u32), again: &str) -> Failure {
    let Failure::Run(text) = why else { return why };
    dir.keep();
    let when = if done < of { format!("in cycle {} of {of}", done + 1) } else { format!("after all {of} cycles") };
    Failure::run(format!("{when}: {text}; kept in {}; again: {again}", dir.path().display()))
}
