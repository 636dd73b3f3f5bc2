//! The engine as clients and backends see it: real bytes, hyper and h2 at both ends, in memory and in virtual time.

mod challenged;
mod drained;
mod filtered;
mod forwarded;
mod http2;
mod limited;
mod retried;
mod smuggled;
mod tls;
mod tunnelled;
mod world;
