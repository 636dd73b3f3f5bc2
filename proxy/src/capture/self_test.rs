//! Proof by real connections: who dials a canary, or what stands for any address outside, must land at our own listener, and
//! the kernel must still know where the connection was meant to go.
//!
//! The listener says in one line which process it belongs to, where the connection arrived and where it was meant to go:
//! `signet-proxy 1f..9c 127.0.0.1:15009 192.0.2.1:15009`.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use signet_core::drain::Drain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::debug;

use super::{
    CANARIES, OUTBOUND_PORT, OUTBOUND_PROBES, SELF_TEST_PORT, has_route,
    orig_dst::{canonical, original},
    rules::Settings,
};
use crate::listen::{self, CannotListen, Places};

/// Names one process. Whoever holds the port could repeat it, but we hold the port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process(u128);

impl Process {
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        Self(fastrand::u128(..))
    }
}

/// Bound on loopback, not yet served.
pub struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// The self-test's port on loopback of each family that there is.
    pub async fn bind() -> Result<Self, CannotListen> {
        Self::bind_unless(SELF_TEST_PORT, CannotListen::lacks_family).await
    }

    /// Without the families for which `unneeded` says so of the error.
    async fn bind_unless(port: u16, unneeded: impl Fn(&CannotListen) -> bool) -> Result<Self, CannotListen> {
        let mut bound = Vec::new();
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            match listen::bind(SocketAddr::new(loopback, port), "the capture self-test").await {
                Ok(listener) => bound.push(listener),
                Err(error) if unneeded(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(bound))
    }

    /// Answers until `drain` stops.
    pub fn serve(self, process: Process, drain: &Drain) {
        let places = Places::new(CONNECTIONS);
        for listener in self.0 {
            let places = places.clone();
            listen::serve(listener, drain, move |tcp, source| {
                let place = places.take();
                async move {
                    match place {
                        Some(_place) => answer(tcp, process).await,
                        None => debug!(%source, "self-test connection closed: {CONNECTIONS} are open"),
                    }
                }
            });
        }
    }
}

/// Says who we are and where the connection was meant to go; nothing that the client does matters.
pub async fn answer(mut tcp: TcpStream, process: Process) {
    let (Some(destination), Ok(listener)) = (original(&tcp), tcp.local_addr()) else { return };
    let line = Answer { process, listener: canonical(listener), destination }.to_string();
    let told = async {
        tcp.write_all(line.as_bytes()).await?;
        tcp.shutdown().await
    };
    if let Ok(Err(error)) = timeout(PATIENCE, told).await {
        debug!(%error, "self-test connection");
    }
}

/// What the listener says about a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    pub process: Process,
    /// Where it arrived.
    pub listener: SocketAddr,
    /// Where it was meant to go.
    pub destination: SocketAddr,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{WORD} {:032x} {} {}", self.process.0, self.listener, self.destination)
    }
}

impl FromStr for Answer {
    type Err = io::Error;
    fn from_str(line: &str) -> io::Result<Self> {
        let parsed = || {
            let words: Vec<&str> = line.strip_suffix('\n')?.split(' ').collect();
            let [WORD, process, listener, destination] = words[..] else { return None };
            let process = Process(u128::from_str_radix(process, 16).ok()?);
            Some(Self { process, listener: listener.parse().ok()?, destination: destination.parse().ok()? })
        };
        parsed().ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "somebody else answered"))
    }
}

