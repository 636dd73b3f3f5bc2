//! The long promises, run by `make soak`. Each leaves docs/soak/<line>.json.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]
#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;
use signet_cli::local::ChildOverride;
use signet_tests::{
    apps::{App, Does, pattern},
    binaries::binary,
    client::{dial, ping},
    eventually::{SOON, eventually},
    manifests::Pod,
    mesh::Mesh,
    record::Record,
    workload::Workload,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

const GIB: u64 = 1 << 30;
const PIECE: usize = 64 * 1024;
/// A hang, not a measure.
const PATIENCE: Duration = Duration::from_secs(600);

async fn pair(does: Does) -> (Mesh, App, Workload) {
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .strict("shop")
        .start()
        .await;
    let app = mesh.run("shop/api", 8080, does).await;
    let web = mesh.workload("shop/web");
    (mesh, app, web)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: make soak"]
async fn one_gib_each_way_arrives_whole() {
    let record = Record::begin("soak", "3.2b").unwrap();
    let (mesh, _app, web) = pair(Does::Source(GIB)).await;
    let begun = Instant::now();
    timeout(PATIENCE, download(&web)).await.unwrap();
    let down = begun.elapsed().as_secs_f64();
    mesh.finish().await;

    let (mesh, app, web) = pair(Does::Sink).await;
    let begun = Instant::now();
    timeout(PATIENCE, upload(&web)).await.unwrap();
    let up = begun.elapsed().as_secs_f64();
    assert_eq!(app.received(), GIB);
    mesh.finish().await;
    record.held(&json!({"downMiBPerSecond": 1024.0 / down, "upMiBPerSecond": 1024.0 / up})).unwrap();
}

async fn download(web: &Workload) {
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    let (mut at, mut buffer) = (0, vec![0; PIECE]);
    loop {
        let n = client.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        assert_eq!(buffer[..n], pattern(at, n)[..], "at {at}");
        at += n as u64;
    }
    assert_eq!(at, GIB);
}

async fn upload(web: &Workload) {
    let mut client = dial(web.address, web.port(9000)).await.unwrap();
    let mut at = 0;
    while at < GIB {
        let piece = pattern(at, PIECE);
        client.write_all(&piece).await.unwrap();
        at += PIECE as u64;
    }
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, GIB.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: make soak"]
async fn ten_thousand_short_connections_fail_none() {
    let record = Record::begin("soak", "3.2d").unwrap();
    let (mesh, app, web) = pair(Does::Echo).await;
    let begun = Instant::now();
    let workers = (0..8_u64).map(|worker| {
        let web = web.clone();
        async move {
            for n in 0..1250_u64 {
                let words = format!("{worker}/{n}");
                assert_eq!(web.send(9000, words.as_bytes()).await.unwrap(), words.as_bytes());
            }
        }
    });
    futures_util::future::join_all(workers).await;
    assert_eq!(app.connections(), 10_000);
    let took = begun.elapsed().as_secs_f64();
    mesh.finish().await;
    record.held(&json!({"connections": 10_000, "connectionsPerSecond": 10_000.0 / took})).unwrap();
}

/// The test's own two ends take 18 000 of 20 000 descriptors, and so does each proxy.
#[tokio::test]
#[ignore = "soak: make soak"]
async fn eight_thousand_idle_and_a_thousand_busy_connections_all_work_and_their_memory_comes_back() {
    let record = Record::begin("soak", "5.4i").unwrap();
    let (mesh, _app, web) = pair(Does::Echo).await;
    let api = mesh.workload("shop/api");
    let proxies = ["shop/web", "shop/api"].map(|name| mesh.local.child_pid(name).unwrap());
    let base = proxies.map(pss);
    let mut idle = open(&web, 8000).await;
    let with_idle = proxies.map(pss);
    let mut busy = open(&web, 1000).await;
    let begun = Instant::now();
    let rounds = join_all(busy.iter_mut().map(|connection| async move {
        let mut rounds = 0_u64;
        while begun.elapsed() < BUSY {
            ping(connection, &[7; 1024]).await.unwrap();
            rounds += 1;
        }
        rounds
    }))
    .await;
    let at_once = web.metric("signet_connections_open", &[("direction", "outbound")]).await;
    assert_eq!(at_once, 9000.0);
    let with_all = proxies.map(pss);
    for connection in &mut idle {
        ping(connection, b"still there").await.unwrap();
    }
    drop((idle, busy));
    nothing_is_open(&[&web, &api]).await;
    let after = eventually("the memory to come back", SOON * 3, async || {
        let after = proxies.map(pss);
        let back = |n: usize| after[n] < base[n] + (with_all[n] - base[n]) / 4;
        (back(0) && back(1)).then_some(after)
    })
    .await;
    mesh.finish().await;
    let megabytes = |pss: [u64; 2]| pss.map(|bytes| bytes as f64 / 1e6);
    let each = |n: usize| (with_idle[n] - base[n]) / 8000;
    let numbers = json!({
        "proxies": ["client side", "server side"], "pssMegabytes": {
            "base": megabytes(base), "with8000Idle": megabytes(with_idle), "with1000BusyBesides": megabytes(with_all),
            "afterwards": megabytes(after),
        },
        "pssBytesPerIdleConnection": [each(0), each(1)],
        "requestsOf1KiBPerSecond": rounds.iter().sum::<u64>() as f64 / BUSY.as_secs_f64(),
        "fewestRequestsOfOneConnection": rounds.iter().min(),
    });
    record.held(&numbers).unwrap();
}

/// cgroup v1: everything of each proxy, its sockets in the kernel and its binary's pages included.
#[tokio::test]
#[ignore = "soak: make soak"]
async fn four_thousand_connections_work_under_a_memory_limit_of_64_mib() {
    const LIMIT: u64 = 64 << 20;
    let record = Record::begin("soak", "5.4j").unwrap();
    let limited = ["client", "server"].map(|side| MemoryLimit::new(side, LIMIT));
    let program =
        |limit: &MemoryLimit| ChildOverride { program: Some(limit.proxy.clone()), ..Default::default() };
    let mesh = Mesh::builder()
        .pod(Pod::named("web").with_upstream(9000, "api.shop:8080"))
        .pod(Pod::named("api").accepting(8080))
        .overriding("shop/web", program(&limited[0]))
        .overriding("shop/api", program(&limited[1]))
        .strict("shop")
        .start()
        .await;
    let _app = mesh.run("shop/api", 8080, Does::Echo).await;
    let (web, api) = (mesh.workload("shop/web"), mesh.workload("shop/api"));
    let before = ["shop/web", "shop/api"].map(|name| mesh.local.child_pid(name).unwrap());
    let mut connections = open(&web, 4000).await;
    for _ in 0..3 {
        let pings = connections.iter_mut().map(|connection| ping(connection, &[7; 16 * 1024]));
        stream::iter(pings).buffer_unordered(64).for_each(async |answer| answer.unwrap()).await;
    }
    assert_eq!(web.metric("signet_connections_open", &[("direction", "outbound")]).await, 4000.0);
    let peaks = limited.each_ref().map(MemoryLimit::peak);
    let of_the_kernel = limited.each_ref().map(|limit| limit.number("memory.kmem.usage_in_bytes"));
    let pss = before.map(pss);
    drop(connections);
    nothing_is_open(&[&web, &api]).await;
    let after = ["shop/web", "shop/api"].map(|name| mesh.local.child_pid(name).unwrap());
    assert_eq!(before, after, "killed for its memory, and started again");
    mesh.finish().await;
    let refused = limited.each_ref().map(MemoryLimit::times_at_limit);
    record
        .held(&json!({
            "proxies": ["client side", "server side"], "limitBytes": LIMIT, "by": "cgroup v1 memory.limit_in_bytes",
            "peakBytes": peaks, "ofThemTheKernels": of_the_kernel, "pssBytes": pss, "timesAtTheLimit": refused, "connections": 4000,
        }))
        .unwrap();
}

/// So many connections to the echo behind `web`'s upstream, each with a word said and heard.
async fn open(web: &Workload, count: usize) -> Vec<TcpStream> {
    let one = async || {
        let mut connection = dial(web.address, web.port(9000)).await.unwrap();
        ping(&mut connection, b"hello").await.unwrap();
        connection
    };
    stream::iter((0..count).map(|_| one())).buffer_unordered(32).collect().await
}

async fn nothing_is_open(workloads: &[&Workload]) {
    for workload in workloads {
        eventually(&format!("{} to have nothing open", workload.name), SOON, async || {
            (workload.metric("signet_connections_open", &[]).await == 0.0).then_some(())
        })
        .await;
    }
}

/// Proportional set size, in bytes.
fn pss(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A cgroup with a limit, and a program that starts the proxy in it. Gone when dropped.
struct MemoryLimit {
    directory: PathBuf,
    proxy: PathBuf,
}

impl MemoryLimit {
    fn new(name: &str, bytes: u64) -> Self {
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
        let ours =
            ours.lines().find_map(|line| line.split_once(":memory:")).expect("cgroup v1 with memory").1;
        let name = format!("signet-soak-{name}-{}", std::process::id());
        let directory = Path::new("/sys/fs/cgroup/memory").join(ours.trim_start_matches('/')).join(&name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("memory.limit_in_bytes"), bytes.to_string()).unwrap();
        let proxy = std::env::temp_dir().join(name);
        let script = format!(
            "#!/bin/sh\necho $$ > {}/cgroup.procs || exit 1\nexec {} \"$@\"\n",
            directory.display(),
            binary("signet-proxy").display()
        );
        fs::write(&proxy, script).unwrap();
        fs::set_permissions(&proxy, fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, proxy }
    }

    fn number(&self, file: &str) -> u64 {
        fs::read_to_string(self.directory.join(file)).unwrap().trim().parse().unwrap()
    }

    fn peak(&self) -> u64 {
        self.number("memory.max_usage_in_bytes")
    }

    fn times_at_limit(&self) -> u64 {
        self.number("memory.failcnt")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.proxy);
        let _ = fs::remove_dir(&self.directory); // empty only after the mesh; a left-over is an empty directory
    }
}

/// How long the busy ones are.
const BUSY: Duration = Duration::from_secs(10);
