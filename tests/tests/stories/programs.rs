//! Real programs, the mesh and all of it run by a user without rights: curl and nginx, redis-cli and Redis, psql and
//! PostgreSQL. The manifests are what such a user would write.

use std::{net::SocketAddr, process::Stdio};

use signet_tests::{
    client,
    eventually::{SOON, eventually},
    network::Network,
    programs,
    unprivileged::Unprivileged,
};

/// One client pod, and three server pods whose apps listen 10 000 above their pod's port.
fn manifests(network: &Network) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {signet.dev/inject: enabled, signet.dev/mtls: strict}\n",
    );
    let mut pod = |name: &str, d: u8, annotation: &str| {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: {{app: {name}}}\n  \
             annotations: {{{annotation}}}\nspec:\n  serviceAccountName: {name}\n  containers: [{{name: app, image: app}}]\n\
             status:\n  phase: Running\n  podIP: {ip}\n  podIPs: [{{ip: {ip}}}]\n  conditions: [{{type: Ready, status: \"True\"}}]\n",
            ip = network.address(1, d)
        );
    };
    pod("web", 1, "signet.dev/upstreams: \"9080=blog.shop:8080, 9379=redis.shop:6379, 9432=db.shop:5432\"");
    pod("blog", 2, "signet.dev/inbound: \"8080=18080\"");
    pod("redis", 3, "signet.dev/inbound: \"6379=16379\"");
    pod("db", 4, "signet.dev/inbound: \"5432=15432\"");
    for (name, port) in [("blog", 8080), ("redis", 6379), ("db", 5432)] {
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  selector: {{app: {name}}}\n  ports: [{{port: {port}}}]\n"
        );
    }
    text
}

#[tokio::test]
async fn curl_redis_cli_and_psql_speak_to_their_servers_through_the_mesh_all_run_without_rights() {
    let (user, network) = (Unprivileged::new().unwrap(), Network::claim());
    let at = |d, port| SocketAddr::new(network.address(1, d), port);
    user.directory("manifests").unwrap();
    user.write("manifests/shop.yaml", &manifests(&network)).unwrap();
    user.directory("state").unwrap();
    let mut mesh = user.signet("signet");
    mesh.arg("local").arg(user.home.join("manifests")).arg("--state").arg(user.home.join("state"));
    mesh.arg("--control-address").arg(network.control().to_string());
    let mut mesh = mesh.stdout(Stdio::null()).spawn().unwrap();
    let _nginx = programs::nginx(&user, &[at(2, 18080)]).await.unwrap();
    let _redis = programs::redis(&user, &[at(3, 16379)]).await.unwrap();
    let _postgres = programs::postgres(&user, &[at(4, 15432)]).await.unwrap();
    for d in 1..=4 {
        eventually("the proxies to be ready", SOON, async || {
            client::get(at(d, 15020), "/ready").await.ok().filter(|(status, _)| *status == 200)
        })
        .await;
    }
    let web = network.address(1, 1).to_string();
    user.write("www/index.html", "hello over mTLS").unwrap();
    let page = vec![b'x'; 5_000_000];
    user.write("www/big", std::str::from_utf8(&page).unwrap()).unwrap();

    let mut curl = user.command("curl");
    curl.args(["-sS", "--fail"]).arg(format!("http://{web}:9080/"));
    assert_eq!(user.output(curl).await.unwrap(), "hello over mTLS");
    let mut curl = user.command("curl");
    curl.args(["-sS", "--fail", "-o", "/dev/null", "-w", "%{size_download}"])
        .arg(format!("http://{web}:9080/big"));
    assert_eq!(user.output(curl).await.unwrap(), "5000000");

    let mut redis = user.command("redis-cli");
    redis.args(["-h", &web, "-p", "9379", "INCRBY", "visits", "42"]);
    assert_eq!(user.output(redis).await.unwrap().trim(), "42");

    let mut psql = user.command("psql");
    psql.args(["-U", "postgres", "-h", &web, "-p", "9432", "-Atc"]);
    psql.arg("create table t as select generate_series(1, 10000) n; select sum(n) from t");
    assert!(user.output(psql).await.unwrap().trim().ends_with("50005000"));

    for (d, reason) in [(2, "blog"), (3, "redis"), (4, "db")] {
        let (_, table) = client::get(at(d, 15020), "/connections").await.unwrap();
        assert!(table.contains("TLSv1.3") && table.contains("ns/shop/sa/web"), "{reason}: {table}");
    }
    if let Some(pid) = mesh.id() {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    assert!(tokio::time::timeout(SOON, mesh.wait()).await.unwrap().unwrap().success(), "a clean stop");
}