/// Dials `address` and reads what the listener says.
pub async fn ask(address: SocketAddr) -> io::Result<Answer> {
    let asked = async {
        let mut said = String::new();
        TcpStream::connect(address).await?.take(LONGEST).read_to_string(&mut said).await?;
        said.parse()
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Dials the canary and the probe of each family that this namespace has. Returns how many families were proven.
///
/// Where the proxy does not run yet, its listeners are played from here; where it does, it answers by itself.
pub(super) async fn prove(settings: &Settings) -> Result<usize, NotProven> {
    let drain = Drain::new();
    for port in [SELF_TEST_PORT, OUTBOUND_PORT] {
        let not_ours = |error: &CannotListen| error.is_taken() || error.lacks_family();
        let played = Listeners::bind_unless(port, not_ours).await.map_err(NotProven::CannotListen)?;
        played.serve(Process::new(), &drain);
    }
    let proven = prove_families(settings).await;
    drain.run(Duration::ZERO).await;
    proven
}

async fn prove_families(settings: &Settings) -> Result<usize, NotProven> {
    let mut families = 0;
    for (canary, probe) in CANARIES.into_iter().zip(OUTBOUND_PROBES) {
        if !has_route(canary) {
            continue;
        }
        land(canary, SELF_TEST_PORT).await?;
        if !is_excluded(settings, probe) {
            land(probe, OUTBOUND_PORT).await?;
        }
        families += 1;
    }
    if families == 0 { Err(NotProven::NoRoute) } else { Ok(families) }
}

async fn land(to: SocketAddr, port: u16) -> Result<(), NotProven> {
    let answer = ask(to).await.map_err(|source| NotProven::NotRedirected { to, port, source })?;
    if answer.destination == to && answer.listener.port() == port {
        return Ok(());
    }
    Err(NotProven::Elsewhere { to, port, answer })
}

/// The user excluded what the probe would show.
fn is_excluded(settings: &Settings, probe: SocketAddr) -> bool {
    settings.outbound_ports.contains(&probe.port())
        || settings.outbound_subnets.iter().any(|subnet| subnet.contains(&probe.ip()))
}

/// The rules are programmed, and yet the connections do not arrive.
#[derive(Debug, thiserror::Error)]
pub enum NotProven {
    #[error(transparent)]
    CannotListen(CannotListen),
    #[error(
        "this network namespace has no route for IPv4 and none for IPv6, so no connection could prove the rules; run the step \
         after the pod's network is set up"
    )]
    NoRoute,
    #[error(
        "the rules are in place, but a connection to {to} did not arrive at our port {port}; \
         does another table with a nat hook come first? nft list ruleset"
    )]
    NotRedirected { to: SocketAddr, port: u16, source: io::Error },
    #[error(
        "the rules are in place, but a connection to {to} arrived at {} and was meant for {}, says the kernel, instead of our port \
         {port}; does another table with a nat hook rewrite it? nft list ruleset", answer.listener, answer.destination
    )]
    Elsewhere { to: SocketAddr, port: u16, answer: Answer },
}

const WORD: &str = "signet-proxy";
/// A connection that no rule takes goes to an address that nobody has: only time tells. Loopback needs a millisecond, and a
/// lost rule must be noticed within 15 s (canary.rs).
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes; a line with two IPv6 addresses has 150.
const LONGEST: u64 = 256;
/// The canaries' own two, a capture step beside them, and curious people.
const CONNECTIONS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written_and_nothing_else_is_an_answer() {
        let answer = Answer {
            process: Process::new(),
            listener: "[::1]:15009".parse().unwrap(),
            destination: "[2001:db8::1]:15009".parse().unwrap(),
        };
        let line = answer.to_string();
        assert!(line.len() < usize::try_from(LONGEST).unwrap());
        assert_eq!(line.parse::<Answer>().unwrap(), answer);
        for other in
            ["", "HTTP/1.1 400 Bad Request\r\n", line.trim_end(), &line.replace(WORD, "nginx"), &line[..20]]
        {
            assert!(other.parse::<Answer>().is_err(), "{other:?}");
        }
    }

    #[tokio::test]
    async fn the_listener_says_which_process_it_is_and_where_a_connection_went() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, process, drain) = (listener.local_addr().unwrap(), Process::new(), Drain::new());
        Listeners(vec![listener]).serve(process, &drain);
        // Without rules conntrack may not follow loopback at all; then there is no answer, and that is an error.
        match ask(address).await {
            Ok(answer) => assert_eq!(answer, Answer { process, listener: address, destination: address }),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidData),
        }
        drain.run(Duration::ZERO).await;
    }

    #[test]
    fn what_is_excluded_is_not_asked_for() {
        let subnets =
            |text: &str| Settings { outbound_subnets: vec![text.parse().unwrap()], ..Settings::default() };
        for (settings, excluded) in [
            (Settings::default(), [false, false]),
            (Settings { outbound_ports: vec![9], ..Settings::default() }, [true, true]),
            (subnets("0.0.0.0/0"), [true, false]),
            (subnets("2001:db8::/32"), [false, true]),
        ] {
            assert_eq!(OUTBOUND_PROBES.map(|probe| is_excluded(&settings, probe)), excluded, "{settings:?}");
        }
    }
}
