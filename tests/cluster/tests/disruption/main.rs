//! What the cluster survives. These tests stop what every other one needs: each has the cluster to itself.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use signet_cluster::{Namespace, TOOLBOX, disturb};
use signet_core::clock;
use tokio::time::sleep;

#[tokio::test]
async fn etcd_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("etcd", &["node1"]).await
}

#[tokio::test]
async fn the_api_server_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("kube-apiserver", &["node1"]).await
}

#[tokio::test]
async fn the_controller_manager_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("kube-controller-manager", &["node1"]).await
}

#[tokio::test]
async fn the_scheduler_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("kube-scheduler", &["node1"]).await
}

#[tokio::test]
async fn the_registry_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("registry", &["node1"]).await
}

#[tokio::test]
async fn a_kubelet_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("kubelet", &["node1", "node2"]).await
}

#[tokio::test]
async fn containerd_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("containerd", &["node1", "node2"]).await
}

#[tokio::test]
async fn kube_proxy_killed_is_started_again_and_new_pods_are_served() -> Result<()> {
    recovers("kube-proxy", &["node1", "node2"]).await
}

/// A new Deployment takes all of them: the API server and etcd keep it, the controllers make its pods and endpoints, the
/// scheduler, the kubelet and containerd run them, kube-proxy leads to them.
async fn recovers(component: &str, nodes: &[&str]) -> Result<()> {
    disturb(async |namespace| {
        for node in nodes {
            let (old, new) = (format!("old-{node}"), format!("new-{node}"));
            deploy(namespace, &old, node).await?;
            let killed = namespace.cluster.node(node)?.kill(component).await?;
            assert_eq!(killed.last_end.as_deref(), Some("signal: SIGKILL"));
            namespace.cluster.wait_api_ready().await?;
            deploy(namespace, &new, node).await?;
            for service in [&old, &new] {
                let url = format!("http://{}/", cluster_ips(namespace, service).await?[0]);
                let argv = ["curl", "-sS", "-m", "10", &url];
                let answer = namespace.run_client_on(node, TOOLBOX, &argv).await?.ok()?;
                assert!(answer.starts_with(&format!("nginx on {service}-")), "{answer}");
            }
        }
        no_container_restarted(namespace).await
    })
    .await
}

#[tokio::test]
async fn with_the_api_server_down_for_two_minutes_pods_talk_on_and_afterwards_everything_works_again()
-> Result<()> {
    disturb(async |namespace| {
        deploy(namespace, "old", "node1").await?;
        let [v4, v6] = cluster_ips(namespace, "old").await?[..] else { panic!("two families") };
        namespace.apply(&ASKS_ON.replace("V4", &v4.to_string()).replace("V6", &v6.to_string())).await?;
        namespace.wait_ready("asks-on").await?;
        let node = namespace.cluster.node("node1")?;
        let leaders = ["kube-controller-manager", "kube-scheduler"];
        let mut before = Vec::new();
        for leader in leaders {
            before.push(node.status(leader).await?);
        }

        let stopped = node.stop("kube-apiserver").await?;
        let from = clock::unix_now();
        sleep(Duration::from_secs(120)).await; // the outage itself, not a wait for something
        let until = clock::unix_now();
        for before in &before {
            let now = node.status(&before.name).await?;
            ensure!(
                now.restarts > before.restarts,
                "{} kept a lease that it could not renew: {now:?}",
                now.name
            );
        }
        stopped.end().await?;
        namespace.cluster.wait_api_ready().await?;
        deploy(namespace, "new", "node2").await?;

        let log = namespace.logs("asks-on", "asks-on").await?;
        let asked: Vec<(&str, i64)> = log
            .lines()
            .map(|line| {
                let (how, when) = line.split_once(' ').context("a line is an answer and a time")?;
                Ok((how, when.parse()?))
            })
            .collect::<Result<_>>()?;
        assert!(asked.iter().all(|(how, _)| *how == "ok"), "{log}");
        // In each half minute of the outage somebody asked, in both families.
        for begin in (from..until - 29).step_by(30) {
            let during = asked.iter().filter(|(_, when)| (begin..begin + 30).contains(when)).count();
            assert!(during >= 2, "from {begin}: {log}");
        }
        no_container_restarted(namespace).await
    })
    .await
}

