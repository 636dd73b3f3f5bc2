//! What a client and a backend may take of us, with units and reasons. docs/http.md has the same numbers as a table, and the names by
//! which each is set ([`HttpSettings`]).

mod settings;

use std::time::Duration;

#[cfg(doc)]
use signet_core::http_settings::HttpSettings;
pub use signet_core::http_settings::{EncodedSlash, Underscores};

/// Limits of one engine; the defaults are what is shipped.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub head: HeadLimits,
    pub h2: H2Limits,
    pub client: ClientLimits,
    pub upstream: UpstreamLimits,
    pub trust: Trust,
}

/// Of a request's head, in either version.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadLimits {
    /// Bytes of HTTP/1's first line, and of a target in HTTP/2: what nginx and Apache take.
    pub line: usize,
    /// Bytes of names, values and 32 for each field, as HTTP/2 counts (RFC 9113 6.5.2): what one request may hold of us.
    pub bytes: usize,
    /// Fields: browsers send 20.
    pub fields: usize,
    /// HTTP/2 sends each cookie as a field of its own (RFC 9113 8.2.3); they are counted apart.
    pub cookies: usize,
    /// What is done with a field whose name has `_`, which CGI cannot tell from `-`.
    pub underscores: Underscores,
    /// What is done with `%2F` in a path, which some origins take for a `/`.
    pub encoded_slash: EncodedSlash,
}

/// Of an HTTP/2 connection with a client.
#[derive(Clone, Debug, PartialEq)]
pub struct H2Limits {
    pub streams: u32,
    /// Bytes that a client may send before we read: of a stream, and of all together. Envoy's edge defaults.
    pub stream_window: u32,
    pub connection_window: u32,
    pub frame: u32,
    /// Bytes of a response that wait for a slow client's window, each stream.
    pub send_buffer: usize,
    /// Streams that a client resets before it has its answer (rapid reset, CVE-2023-44487): so many at once, and so many more
    /// each second; above that the connection is closed. A page that is left while its images load resets a hundred.
    pub resets: u32,
    pub resets_per_second: u32,
    /// Streams that we reset because the client broke the protocol (MadeYouReset, CVE-2025-8671).
    pub errors: usize,
    /// See h2's `data_frame_budget`: so many bytes that small DATA frames fall short of 256 may wait unread. Its own default
    /// ends a connection on which one gRPC stream of small messages stalls; this is 16 000 frames.
    pub small_frames: usize,
}

/// Of a client's patience and of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientLimits {
    /// First byte of a request to the end of its head.
    pub head: Duration,
    /// Between two requests on one connection: what nginx gives.
    pub idle: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// A write that the client does not take.
    pub write: Duration,
    /// After the shutdown began: how long an idle HTTP/1 connection is kept for a request that may be on its way.
    pub drain_idle: Duration,
    /// In a tunnel, without a byte in either direction: an hour, which every heartbeat beats.
    pub tunnel: Duration,
    /// Memory that a slow client's response may take, in bytes; never less than a request's head may (one buffer's size is both).
    pub write_buffer: usize,
}

/// Towards backends.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamLimits {
    /// Two lost SYNs and a handshake fit.
    pub connect: Duration,
    /// Without a byte that we wait for: nginx's proxy_read_timeout.
    pub idle: Duration,
    /// Of a connection in the pool: less than node's 5 s, because an origin that closes first loses a POST.
    pub pool_idle: Duration,
    /// The same of HTTP/2, which says when it closes.
    pub h2_idle: Duration,
    /// Idle connections to one endpoint.
    pub pool: usize,
    /// Connections to one endpoint, of HTTP/1: more is 503, before the origin is asked.
    pub connections: usize,
    /// HTTP/2 connections to one endpoint, each opened when those before are full; then requests wait.
    pub h2_connections: usize,
    pub stream_window: u32,
    pub connection_window: u32,
    /// As [`H2Limits::small_frames`]: many clients share a connection here, so that one slow reader must not end it.
    pub small_frames: usize,
    /// Fields and bytes of a response's head.
    pub head_fields: usize,
    pub head_bytes: usize,
    /// Retries may be this share of requests, in percent, and this many each second beside it (Linkerd's numbers).
    pub retry_percent: u32,
    pub retries_per_second: u32,
    /// Connect failures in a row that take an endpoint out, for this long at first and at most (doubled each time).
    pub eject_after: u32,
    pub eject: Duration,
    pub eject_max: Duration,
}

/// What of a client's words about its own client is believed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trust {
    /// Proxies of ours in front of us that append to X-Forwarded-For. 0: all forwarded headers of a request are dropped.
    pub hops: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head: HeadLimits {
                line: 8 * 1024,
                bytes: 64 * 1024,
                fields: 100,
                cookies: 256,
                underscores: Underscores::Drop,
                encoded_slash: EncodedSlash::Refuse,
            },
            h2: H2Limits {
                streams: 100,
                stream_window: 64 * 1024,
                connection_window: 1024 * 1024,
                frame: 16 * 1024,
                send_buffer: 64 * 1024,
                resets: 500,
                resets_per_second: 50,
                errors: 100,
                small_frames: 4 * 1024 * 1024,
            },
            client: ClientLimits {
                head: seconds(10),
                idle: seconds(75),
                body: seconds(30),
                write: seconds(30),
                drain_idle: seconds(5),
                tunnel: seconds(3600),
                write_buffer: 128 * 1024,
            },
            upstream: UpstreamLimits {
                connect: seconds(5),
                idle: seconds(60),
                pool_idle: seconds(4),
                h2_idle: seconds(60),
                pool: 64,
                connections: 1024,
                h2_connections: 8,
                stream_window: 256 * 1024,
                connection_window: 4 * 1024 * 1024,
                small_frames: 64 * 1024 * 1024,
                head_fields: 100,
                head_bytes: 128 * 1024,
                retry_percent: 20,
                retries_per_second: 10,
                eject_after: 5,
                eject: seconds(1),
                eject_max: seconds(30),
            },
            trust: Trust::default(),
        }
    }
}
