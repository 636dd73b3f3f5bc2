//! The command line.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::{
    edge,
    lab::Programs,
    rounds::Plan,
    systems::{self, System},
    workloads::Workload,
};

/// Measure Signet's data plane beside HAProxy, nginx and Envoy
#[derive(Parser)]
#[command(name = "signet-bench", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measure, and print what it was
    ///
    /// Needs root: it makes two network namespaces, which are gone when it ends. One cell, repeatedly:
    /// signet-bench run --systems haproxy,signet --workloads keepalive-16 --rounds 3
    #[command(after_help = "Exit status: 0 measured, 1 errors, mutual TLS was not on, or it could not run")]
    Run(Run),
    /// Measure the edge: the gateway beside HAProxy, nginx and Envoy, and print what it was
    ///
    /// Needs root. One cell, repeatedly: signet-bench edge --systems nginx,signet --workloads h1-16 --rounds 3
    #[command(
        after_help = "Exit status: 0 measured, 1 errors, something went not through TLS, or it could not run"
    )]
    Edge(EdgeRun),
    /// Print the tables of a run: docs/bench/dataplane.json, docs/bench/edge.json
    Show { file: PathBuf },
}

#[derive(clap::Args)]
pub struct Run {
    /// direct, haproxy, nginx, envoy, envoy-mlkem, signet, signet-x25519, signet-other; all there are when left out
    #[arg(long, value_name = "LIST")]
    pub systems: Option<String>,
    /// Like keepalive-16,newconn-16; all when left out. A wrong one names them all
    #[arg(long, value_name = "LIST")]
    pub workloads: Option<String>,
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rounds: u32,
    /// Per cell, where the workload has no size of its own
    #[arg(long, value_name = "S", default_value_t = 1.5)]
    pub seconds: f64,
    /// Largest number of idle connections
    #[arg(long, value_name = "N", default_value_t = 8_000)]
    pub crowd: usize,
    /// Of `make bench QUICK=1`: 3 rounds, shorter cells, idle connections in one round
    #[arg(long)]
    pub quick: bool,
    /// The release build of signet, for CA and controller
    #[arg(long, value_name = "PATH", env = "SIGNET_BENCH_SIGNET")]
    pub signet: Option<PathBuf>,
    /// The release build of signet-proxy
    #[arg(long, value_name = "PATH", env = "SIGNET_BENCH_PROXY")]
    pub proxy: Option<PathBuf>,
    /// Built with --features bench-x25519, for signet-x25519
    #[arg(long, value_name = "PATH")]
    pub x25519_proxy: Option<PathBuf>,
    /// Another build of it, measured in the same rounds as signet-other
    #[arg(long, value_name = "PATH")]
    pub other_proxy: Option<PathBuf>,
    /// scripts/bench-tools.sh installs it
    #[arg(long, value_name = "PATH", env = "SIGNET_BENCH_ENVOY", default_value = "envoy")]
    pub envoy: PathBuf,
    /// Configs, logs and captures of this run; emptied at the next
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Write docs/bench/dataplane.* and the records of docs/acceptance.md
    #[arg(long)]
    pub publish: bool,
    /// Leave out whether mutual TLS was on
    #[arg(long)]
    pub no_proof: bool,
    /// Leave out strace
    #[arg(long)]
    pub no_syscalls: bool,
    /// perf record of both proxies after the rounds; says where each profile lies
    #[arg(long)]
    pub profile: bool,
}

#[derive(clap::Args)]
pub struct EdgeRun {
    /// direct, haproxy, nginx, envoy, signet, signet-other; all there are when left out
    #[arg(long, value_name = "LIST")]
    pub systems: Option<String>,
    /// Like h1-16,handshake-16; all when left out. A wrong one names them all
    #[arg(long, value_name = "LIST")]
    pub workloads: Option<String>,
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rounds: u32,
    /// Per cell
    #[arg(long, value_name = "S", default_value_t = 1.5)]
    pub seconds: f64,
    /// Of `make bench QUICK=1`: 3 rounds, shorter cells
    #[arg(long)]
    pub quick: bool,
    /// The release build of signet, for CA and edge
    #[arg(long, value_name = "PATH", env = "SIGNET_BENCH_SIGNET")]
    pub signet: Option<PathBuf>,
    /// The release build of signet-gateway
    #[arg(long, value_name = "PATH", env = "SIGNET_BENCH_GATEWAY")]
    pub gateway: Option<PathBuf>,
    /// Another build of it, measured in the same rounds as signet-other
    #[arg(long, value_name = "PATH")]
    pub other_gateway: Option<PathBuf>,
    /// scripts/bench-tools.sh installs it
    #[arg(long, value_name = "PATH", env = "SIGNET_BENCH_ENVOY", default_value = "envoy")]
    pub envoy: PathBuf,
    /// Configs, logs and captures of this run; emptied at the next
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Write docs/bench/edge.* and the records of docs/acceptance.md
    #[arg(long)]
    pub publish: bool,
    /// perf record of each proxy after the rounds; says where each profile lies
    #[arg(long)]
    pub profile: bool,
}

