//! signet. This file wires and decides nothing.

use std::process::ExitCode;

use signet_cli::{Cli, USAGE};

signet_allocator::settings!(dirty_ms = 0);

#[tokio::main]
async fn main() -> ExitCode {
    // Before anything that may open a TLS connection; it fails only when there is one already.
    let _ = signet_core::tls::default_provider().install_default();
    match Cli::called_as(std::env::args_os()) {
        Ok(cli) => ExitCode::from(signet_cli::run(cli).await),
        Err(e) => {
            let _ = e.print(); // a reader that has gone away changes nothing
            if e.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
