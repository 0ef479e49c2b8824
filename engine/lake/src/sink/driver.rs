//! Drives a lake: claims its place, and runs its partitions, each on its own.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::lane::{Lane, Trouble, blocking};
use super::shared::Context;
use crate::judge::Verdict;
use crate::owner::{OWNER_NAME, Owner};
use crate::store::Store;
use crate::{LakeError, plan};

/// Runs a lake until it is stopped or cannot go on.
pub(super) async fn drive(context: Arc<Context>, lanes: Vec<Lane>, store: Option<Store>, owner: Owner) {
    let mut tasks = JoinSet::new();
    for lane in lanes {
        tasks.spawn(lane.run(Arc::clone(&context)));
    }
    // Reading does not wait for the store.
    let placed = {
        let context = Arc::clone(&context);
        async move { claim(&context, store, owner).await }
    };
    tokio::pin!(placed);
    let mut is_placed = false;
    loop {
        let trouble = tokio::select! {
            trouble = &mut placed, if !is_placed => {
                is_placed = true;
                trouble.err()
            }
            joined = tasks.join_next() => match joined {
                None => return,
                Some(Ok(trouble)) => Some(trouble),
                Some(Err(error)) => Some(Trouble::Halt(LakeError::Bug(error.to_string()))),
            },
        };
        if let Some(Trouble::Halt(error)) = trouble {
            context.shared.halt(error, context.settings.clock.append_time());
            // One partition's trouble of this kind is the lake's: its files are not to be trusted to anybody.
            context.shared.ask_stop();
        }
    }
}

/// Opens the store and makes the place this lake's, however often it takes: a directory that is not there now may be
/// mounted later.
async fn claim(context: &Context, mut store: Option<Store>, owner: Owner) -> Result<(), Trouble> {
    let mut failures = 0;
    loop {
        let claimed = tokio::select! {
            claimed = try_claim(context, &mut store, &owner) => claimed,
            () = context.shared.stopping() => return Err(Trouble::Stopped),
        };
        let now = context.settings.clock.append_time();
        match claimed {
            Ok(store) => {
                context.shared.set_trouble(String::new(), now);
                context.store.send_replace(Some(store));
                return Ok(());
            }
            Err(Trouble::Retry(text)) => {
                failures += 1;
                let wait = plan::backoff(failures);
                tracing::warn!(lake = context.config.name, error = text, retry_after = ?wait, "a lake is held up");
                context.shared.set_trouble(text, now);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = context.shared.stopping() => return Err(Trouble::Stopped),
                }
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

async fn try_claim(context: &Context, store: &mut Option<Store>, owner: &Owner) -> Result<Store, Trouble> {
    let store = match store {
        Some(store) => store,
        None => {
            let (url, delivery) = (context.config.url.clone(), context.config.delivery);
            let opened = blocking(move || Store::open(&url, delivery)).await?;
            store.insert(opened.map_err(|error| Trouble::Retry(error.to_string()))?)
        }
    };
    match store.claim(owner).await {
        Verdict::Created | Verdict::Ours => Ok(store.clone()),
        Verdict::Foreign(reason) => {
            let object = store.object(OWNER_NAME);
            Err(Trouble::Halt(LakeError::Foreign { object, reason }))
        }
        Verdict::Retry(text) => Err(Trouble::Retry(format!("cannot put {OWNER_NAME}: {text}"))),
    }
}
