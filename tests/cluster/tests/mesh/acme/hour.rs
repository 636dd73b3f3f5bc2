//! An hour of two hundred hosts whose certificates last five minutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use signet_cluster::Namespace;
use signet_core::clock;
use tokio::time::{MissedTickBehavior, interval};
use x509_parser::parse_x509_certificate;

use super::{ASKS, Setting, answered, certified, ingress, leaf, list, opens, outside::Outside};
use crate::{edge::web::Web, installed::Mesh, record::Record};

#[tokio::test]
#[ignore = "soak: make soak"]
async fn two_hundred_hosts_with_certificates_of_five_minutes_are_renewed_in_time_for_an_hour_and_memory_stays()
-> Result<()> {
    let record = Record::begin("soak", "8.6")?;
    let setting = Setting { life: LIFE, options: &["--acme-profile", "story"], ..Setting::default() };
    certified(setting, async |mesh, outside, addresses| {
        let hosts: Vec<String> = (0..HOSTS).map(|n| format!("h{n}.acme.test")).collect();
        let ingresses = hosts.iter().enumerate().map(|(n, host)| ingress(&format!("h{n}"), host, ASKS));
        mesh.namespace.apply(&ingresses.collect::<String>()).await?;
        let web = outside.web(mesh, *addresses.first().context("an address")?).await?;
        for host in &hosts {
            opens(&mesh.namespace, &web, host).await?;
        }
        let (_, before) = outside.orders()?;
        let met = Box::pin(hour(mesh, &web, &hosts)).await?;
        let numbers = met.numbers(outside, before)?;
        eprintln!("{numbers:#}");
        let (status, certificates) = list(mesh).await?;
        let failing: Vec<&Value> =
            certificates.iter().filter(|one| one["failures"] != json!([]) || one["served"] != true).collect();
        ensure!(status == 0 && failing.is_empty(), "{status}: {failing:#?}");
        ensure!(
            met.least_left >= IN_TIME,
            "a certificate with {} s of {LIFE} left was shown",
            met.least_left
        );
        for (process, grown) in met.growth()? {
            ensure!(grown <= GROWS, "{process} has grown by {:.1} %", 100.0 * grown);
        }
        record.held(&numbers).context("write the record")
    })
    .await
}

/// What the hour's clients met.
struct Met {
    requests: usize,
    /// Leaves, as DER.
    certificates: BTreeSet<Vec<u8>>,
    /// Of the life of what was shown, seconds.
    least_left: i64,
    /// By process: samples in order of time, bytes.
    memory: BTreeMap<String, Vec<u64>>,
}

/// One request and one handshake after the other, each host in its turn. Any that fails ends it.
async fn hour(mesh: &Mesh, web: &Web, hosts: &[String]) -> Result<Met> {
    let mut met = Met {
        requests: 0,
        certificates: BTreeSet::new(),
        least_left: i64::from(LIFE),
        memory: BTreeMap::new(),
    };
    let begun = Instant::now();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampled = None::<Instant>;
    for host in hosts.iter().cycle() {
        ticks.tick().await;
        if begun.elapsed() >= LASTS {
            break;
        }
        let leaf = leaf(web, host).await.with_context(|| format!("{host} at {:?}", begun.elapsed()))?;
        met.least_left = met.least_left.min(not_after(&leaf)? - clock::unix_now());
        met.certificates.insert(leaf);
        answered(web, &format!("https://{host}/"))
            .await
            .with_context(|| format!("at {:?}", begun.elapsed()))?;
        met.requests += 2;
        if begun.elapsed() > SETTLES && sampled.is_none_or(|at| at.elapsed() >= SAMPLED) {
            sampled = Some(Instant::now());
            Box::pin(sample(&mesh.system, "edge", &mut met.memory)).await?;
            Box::pin(sample(&mesh.gateways, "gateway", &mut met.memory)).await?;
        }
    }
    Ok(met)
}

async fn sample(namespace: &Namespace, part: &str, memory: &mut BTreeMap<String, Vec<u64>>) -> Result<()> {
    let labelled = ListParams::default().labels(&format!("app.kubernetes.io/name={part}"));
    for pod in namespace.api::<Pod>().list(&labelled).await? {
        let name = pod.name_any();
        let bytes = namespace.memory(&name, part).await?;
        memory.entry(name).or_default().push(bytes);
    }
    Ok(())
}

impl Met {
    /// Of each process: how much more its last sixth needs than its first, by their medians, as a part of the first.
    fn growth(&self) -> Result<BTreeMap<&str, f64>> {
        let mut all = BTreeMap::new();
        for (name, samples) in &self.memory {
            let part = (samples.len() / 6).max(1);
            let first = median(samples.get(..part).context("samples")?);
            let last = median(samples.get(samples.len() - part..).context("samples")?);
            all.insert(name.as_str(), (last - first) / first);
        }
        Ok(all)
    }

    fn numbers(&self, outside: &Outside, before: usize) -> Result<Value> {
        let (_, finalized) = outside.orders()?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let memory: BTreeMap<&str, Value> = self
            .memory
            .iter()
            .map(|(name, samples)| {
                let samples: Vec<f64> =
                    samples.iter().map(|bytes| (mib(*bytes) * 10.0).round() / 10.0).collect();
                (name.as_str(), json!(samples))
            })
            .collect();
        Ok(json!({
            "hosts": HOSTS, "lifeSeconds": LIFE, "seconds": LASTS.as_secs(), "requestsAndHandshakes": self.requests,
            "failed": 0, "certificatesMet": self.certificates.len(), "renewals": finalized - before,
            "leastSecondsLeft": self.least_left, "memoryMiBEachMinute": memory, "growth": self.growth()?,
        }))
    }
}

fn median(samples: &[u64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default() as f64
}

fn not_after(leaf: &[u8]) -> Result<i64> {
    let (_, leaf) = parse_x509_certificate(leaf)?;
    Ok(leaf.validity().not_after.timestamp())
}

const HOSTS: usize = 200;
/// Seconds.
const LIFE: u32 = 300;
const LASTS: Duration = Duration::from_secs(3600);
/// A handshake and a request: each host once in ten seconds.
const EVERY: Duration = Duration::from_millis(50);
/// Renewal is planned with 155 s left at the latest (docs/acme.md); with a third left `check` would be red.
const IN_TIME: i64 = 100;
/// By then everything was renewed four times, and allocators have what they keep.
const SETTLES: Duration = Duration::from_secs(600);
const SAMPLED: Duration = Duration::from_secs(60);
const GROWS: f64 = 0.05;
