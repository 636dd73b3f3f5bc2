//! `signet run ca`: its flags, read once and checked against each other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use signet_core::{identity::TrustDomain, telemetry::LogFormat};

use crate::authority::Settings;

/// Run the mesh's CA
///
/// Issues certificates to workloads that bring a token, or renew; rotates its root by itself.
/// Orders and questions go to its admin socket: signet ca status, rotate, distrust.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("place").required(true).args(["state", "kubernetes"]))]
#[command(after_help = "Exit status: 0 stopped by SIGTERM, 1 could not start")]
pub struct Args {
    /// Keep keys, audit log and admin socket in this directory; created with mode 0700
    #[arg(long, value_name = "DIR", requires = "trust_bundle")]
    pub state: Option<PathBuf>,
    /// Keep the state in Secret signet-system/signet-ca, which all replicas share, as this pod's service account
    #[arg(long, conflicts_with = "trust_bundle")]
    pub kubernetes: bool,
    /// With --state: file that it publishes the trust bundle in
    #[arg(long, value_name = "FILE")]
    pub trust_bundle: Option<PathBuf>,
    /// Where certificates are asked for [default: 127.0.0.1:15012, in Kubernetes [::]:15012]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// In Kubernetes: where /ready and /metrics are
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:15020")]
    pub pages: SocketAddr,
    /// In Kubernetes: where questions are answered, for port-forward
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15021")]
    pub admin: SocketAddr,
    /// In Kubernetes: where orders are taken too, in a directory that only this user can enter
    #[arg(long, value_name = "FILE", default_value = "/run/signet/admin.sock")]
    pub admin_socket: PathBuf,
    /// First part of every identity
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,
    /// Longest life of a workload's certificate, 1h to 24h
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    pub leaf_life: Life,
    /// Life of the intermediate; at least four times --leaf-life [default: 30d, or half of --root-life]
    #[arg(long, value_name = "DURATION")]
    pub intermediate_life: Option<Life>,
    /// Life of a root; it is replaced at half of it. At least ten times --leaf-life
    #[arg(long, value_name = "DURATION", default_value = "10y")]
    pub root_life: Life,
    /// Audit log, one JSON line per decision; "-" is stdout [default: STATE/audit.log, in Kubernetes "-"]
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Allow a --leaf-life below 1h, for tests
    #[arg(long, hide = true)]
    pub allow_short_leaves: bool,
    /// text or json, to stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What to log ("info", "info,signet_ca=debug")
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// End when stdin does: the supervisor is gone
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

impl Args {
    /// The lives, if they fit each other.
    pub(crate) fn settings(&self) -> Result<Settings, BadLives> {
        let (leaf, root) = (self.leaf_life.0, self.root_life.0);
        let shortest = if self.allow_short_leaves { SHORTEST_LEAF } else { HOUR };
        if !(shortest..=LONGEST_LEAF).contains(&leaf) {
            return Err(BadLives::Leaf { leaf, shortest });
        }
        if root < leaf.saturating_mul(10) {
            return Err(BadLives::Root { leaf, root });
        }
        let intermediate = self.intermediate_life.map_or(INTERMEDIATE.min(root / 2), |life| life.0);
        if intermediate < leaf.saturating_mul(4) {
            return Err(BadLives::Intermediate { leaf, intermediate });
        }
        Ok(Settings {
            domain: self.trust_domain.clone(),
            root_life: root,
            intermediate_life: intermediate,
            leaf_life: leaf,
        })
    }

    /// State directory and trust file; `None`: in Kubernetes.
    pub(crate) fn directory(&self) -> Option<(&Path, &Path)> {
        self.state.as_deref().zip(self.trust_bundle.as_deref())
    }

