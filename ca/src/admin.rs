//! wip
pub mod status;
