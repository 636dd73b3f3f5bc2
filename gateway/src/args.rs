//! The flags of signet-gateway.

use std::path::PathBuf;

use signet_core::telemetry::LogFormat;

/// The edge: serves the cluster's public hosts over HTTPS and HTTP
///
/// Started by its Deployment or by `signet local`, not by hand. What it serves, and the keys, come from `signet run edge` on a
/// stream; it knows nothing of Kubernetes. Serves until SIGTERM or SIGINT: then it is not ready, accepts for 10 s more, and lets
/// connections end; a second signal cuts them. GET /ready and /metrics at port 15020, /v1/hosts and /v1/connections beside them
/// at 127.0.0.1:15021.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "signet-gateway",
    version,
    after_help = "Exit status: 0 drained, 1 could not start (the message says why), 3 the supervisor is gone"
)]
pub struct Args {
    /// JSON file that says where the CA and edge are, and where to listen
    #[arg(long, value_name = "FILE", required_unless_present = "pod", conflicts_with = "pod")]
    pub bootstrap: Option<PathBuf>,
    /// The same from the environment, as the gateway's manifest writes it: SIGNET_POD_NAME and SIGNET_GATEWAY
    #[arg(long)]
    pub pod: bool,
    /// text or json, to stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What to log, in tracing's syntax: "info", "info,signet_gateway=debug", "warn,access=info"
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Exit at once when stdin ends: for a supervisor that holds the other end of it
    #[arg(long)]
    pub exit_with_parent: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn it_is_told_by_a_file_or_by_the_pod_and_not_by_both() {
        let args = Args::try_parse_from(["signet-gateway", "--pod", "--log-format", "json"]).unwrap();
        assert_eq!((args.pod, args.log_format, &*args.log), (true, LogFormat::Json, "info"));
        assert!(
            Args::try_parse_from(["signet-gateway", "--bootstrap", "b.json"]).unwrap().bootstrap.is_some()
        );
        for wrong in [&[][..], &["--pod", "--bootstrap", "b.json"], &["--pod", "--log-format", "xml"]] {
            assert!(Args::try_parse_from([&["signet-gateway"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
