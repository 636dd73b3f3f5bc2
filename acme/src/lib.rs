//! Certificates from an ACME CA. Here: who answers DNS-01, and what is looked at before an order.

pub mod dns;
pub mod preflight;