impl EdgeRun {
    pub fn plan(&self) -> Result<edge::rounds::Plan> {
        let systems = match &self.systems {
            Some(list) => edge::systems::parse(list)?,
            None => {
                let wanted = |system: &edge::systems::System| {
                    *system != edge::systems::System::SignetOther || self.other_gateway.is_some()
                };
                edge::systems::System::ALL.into_iter().filter(wanted).collect()
            }
        };
        let workloads = match &self.workloads {
            Some(list) => known(&edge::workloads::Workload::ALL, edge::workloads::Workload::word, list)?,
            None => edge::workloads::Workload::ALL.to_vec(),
        };
        let (rounds, seconds) =
            if self.quick { (QUICK_ROUNDS, QUICK_SECONDS) } else { (self.rounds, self.seconds) };
        let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
        Ok(edge::rounds::Plan { systems, workloads, rounds, time })
    }

    /// Those not named lie beside us, where cargo builds them.
    pub fn programs(&self) -> edge::lab::Programs {
        edge::lab::Programs {
            signet: self.signet.clone().unwrap_or_else(|| beside("signet")),
            gateway: self.gateway.clone().unwrap_or_else(|| beside("signet-gateway")),
            other_gateway: self.other_gateway.clone(),
            envoy: self.envoy.clone(),
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| std::env::temp_dir().join("signet-bench-edge"))
    }
}

impl Run {
    pub fn plan(&self) -> Result<Plan> {
        let systems = match &self.systems {
            Some(list) => systems::parse(list)?,
            None => {
                let wanted = |system: &System| match system {
                    System::SignetX25519 => self.x25519_proxy.is_some(),
                    System::SignetOther => self.other_proxy.is_some(),
                    _ => true,
                };
                System::ALL.into_iter().filter(wanted).collect()
            }
        };
        let workloads = match &self.workloads {
            Some(list) => known(&Workload::ALL, Workload::word, list)?,
            None => Workload::ALL.to_vec(),
        };
        let crowd = [SMALL_CROWD, self.crowd].into_iter().filter(|step| *step <= self.crowd);
        let mut crowd: Vec<usize> = crowd.collect();
        crowd.dedup();
        let (rounds, seconds, peers_idle_rounds) = match self.quick {
            true => (QUICK_ROUNDS, QUICK_SECONDS, 1),
            false => (self.rounds, self.seconds, PEERS_IDLE_ROUNDS),
        };
        let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
        Ok(Plan { systems, workloads, rounds, time, crowd, peers_idle_rounds })
    }

    /// Those not named lie beside us, where cargo builds them.
    pub fn programs(&self) -> Programs {
        Programs {
            signet: self.signet.clone().unwrap_or_else(|| beside("signet")),
            proxy: self.proxy.clone().unwrap_or_else(|| beside("signet-proxy")),
            x25519_proxy: self.x25519_proxy.clone(),
            other_proxy: self.other_proxy.clone(),
            envoy: self.envoy.clone(),
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| std::env::temp_dir().join("signet-bench"))
    }
}

/// Where cargo builds what is not named.
fn beside(name: &str) -> PathBuf {
    let us = std::env::current_exe().unwrap_or_default(); // then the name alone, which a missing file explains
    us.with_file_name(name)
}

/// Those of `all` that `list` names.
fn known<T: Copy>(all: &[T], word_of: impl Fn(T) -> String, list: &str) -> Result<Vec<T>> {
    let one = |word: &str| match all.iter().copied().find(|one| word_of(*one) == word) {
        Some(one) => Ok(one),
        None => {
            let words: Vec<String> = all.iter().copied().map(&word_of).collect();
            bail!("no workload is called {word:?}; there are {}", words.join(", "))
        }
    };
    list.split(',').map(|word| one(word.trim())).collect()
}

const SMALL_CROWD: usize = 2_000;
const QUICK_ROUNDS: u32 = 3;
const QUICK_SECONDS: f64 = 0.7;
const PEERS_IDLE_ROUNDS: u32 = 3;
