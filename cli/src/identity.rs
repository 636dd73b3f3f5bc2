//! `signet identity`: which certificate a workload's proxy holds, asked of the proxy itself.

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use signet_core::{clock, pod::PROXY_CONTAINER};

use crate::{
    Exit,
    ask::Place,
    cluster::Cluster,
    human,
    named::{InNamespace, Kind as Of, Named},
    output::Output,
    shapes::ProxyIdentity,
    state::{Kind, Running, RunningChild, StateDir},
    whom::{Asking, Whom},
};

/// Show the certificate that WORKLOAD's proxy holds, and whom it believes
///
/// Asked of the proxy itself: SPIFFE ID, serial, how long it is valid, the roots that it trusts; with -o json the chain, too.
///
/// Changes nothing.
///
/// Examples:
///   signet identity shop/api-0
///   signet identity -n shop api-0
///   signet identity api-0 -o json | jq -r .chain | openssl x509 -noout -text
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Exit status: 0 it has a certificate, 1 it has none or trusts nobody, 2 could not ask"
)]
pub(crate) struct Args {
    /// "namespace/pod", or "pod" where only one has that name
    workload: String,
    #[command(flatten)]
    namespace: InNamespace,
    #[command(flatten)]
    asking: Asking,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    let workload = args.namespace.read(&args.workload)?;
    if !workload.may_be(Of::Pod) {
        bail!("a Service has no certificate, its pods have; signet explain shows them");
    }
    let (name, identity) = match args.asking.whom().await? {
        Whom::Local(state) => local(&state, &workload).await?,
        Whom::Cluster(cluster) => in_cluster(&cluster, &workload).await?,
    };
    Output::to_stdout(args.asking.output).show(&identity, |identity| text(&name, identity))?;
    let well = identity.left_seconds.is_some_and(|left| left > 0) && identity.trust_fault.is_none();
    Ok(if well { Exit::Fine } else { Exit::Fix })
}

async fn local(state: &StateDir, workload: &Named) -> Result<(String, ProxyIdentity)> {
    let running = state.read_running()?;
    let child = find(&running, workload)?;
    let admin = child
        .admin_address
        .ok_or_else(|| anyhow!("{} has no admin address; restart the mesh", child.name))?;
    let asked = Place::Tcp(admin).get::<ProxyIdentity>("/identity").await;
    Ok((child.name.clone(), asked.map_err(|e| state.explain(&child.name, e))?))
}

async fn in_cluster(cluster: &Cluster, workload: &Named) -> Result<(String, ProxyIdentity)> {
    let pod = find_pod(cluster, workload).await?;
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    if !has_proxy(&pod) {
        bail!(
            "{namespace}/{name} in {} has no proxy; signet explain {namespace}/{name} says why",
            cluster.name
        );
    }
    let asked = cluster.pages(&namespace, &name).get::<ProxyIdentity>("/identity").await;
    let identity = asked.with_context(|| {
        format!("its proxy does not answer; see: kubectl -n {namespace} logs {name} -c {PROXY_CONTAINER}")
    })?;
    Ok((format!("{namespace}/{name}"), identity))
}

/// The pod, named in full, or by a name that only one has.
async fn find_pod(cluster: &Cluster, workload: &Named) -> Result<Pod> {
    let Named { namespace, name: workload, .. } = workload;
    let what = format!("asking for pod {workload}");
    if let Some(namespace) = namespace {
        let pod = cluster.pods(namespace).get_opt(workload).await.map_err(|e| cluster.explain(&what, e))?;
        return pod.with_context(|| format!("there is no pod {namespace}/{workload} in {}", cluster.name));
    }
    let named = ListParams::default().fields(&format!("metadata.name={workload}"));
    let pods = Api::<Pod>::all(cluster.client.clone()).list(&named).await;
    let mut pods = pods.map_err(|e| cluster.explain(&what, e))?.items;
    match pods.len() {
        1 => Ok(pods.swap_remove(0)),
        0 => bail!("there is no pod {workload:?} in {}", cluster.name),
        _ => {
            let names = pods.iter().map(|pod| format!("{}/{workload}", pod.namespace().unwrap_or_default()));
            bail!("{workload:?} may be any of {}; name one in full", names.collect::<Vec<_>>().join(", "))
        }
    }
}

/// The injector gave it one.
pub(crate) fn has_proxy(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.into_iter().any(|container| container.name == PROXY_CONTAINER)
}

fn find<'a>(running: &'a Running, workload: &Named) -> Result<&'a RunningChild> {
    let workload = &match &workload.namespace {
        Some(namespace) => format!("{namespace}/{}", workload.name),
        None => workload.name.clone(),
    };
    let proxies = || running.children.iter().filter(|child| child.kind == Kind::Proxy);
    let fits = |child: &&RunningChild| {
        child.name == *workload || child.name.rsplit_once('/').is_some_and(|(_, pod)| pod == workload)
    };
    let names =
        |found: Vec<&RunningChild>| found.iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(", ");
    match proxies().filter(fits).collect::<Vec<_>>()[..] {
        [child] => Ok(child),
        [] => bail!("no proxy runs for {workload:?}; there are {}", names(proxies().collect())),
        ref several => bail!("{workload:?} may be any of {}; name one in full", names(several.to_vec())),
    }
}

fn text(name: &str, identity: &ProxyIdentity) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let left = match &identity.not_after {
        Some(end) => format!("{} left, until {end}", human::left_until(end, clock::now())),
        None => "no certificate: all its mesh traffic is closed".into(),
    };
    let mut rows: Vec<[String; 2]> = vec![
        ["Workload".into(), name.to_owned()],
        ["SPIFFE ID".into(), identity.spiffe_id.clone()],
        ["Certificate".into(), left],
        ["Serial".into(), or_none(&identity.serial)],
        ["Key".into(), or_none(&identity.key)],
        ["Trusts".into(), identity.roots.join(", ")],
    ];
    if let Some(fault) = &identity.trust_fault {
        rows.push(["To fix".into(), fault.clone()]);
    }
    rows.iter().map(|[label, value]| format!("{label:<12} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(names: &[&str]) -> Running {
        let child = |name: &&str| RunningChild {
            name: (*name).into(),
            kind: if name.contains('/') { Kind::Proxy } else { Kind::Ca },
            pid: None,
            started: None,
            admin_address: None,
        };
        Running {
            version: String::new(),
            pid: 1,
            directory: "/d".into(),
            trust_domain: "cluster.local".into(),
            control_address: [127, 0, 0, 1].into(),
            edge_at: None,
            children: names.iter().map(child).collect(),
        }
    }

    #[test]
    fn a_workload_is_named_in_full_or_by_its_pod_where_that_is_enough() {
        let running = running(&["ca", "shop/api-0", "shop/web-0", "office/web-0"]);
        for (asked, want) in [
            ("shop/api-0", Ok("shop/api-0")),
            ("api-0", Ok("shop/api-0")),
            ("office/web-0", Ok("office/web-0")),
            ("web-0", Err("any of shop/web-0, office/web-0")),
            ("ca", Err("no proxy runs")),
            ("-0", Err("there are shop/api-0")),
        ] {
            let asked = InNamespace::default().read(asked).unwrap();
            match (find(&running, &asked), want) {
                (Ok(child), Ok(name)) => assert_eq!(child.name, name),
                (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{asked:?}: {e}"),
                (found, _) => panic!("{asked:?}: {found:?}"),
            }
        }
    }
}
