//! A native sidecar takes the traffic of its pod with nftables: what Signet's own sidecar rests on.

use anyhow::Result;
use signet_cluster::{Namespace, test};

use crate::pods::{addresses, nginx, toolbox, url};

/// Takes what leaves for port 8080, except its own (it is root, the app is not), and what comes in for it.
const POD: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: side}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: sidecar
    image: signet.test/toolbox:1
    imagePullPolicy: IfNotPresent
    restartPolicy: Always
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_ADMIN]}}
    startupProbe: {tcpSocket: {port: 15001}, periodSeconds: 1}
    command:
    - sh
    - -ec
    - |
      nft -f - <<RULES
      table inet side {
        chain outbound {
          type nat hook output priority -100;
          meta skuid 0 return;
          tcp dport 8080 counter redirect to :15001;
        }
        chain inbound {
          type nat hook prerouting priority -100;
          tcp dport 8080 counter redirect to :15001;
        }
      }
      RULES
      mkdir /tmp/www
      echo from the sidecar >/tmp/www/index.html
      exec httpd -f -p 15001 -h /tmp/www
  containers:
  - {name: app, image: signet.test/toolbox:1, imagePullPolicy: IfNotPresent}
";

#[tokio::test]
async fn a_native_sidecar_with_net_admin_takes_its_pods_traffic_in_both_directions_and_families() -> Result<()>
{
    test(async |namespace| {
        namespace.apply(&(nginx("web", "web", "node1") + &toolbox("client", "node1") + POD)).await?;
        let web = addresses(&namespace.wait_ready("web").await?)?;
        let side = addresses(&namespace.wait_ready("side").await?)?;
        namespace.wait_ready("client").await?;
        for (web, side) in web.into_iter().zip(side) {
            let (web, side) = (url(web, 8080), url(side, 8080));
            assert_eq!(curl(namespace, "side", "app", &web).await?, "from the sidecar");
            assert_eq!(curl(namespace, "client", "toolbox", &side).await?, "from the sidecar");
            let itself = curl(namespace, "side", "sidecar", &web).await?;
            assert!(itself.starts_with("nginx on web for "), "the sidecar's own request got {itself}");
        }
        Ok(())
    })
    .await
}

async fn curl(namespace: &Namespace, pod: &str, container: &str, url: &str) -> Result<String> {
    namespace.exec(pod, container, &["curl", "-sS", "-m", "10", url]).await?.ok()
}
