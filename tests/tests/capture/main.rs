//! Captured pods: apps that know nothing of the mesh, in network namespaces whose connections the kernel redirects. Needs
//! root; each test makes its own network.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]
#![expect(
    clippy::large_futures,
    reason = "the bound is for connections of the product; a test waits with one future"
)]

mod command;
mod exclusions;
mod loss;
mod pod;
mod programs;
mod strangers;

use std::{net::SocketAddr, time::Duration};

use signet_tests::netns::Netns;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

/// Bytes that nothing else says.
fn marker() -> String {
    format!("marker-{:032x}", fastrand::u128(..))
}

/// Sends from inside a namespace, ends its side, and returns everything that came back.
async fn exchange(netns: &Netns, to: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let exchanged = async {
        let mut connection = netns.dial(to).await?;
        connection.write_all(bytes).await?;
        connection.shutdown().await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    timeout(DEADLINE, exchanged).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Longer than any promise about a single connection.
const DEADLINE: Duration = Duration::from_secs(15);
