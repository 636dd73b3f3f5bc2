//! How a test begins and ends.

use std::{
    any::type_name,
    fs::File,
    panic::{AssertUnwindSafe, resume_unwind},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;

use super::{Cluster, Namespace, describe};

/// Runs `story` in a fresh namespace, beside other tests. The namespace is deleted afterwards; of a story that fails or
/// panics, its pods, events and last logs are printed before.
pub async fn test(story: impl AsyncFnOnce(&Namespace) -> Result<()>) -> Result<()> {
    let cluster = Cluster::shared().await?;
    let _lock = lock(&cluster.state.directory, Use::Shared).await?;
    in_namespace(&cluster, story).await?.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `story` like [`test`], and nothing else meanwhile: it may stop what the whole cluster needs. Afterwards, also of
/// a story that fails, waits until the cluster is as before.
pub async fn disturb(story: impl AsyncFnOnce(&Namespace) -> Result<()>) -> Result<()> {
    let cluster = Cluster::shared().await?;
    let _lock = lock(&cluster.state.directory, Use::Exclusive).await?;
    let ended = in_namespace(&cluster, story).await;
    let healthy = cluster.wait_healthy().await;
    ended?.unwrap_or_else(|panic| resume_unwind(panic)).and(healthy)
}

/// The inner result is the story's, the outer one says whether it had its namespace.
async fn in_namespace(
    cluster: &Cluster,
    story: impl AsyncFnOnce(&Namespace) -> Result<()>,
) -> Result<thread::Result<Result<()>>> {
    let namespace = Namespace::create(cluster, &prefix(&story)).await?;
    let ended = AssertUnwindSafe(Box::pin(story(&namespace))).catch_unwind().await;
    if !matches!(ended, Ok(Ok(()))) {
        eprintln!("{}", describe::namespace(&namespace).await);
    }
    let deleted = namespace.delete().await;
    Ok(ended.map(|ended| ended.and(deleted)))
}

/// The name of the function that `story` was written in, as far as a namespace's name can say it.
fn prefix<F>(_story: &F) -> String {
    let path = type_name::<F>().split("::").filter(|part| !part.contains('{')); // no `{{closure}}`
    let name: String = path.last().unwrap_or("test").replace('_', "-").chars().take(PREFIX).collect();
    name.trim_matches('-').to_owned()
}

enum Use {
    Shared,
    Exclusive,
}

/// Until it is dropped. Waits for whoever holds it; the kernel takes it from a process that was killed.
async fn lock(directory: &Path, r#use: Use) -> Result<File> {
    let path = directory.join("disturbance.lock");
    let lock = move || -> Result<File> {
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        match r#use {
            Use::Shared => file.lock_shared()?,
            Use::Exclusive => file.lock()?,
        }
        Ok(file)
    };
    tokio::task::spawn_blocking(lock).await?.context("lock the cluster for this test")
}

/// kube-proxy writes the namespace into names of 128 characters at most, beside Service, port and address.
const PREFIX: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_called_like_the_function_of_its_story() {
        assert_eq!(prefix(&async || {}), "a-namespace-is-called-like-the");
    }
}
