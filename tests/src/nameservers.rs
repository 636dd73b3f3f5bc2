//! Real DNS servers that take updates signed by TSIG: Knot and BIND (packages: scripts/apt.sh), and `dig`, which asks them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::{
    network::Network,
    unprivileged::{Server, Unprivileged},
};

/// A key as both servers' configurations and our Secrets have it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub algorithm: &'static str,
    /// Base64.
    pub secret: &'static str,
}

/// A zone in a file's words.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    pub name: &'a str,
    /// Records beside SOA and NS, a line each.
    pub records: &'a str,
}

/// Knot at `at`; the key may change TXT records of all zones.
pub async fn knot(user: &Unprivileged, at: SocketAddr, key: Key, zones: &[Zone<'_>]) -> io::Result<Server> {
    let home = user.home.display();
    user.directory("knot-run")?;
    user.directory("knot-db")?;
    let Key { name, algorithm, secret } = key;
    let mut config = format!(
        "server:\n  rundir: {home}/knot-run\n  listen: {}@{}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: {home}/knot-db\n\
         log:\n  - target: stderr\n    any: info\n\
         key:\n  - id: {name}\n    algorithm: {algorithm}\n    secret: {secret}\n\
         acl:\n  - id: update\n    key: {name}\n    action: update\n    update-type: [TXT]\n\
         zone:\n",
        at.ip(),
        at.port()
    );
    for zone in zones {
        let file = file(user, "knot", zone)?;
        config += &format!("  - domain: {}\n    file: {file}\n    acl: update\n", zone.name);
    }
    let config = user.write("knot.conf", &config)?;
    let mut knot = user.command("knotd");
    knot.arg("-c").arg(config);
    user.server("knotd", knot, &[at]).await
}

/// Where BIND can listen in a test that has `network`: it takes only addresses that an interface has, so the port is the test's own.
/// `number` is below 4.
pub fn bind_address(network: &Network, number: u16) -> SocketAddr {
    let octet = match network.control() {
        IpAddr::V4(v4) => u16::from(v4.octets()[1]),
        IpAddr::V6(v6) => panic!("{v6} is none of a Network's"),
    };
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), FIRST_PORT + 4 * octet + number)
}

/// BIND at `at`; the key may change TXT records of all zones. It answers only about them.
pub async fn bind(user: &Unprivileged, at: SocketAddr, key: Key, zones: &[Zone<'_>]) -> io::Result<Server> {
    let home = user.home.display();
    let Key { name, algorithm, secret } = key;
    let mut config = format!(
        "options {{ directory \"{home}\"; listen-on port {} {{ {}; }}; listen-on-v6 {{ none; }}; pid-file none;\n\
         session-keyfile \"{home}/bind-session.key\"; recursion no; dnssec-validation no; notify no; }};\n\
         controls {{ }};\nkey \"{name}\" {{ algorithm {algorithm}; secret \"{secret}\"; }};\n",
        at.port(),
        at.ip()
    );
    for zone in zones {
        let file = file(user, "bind", zone)?;
        let zone = zone.name;
        config += &format!(
            "zone \"{zone}\" {{ type primary; file \"{file}\"; update-policy {{ grant {name} zonesub TXT; }}; }};\n"
        );
    }
    let config = user.write("named.conf", &config)?;
    let mut named = user.command("named");
    named.args(["-g", "-n", "1", "-c"]).arg(config);
    user.server("named", named, &[at]).await
}

/// Values of the TXT records of `name`, as `dig` prints them, sorted.
pub async fn txt(user: &Unprivileged, at: SocketAddr, name: &str) -> io::Result<Vec<String>> {
    let mut dig = user.command("dig");
    dig.args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), "+short", "+norecurse", "TXT", name]);
    let mut values: Vec<String> =
        user.output(dig).await?.lines().map(|line| line.trim_matches('"').to_owned()).collect();
    values.sort();
    Ok(values)
}

fn file(user: &Unprivileged, server: &str, zone: &Zone<'_>) -> io::Result<String> {
    let Zone { name, records } = zone;
    let content = format!(
        "$ORIGIN {name}.\n$TTL 60\n@ SOA ns1 hostmaster 1 60 60 600 60\n@ NS ns1\nns1 A 127.0.0.1\n{records}\n"
    );
    let path = user.write(&format!("{server}-{name}.zone"), &content)?;
    Ok(path.display().to_string())
}

/// Below the ephemeral ports, and nobody else's in these tests.
const FIRST_PORT: u16 = 11_000;
