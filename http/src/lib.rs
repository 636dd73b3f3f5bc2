//! The one L7 engine: route table, matches, filters, balancing, retries, connection pools (docs/http.md).
//!
//! `model` is what it is told: plain data, without Kubernetes and without protobuf.

pub mod model;
