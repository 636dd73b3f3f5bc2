//! `signet-proxy capture` by itself: a namespace, no proxy.

use std::net::{IpAddr, SocketAddr};

use signet_proxy::capture::self_test::{self, Answer, Process};
use signet_tests::{
    binaries::binary,
    captured::capture,
    netns::{Netns, Node, OUTSIDE_V4},
};

use crate::exchange;

/// The node, where nobody listens.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(OUTSIDE_V4), 9);

async fn table(netns: &Netns) -> Option<String> {
    netns.output(None, &["nft", "list", "table", "inet", "signet"]).await.ok()
}

#[tokio::test]
async fn capturing_twice_leaves_the_same_rules_other_flags_replace_them_and_remove_leaves_none() {
    let node = Node::enter().unwrap();
    let netns = node.pod(1).unwrap().netns;
    let flags = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let first = flags(&[
        "--exclude-outbound-ports",
        "25,465",
        "--exclude-outbound-subnets",
        "169.254.169.254,fd00::/8",
    ]);
    capture(&netns, &first).await.unwrap();
    let rules = table(&netns).await.unwrap();
    for rule in [
        "meta skuid 1337 accept",
        "oifname \"lo\" accept",
        "tcp dport 465 accept",
        "ip daddr 169.254.169.254 accept",
        "ip6 daddr fd00::/8 accept",
        "meta l4proto tcp redirect to :15001",
        "meta l4proto tcp redirect to :15006",
    ] {
        assert!(rules.contains(rule), "{rule} is not in\n{rules}");
    }
    capture(&netns, &first).await.unwrap();
    assert_eq!(table(&netns).await.unwrap(), rules, "run twice");
    capture(&netns, &flags(&["--proxy-uid", "2000"])).await.unwrap();
    let replaced = table(&netns).await.unwrap();
    assert!(replaced.contains("meta skuid 2000") && !replaced.contains("465"), "{replaced}");
    for again in ["removed", "nothing left to remove"] {
        capture(&netns, &flags(&["--remove"])).await.unwrap_or_else(|e| panic!("{again}: {e}"));
        assert_eq!(table(&netns).await, None, "{again}");
    }
}

#[tokio::test]
async fn while_the_rules_are_replaced_no_connection_escapes_them() {
    let node = Node::enter().unwrap();
    let netns = node.pod(1).unwrap().netns;
    let listeners =
        [15001, 15009].map(|port| netns.listen(SocketAddr::from(([127, 0, 0, 1], port))).unwrap());
    let proxy = async {
        let [outbound, self_test] = &listeners;
        loop {
            let accepted = tokio::select! {
                accepted = outbound.accept() => accepted,
                accepted = self_test.accept() => accepted,
            };
            self_test::answer(accepted.unwrap().0, Process::new()).await;
        }
    };
    let replacing = async {
        capture(&netns, &[]).await.unwrap();
        let dialling = async {
            loop {
                let said =
                    exchange(&netns, OUTSIDE, b"").await.unwrap_or_else(|e| panic!("a dial escaped: {e}"));
                let answer: Answer = String::from_utf8(said).unwrap().parse().unwrap();
                assert_eq!((answer.destination, answer.listener.port()), (OUTSIDE, 15001));
            }
        };
        let replacing = async {
            for port in 1000..1020 {
                capture(&netns, &["--exclude-outbound-ports".into(), port.to_string()]).await.unwrap();
            }
        };
        tokio::select! {
            () = replacing => {}
            () = dialling => unreachable!("it never ends"),
        }
    };
    tokio::select! {
        () = replacing => {}
        () = proxy => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn without_rights_the_step_says_which_right_is_missing_and_changes_nothing() {
    let netns = Netns::new().unwrap();
    let copy = std::env::temp_dir().join(format!("signet-capture-{}", std::process::id()));
    std::fs::copy(binary("signet-proxy"), &copy).unwrap(); // a target directory below /root is closed to others
    let tried = netns.output(Some(65534), &[&copy.display().to_string(), "capture"]).await;
    std::fs::remove_file(&copy).unwrap();
    let said = tried.unwrap_err().to_string();
    assert!(
        said.contains("exit status: 1") && said.contains("CAP_NET_ADMIN") && said.contains("uid 0"),
        "{said}"
    );
    assert_eq!(table(&netns).await, None);
}

#[tokio::test]
async fn without_a_network_the_step_fails_because_nothing_can_prove_the_rules() {
    let netns = Netns::new().unwrap();
    let said = capture(&netns, &[]).await.unwrap_err().to_string();
    assert!(said.contains("no route") && said.contains("after the pod's network is set up"), "{said}");
}

#[tokio::test]
async fn where_another_table_takes_the_connections_the_self_test_fails_and_says_where_to_look() {
    let node = Node::enter().unwrap();
    let netns = node.pod(1).unwrap().netns;
    for rule in [
        "add table inet other",
        "add chain inet other out { type nat hook output priority -150; }",
        "add chain inet other later { type nat hook output priority -140; }",
        "add rule inet other later ip daddr 192.0.2.0/24 accept",
    ] {
        netns.output(None, &["nft", rule]).await.unwrap();
    }
    capture(&netns, &[]).await.unwrap(); // an accept elsewhere hides nothing from us
    let redirect = "add rule inet other out ip daddr 192.0.2.0/24 tcp dport 9 redirect to :1";
    netns.output(None, &["nft", redirect]).await.unwrap();
    let said = capture(&netns, &[]).await.unwrap_err().to_string();
    assert!(said.contains("192.0.2.2:9") && said.contains("nft list ruleset"), "{said}");
}

#[tokio::test]
async fn a_namespace_without_ipv6_is_captured_and_proven_over_ipv4() {
    let node = Node::enter().unwrap();
    let netns = node.pod(1).unwrap().netns;
    netns.output(None, &["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]).await.unwrap();
    capture(&netns, &[]).await.unwrap();
    assert!(table(&netns).await.is_some());
}
