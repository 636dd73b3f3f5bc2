//! Waiting: for objects by watching them, for everything else by asking again.

use std::{collections::BTreeMap, fmt, pin::pin, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::watcher::{self, Event},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep, timeout};

use super::describe;

/// What can be watched and shown.
pub trait Watched: Resource + Clone + fmt::Debug + Serialize + DeserializeOwned + Send + 'static {}
impl<K: Resource + Clone + fmt::Debug + Serialize + DeserializeOwned + Send + 'static> Watched for K {}

/// Which objects of an API are watched.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selection<'a> {
    Everything,
    Named(&'a str),
    Labelled(&'a str),
}

/// Watches until `look` finds something among the selected objects. `what` ends the sentence "waited for ...".
///
/// A watch that breaks, because the API server went away, is begun again; only the deadline is an error, and it shows
/// the objects as they were then.
pub(super) async fn until<K: Watched, T>(
    api: &Api<K>,
    selection: Selection<'_>,
    what: &str,
    deadline: Duration,
    mut look: impl FnMut(&[&K]) -> Option<T>,
) -> Result<T> {
    let config = match selection {
        Selection::Everything => watcher::Config::default(),
        Selection::Named(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        Selection::Labelled(labels) => watcher::Config::default().labels(labels),
    };
    let (mut known, mut trouble) = (BTreeMap::new(), None);
    let watch = async {
        let mut events = pin!(watcher::watcher(api.clone(), config));
        let mut listed = BTreeMap::new();
        loop {
            match events.next().await {
                Some(Ok(Event::Init)) => {
                    listed.clear();
                    continue; // "there is none" holds of a list, not of what was not asked yet
                }
                Some(Ok(Event::InitApply(object))) => {
                    listed.insert(object.name_any(), object);
                    continue; // the list is incomplete until InitDone
                }
                Some(Ok(Event::InitDone)) => known = std::mem::take(&mut listed),
                Some(Ok(Event::Apply(object))) => {
                    known.insert(object.name_any(), object);
                }
                Some(Ok(Event::Delete(object))) => {
                    known.remove(&object.name_any());
                }
                Some(Err(error)) => {
                    trouble = Some(error);
                    sleep(AGAIN).await;
                    continue;
                }
                None => bail!("the watch ended while waiting for {what}"),
            }
            if let Some(found) = look(&known.values().collect::<Vec<_>>()) {
                return Ok(found);
            }
        }
    };
    match Box::pin(timeout(deadline, watch)).await {
        Ok(found) => found,
        Err(_) => {
            let mut message =
                format!("waited {deadline:?} for {what}; of {selection:?} there was in the end:");
            if known.is_empty() {
                message += " nothing";
            }
            for object in known.into_values() {
                message += &format!("\n---\n{}", describe::yaml(object));
            }
            let error = anyhow::anyhow!(message);
            Err(match trouble {
                Some(trouble) => error.context(format!("the watch was broken: {trouble}")),
                None => error,
            })
        }
    }
}

/// Asks until the answer is no error: for what cannot be watched. The last error is the cause of the one at the deadline.
pub(super) async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("waited {deadline:?} for {what}"));
            }
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// For what a cluster on a busy machine does within seconds.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// Short beside every deadline, long beside the cost of a question.
const AGAIN: Duration = Duration::from_millis(100);
