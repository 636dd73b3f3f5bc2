//! One pod of a mesh, as a test sees it: its addresses, and what its proxy says about it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde_json::Value;

use crate::{
    client,
    eventually::{SOON, eventually},
};

/// A handle; holding it keeps nothing alive.
#[derive(Clone, Debug)]
pub struct Workload {
    /// "shop/api"
    pub name: String,
    pub address: IpAddr,
    log: PathBuf,
}

impl Workload {
    pub(crate) fn new(name: &str, address: IpAddr, log: PathBuf) -> Self {
        Self { name: name.into(), address, log }
    }

    /// A port of the pod: its proxy's inbound, or one of its upstreams.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Sends to one of our own upstreams, as the app in this pod does, and returns what came back.
    pub async fn send(&self, upstream: u16, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        client::exchange(self.address, self.port(upstream), bytes).await
    }

    pub async fn is_ready(&self) -> bool {
        self.get("/ready").await.is_some_and(|(status, _)| status == 200)
    }

    /// The proxy's connection table, live and recent.
    pub async fn connections(&self) -> Vec<Value> {
        let table = self.json("/connections").await;
        table["connections"].as_array().or(table.as_array()).cloned().unwrap_or_default()
    }

    /// The row that a connection left which ended with `reason`.
    pub async fn connection_with(&self, reason: &str) -> Value {
        eventually(&format!("{} to list a connection with reason {reason}", self.name), SOON, async || {
            self.connections().await.into_iter().find(|row| row["reason"] == reason)
        })
        .await
    }

    pub async fn identity(&self) -> Value {
        self.json("/identity").await
    }

    pub async fn config(&self) -> Value {
        self.json("/config").await
    }

    /// The sum of a metric's series whose labels hold all of these, e.g.
    /// `metric("signet_refused_total", &[("reason", "peer_untrusted")])`. 0: no such series.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap_or_default();
        sum(&text, name, labels)
    }

    /// Lines of the access log so far.
    pub fn access_log(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains(" access: ")).map(str::to_owned).collect()
    }

    /// The first access log line that holds all of `words`; lines are written when a connection closes.
    pub async fn access_line(&self, words: &[&str]) -> String {
        eventually(&format!("{} to log a line with {words:?}", self.name), SOON, async || {
            self.access_log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
        })
        .await
    }

    /// One word in three places (docs/design.md 4): log line, metric and connection table.
    pub async fn tells(&self, reason: &str) {
        self.access_line(&[&format!("reason={reason}")]).await;
        self.connection_with(reason).await;
        assert!(
            self.metric("signet_refused_total", &[("reason", reason)]).await >= 1.0,
            "{} counts no {reason}",
            self.name
        );
    }

    async fn json(&self, path: &str) -> Value {
        let (_, body) = self.get(path).await.unwrap_or_default();
        serde_json::from_str(&body).unwrap_or_default()
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        client::get(self.port(ADMIN), path).await.ok()
    }
}

/// Sums OpenMetrics series.
fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            let matches = series_name == name && wanted.iter().all(|label| series_labels.contains(label));
            if matches { value.parse::<f64>().ok() } else { None }
        })
        .sum()
}

/// The proxy's admin port.
const ADMIN: u16 = 15020;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_that_were_not_asked_for() {
        let text = "# HELP x\nsignet_refused_total{direction=\"inbound\",reason=\"a\"} 2\n\
            signet_refused_total{direction=\"outbound\",reason=\"a\"} 1\nsignet_refused_total{reason=\"b\"} 5\nup 1\n# EOF\n";
        for (name, labels, want) in [
            ("signet_refused_total", &[("reason", "a")][..], 3.0),
            ("signet_refused_total", &[], 8.0),
            ("signet_refused_total", &[("reason", "c")], 0.0),
            ("up", &[], 1.0),
        ] {
            assert_eq!(sum(text, name, labels), want, "{name} {labels:?}");
        }
    }
}
