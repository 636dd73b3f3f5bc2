//! `signet install`: the manifests of deploy/ with the user's few settings, on stdout. It changes nothing; kubectl, Argo CD or Flux do.

pub(crate) mod acme;
pub(crate) mod helm;
pub(crate) mod manifests;
pub(crate) mod ranges;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use signet_ca::Life;
use signet_controller::edge::EdgeIssuer;
use signet_core::{VERSION, identity::TrustDomain, pod::Serving};
use signet_edge_ca::Suffix;

use crate::{
    Exit,
    cluster::Which,
    install::manifests::{Expose, Settings},
    output::{self, Format, Output},
};

/// Print the manifests that run Signet in a cluster
///
/// What a cluster needs: a namespace signet-system with CA, controller, injector and edge, their rights, the webhook, and gateways in
/// signet-gateway that serve the Ingresses of class signet. Printed as YAML, the same for the same options, so it can be kept in Git.
/// Applying it again never touches what our parts made: the root, the trust bundles, the webhook's caBundle, claims of hosts. Then label a
/// namespace with signet.dev/inject=enabled and restart its Deployments.
///
/// Changes nothing. Without --mesh-range it asks the cluster of the kubeconfig for its ranges.
///
/// Examples:
///   signet check --pre && signet install | kubectl apply --server-side -f -
///   signet install --dev --expose hostport | kubectl apply --server-side -f -      # kind, Minikube: one replica of each
///   signet install --acme-email you@example.com | kubectl apply --server-side -f -  # public hosts with certificates of Let's Encrypt
///   signet install --trust-domain prod.example.com --mesh-range 10.244.0.0/16 --mesh-range 10.96.0.0/12 > signet.yaml
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 printed, 1 could not")]
pub(crate) struct Args {
    /// First part of every identity; cannot be changed later
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: String,
    /// One replica of each part and no disruption budgets
    #[arg(long)]
    dev: bool,
    /// The image of control plane and proxies
    #[arg(long, value_name = "IMAGE", default_value_t = default_image(), value_parser = image)]
    image: String,
    /// A range of the cluster's pod or Service addresses; may be repeated [default: asked of the cluster]
    ///
    /// Inside these ranges nothing is sent in plaintext unless the controller says so; outside of them everything passes.
    #[arg(long, value_name = "CIDR")]
    mesh_range: Vec<IpNet>,
    /// Longest life of a workload's certificate, 1h to 24h
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    leaf_life: String,
    /// Allow a --leaf-life below 1h, for tests
    #[arg(long, hide = true)]
    allow_short_leaves: bool,
    /// How public hosts are reached
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    expose: Expose,
    /// Who certifies the hosts of Ingresses that ask for a certificate and bring none, where signet.dev/edge-issuer does not say it
    #[arg(long, value_enum, default_value_t)]
    edge_issuer: EdgeIssuer,
    /// The edge CA, when it is made, is for names below this one, too, beside .localhost and .test. May be repeated
    #[arg(long, value_name = "SUFFIX")]
    edge_suffix: Vec<Suffix>,
    #[command(flatten)]
    acme: acme::Args,
    /// YAML or JSON file that says how gateways serve, with fields like drainSeconds and proxyProtocol: see docs/gateway.md
    #[arg(long, value_name = "FILE")]
    gateway_settings: Option<PathBuf>,
    /// Leave the number of gateways to an autoscaler: print none
    #[arg(long)]
    gateway_autoscaled: bool,
    /// Write the Helm chart into this directory instead
    #[arg(long, value_name = "DIR", hide = true)]
    helm: Option<PathBuf>,
    #[command(flatten)]
    cluster: Which,
}

pub(crate) async fn run(args: Args) -> Result<Exit> {
    if let Some(directory) = &args.helm {
        helm::write(directory)?;
        return Ok(Exit::Fine);
    }
    check_life(&args.leaf_life, args.allow_short_leaves)?;
    let serving = args.gateway_settings.as_deref().map(serving).transpose()?.unwrap_or_default();
    let acme = args.acme.read()?;
    let mesh_ranges =
        if args.mesh_range.is_empty() { ask_ranges(&args.cluster).await? } else { args.mesh_range };
    let settings = Settings {
        trust_domain: args.trust_domain,
        image: args.image,
        leaf_life: args.leaf_life,
        allow_short_leaves: args.allow_short_leaves,
        mesh_ranges: mesh_ranges.iter().map(ToString::to_string).collect(),
        dev: args.dev,
        expose: args.expose,
        edge_issuer: args.edge_issuer,
        edge_suffixes: args.edge_suffix.iter().map(ToString::to_string).collect(),
        acme,
        serving,
        autoscaled: args.gateway_autoscaled,
    };
    let text = manifests::print(&manifests::render(&settings)?)?;
    Output::to_stdout(Format::Table).print(&text)?;
    Ok(Exit::Fine)
}

