//! What is in each image, who it runs as, and what it does when a pod says nothing else.

use std::path::PathBuf;

use anyhow::Result;

use super::oci::Config;
use crate::programs::Programs;

pub const PAUSE: &str = "signet.test/pause:1";
/// Port 53 as a user without rights: needs `net.ipv4.ip_unprivileged_port_start=0`, as containerd can set it for every pod.
pub const COREDNS: &str = "signet.test/coredns:1";
/// `/pebble` (the default) and `/pebble-challtestsrv`; their configuration is the pod's.
pub const PEBBLE: &str = "signet.test/pebble:1";
pub const ECHO_BASIC: &str = "signet.test/echo-basic:1";
/// A shell with busybox, curl, openssl, nft, psql and redis-cli. By itself it waits to be told what to do.
pub const TOOLBOX: &str = "signet.test/toolbox:1";
/// Port 8080; says who asked whom.
pub const NGINX: &str = "signet.test/nginx:1";
/// Port 6379, without a password, in memory only.
pub const REDIS: &str = "signet.test/redis:1";
/// Port 5432, user `postgres` without a password, in `$PGDATA` below `/var/lib/postgresql`.
pub const POSTGRES: &str = "signet.test/postgres:1";

/// Port 8888, token `$JUPYTER_TOKEN`; writes below `/tmp` only, its notebooks too.
pub const JUPYTERLAB: &str = "signet.test/jupyterlab:1";
/// Port 8080, anybody may read and write `/data`.
pub const WSGIDAV: &str = "signet.test/wsgidav:1";

/// Distroless calls it nonroot. Everything runs as it unless it says why not.
pub(super) const NONROOT: &str = "65532:65532";

/// What an image is made of. Everything in here is part of its key.
#[derive(Clone, Debug, Default)]
pub(super) struct Recipe {
    /// All the names that it is asked for by.
    pub(super) names: Vec<String>,
    pub(super) config: Config,
    /// Debian packages, with everything that they need ...
    pub(super) packages: &'static [&'static str],
    /// ... except these, by the beginning of the name.
    pub(super) without: &'static [&'static str],
    /// Python's packages: a requirements file with versions and hashes.
    pub(super) python: Option<&'static str>,
    /// Files of this machine: where from, where to. All are executable.
    pub(super) programs: Vec<(PathBuf, String)>,
    /// Path, mode, content.
    pub(super) texts: Vec<(&'static str, u32, &'static str)>,
    pub(super) directories: Vec<(&'static str, u32)>,
    pub(super) users: Vec<(&'static str, u32)>,
    /// Fill /usr/bin with links: one per applet of busybox, and to PostgreSQL's programs in their versioned directory.
    pub(super) links: bool,
}

pub(super) fn recipes(programs: &Programs) -> Result<Vec<Recipe>> {
    let alone = |name: &str, program: &str, path: &'static str| {
        let programs = vec![(programs.path(program)?, path.to_owned())];
        let config = Config { user: NONROOT.to_owned(), entrypoint: words(&[path]), ..Config::default() };
        Ok::<_, anyhow::Error>(Recipe { names: words(&[name]), config, programs, ..Recipe::default() })
    };
    let mut pebble = alone(PEBBLE, "pebble", "/pebble")?;
    pebble.programs.push((programs.path("pebble-challtestsrv")?, "/pebble-challtestsrv".to_owned()));
    let mut echo_basic = alone(ECHO_BASIC, "echo-basic", "/echo-basic")?;
    echo_basic.names.extend(words(&CONFORMANCE_ECHO_BASIC));
    Ok(vec![
        alone(PAUSE, "pause", "/pause")?,
        alone(COREDNS, "coredns", "/coredns")?,
        pebble,
        echo_basic,
        toolbox(),
        nginx(),
        redis(),
        postgres(),
        jupyterlab(),
        wsgidav(),
    ])
}

fn toolbox() -> Recipe {
    Recipe {
        names: words(&[TOOLBOX, EXAMPLES_CURL]),
        config: Config {
            // Not an entrypoint, so that a pod's `args` are a command of their own. A shell's child, because process 1
            // is deaf to SIGTERM unless it says otherwise.
            cmd: words(&["/bin/sh", "-c", "trap exit TERM; sleep infinity & wait"]),
            ..runs_as(NONROOT, &[])
        },
        packages: &["busybox-static", "curl", "openssl", "nftables", "postgresql-client", "redis-tools"],
        without: &["postgresql-client-common"],
        links: true,
        ..Recipe::default()
    }
}

