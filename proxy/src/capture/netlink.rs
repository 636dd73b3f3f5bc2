//! The kernel's side of the rules: nftables over netlink, in one transaction. The only file that knows the library.

use std::fmt;

use ipnet::IpNet;
use nlink::netlink::{
    Connection, Nftables,
    nftables::{self, BaseChain, CmpOp, Expr, Family, MetaKey, NatHook, Priority, Register, Transaction},
};

use super::rules::{Chain, Match, Rule, Then};

/// Replaces the table as a whole. At no moment are there no rules: the kernel takes all of it or nothing.
pub(super) async fn replace(rules: &[Rule]) -> Result<(), Refused> {
    let connection = open()?;
    match commit(&connection, whole(&connection, TABLE, rules)).await {
        Ok(()) => Ok(()),
        Err(errno) => Err(blame(&connection, rules, errno).await),
    }
}

/// Removes the table; false when there was none.
pub(super) async fn remove() -> Result<bool, Refused> {
    let connection = open()?;
    let removed = connection.del_table_if_exists(TABLE, Family::Inet).await;
    removed.map_err(|error| Refused {
        part: Part::Table,
        errno: error.errno().unwrap_or_default(),
        rule: None,
    })
}

fn open() -> Result<Connection<Nftables>, Refused> {
    Connection::<Nftables>::new().map_err(|error| Refused {
        part: Part::Netlink,
        errno: error.errno().unwrap_or_default(),
        rule: None,
    })
}

async fn commit(connection: &Connection<Nftables>, transaction: Transaction) -> Result<(), i32> {
    transaction.commit(connection).await.map_err(|error| {
        tracing::debug!(%error, "nftables");
        error.errno().unwrap_or_default()
    })
}

/// The table as it shall be, whatever was there. "Destroy" would say it in one word, but needs Linux 6.3.
fn whole(connection: &Connection<Nftables>, table: &str, rules: &[Rule]) -> Transaction {
    let mut transaction = connection
        .transaction()
        .update_table(table, Family::Inet, 0) // there is one now
        .del_table(table, Family::Inet)
        .add_table(table, Family::Inet);
    for chain in [Chain::Output, Chain::Prerouting] {
        transaction = add_chain(transaction, table, chain);
    }
    rules.iter().fold(transaction, |transaction, rule| transaction.add_rule(programmed(table, rule)))
}

fn add_chain(transaction: Transaction, table: &str, chain: Chain) -> Transaction {
    let hook = match chain {
        Chain::Output => NatHook::Output,
        Chain::Prerouting => NatHook::Prerouting,
    };
    match nftables::Chain::new(table, name(chain)) {
        Ok(made) => {
            transaction.add_chain(made.family(Family::Inet).base(BaseChain::nat(hook, Priority::DstNat)))
        }
        Err(_) => transaction, // never: our two names are good ones; without its chain every rule is refused
    }
}

fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Output => "output",
        Chain::Prerouting => "prerouting",
    }
}

fn programmed(table: &str, rule: &Rule) -> nftables::Rule {
    let start = nftables::Rule::new(table, name(rule.chain)).family(Family::Inet).comment(rule.why);
    let matched = rule.matches.iter().fold(start, |rule, one| match *one {
        Match::Tcp => rule.match_l4proto(TCP),
        Match::Port(port) => rule.match_tcp_dport(port),
        Match::To(IpNet::V4(subnet)) => rule.match_daddr_v4(subnet.addr(), subnet.prefix_len()),
        Match::To(IpNet::V6(subnet)) => rule.match_daddr_v6(subnet.addr(), subnet.prefix_len()),
        Match::Uid(uid) => rule
            .then(Expr::Meta { dreg: Register::R0, key: MetaKey::SkUid })
            .then(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: uid.to_ne_bytes().to_vec() }),
        Match::OutByLoopback => rule.match_oif("lo"),
        Match::InByLoopback => rule.match_iif("lo"),
    });
    match rule.then {
        Then::Pass => matched.accept(),
        Then::Redirect(port) => matched.redirect(Some(port)),
    }
}

