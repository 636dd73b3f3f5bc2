//! A mesh under a root of the user's own, who brings intermediates of it in a Secret: the CA signs below them, never has the key of
//! the root, is led to another root without a failed request, and with nothing to sign with it waits, and makes none.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use serde_json::{Value, json};
use signet_cluster::is_ready;
use signet_core::{
    bundle::{TrustBundle, certificate_pem, root_id},
    clock,
    identity::TrustDomain,
    tls,
    trust::Trust,
    verifier::MeshVerifier,
};

use crate::{
    installed::{Mesh, mesh_after},
    rotation::{is_in, record, root, state, steps_were_taken_once},
    traffic::{STARTS, only_the_service_was_reached, restarts, serve, under_load},
};

#[tokio::test]
async fn a_mesh_stands_under_the_users_root_is_led_to_another_under_load_and_with_neither_makes_none()
-> Result<()> {
    let (one, two) = (Root::new("one")?, Root::new("two")?);
    let options =
        ["--expose", "none", "--leaf-life", "20s", "--allow-short-leaves", "--trust-domain", DOMAIN];
    let prepare = async |mesh: &Mesh| {
        mesh.kubectl(&["create", "namespace", "signet-system"], "").await?;
        bring(mesh, &one.intermediate(1)?).await
    };
    mesh_after(prepare, &options, async |mesh| {
        serve(mesh).await?;
        stands_under(mesh, &one, "01").await?;
        let (pods, served) = (restarts(&mesh.system).await?, restarts(&mesh.namespace).await?);
        let mut history = Vec::new();
        under_load(mesh, async || {
            // Renewed: no rotation.
            bring(mesh, &one.intermediate(2)?).await?;
            stands_under(mesh, &one, "02").await?;
            is_in(&mesh.system, "steady").await?;
            // Another root.
            let rotation = async {
                bring(mesh, &two.intermediate(3)?).await?;
                stands_under(mesh, &two, "03").await
            };
            tokio::select! {
                ended = rotation => ended?,
                failed = record(&mesh.system, &mut history) => failed?,
            }
            only_the_service_was_reached(mesh).await
        })
        .await?;
        steps_were_taken_once(&history)?;
        ensure!(restarts(&mesh.system).await? == pods, "of the system: {pods:?}");
        let mut of_the_team = restarts(&mesh.namespace).await?;
        of_the_team.retain(|pod, _| !pod.starts_with("load "));
        ensure!(of_the_team == served, "{of_the_team:?} were {served:?}");
        Box::pin(makes_no_root_without_it(mesh, &two)).await
    })
    .await
}

/// The Secret is deleted, and every replica begins again.
async fn makes_no_root_without_it(mesh: &Mesh, root: &Root) -> Result<()> {
    let system = mesh.system.within(STARTS);
    system.api::<Secret>().delete(SECRET, &DeleteParams::default()).await?;
    let found = async || {
        let (_, report) = mesh.signet_said(&["check", "-o", "json"], "").await?;
        let report: Value = serde_json::from_str(&report)?;
        let mut findings = report["findings"].as_array().into_iter().flatten();
        ensure!(findings.any(|finding| finding["id"] == "SG032"), "{report:#}");
        Ok(())
    };
    system.eventually("signet check to miss the Secret", found).await?;
    let before = state(&mesh.system).await?;

    let of_the_ca = ListParams::default().labels(CA);
    let pods = system.api::<Pod>().list(&of_the_ca).await?;
    for pod in &pods {
        system.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await?;
    }
    let waits = async || {
        let now = system.api::<Pod>().list(&of_the_ca).await?;
        ensure!(
            now.items.len() == 2 && now.iter().all(|pod| !pods.iter().any(|old| old.uid() == pod.uid())),
            "not yet"
        );
        for pod in &now {
            let log = system.logs(&pod.name_any(), "ca").await?;
            ensure!(log.contains("signet-ca-intermediate") && log.contains("cannot start yet"), "{log}");
            ensure!(!is_ready(pod), "{} is Ready", pod.name_any());
        }
        Ok(())
    };
    system.eventually("both replicas to say what they wait for", waits).await?;
    ensure!(state(&mesh.system).await? == before, "something was written");

    bring(mesh, &root.intermediate(4)?).await?;
    mesh.available().await?;
    stands_under(mesh, root, "04").await
}

