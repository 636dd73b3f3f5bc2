//! Which connections are redirected, as a pure function: settings in, rules out, in the order in which the kernel asks them.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv6Net};
use signet_core::pod::PAGES_PORT;

use super::{CANARIES, INBOUND_PORT, OUTBOUND_PORT, SELF_TEST_PORT};

/// What a pod's annotations may change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// The proxy's user, whose connections are not captured.
    pub proxy_uid: u32,
    /// Pod ports that strangers reach without the proxy.
    pub inbound_ports: Vec<u16>,
    /// Ports that the app dials without the proxy, on any address.
    pub outbound_ports: Vec<u16>,
    /// Addresses that the app dials without the proxy.
    pub outbound_subnets: Vec<IpNet>,
}

/// One rule of a chain: what has to match, all of it, and what then happens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    pub chain: Chain,
    pub matches: Vec<Match>,
    pub then: Then,
    /// For who lists the rules.
    pub why: &'static str,
}

/// Where the kernel asks; both chains are of type nat, so only a connection's first packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chain {
    /// Connections that processes of this namespace open.
    Output,
    /// Connections that arrive from outside.
    Prerouting,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Match {
    Tcp,
    /// A TCP connection to this port.
    Port(u16),
    To(IpNet),
    /// The socket belongs to this user.
    Uid(u32),
    /// Leaves by loopback, as everything does that goes to an address of this namespace.
    OutByLoopback,
    InByLoopback,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// Goes on untouched.
    Pass,
    /// To this port of ours.
    Redirect(u16),
}

/// Everything that the table holds.
pub fn rules(settings: &Settings) -> Vec<Rule> {
    let mut rules = output(settings);
    rules.extend(prerouting(settings));
    rules
}

fn output(settings: &Settings) -> Vec<Rule> {
    let rule =
        |matches: &[Match], then, why| Rule { chain: Chain::Output, matches: matches.into(), then, why };
    // Before the exemption of the proxy: it is the proxy that dials them, to see whether the rules are there.
    let mut rules = CANARIES
        .map(|canary| {
            rule(&[to(canary), Match::Port(canary.port())], Then::Redirect(SELF_TEST_PORT), "canary")
        })
        .to_vec();
    rules.push(rule(&[Match::Uid(settings.proxy_uid)], Then::Pass, "the proxy's own"));
    rules.push(rule(&[Match::OutByLoopback], Then::Pass, "inside the pod"));
    rules.push(rule(&[Match::To(link_local())], Then::Pass, "link-local"));
    for port in sorted(&settings.outbound_ports) {
        rules.push(rule(&[Match::Port(port)], Then::Pass, "excluded outbound port"));
    }
    for subnet in sorted(&settings.outbound_subnets) {
        rules.push(rule(&[Match::To(subnet.trunc())], Then::Pass, "excluded outbound subnet"));
    }
    rules.push(rule(&[Match::Tcp], Then::Redirect(OUTBOUND_PORT), "what the app opens"));
    rules
}

fn prerouting(settings: &Settings) -> Vec<Rule> {
    let rule =
        |matches: &[Match], then, why| Rule { chain: Chain::Prerouting, matches: matches.into(), then, why };
    let mut rules = vec![
        rule(&[Match::InByLoopback], Then::Pass, "inside the pod"),
        rule(&[Match::Port(PAGES_PORT)], Then::Pass, "the proxy's pages"),
    ];
    for port in sorted(&settings.inbound_ports) {
        rules.push(rule(&[Match::Port(port)], Then::Pass, "excluded inbound port"));
    }
    rules.push(rule(&[Match::Tcp], Then::Redirect(INBOUND_PORT), "what others open"));
    rules
}

/// The kernel does not tell the proxy on which link such an address was dialled, so the proxy could not dial it.
fn link_local() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10))
}

fn to(address: SocketAddr) -> Match {
    Match::To(IpNet::from(address.ip()))
}

/// Each once, in an order that does not depend on how they were written: the same settings make the same table.
fn sorted<T: Copy + Ord>(list: &[T]) -> Vec<T> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

/// As nft(8) writes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.matches {
            match one {
                Match::Tcp => write!(f, "meta l4proto tcp ")?,
                Match::Port(port) => write!(f, "tcp dport {port} ")?,
                Match::To(IpNet::V4(subnet)) => write!(f, "ip daddr {subnet} ")?,
                Match::To(IpNet::V6(subnet)) => write!(f, "ip6 daddr {subnet} ")?,
                Match::Uid(uid) => write!(f, "meta skuid {uid} ")?,
                Match::OutByLoopback => write!(f, "oifname \"lo\" ")?,
                Match::InByLoopback => write!(f, "iifname \"lo\" ")?,
            }
        }
        match self.then {
            Then::Pass => write!(f, "accept"),
            Then::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(settings: &Settings, chain: Chain) -> Vec<String> {
        rules(settings).iter().filter(|rule| rule.chain == chain).map(ToString::to_string).collect()
    }

    #[test]
    fn without_exclusions_everything_is_captured_but_the_proxy_and_the_inside_of_the_pod() {
        let settings = Settings { proxy_uid: 1337, ..Settings::default() };
        assert_eq!(
            shown(&settings, Chain::Output),
            [
                "ip daddr 192.0.2.1/32 tcp dport 15009 redirect to :15009",
                "ip6 daddr 2001:db8::1/128 tcp dport 15009 redirect to :15009",
                "meta skuid 1337 accept",
                "oifname \"lo\" accept",
                "ip6 daddr fe80::/10 accept",
                "meta l4proto tcp redirect to :15001",
            ]
        );
        assert_eq!(
            shown(&settings, Chain::Prerouting),
            ["iifname \"lo\" accept", "tcp dport 15020 accept", "meta l4proto tcp redirect to :15006"]
        );
    }

    #[test]
    fn exclusions_stand_before_the_redirection_and_after_the_canaries_in_one_order() {
        let subnets = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let settings = Settings {
            proxy_uid: 7,
            inbound_ports: vec![9090, 22],
            outbound_ports: vec![5432, 25, 5432],
            outbound_subnets: subnets(&["fd00::1/64", "169.254.169.254/32", "10.1.2.3/8"]),
        };
        assert_eq!(
            shown(&settings, Chain::Output)[2..],
            [
                "meta skuid 7 accept",
                "oifname \"lo\" accept",
                "ip6 daddr fe80::/10 accept",
                "tcp dport 25 accept",
                "tcp dport 5432 accept",
                "ip daddr 10.0.0.0/8 accept",
                "ip daddr 169.254.169.254/32 accept",
                "ip6 daddr fd00::/64 accept",
                "meta l4proto tcp redirect to :15001",
            ]
        );
        assert_eq!(
            shown(&settings, Chain::Prerouting)[2..],
            ["tcp dport 22 accept", "tcp dport 9090 accept", "meta l4proto tcp redirect to :15006"]
        );
        let mut other = settings.clone();
        other.outbound_ports.reverse();
        other.outbound_subnets.reverse();
        assert_eq!(rules(&settings), rules(&other), "the same settings, the same table");
    }
}