fn nginx() -> Recipe {
    Recipe {
        names: words(&[NGINX, EXAMPLES_NGINX]),
        config: Config {
            stop_signal: "SIGQUIT", // lets requests finish
            // stderr: its own log file is opened before the configuration is read
            ..runs_as(NONROOT, &["/usr/sbin/nginx", "-e", "stderr", "-c", "/etc/nginx/nginx.conf"])
        },
        packages: &["nginx"],
        without: &[
            "iproute2",
            "libbpf",
            "libelf",
            "libdb5",
            "libcap2-bin",
            "libmnl",
            "libtirpc",
            "libxtables",
        ],
        texts: vec![("etc/nginx/nginx.conf", 0o644, include_str!("../../images/nginx.conf"))],
        ..Recipe::default()
    }
}

fn redis() -> Recipe {
    let server = ["/usr/bin/redis-server", "--bind", "*", "-::*", "--protected-mode", "no"];
    let memory = ["--save", "", "--appendonly", "no", "--dir", "/tmp"];
    Recipe {
        names: words(&[REDIS]),
        config: runs_as(NONROOT, &[&server[..], &memory].concat()),
        packages: &["redis-server"],
        ..Recipe::default()
    }
}

fn postgres() -> Recipe {
    let config = runs_as("999:999", &["/entrypoint"]); // a user with a name: initdb and psql insist
    Recipe {
        names: words(&[POSTGRES]),
        config: Config {
            env: [config.env, words(&["PGDATA=/var/lib/postgresql/data"])].concat(),
            stop_signal: "SIGINT", // ends sessions; SIGTERM waits for them
            ..config
        },
        packages: &["busybox-static", "postgresql"],
        without: &[
            "libc-l10n",
            "libllvm",
            "libz3",
            "locales",
            "openssl",
            "postgresql-c",
            "postgresql-client-common",
        ],
        texts: vec![("entrypoint", 0o755, include_str!("../../images/postgres.sh"))],
        directories: vec![("var/lib/postgresql", 0o1777)],
        users: vec![("postgres", 999)],
        links: true,
        ..Recipe::default()
    }
}

fn jupyterlab() -> Recipe {
    // Whoever is in front of it may give it any Host; root_dir, because a pod's working directory is `/`.
    let settings = ["--no-browser", "--ip=*", "--port=8888", "--ServerApp.allow_remote_access=True"];
    Recipe {
        names: words(&[JUPYTERLAB]),
        config: python(&[&["jupyterlab"], &settings[..], &["--ServerApp.root_dir=/tmp"]].concat()),
        packages: &["libstdc++6", "python3"], // of pyzmq: wheels bring all that a manylinux system may lack, and this it has
        python: Some(JUPYTERLAB_PINS),
        ..Recipe::default()
    }
}

fn wsgidav() -> Recipe {
    let settings = ["--no-config", "--server=cheroot", "--host=::", "--port=8080"]; // :: is both families
    let share = ["--root=/data", "--auth=anonymous"];
    Recipe {
        names: words(&[WSGIDAV]),
        config: python(&[&["wsgidav.server.server_cli"], &settings[..], &share].concat()),
        packages: &["python3"],
        python: Some(WSGIDAV_PINS),
        directories: vec![("data", 0o1777)],
        ..Recipe::default()
    }
}

/// A module as the program. Its home is `/tmp`, and it leaves nothing beside its modules, which may be read-only.
fn python(module: &[&str]) -> Config {
    let config = runs_as(NONROOT, &[&["/usr/bin/python3", "-m"], module].concat());
    let python = words(&["HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"]);
    Config { env: [config.env, python].concat(), ..config }
}

fn runs_as(user: &str, entrypoint: &[&str]) -> Config {
    Config {
        user: user.to_owned(),
        env: words(&["PATH=/usr/bin:/usr/sbin"]),
        entrypoint: words(entrypoint),
        ..Config::default()
    }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Made by images/pin.py.
pub(super) const JUPYTERLAB_PINS: &str = include_str!("../../images/requirements-jupyterlab.txt");
pub(super) const WSGIDAV_PINS: &str = include_str!("../../images/requirements-wsgidav.txt");

/// What examples/ ask for. Ours stand in for them, because nothing is pulled from outside: they listen where those do, and have their
/// programs.
const EXAMPLES_NGINX: &str = "docker.io/nginxinc/nginx-unprivileged:1.27";
const EXAMPLES_CURL: &str = "docker.io/curlimages/curl:8.11.1";

/// What the manifests of Gateway API's conformance suite ask for (v1.7.0).
const CONFORMANCE_ECHO_BASIC: [&str; 2] = [
    "registry.k8s.io/gateway-api/conformance/echo-basic:v0.1.0",
    "registry.k8s.io/gateway-api/conformance/echo-basic:v0.2.0",
];
