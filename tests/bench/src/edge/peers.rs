//! The peers' configurations as an HTTPS edge: one worker each, TLS 1.3 with AES-128-GCM and the same ECDSA certificate, tickets
//! on, HTTP/2 and HTTP/1.1, connections to the origin that stay, the usual forwarded headers, and an access log with a
//! line per request in a file, written as each does it by default (Envoy alone collects lines first).

use std::{fs, net::SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    edge::{lab::Lab, origin},
    pki::Files,
    process::Process,
    side::Side,
};

/// Idle connections to the origin may be used by any client, as the others have it by default.
pub fn haproxy(lab: &Lab, listen: SocketAddr) -> Result<Process> {
    let both = lab.directory.join("haproxy.pem"); // it wants chain and key in one file
    fs::write(&both, fs::read_to_string(&lab.web.chain)? + &fs::read_to_string(&lab.web.key)?)?;
    let (pem, origin) = (both.display(), origin::at());
    let config = format!(
        "global\n nbthread 1\n maxconn 8600\n log stdout format raw local0\n ssl-default-bind-options ssl-min-ver TLSv1.3\n \
         ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n\
         defaults\n mode http\n log global\n option httplog\n option forwardfor\n http-reuse always\n timeout connect 5s\n \
         timeout client 600s\n timeout server 600s\n timeout http-keep-alive 600s\n\
         frontend web\n bind {listen} ssl crt {pem} alpn h2,http/1.1 curves X25519 backlog 16384\n \
         http-request set-header X-Forwarded-Proto https\n http-request set-header X-Forwarded-Host %[req.hdr(host)]\n \
         http-request set-header X-Real-IP %[src]\n unique-id-format %[uuid()]\n unique-id-header X-Request-ID\n \
         default_backend origin\n\
         backend origin\n server origin {origin}\n"
    );
    let file = lab.directory.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = lab.net.command(Side::Server, "haproxy");
    command.arg("-db").arg("-f").arg(file);
    Process::start("haproxy", &mut command, &lab.directory.join("haproxy.log"))
}

/// One process, master and worker in one. The log line is ingress-nginx's.
pub fn nginx(lab: &Lab, listen: SocketAddr) -> Result<Process> {
    let (directory, origin) = (lab.directory.display(), origin::at());
    let Files { chain, key, .. } = &lab.web;
    let _ = fs::remove_file(lab.directory.join("nginx-access.log")); // of the round before
    let config = format!(
        "user root; worker_processes 1; master_process off; daemon off; pid {directory}/nginx.pid; \
         error_log {directory}/nginx.err; worker_rlimit_nofile 19000;\nevents {{ worker_connections 16384; }}\n\
         http {{\n\
         log_format line '$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \
         \"$http_user_agent\" $request_length $request_time [$proxy_host] $upstream_addr $upstream_response_length \
         $upstream_response_time $upstream_status $request_id';\n\
         access_log {directory}/nginx-access.log line;\n\
         keepalive_timeout 600s; keepalive_requests 1000000000; tcp_nodelay on; server_tokens off;\n\
         upstream origin {{ server {origin}; keepalive 320; keepalive_requests 1000000000; keepalive_timeout 600s; }}\n\
         server {{\nlisten {listen} ssl http2 backlog=16384;\nssl_certificate {}; ssl_certificate_key {};\n\
         ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519; \
         ssl_session_tickets on; ssl_session_cache shared:tls:10m;\n\
         location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; proxy_set_header X-Request-ID $request_id; proxy_set_header X-Real-IP $remote_addr; \
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $host; \
         proxy_set_header X-Forwarded-Port 443; proxy_set_header X-Forwarded-Proto $scheme; }}\n}}\n}}\n",
        chain.display(),
        key.display(),
    );
    let file = lab.directory.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = lab.net.command(Side::Server, "nginx");
    command.arg("-c").arg(file);
    Process::start("nginx", &mut command, &lab.directory.join("nginx.log"))
}

pub fn envoy(lab: &Lab, listen: SocketAddr) -> Result<Process> {
    let log = lab.directory.join("envoy-access.log");
    let _ = fs::remove_file(&log); // of the round before
    let file = lab.directory.join("envoy.json");
    fs::write(&file, envoy_config(listen, &lab.web, &log.display().to_string()).to_string())?;
    let mut command = lab.net.command(Side::Server, &lab.programs.envoy);
    command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]).arg(file);
    Process::start("envoy", &mut command, &lab.directory.join("envoy.log"))
}

fn envoy_config(listen: SocketAddr, web: &Files, log: &str) -> Value {
    let address = |at: SocketAddr| json!({"socket_address": {"address": at.ip(), "port_value": at.port()}});
    let file = |path: &std::path::Path| json!({"filename": path});
    let typed = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
        json!({"name": name, "typed_config": config})
    };
    let tls = typed(
        "tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        json!({"common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519MLKEM768", "X25519"],
            },
            "tls_certificates": [{"certificate_chain": file(&web.chain), "private_key": file(&web.key)}],
        }}),
    );
    let access = typed("file", "access_loggers.file.v3.FileAccessLog", json!({"path": log}));
    let router = typed("envoy.filters.http.router", "filters.http.router.v3.Router", json!({}));
    let to_origin = json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}});
    let http = typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "web", "codec_type": "AUTO", "use_remote_address": true, "access_log": [access],
            "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [to_origin]}]},
        }),
    );
    let no_limit =
        json!({"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000});
    json!({"static_resources": {
        "listeners": [{
            "address": address(listen), "tcp_backlog_size": 16384,
            "filter_chains": [{"transport_socket": tls, "filters": [http]}],
        }],
        "clusters": [{
            "name": "origin", "type": "STATIC", "circuit_breakers": {"thresholds": [no_limit]},
            "load_assignment": {
                "cluster_name": "origin",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(origin::at())}}]}],
            },
        }],
    }})
}