/// Finds what the kernel refuses, one part after the other, each in a transaction that leaves nothing behind.
async fn blame(connection: &Connection<Nftables>, rules: &[Rule], errno: i32) -> Refused {
    let table = || connection.transaction().add_table(PROBE, Family::Inet);
    let end = |transaction: Transaction| transaction.del_table(PROBE, Family::Inet);
    if let Err(errno) = commit(connection, end(table())).await {
        return Refused { part: Part::Table, errno, rule: None };
    }
    for chain in [Chain::Output, Chain::Prerouting] {
        if let Err(errno) = commit(connection, end(add_chain(table(), PROBE, chain))).await {
            return Refused { part: Part::NatChain, errno, rule: None };
        }
    }
    for rule in rules {
        let one = add_chain(table(), PROBE, rule.chain).add_rule(programmed(PROBE, rule));
        if let Err(errno) = commit(connection, end(one)).await {
            let part = match rule.then {
                Then::Redirect(_) => Part::Redirect,
                Then::Pass => Part::Match,
            };
            return Refused { part, errno, rule: Some(rule.to_string()) };
        }
    }
    Refused { part: Part::Whole, errno, rule: None }
}

/// What the kernel did not take: which part of it is missing or forbidden, and what to do.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Refused {
    part: Part,
    errno: i32,
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Netlink,
    Table,
    NatChain,
    Match,
    Redirect,
    /// Every part by itself is taken.
    Whole,
}

impl Refused {
    /// The module, the option or the right; and the next step.
    fn missing(&self) -> &'static str {
        if matches!(self.errno, EPERM | EACCES) {
            return "CAP_NET_ADMIN is missing in this network namespace; run the capture step as uid 0 with the capability NET_ADMIN";
        }
        match self.part {
            Part::Netlink => {
                "the kernel has no netfilter netlink (CONFIG_NETFILTER_NETLINK, module nfnetlink); run `modprobe nfnetlink` on the node"
            }
            Part::Table => {
                "the kernel has no nftables of family inet (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, module nf_tables); run `modprobe nf_tables` on the node"
            }
            Part::NatChain => {
                "the kernel has no nat chains of family inet (CONFIG_NFT_NAT, module nft_chain_nat, Linux 5.2 or later); run `modprobe nft_chain_nat` on the node"
            }
            Part::Match => {
                "the kernel does not know this match (module nf_tables is older than we know it); update the node's kernel"
            }
            Part::Redirect => {
                "the kernel has no redirect (CONFIG_NFT_REDIR, module nft_redir); run `modprobe nft_redir` on the node"
            }
            Part::Whole => {
                "each rule by itself was taken, so something else changes the table at the same time, or memory ran out; run the step again"
            }
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.missing())?;
        if let Some(rule) = &self.rule {
            write!(f, "; refused was the rule `{rule}`")?;
        }
        write!(f, " ({})", std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Refused {}

const TABLE: &str = "signet";
/// Lives within a transaction only.
const PROBE: &str = "signet-probe";
/// IANA's number.
const TCP: u8 = 6;
const EPERM: i32 = nix::errno::Errno::EPERM as i32;
const EACCES: i32 = nix::errno::Errno::EACCES as i32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::rules::{Settings, rules};
    use nix::errno::Errno;

    #[test]
    fn what_is_programmed_is_what_the_rules_say() {
        let settings = Settings {
            proxy_uid: 1337,
            inbound_ports: vec![22],
            outbound_ports: vec![25],
            outbound_subnets: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
        };
        for rule in rules(&settings) {
            let said = format!("{rule} comment \"{}\"", rule.why);
            // The library writes a whole address without its length.
            let said = said.replace("/32 ", " ").replace("/128 ", " ");
            assert_eq!(programmed(TABLE, &rule).nft_syntax(), Some(said));
        }
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_what_to_do() {
        for (part, errno, words) in [
            (Part::Table, Errno::EPERM, ["CAP_NET_ADMIN", "uid 0"]),
            (Part::Netlink, Errno::EPROTONOSUPPORT, ["nfnetlink", "modprobe"]),
            (Part::Table, Errno::EOPNOTSUPP, ["nf_tables", "modprobe"]),
            (Part::NatChain, Errno::ENOENT, ["nft_chain_nat", "Linux 5.2"]),
            (Part::Redirect, Errno::ENOENT, ["nft_redir", "modprobe"]),
            (Part::Whole, Errno::ENOMEM, ["run the step again", "memory"]),
        ] {
            let said = Refused { part, errno: errno as i32, rule: None }.to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{part:?}: {said}");
        }
    }
}
