//! The system as its users meet it: real processes, real sockets. One story per promise; docs/acceptance.md says which.

mod demo;
mod hostile;
mod identity;
mod outage;
mod policy;
mod programs;
mod reports;
mod rotation;
mod streams;
