//! Going strict as docs/strict.md says it: `signet check --strict-ready` names who would be cut off, and its advice lets them in.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    installed::{Mesh, mesh},
    pods::{addresses, toolbox, url},
    strict::{WEB, ensure_served, refused, set_mode, settle},
};

#[tokio::test]
async fn strict_ready_names_who_would_be_cut_off_and_permissive_ports_let_them_in_there_only() -> Result<()> {
    mesh(async |mesh| {
        mesh.label().await?;
        let shop = &mesh.namespace;
        shop.apply(&(WEB.to_owned() + &toolbox("client", "node1"))).await?;
        let (web, office) = Box::pin(settle(mesh)).await?;
        let address = addresses(&web)?[0];
        let (http, grpc) = (url(address, 8080), url(address, 9000));

        let (status, found) = strict_ready(mesh).await?;
        ensure!(status == 0 && found.is_empty(), "before anybody called: {status}, {found:?}");
        for url in [&http, &grpc] {
            ensure_served(&office, url, true).await?;
        }
        let stranger = |port: u16| {
            format!("{}/stranger calls {}/web at port {port} in plaintext", office.name, shop.name)
        };
        let named = async || {
            let (status, found) = strict_ready(mesh).await?;
            ensure!(status == 1, "it ended with {status}: {found:?}");
            for port in [8080, 9000] {
                ensure!(
                    found.iter().any(|(what, id)| id == "SG040" && what.starts_with(&stranger(port))),
                    "{found:#?}"
                );
            }
            Ok(())
        };
        shop.eventually("the stranger to be named at both ports", named).await?;
        Box::pin(all_the_others(mesh, &http)).await?;

        set_mode(mesh, "strict").await?;
        let holds = async |open: &[(&String, bool)]| {
            let each = async || {
                for (url, served) in open {
                    ensure_served(&office, url, *served).await?;
                }
                Ok(())
            };
            shop.eventually(&format!("{open:?}"), each).await
        };
        holds(&[(&http, false), (&grpc, false)]).await?;
        let annotate = async |kind: &str, name: &str, value: &str| {
            let annotation = format!("signet.dev/permissive-ports{value}");
            mesh.kubectl(&["-n", &shop.name, "annotate", "--overwrite", kind, name, &annotation], "").await
        };
        annotate("namespace", &shop.name, "=9000").await?;
        holds(&[(&http, false), (&grpc, true)]).await?;
        let (_, found) = strict_ready(mesh).await?;
        let is_let_in = |what: &String| what.starts_with(&stranger(9000));
        ensure!(!found.keys().any(is_let_in), "let in and named: {found:#?}");
        annotate("pod", "web", "=8080").await?;
        holds(&[(&http, true), (&grpc, true)]).await?;
        annotate("namespace", &shop.name, "-").await?;
        holds(&[(&http, true), (&grpc, false)]).await?;
        annotate("pod", "web", "-").await?;
        holds(&[(&http, false), (&grpc, false)]).await?;
        refused(&office, &http).await?;
        office.delete().await
    })
    .await
}

/// Everything else that it knows, on the real thing: each finding with the words that it must hold.
async fn all_the_others(mesh: &Mesh, http: &str) -> Result<()> {
    let shop = &mesh.namespace;
    shop.apply(TROUBLE).await?;
    shop.apply(&WEBHOOK_MANIFEST.replace("$SHOP", &shop.name)).await?;
    for pod in ["agent", "alone", "scraped"] {
        shop.wait_ready(pod).await?;
    }
    shop.exec("agent", "toolbox", &["curl", "-sS", "-m", "10", http]).await?.ok()?;
    let wanted = [
        ("SG041", format!("{0}/agent calls {0}/web at port 8080 in plaintext (host_network)", shop.name)),
        ("SG042", "agent".to_owned()),
        ("SG043", "alone".to_owned()),
        ("SG044", format!("Service {}/web at port 80 (pod port 8080) for the validating webhook", shop.name)),
        ("SG045", format!("NetworkPolicy {}/tight keeps", shop.name)),
        ("SG046", "talk 5000/UDP".to_owned()),
        ("SG047", "scraped (9100)".to_owned()),
    ];
    let all = async || {
        let (_, found) = strict_ready(mesh).await?;
        for (id, words) in &wanted {
            let is_it = |(what, of): (&String, &String)| of == id && what.contains(words);
            ensure!(found.iter().any(is_it), "no {id} with {words:?} in {found:#?}");
        }
        Ok(())
    };
    shop.eventually("every finding", all).await
}

/// Its exit status, and what it found: words and ID.
async fn strict_ready(mesh: &Mesh) -> Result<(i32, BTreeMap<String, String>)> {
    let ask = ["check", "--strict-ready", &mesh.namespace.name, "-o", "json"];
    let (status, said) = mesh.signet_said(&ask, "").await?;
    let report: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(report["unchecked"].as_array().is_some_and(Vec::is_empty), "{said}");
    let word = |finding: &Value, field: &str| finding[field].as_str().map(str::to_owned);
    let found = report["findings"].as_array().context("a list")?.iter();
    let found = found.map(|finding| word(finding, "what").zip(word(finding, "id")).context("its words"));
    Ok((status, found.collect::<Result<_>>()?))
}

/// Called for nothing: no namespace has that label. It goes with the story's namespace.
const WEBHOOK_MANIFEST: &str = "---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: strict-ready.example.com}
webhooks:
- name: strict-ready.example.com
  clientConfig: {service: {namespace: $SHOP, name: web, port: 80}}
  namespaceSelector: {matchLabels: {example.com/none: 'yes'}}
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  sideEffects: None
  admissionReviewVersions: [v1]
";

/// The network of these nodes does not enforce policies, so the proxies go on.
const TROUBLE: &str = "---
apiVersion: v1
kind: Pod
metadata: {name: agent}
spec:
  nodeName: node1
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{name: toolbox, image: 'signet.test/toolbox:1', imagePullPolicy: IfNotPresent}]
---
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {signet.dev/inject: disabled}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers: [{name: toolbox, image: 'signet.test/toolbox:1', imagePullPolicy: IfNotPresent}]
---
apiVersion: v1
kind: Pod
metadata: {name: scraped, annotations: {signet.dev/exclude-inbound-ports: '9100'}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers: [{name: toolbox, image: 'signet.test/toolbox:1', imagePullPolicy: IfNotPresent}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: tight}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: talk}
spec: {selector: {app: talk}, ports: [{port: 5000, protocol: UDP}]}
";