#[tokio::test]
async fn with_containerd_paused_pods_talk_on_and_afterwards_the_node_runs_new_ones() -> Result<()> {
    disturb(async |namespace| {
        deploy(namespace, "old", "node2").await?;
        let pods = namespace.wait_ready_pods("app=old", 1).await?;
        let address =
            pods[0].status.as_ref().and_then(|status| status.pod_ip.clone()).context("a Ready pod")?;
        let url = format!("http://{address}:8080/");
        let argv = ["curl", "-sS", "-m", "10", &url];

        let paused = namespace.cluster.node("node2")?.pause("containerd").await?;
        namespace.cluster.wait_node_not_ready("node2").await?;
        // From the other node: on this one, nothing can be started.
        let answer = namespace.run_client_on("node1", TOOLBOX, &argv).await?.ok()?;
        assert!(answer.starts_with("nginx on old-"), "{answer}");
        paused.end().await?;

        namespace.cluster.wait_node_ready("node2").await?;
        deploy(namespace, "new", "node2").await?;
        no_container_restarted(namespace).await
    })
    .await
}

/// What waits while the API server is away goes on waiting, and finds what is there afterwards.
#[tokio::test]
async fn a_wait_outlives_a_restart_of_the_api_server() -> Result<()> {
    disturb(async |namespace| {
        let late = "{apiVersion: v1, kind: ConfigMap, metadata: {name: late}}";
        let wait = namespace.wait_for::<ConfigMap>("late", "to exist", |_| true);
        let (found, applied) = tokio::join!(wait, async {
            namespace.cluster.restart_api_server().await?;
            namespace.apply(late).await
        });
        applied?;
        found.map(drop)
    })
    .await
}

/// Asks both addresses again and again and says how it went, and when.
const ASKS_ON: &str = "
apiVersion: v1
kind: Pod
metadata: {name: asks-on}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: asks-on
    image: signet.test/toolbox:1
    imagePullPolicy: IfNotPresent
    command:
    - sh
    - -c
    - |
      while :; do
        for address in V4 [V6]; do
          if curl -sSf -m 5 -o /dev/null http://$address/; then echo ok $(date +%s); else echo failed $(date +%s); fi
        done
        sleep 0.5
      done
";

/// One new pod on `node`, as a Deployment behind a Service of its name; waits until every node leads to it.
async fn deploy(namespace: &Namespace, name: &str, node: &str) -> Result<()> {
    let yaml = format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 0
      containers:
      - name: nginx
        image: signet.test/nginx:1
        imagePullPolicy: Always
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    );
    let namespace = namespace.within(RECOVERY);
    namespace.apply(&yaml).await?;
    namespace.wait_deployment_available(name).await?;
    namespace.wait_endpoints(name, 1).await
}

/// IPv4 first.
async fn cluster_ips(namespace: &Namespace, service: &str) -> Result<Vec<IpAddr>> {
    let spec = namespace.api::<Service>().get(service).await?.spec.unwrap_or_default();
    let ips = spec.cluster_ips.unwrap_or_default();
    let mut ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
    ips.sort_unstable();
    Ok(ips)
}

async fn no_container_restarted(namespace: &Namespace) -> Result<()> {
    for pod in namespace.api::<Pod>().list(&Default::default()).await? {
        for container in pod.status.unwrap_or_default().container_statuses.unwrap_or_default() {
            ensure!(container.restart_count == 0, "{container:?}");
        }
    }
    Ok(())
}

/// A lease that its holder did not give back is free after 15 s; an image pull or a mount that failed meanwhile is tried
/// again with a pause that doubles, up to minutes.
const RECOVERY: Duration = Duration::from_secs(180);