    pub(crate) fn listen_or(&self, default: SocketAddr) -> SocketAddr {
        self.listen.unwrap_or(default)
    }
}

fn trust_domain(name: &str) -> Result<TrustDomain, String> {
    match TrustDomain::new(name) {
        Ok(domain) if domain.as_str() == name => Ok(domain),
        Ok(domain) => Err(format!("write it as {domain}")),
        Err(error) => Err(format!("{error}; use a name like cluster.local")),
    }
}

/// Seconds, written as a number and s, m, h, d or y: "20s", "24h", "30d", "10y".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Life(pub i64);

impl FromStr for Life {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration; write a number and s, m, h, d or y, like 24h");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => HOUR,
            'd' => DAY,
            'y' => 365 * DAY,
            _ => return Err(wrong()),
        };
        let number: u32 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
        i64::from(number)
            .checked_mul(seconds)
            .filter(|life| (1..=LONGEST).contains(life))
            .map(Self)
            .ok_or_else(wrong)
    }
}

/// Lives that do not fit each other. A leaf never outlives its issuer, so an issuer must leave room for whole ones.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadLives {
    #[error(
        "--leaf-life of {leaf} s; allowed are {shortest} s to 24h (below 1h with --allow-short-leaves, for tests)"
    )]
    Leaf { leaf: i64, shortest: i64 },
    #[error("--intermediate-life of {intermediate} s is less than four times --leaf-life ({leaf} s)")]
    Intermediate { leaf: i64, intermediate: i64 },
    #[error(
        "--root-life of {root} s is less than ten times --leaf-life ({leaf} s); a rotation alone takes more than two"
    )]
    Root { leaf: i64, root: i64 },
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Times are whole seconds; below this, rounding is most of a life.
const SHORTEST_LEAF: i64 = 5;
/// Design 3. There is no revocation list: this is how long a stolen key is good.
const LONGEST_LEAF: i64 = DAY;
const INTERMEDIATE: i64 = 30 * DAY;
/// GeneralizedTime ends with the year 9999; a thousand years are beyond doubt enough.
const LONGEST: i64 = 1000 * 365 * DAY;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn settings(flags: &str) -> Result<(i64, i64, i64), String> {
        let line = format!("ca --state s --trust-bundle t {flags}");
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        let settings = cli.args.settings().map_err(|e| e.to_string())?;
        Ok((settings.leaf_life, settings.intermediate_life, settings.root_life))
    }

    #[test]
    fn the_state_is_in_a_directory_or_in_the_cluster_and_never_in_both() {
        let parse = |flags: &str| {
            let line = format!("ca {flags}");
            Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args)
        };
        assert!(parse("--state s --trust-bundle t").unwrap().directory().is_some());
        let cluster = parse("--kubernetes").unwrap();
        assert!(cluster.directory().is_none());
        assert_eq!(cluster.admin_socket, Path::new("/run/signet/admin.sock"));
        for flags in [
            "",
            "--state s",
            "--trust-bundle t",
            "--state s --trust-bundle t --kubernetes",
            "--kubernetes --trust-bundle t",
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn lives_are_read_and_checked_against_each_other() {
        assert_eq!(settings(""), Ok((DAY, 30 * DAY, 3650 * DAY)));
        assert_eq!(settings("--leaf-life 20s --allow-short-leaves"), Ok((20, 30 * DAY, 3650 * DAY)));
        assert_eq!(settings("--leaf-life 20s --allow-short-leaves --root-life 4m"), Ok((20, 120, 240)));
        for (flags, word) in [
            ("--leaf-life 20s", "--allow-short-leaves"),
            ("--leaf-life 25h", "--leaf-life"),
            ("--leaf-life 1s --allow-short-leaves", "--leaf-life"),
            ("--root-life 9d", "--root-life"),
            ("--intermediate-life 3d", "--intermediate-life"),
            ("--leaf-life 24", "no duration"),
            ("--leaf-life h", "no duration"),
            ("--leaf-life=-1h", "no duration"),
            ("--leaf-life 1.5h", "no duration"),
            ("--leaf-life 24\u{20ac}", "no duration"),
            ("--root-life 4000000000y", "no duration"),
            ("--trust-domain Cluster.local", "write it as cluster.local"),
            ("--trust-domain a/b", "cluster.local"),
            ("--log-format yaml", "log format"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(word), "{flags}: {error}");
        }
    }
}
