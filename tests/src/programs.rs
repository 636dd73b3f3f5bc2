//! Real programs, set up as an unprivileged user would: nginx, Redis, PostgreSQL (packages: scripts/apt.sh).

use std::{io, net::SocketAddr, path::PathBuf};

use crate::unprivileged::{Server, Unprivileged};

/// nginx at all `addresses`; serves `home/www`.
pub async fn nginx(user: &Unprivileged, addresses: &[SocketAddr]) -> io::Result<Server> {
    let home = user.home.display();
    user.directory("www")?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {home}/nginx-{kind};"))
        .concat();
    let listen: String = addresses.iter().map(|address| format!("listen {address}; ")).collect();
    let config = format!(
        "daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr;
        events {{ worker_connections 512; }}
        http {{
            access_log off; {temporary} client_max_body_size 0;
            server {{ {listen}root {home}/www; location /upload {{ return 204; }} }}
        }}"
    );
    let config = user.write("nginx.conf", &config)?;
    let mut nginx = user.command("nginx");
    nginx.arg("-e").arg("stderr").arg("-c").arg(config);
    user.server("nginx", nginx, addresses).await
}

/// Redis at all `addresses`, which have one port; nothing stored.
pub async fn redis(user: &Unprivileged, addresses: &[SocketAddr]) -> io::Result<Server> {
    let mut redis = user.command("redis-server");
    redis.arg("--bind").args(ips(addresses)).args(["--port", &port(addresses)]);
    redis.args(["--save", "", "--appendonly", "no"]);
    redis.args(["--protected-mode", "no", "--dir"]).arg(&user.home);
    user.server("redis", redis, addresses).await
}

/// PostgreSQL at all `addresses`, which have one port: superuser `postgres`, everybody trusted, as behind a mesh.
pub async fn postgres(user: &Unprivileged, addresses: &[SocketAddr]) -> io::Result<Server> {
    let bin = postgres_bin()?;
    let data = user.home.join("pgdata");
    let mut initdb = user.command(bin.join("initdb"));
    initdb.arg("-D").arg(&data).args([
        "-U",
        "postgres",
        "--auth=trust",
        "--no-sync",
        "--locale=C",
        "-E",
        "UTF8",
    ]);
    user.output(initdb).await?;
    user.write("pgdata/pg_hba.conf", "local all all trust\nhost all all all trust\n")?; // from other addresses too
    let mut postgres = user.command(bin.join("postgres"));
    postgres.arg("-D").arg(&data).args(["-h", &ips(addresses).join(","), "-p", &port(addresses)]);
    postgres.arg("-k").arg(&user.home).args(["-c", "fsync=off"]);
    user.server("postgres", postgres, addresses).await
}

/// iperf3's server, on every address of its namespace; `addresses` is where it is looked for.
pub async fn iperf3(user: &Unprivileged, addresses: &[SocketAddr]) -> io::Result<Server> {
    let mut iperf3 = user.command("iperf3");
    iperf3.args(["-s", "-p", &port(addresses)]);
    user.server("iperf3", iperf3, addresses).await
}

fn ips(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(|address| address.ip().to_string()).collect()
}

fn port(addresses: &[SocketAddr]) -> String {
    addresses.first().map_or(0, SocketAddr::port).to_string()
}

/// `/usr/lib/postgresql/<version>/bin`, the newest.
fn postgres_bin() -> io::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")?;
    let mut bins: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file())
        .collect();
    bins.sort();
    bins.pop().ok_or_else(|| io::Error::other("no PostgreSQL server; scripts/apt.sh installs it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[tokio::test]
    async fn the_real_programs_run_without_rights() {
        let (user, network) = (Unprivileged::new().unwrap(), Network::claim());
        let at = |d, port| SocketAddr::new(network.address(0, d), port);
        let _nginx = nginx(&user, &[at(2, 8080)]).await.unwrap();
        let _redis = redis(&user, &[at(3, 6379)]).await.unwrap();
        let _postgres = postgres(&user, &[at(4, 5432)]).await.unwrap();
        user.write("www/index.html", "it works").unwrap();
        let mut curl = user.command("curl");
        curl.args(["-sS", "--fail"]).arg(format!("http://{}/", at(2, 8080)));
        assert_eq!(user.output(curl).await.unwrap(), "it works");
        let mut redis_cli = user.command("redis-cli");
        redis_cli.args(["-h", &at(3, 0).ip().to_string(), "PING"]);
        assert_eq!(user.output(redis_cli).await.unwrap(), "PONG\n");
        let mut psql = user.command("psql");
        psql.args(["-U", "postgres", "-h", &at(4, 0).ip().to_string(), "-Atc", "select 6 * 7"]);
        assert_eq!(user.output(psql).await.unwrap(), "42\n");
    }
}
