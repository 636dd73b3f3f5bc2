//! The flags of signet-proxy: to serve, which needs no subcommand, or what else it does.

use std::path::PathBuf;

use signet_core::telemetry::LogFormat;

use crate::capture::command::Capture;

/// The sidecar of one workload: carries its connections over mutual TLS
///
/// Started by `signet local` or the pod's own spec, not by hand. Serves until SIGTERM or SIGINT, then lets connections end
/// for 25 s. What it sees and why it is not ready: GET /ready, /connections, /config, /identity, /metrics at the bootstrap's
/// admin address; in a pod at 127.0.0.1:15021, and /ready and /metrics alone at port 15020 of the pod.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "signet-proxy",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Exit status: 0 drained, 1 could not start (the message says why), 3 the supervisor is gone"
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// JSON file that says who this workload is, and where the CA and the controller are
    #[arg(long, value_name = "FILE", required_unless_present = "pod", conflicts_with = "pod")]
    pub bootstrap: Option<PathBuf>,
    /// The same from the environment, as the injector writes it: SIGNET_POD_NAME, SIGNET_POD_NAMESPACE, SIGNET_SERVICE_ACCOUNT,
    /// SIGNET_POD_IPS, SIGNET_MESH, SIGNET_PROBES and SIGNET_UPSTREAMS
    #[arg(long, requires = "captured")]
    pub pod: bool,
    /// Serve the connections that `signet-proxy capture` redirects; not ready while they are not redirected
    #[arg(long)]
    pub captured: bool,
    /// text or json, to stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What to log, in tracing's syntax: "info", "info,signet_proxy=debug", "warn,access=info"
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Exit at once when stdin ends: for a supervisor that holds the other end of it
    #[arg(long)]
    pub exit_with_parent: bool,
}

/// What else this program does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    Capture(Capture),
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn flags_are_parsed_and_a_bad_log_format_is_refused() {
        let args =
            Args::try_parse_from(["signet-proxy", "--bootstrap", "b.json", "--log-format", "json"]).unwrap();
        assert_eq!((args.log_format, &*args.log, args.exit_with_parent), (LogFormat::Json, "info", false));
        assert!(
            Args::try_parse_from(["signet-proxy", "--bootstrap", "b.json", "--log-format", "xml"]).is_err()
        );
        assert!(Args::try_parse_from(["signet-proxy"]).is_err());
        assert!(!args.captured && args.command.is_none());
        let captured = Args::try_parse_from(["signet-proxy", "--bootstrap", "b.json", "--captured"]).unwrap();
        assert!(captured.captured);
        let pod = Args::try_parse_from(["signet-proxy", "--pod", "--captured"]).unwrap();
        assert!(pod.pod && pod.captured && pod.bootstrap.is_none());
        for wrong in [&["--pod"][..], &["--pod", "--captured", "--bootstrap", "b.json"], &["--captured"]] {
            assert!(Args::try_parse_from([&["signet-proxy"], wrong].concat()).is_err(), "{wrong:?}");
        }
        assert!(
            Args::try_parse_from(["signet-proxy", "--bootstrap", "b.json", "capture"]).is_err(),
            "one thing at a time"
        );
    }
}
