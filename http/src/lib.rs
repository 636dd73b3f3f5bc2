//! The one L7 engine: route table, matches, filters, balancing, retries, connection pools (docs/http.md).
//!
//! [`model`] is what it is told: plain data, without Kubernetes and without protobuf; [`contract`]
//! is how it travels. [`engine::Engine`] holds what was told
//! last, compiled; [`serve::serve`] carries one client connection. A request's life is `guard` (HTTP/1) or `serve/h2` ->
//! `exchange` (check, challenge, host, rule) -> `forward` (pick, send, again) -> `upstream` -> `body` -> `record`.

pub mod arrival;
mod balance;
mod body;
mod challenges;
pub mod chunks;
pub mod contract;
pub mod engine;
mod exchange;
mod filters;
mod forward;
mod forwarded;
mod guard;
pub mod head;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod normal;
mod record;
pub mod refusal;
mod request;
mod retry;
pub mod serve;
pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;
mod together;
mod tunnel;
pub mod upstream;
