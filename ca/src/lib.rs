//! wip
pub mod csr;
pub mod issue;
pub mod rotation;
pub mod state;
pub mod store;
pub mod tokens;
