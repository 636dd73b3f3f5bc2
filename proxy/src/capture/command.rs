//! `signet-proxy capture`: programs the rules, and proves them.

use std::net::IpAddr;

use ipnet::IpNet;
use tracing::info;

use super::{
    PROXY_UID, netlink,
    rules::{Settings, rules},
    self_test,
};

/// Redirect the TCP connections of this network namespace to the proxy
///
/// Replaces the nftables table `inet signet` in one transaction, then proves it with real connections; run twice, it leaves
/// the same rules. Not captured: the proxy's own user, loopback and every address of the pod itself, what is excluded below,
/// UDP. Needs uid 0 and NET_ADMIN; needs no iptables and no nft. Look at it: nft list table inet signet
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  signet-proxy capture
  signet-proxy capture --exclude-outbound-ports 25,465 --exclude-outbound-subnets 169.254.169.254/32,fd00:ec2::254
  signet-proxy capture --remove

Exit status: 0 captured and proven (or removed), 1 not, and the message says what is missing and what to do; 2 wrong usage")]
pub struct Capture {
    /// The user that the proxy runs as; its connections are not captured
    #[arg(long, value_name = "UID", default_value_t = PROXY_UID, value_parser = clap::value_parser!(u32).range(1..))]
    pub proxy_uid: u32,
    /// Pod ports that others reach without the proxy
    #[arg(long, value_name = "PORT,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports that the app dials without the proxy, whatever the address
    #[arg(long, value_name = "PORT,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub exclude_outbound_ports: Vec<u16>,
    /// Addresses that the app dials without the proxy, IPv4 and IPv6
    #[arg(long, value_name = "CIDR,..", value_delimiter = ',', value_parser = subnet)]
    pub exclude_outbound_subnets: Vec<IpNet>,
    /// Remove the table instead; without one there is nothing to do
    #[arg(long, conflicts_with_all = ["exclude_inbound_ports", "exclude_outbound_ports", "exclude_outbound_subnets"])]
    pub remove: bool,
}

impl Capture {
    /// Does it. An error names what is missing and the next step.
    pub async fn run(self) -> anyhow::Result<()> {
        if self.remove {
            let removed = netlink::remove().await?;
            info!("{}", if removed { "no longer captured" } else { "there was nothing to remove" });
            return Ok(());
        }
        let settings = Settings {
            proxy_uid: self.proxy_uid,
            inbound_ports: self.exclude_inbound_ports,
            outbound_ports: self.exclude_outbound_ports,
            outbound_subnets: self.exclude_outbound_subnets,
        };
        let rules = rules(&settings);
        netlink::replace(&rules).await?;
        let families = self_test::prove(&settings).await?;
        info!(rules = rules.len(), families, "captured, and proven by connections of our own");
        Ok(())
    }
}

/// "10.0.0.0/8", or one address.
fn subnet(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| "expected a subnet like 10.0.0.0/8 or fd00::/8, or an address".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(args: &[&str]) -> Result<Capture, clap::Error> {
        let args = Args::try_parse_from(["signet-proxy", "capture"].iter().chain(args))?;
        let Some(Command::Capture(capture)) = args.command else { panic!("not a capture") };
        Ok(capture)
    }

    #[test]
    fn flags_are_lists_of_both_families() {
        let capture = parse(&[
            "--exclude-outbound-ports",
            "25,465",
            "--exclude-outbound-subnets",
            "10.0.0.0/8,fd00:ec2::254",
            "--exclude-inbound-ports=22",
        ])
        .unwrap();
        assert_eq!((capture.proxy_uid, &*capture.exclude_inbound_ports), (1337, &[22][..]));
        assert_eq!(capture.exclude_outbound_ports, [25, 465]);
        let subnets: Vec<String> = capture.exclude_outbound_subnets.iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.0.0.0/8", "fd00:ec2::254/128"]);
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_was_expected() {
        for (args, said) in [
            (&["--exclude-outbound-ports", "0"][..], "1..=65535"),
            (&["--exclude-outbound-ports", "http"], "invalid"),
            (&["--exclude-outbound-subnets", "10.0.0.0/33"], "expected a subnet"),
            (&["--proxy-uid", "0"], "1..="),
            (&["--remove", "--exclude-inbound-ports", "22"], "cannot be used with"),
        ] {
            let error = parse(args).unwrap_err().to_string();
            assert!(error.contains(said), "{args:?}: {error}");
        }
    }
}
