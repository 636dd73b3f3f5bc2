//! The frame of every story keeps its own promises.

use std::{cell::RefCell, panic::AssertUnwindSafe};

use anyhow::{Result, bail};
use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use signet_cluster::{Cluster, test};

/// Deleted, or on its way.
async fn is_gone(name: &str) -> Result<bool> {
    let api = Api::<Namespace>::all(Cluster::shared().await?.client);
    let namespace = api.get_opt(name).await?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

#[tokio::test]
async fn a_story_that_fails_or_panics_fails_its_test_and_leaves_no_namespace() -> Result<()> {
    let name = RefCell::new(String::new());
    let failed = test(async |namespace| {
        name.replace(namespace.name.clone());
        bail!("on purpose")
    });
    assert_eq!(failed.await.unwrap_err().to_string(), "on purpose");
    assert!(is_gone(&name.take()).await?);

    let panicked = AssertUnwindSafe(test(async |namespace| {
        name.replace(namespace.name.clone());
        panic!("on purpose")
    }));
    assert!(panicked.catch_unwind().await.is_err());
    assert!(is_gone(&name.take()).await?);
    Ok(())
}

#[tokio::test]
async fn a_story_that_holds_leaves_no_namespace() -> Result<()> {
    let name = RefCell::new(String::new());
    test(async |namespace| {
        name.replace(namespace.name.clone());
        assert!(!is_gone(&namespace.name).await?);
        Ok(())
    })
    .await?;
    assert!(is_gone(&name.take()).await?);
    Ok(())
}