/// The installation's only root is this one, without its key; both replicas sign below the intermediate with this serial, and so
/// does what a pod of the service holds.
async fn stands_under(mesh: &Mesh, wanted: &Root, serial: &str) -> Result<()> {
    let settled = async || {
        ensure!(root(mesh).await? == wanted.id, "another root");
        let text = state(&mesh.system).await?.to_string();
        ensure!(!text.contains("PRIVATE KEY"), "the state has a key");
        let status: Value = serde_json::from_str(&mesh.signet(&["ca", "status", "-o", "json"]).await?)?;
        let replicas = status["replicas"].as_array().context("replicas")?;
        let signs = |replica: &Value| {
            let intermediate = &replica["intermediate"];
            intermediate["issuedBy"] == wanted.id.as_str() && intermediate["brought"]["serial"] == serial
        };
        ensure!(replicas.len() == 2 && replicas.iter().all(signs), "{status:#}");
        ensure!(status["roots"][0]["brought"] == true && status["fault"].is_null(), "{status:#}");
        Ok(())
    };
    let namespace = mesh.namespace.within(ROTATES);
    namespace.eventually(&format!("replicas to sign below intermediate {serial}"), settled).await?;
    let pods = namespace.api::<Pod>().list(&ListParams::default().labels("app=web")).await?;
    let pod = pods.items.first().context("a pod of the service")?.name_any();
    let renewed = async || {
        let asked = ["identity", "-n", &namespace.name, &pod, "-o", "json"];
        let identity: Value = serde_json::from_str(&mesh.signet(&asked).await?)?;
        wanted.believes(identity["chain"].as_str().context("a chain")?, serial)
    };
    namespace.eventually("a pod to hold a certificate below it", renewed).await
}

async fn bring(mesh: &Mesh, intermediate: &Secret) -> Result<()> {
    let api = mesh.system.api::<Secret>();
    if api.get_opt(SECRET).await?.is_none() {
        api.create(&PostParams::default(), intermediate).await?;
        return Ok(());
    }
    let patch = json!({ "data": intermediate.data });
    api.patch(SECRET, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A root of the user's, which the cluster has the certificate of.
struct Root {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    id: String,
}

impl Root {
    fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let params = ca(name, 0);
        let der = params.self_signed(&key)?.der().clone();
        Ok(Self { id: root_id(&der), issuer: Issuer::from_ca_cert_der(&der, key)?, der })
    }

    /// A Secret with one of this serial, as docs/ca.md says to make it.
    fn intermediate(&self, serial: u8) -> Result<Secret> {
        let key = KeyPair::generate()?;
        let certificate = ca("mesh", serial).signed_by(&key, &self.issuer)?;
        let data = [
            ("tls.crt", certificate_pem(certificate.der())),
            ("tls.key", key.serialize_pem()),
            ("ca.crt", certificate_pem(&self.der)),
        ];
        let mut secret = Secret { type_: Some("kubernetes.io/tls".into()), ..Secret::default() };
        secret.metadata.name = Some(SECRET.into());
        secret.data = Some(data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into());
        Ok(secret)
    }

    /// Whether whoever knows this root alone believes the chain, in which the intermediate with this serial comes last.
    fn believes(&self, chain: &str, serial: &str) -> Result<()> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
        let trust = Trust::new(TrustDomain::new(DOMAIN)?);
        trust.offer(TrustBundle::new(1, vec![self.der.clone()], vec![]).map_err(anyhow::Error::msg)?);
        let verifier = MeshVerifier::new(trust, tls::default_provider().signature_verification_algorithms);
        verifier.check_chain(&chain, UnixTime::now())?;
        let [_leaf, _ours, brought] = &chain[..] else { anyhow::bail!("a chain of {}", chain.len()) };
        // Behind the version, 3: the serial, an INTEGER of one byte (RFC 5280 4.1).
        let version_and_serial = [2, 1, 2, 2, 1, u8::from_str_radix(serial, 16)?];
        let is_it = brought.windows(6).take(20).any(|bytes| bytes == version_and_serial);
        ensure!(is_it, "not below intermediate {serial}");
        Ok(())
    }
}

fn ca(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = clock::now();
    (params.not_before, params.not_after) =
        (now - Duration::from_secs(300), now + Duration::from_secs(30 * 86_400));
    if serial > 0 {
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        params.use_authority_key_identifier_extension = true;
    }
    params
}

const DOMAIN: &str = "prod.example";
const SECRET: &str = "signet-ca-intermediate";
const CA: &str = "app.kubernetes.io/name=ca";
/// A minute until it is seen, two leaf lives of 20 s, twice 33 s until a step is dated, and a busy machine.
const ROTATES: Duration = Duration::from_secs(260);
