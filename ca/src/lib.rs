//! wip
pub mod admin;
pub mod audit;
pub mod authority;
pub mod callers;
pub mod clock;
pub mod csr;
pub mod issue;
pub mod ledger;
pub mod metrics;
pub mod refusal;
pub mod rotation;
pub mod state;
pub mod store;
pub mod tokens;
