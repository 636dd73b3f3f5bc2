//! An account outlives its cluster: its Secret, applied to a new one before the first order, is all that there is to it.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::Value;

use super::{ASKS, STARTS, Setting, certified, ingress, list, of, opens};
use crate::{installed::Mesh, outage::scale};

#[tokio::test]
async fn an_accounts_key_alone_applied_where_nothing_is_stored_goes_on_as_the_same_account() -> Result<()> {
    certified(Setting::default(), async |mesh, outside, addresses| {
        let web = outside.web(mesh, *addresses.first().context("an address")?).await?;
        mesh.namespace.apply(&ingress("before", "before.acme.test", ASKS)).await?;
        opens(&mesh.namespace, &web, "before.acme.test").await?;
        let account = account(mesh).await?;
        scale(mesh, "edge", 0).await?;
        mesh.system.wait_ready_pods("app.kubernetes.io/name=edge", 0).await?;
        let secrets = mesh.edge.api::<Secret>();
        secrets.delete_collection(&DeleteParams::default(), &of_acme("signet.dev/acme")).await?;
        secrets.create(&PostParams::default(), &account).await?;
        scale(mesh, "edge", 2).await?;
        mesh.system.within(STARTS).wait_deployment_available("edge").await?;
        mesh.namespace.apply(&ingress("after", "after.acme.test", ASKS)).await?;
        opens(&mesh.namespace, &web, "after.acme.test").await?;
        let (_, certificates) = list(mesh).await?;
        ensure!(of(&certificates, "after.acme.test")?["served"] == true, "{certificates:#?}");
        ensure!(outside.count("accounts in memory")? == 1, "another account was made");
        Ok(())
    })
    .await
}

/// As an administrator carries it: directory, e-mail and key.
async fn account(mesh: &Mesh) -> Result<Secret> {
    let mut all = mesh.edge.api::<Secret>().list(&of_acme("signet.dev/acme=account")).await?.items;
    let mut account = all.pop().context("an account")?;
    ensure!(all.is_empty(), "more than one account");
    let data = account.data.as_mut().context("its data")?;
    let record = data.get_mut("record.json").context("its record")?;
    let mut carried: Value = serde_json::from_slice(&record.0)?;
    let url = carried.as_object_mut().and_then(|fields| fields.remove("url"));
    ensure!(url.is_some_and(|url| url.is_string()), "the account has no URL");
    *record = ByteString(serde_json::to_vec(&carried)?);
    let (name, labels) = (account.metadata.name.take(), account.metadata.labels.take());
    account.metadata = kube::api::ObjectMeta { name, labels, ..Default::default() };
    Ok(account)
}

fn of_acme(labels: &str) -> ListParams {
    ListParams::default().labels(labels)
}
