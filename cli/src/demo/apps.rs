//! The demo's apps: line servers and a client, plain TCP, unaware of any mesh. Each speaks from its own pod's address.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use signet_core::drain::Drain;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Answers each line of each connection with what `answer` makes of it. Returns once it listens.
pub(super) fn serve<F, A>(listener: TcpListener, answer: F, drain: &Drain)
where
    F: Fn(String) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = io::Result<String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = drain.clone();
    drain.spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = tokio::select! {
                biased;
                () = tasks.stopping() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue, // that client has gone again
                },
            };
            let answer = answer.clone();
            tasks.spawn(async move {
                let _ = timeout(PATIENCE, converse(stream, answer)).await; // its end is the client's to judge
                drop(place);
            });
        }
    });
}

async fn converse<F, A>(stream: TcpStream, answer: F) -> io::Result<()>
where
    F: Fn(String) -> A,
    A: Future<Output = io::Result<String>>,
{
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(LONGEST)).lines();
    while let Some(line) = lines.next_line().await? {
        write.write_all(format!("{}\n", answer(line).await?).as_bytes()).await?;
    }
    Ok(())
}

/// Sends one line from the address `from` and returns the line that comes back. An end without a line is an error, as a
/// reset is: then nobody took the call.
pub(super) async fn call(from: IpAddr, to: SocketAddr, line: &str) -> io::Result<String> {
    let talk = async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(from, 0))?;
        let mut stream = socket.connect(to).await?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut reply = String::new();
        BufReader::new(stream.take(LONGEST)).read_line(&mut reply).await?;
        if reply.ends_with('\n') {
            Ok(reply.trim_end().to_owned())
        } else {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))
        }
    };
    timeout(PATIENCE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// More than the demo's clients ever open at once.
const CONNECTIONS: usize = 64;
/// A call through two proxies takes milliseconds; this is for one that is held back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a conversation: a few lines.
const LONGEST: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_gets_the_answer_to_its_line_and_a_closed_connection_is_an_error() {
        let drain = Drain::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        serve(
            listener,
            |line| async move { if line == "bad" { Err(io::ErrorKind::Other.into()) } else { Ok(line) } },
            &drain,
        );
        assert_eq!(call(address.ip(), address, "hello").await.unwrap(), "hello");
        assert!(call(address.ip(), address, "bad").await.is_err());
        drain.run(Duration::ZERO).await;
    }
}
