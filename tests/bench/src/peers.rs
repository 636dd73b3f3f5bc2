//! The peers' configurations: one worker each, no logs, TLS 1.3 with AES-128-GCM, both sides verified, resumption off.

use std::{fs, net::SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    backend,
    lab::Lab,
    pki::{Files, IDS, SERVER_NAME},
    process::Process,
    side::{Both, Side},
};

/// Where a peer's two proxies listen: the client's for its app, the server's on the link.
pub type Places = Both<SocketAddr>;

/// HAProxy carries plain TCP: the floor, not a competitor.
pub fn haproxy(lab: &Lab, at: Places) -> Result<Both<Process>> {
    let config = |listen, to: SocketAddr| {
        format!(
            "global\n nbthread 1\n maxconn 8600\n maxpipes 500\n tune.bufsize 32768\ndefaults\n mode tcp\n timeout connect 5s\n \
             timeout client 600s\n timeout server 600s\n option splice-auto\nlisten l\n bind {listen} backlog 16384\n \
             server s {to}\n"
        )
    };
    both(lab, "haproxy", at, |lab, side, listen, to| {
        let file = lab.directory.join(format!("haproxy-{}.cfg", side.word()));
        fs::write(&file, config(listen, to))?;
        let mut command = lab.net.command(side, "haproxy");
        command.arg("-db").arg("-f").arg(file);
        Ok(command)
    })
}

/// One process, master and worker in one: the fairest memory, and the same loop.
pub fn nginx(lab: &Lab, at: Places) -> Result<Both<Process>> {
    both(lab, "nginx", at, |lab, side, listen, to| {
        let files = lab.peers.of(side);
        let (tls, listen_tls) = match side {
            Side::Client => {
                let verify = format!(
                    "proxy_ssl on; proxy_ssl_verify on; proxy_ssl_verify_depth 2; proxy_ssl_name {SERVER_NAME}; \
                     proxy_ssl_trusted_certificate {}; proxy_ssl_session_reuse off;",
                    files.root.display()
                );
                (format!("{} {verify}", nginx_tls("proxy_ssl", files)), "")
            }
            Side::Server => {
                let verify = format!(
                    "ssl_client_certificate {}; ssl_verify_client on; ssl_verify_depth 2; ssl_session_tickets off; \
                     ssl_session_cache off; ssl_ecdh_curve X25519;",
                    files.root.display()
                );
                (format!("{} {verify}", nginx_tls("ssl", files)), " ssl")
            }
        };
        let (directory, word) = (lab.directory.display(), side.word());
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root; worker_processes 1; master_process off; \
             daemon off; pid {directory}/nginx-{word}.pid; error_log {directory}/nginx-{word}.err; \
             worker_rlimit_nofile 19000;\nevents {{ worker_connections 18500; }}\nstream {{ server {{ \
             listen {listen}{listen_tls} backlog=16384; proxy_pass {to}; tcp_nodelay on; {tls} }} }}\n"
        );
        let file = lab.directory.join(format!("nginx-{word}.conf"));
        fs::write(&file, config)?;
        let mut command = lab.net.command(side, "nginx");
        command.arg("-c").arg(file);
        Ok(command)
    })
}

fn nginx_tls(prefix: &str, files: &Files) -> String {
    format!(
        "{prefix}_certificate {}; {prefix}_certificate_key {}; {prefix}_protocols TLSv1.3; \
         {prefix}_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; {prefix}_conf_command Groups X25519;",
        files.chain.display(),
        files.key.display()
    )
}

/// `group`: "X25519" or "X25519MLKEM768".
pub fn envoy(lab: &Lab, name: &str, at: Places, group: &str) -> Result<Both<Process>> {
    both(lab, name, at, |lab, side, listen, to| {
        let file = lab.directory.join(format!("{name}-{}.json", side.word()));
        fs::write(&file, envoy_config(side, listen, to, lab.peers.of(side), group).to_string())?;
        let mut command = lab.net.command(side, &lab.programs.envoy);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]).arg(file);
        Ok(command)
    })
}

fn envoy_config(side: Side, listen: SocketAddr, to: SocketAddr, files: &Files, group: &str) -> Value {
    let tls = envoy_tls(side, files, group);
    let address = |at: SocketAddr| json!({"socket_address": {"address": at.ip(), "port_value": at.port()}});
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "t", "cluster": "up",
        },
    }]});
    let no_limit =
        json!({"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000});
    let mut cluster = json!({
        "name": "up", "type": "STATIC", "circuit_breakers": {"thresholds": [no_limit]},
        "load_assignment": {
            "cluster_name": "up", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}],
        },
    });
    match side {
        Side::Client => cluster["transport_socket"] = tls,
        Side::Server => chain["transport_socket"] = tls,
    }
    json!({"static_resources": {
        "listeners": [{"address": address(listen), "tcp_backlog_size": 16384, "filter_chains": [chain]}],
        "clusters": [cluster],
    }})
}

fn envoy_tls(side: Side, files: &Files, group: &str) -> Value {
    let file = |path: &std::path::Path| json!({"filename": path});
    let common = json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": [group],
        },
        "tls_certificates": [{"certificate_chain": file(&files.chain), "private_key": file(&files.key)}],
        "validation_context": {
            "trusted_ca": file(&files.root),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": IDS}}],
        },
    });
    let (kind, mut config) = match side {
        Side::Client => ("UpstreamTlsContext", json!({"max_session_keys": 0})),
        Side::Server => (
            "DownstreamTlsContext",
            json!({
                "require_client_certificate": true, "disable_stateless_session_resumption": true,
                "disable_stateful_session_resumption": true,
            }),
        ),
    };
    config["@type"] = format!("{TYPES}transport_sockets.tls.v3.{kind}").into();
    config["common_tls_context"] = common;
    json!({"name": "tls", "typed_config": config})
}

/// Starts both sides; `command` gets where that side listens and where it sends.
fn both(
    lab: &Lab,
    name: &str,
    at: Places,
    command: impl Fn(&Lab, Side, SocketAddr, SocketAddr) -> Result<std::process::Command>,
) -> Result<Both<Process>> {
    let start = |side: Side| -> Result<Process> {
        let (listen, to) = match side {
            Side::Client => (at.client, at.server),
            Side::Server => (at.server, backend::behind_proxies()),
        };
        let name = format!("{name}-{}", side.word());
        let log = lab.directory.join(format!("{name}.log"));
        Process::start(&name, &mut command(lab, side, listen, to)?, &log)
    };
    Ok(Both { client: start(Side::Client)?, server: start(Side::Server)? })
}

const TYPES: &str = "type.googleapis.com/envoy.extensions.";