async fn ask_ranges(cluster: &Which) -> Result<Vec<IpNet>> {
    const INSTEAD: &str =
        "the mesh's ranges are not known; name the cluster's pod and Service ranges, each with --mesh-range";
    let cluster = cluster.connect().await.context(INSTEAD)?;
    let ranges = ranges::of_cluster(&cluster).await.context(INSTEAD)?;
    let words: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    output::note(&format!(
        "The mesh's ranges, as {} tells them: {}. A cluster whose pods may get other addresses needs --mesh-range.",
        cluster.name,
        words.join(", ")
    ));
    Ok(ranges)
}

/// What the gateway would refuse at its start is refused here.
fn serving(file: &Path) -> Result<Serving> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("--gateway-settings {name}"))?;
    let serving: Serving =
        serde_saphyr::from_str(&text).with_context(|| format!("--gateway-settings {name}"))?;
    serving.check().with_context(|| format!("--gateway-settings {name}"))?;
    Ok(serving)
}

fn check_life(text: &str, short: bool) -> Result<()> {
    let life = text.parse::<Life>().map_err(anyhow::Error::msg).context("--leaf-life")?.0;
    let shortest = if short { 1 } else { HOUR };
    if !(shortest..=24 * HOUR).contains(&life) {
        bail!("--leaf-life {text}: allowed are 1h to 24h");
    }
    Ok(())
}

/// As the CA takes it.
fn trust_domain(name: &str) -> Result<String, String> {
    match TrustDomain::new(name) {
        Ok(domain) if domain.as_str() == name => Ok(name.to_owned()),
        Ok(domain) => Err(format!("write it as {domain}")),
        Err(error) => Err(format!("{error}; use a name like cluster.local")),
    }
}

fn image(name: &str) -> Result<String, String> {
    let fine = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
    if fine { Ok(name.to_owned()) } else { Err("use a name like registry.example.com/signet:0.1.0".into()) }
}

/// Of the version that prints the manifests: both are tested together.
pub(crate) fn default_image() -> String {
    format!("signet.dev/signet:{VERSION}")
}

/// Seconds.
const HOUR: i64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_gateways_are_read_from_yaml_and_what_means_nothing_is_named() {
        let file = std::env::temp_dir().join(format!("signet-gateway-settings-{}.yaml", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            serving(&file)
        };
        let told =
            "drainSeconds: 30\nhttp:\n  upstream: { idleSeconds: 300 }\n  head: { encodedSlash: pass }\n";
        let serving = read(told).unwrap();
        assert_eq!((serving.drain_seconds, serving.http.upstream.idle_seconds), (30, Some(300)));
        for (text, said) in [
            (
                "http: { client: { headSeconds: 0 } }",
                "http.client.headSeconds: \"0\" is not a number of seconds, 1 to 86400",
            ),
            ("http: { client: { headSecond: 1 } }", "headSecond"),
            ("http: { head: { underscores: keep } }", "keep"),
            ("http: { h2: { streams: many } }", "line 1"),
            ("workers: 0", "workers: "),
        ] {
            let why = format!("{:#}", read(text).expect_err(text));
            assert!(why.contains(said) && why.contains("--gateway-settings"), "{text}: {why}");
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn settings_that_a_part_would_refuse_at_its_start_are_refused_here() {
        for (life, short, fine) in [
            ("24h", false, true),
            ("1h", false, true),
            ("59m", false, false),
            ("20s", true, true),
            ("25h", true, false),
            ("", false, false),
        ] {
            assert_eq!(check_life(life, short).is_ok(), fine, "{life}");
        }
        assert!(trust_domain("Prod.example.com").unwrap_err().contains("prod.example.com"));
        assert!(trust_domain("prod\nx").is_err() && trust_domain("prod.example.com").is_ok());
        assert!(
            image("a b").is_err()
                && image("x\n").is_err()
                && image("r.example.com:5000/signet@sha256:00").is_ok()
        );
    }
}
