//! Manifests that more than one story uses.

use std::net::IpAddr;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;

/// Answers on 8080 with "nginx on <name> for <address of the client>". Label `app: <app>`.
pub(crate) fn nginx(name: &str, app: &str, node: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: nginx
    image: signet.test/nginx:1
    imagePullPolicy: IfNotPresent
    ports: [{{containerPort: 8080}}]
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"
    )
}

/// Waits to be told what to do, in its container `toolbox`.
pub(crate) fn toolbox(name: &str, node: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: toolbox, image: signet.test/toolbox:1, imagePullPolicy: IfNotPresent}}
"
    )
}

/// Port 80 of it leads to 8080 of the pods with `app: <name>`, in both families. `more` goes into its spec.
pub(crate) fn service(name: &str, more: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
{more}
"
    )
}

/// IPv4 and IPv6, sorted: one of each.
pub(crate) fn addresses(pod: &Pod) -> Result<Vec<IpAddr>> {
    let status = pod.status.clone().unwrap_or_default();
    let ips = status.pod_ips.unwrap_or_default();
    let mut addresses: Vec<IpAddr> = ips.iter().map(|one| one.ip.parse()).collect::<Result<_, _>>()?;
    addresses.sort_unstable();
    let families: Vec<_> = addresses.iter().map(IpAddr::is_ipv6).collect();
    anyhow::ensure!(families == [false, true], "{addresses:?} is not one address of each family");
    Ok(addresses)
}

/// `http://<address>:<port>/`, with brackets where they are needed.
pub(crate) fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}/", std::net::SocketAddr::new(address, port))
}
