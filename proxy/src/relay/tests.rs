//! Two ends of a wire over loopback, an app at each: the apps' bytes arrive whole and in order, or a reset does.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use signet_api::wire::Open;
use signet_core::{drain::Drain, telemetry::Metrics, tls::Generation};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::*;
use signet_wire::{
    connection::{Patience, Wire},
    frames::Reset,
    pool::Direction as Way,
};

use crate::{
    connections::{Connections, Facts},
    pki_for_tests::generations,
    pump::Flight,
};

async fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(to), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn entry(way: Way) -> Entry {
    let source = "198.18.0.9:4000".parse().unwrap();
    Connections::new(&mut Metrics::new()).open(Facts::new(way, source, "api.shop:80".into(), 80))
}

/// What the server does with the next OPEN.
enum Next {
    /// Carries it; the app's end comes out of the channel.
    Carry,
    Refuse(Reset),
    GoAway,
    /// Changes its keys first.
    Rekey,
}

/// A server that does as told with each OPEN of one wire.
struct Server {
    address: SocketAddr,
    apps: mpsc::Receiver<TcpStream>,
    next: mpsc::Sender<Next>,
    ends: mpsc::Receiver<Result<(), Refusal>>,
    _drain: Drain,
}

impl Server {
    async fn start(generation: Generation) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (app, apps) = mpsc::channel(4);
        let (next, nexts) = mpsc::channel(4);
        let (end, ends) = mpsc::channel(4);
        let drain = Drain::new();
        drain.spawn(async move {
            let (tcp, source) = listener.accept().await.unwrap();
            let patience = Patience::default();
            let accepting = Wire::accept(tcp, vec![], source, &generation, &patience);
            let Ok(wire) = Box::pin(accepting).await else { return }; // the client was cut before its OPEN
            Box::pin(serve(wire, app, nexts, end)).await;
        });
        Self { address, apps, next, ends, _drain: drain }
    }

    async fn will(&self, next: Next) {
        self.next.send(next).await.unwrap();
    }

    async fn app(&mut self) -> TcpStream {
        timeout(SOON, self.apps.recv()).await.unwrap().unwrap()
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        timeout(SOON, self.ends.recv()).await.unwrap().unwrap()
    }
}

async fn serve(
    mut wire: Box<Wire>,
    apps: mpsc::Sender<TcpStream>,
    mut nexts: mpsc::Receiver<Next>,
    ends: mpsc::Sender<Result<(), Refusal>>,
) {
    while let Ok(Some(_)) = wire.next_open().await {
        match nexts.recv().await.unwrap() {
            Next::Refuse(reset) => wire.refuse(reset).await.unwrap(),
            Next::GoAway => {
                wire.go_away().await.unwrap();
                return wire.until_closed().await;
            }
            carry => {
                if matches!(carry, Next::Rekey) {
                    wire.refresh_keys().unwrap();
                }
                let (ours, theirs) = loopback().await;
                apps.send(theirs).await.unwrap();
                let entry = entry(Way::Inbound);
                let app = AppSocket::new(ours).unwrap();
                let mut pump = Box::new(Pump::accept(app, wire, Arc::clone(entry.live())));
                let end = framed(&mut pump, &entry).await;
                let clean = end.is_ok();
                let _ = ends.send(end).await;
                let (app, _, next) = pump.take_back();
                if !clean {
                    return;
                }
                app.end();
                wire = next;
            }
        }
    }
}

/// The client's end of a stream that runs by itself.
struct Stream {
    app: TcpStream,
    end: oneshot::Receiver<Carried>,
    _drain: Drain,
}

#[derive(Debug, Eq, PartialEq)]
enum Ended {
    Cleanly,
    Refused(Refused),
}

struct Carried {
    end: Result<Ended, Refusal>,
    flight: Box<Flight>,
    /// Of a stream that did not end cleanly.
    app: Option<AppSocket>,
    wire: Box<Wire>,
}

async fn wire_to(server: &Server, generation: &Generation) -> Box<Wire> {
    let patience = Patience::default();
    Box::pin(Wire::connect(server.address, Some(server.address.ip()), generation, &patience)).await.unwrap()
}

async fn open(wire: Box<Wire>) -> Stream {
    let (theirs, ours) = loopback().await;
    reopen(wire, theirs, AppSocket::new(ours).unwrap(), Box::default())
}

fn reopen(wire: Box<Wire>, app: TcpStream, ours: AppSocket, flight: Box<Flight>) -> Stream {
    let (tell, end) = oneshot::channel();
    let drain = Drain::new();
    drain.spawn(async move {
        let entry = entry(Way::Outbound);
        let mut pump = Box::new(Pump::open(ours, wire, Open::default(), flight, Arc::clone(entry.live())));
        let end = match opened(&mut pump, &entry, Instant::now() + SOON).await {
            Ok(Some(refused)) => Ok(Ended::Refused(refused)),
            Ok(None) => framed(&mut pump, &entry).await.map(|()| Ended::Cleanly),
            Err(why) => Err(why),
        };
        let (app, flight, wire) = pump.take_back();
        let app = if matches!(end, Ok(Ended::Cleanly)) {
            app.end();
            None
        } else {
            Some(app)
        };
        let _ = tell.send(Carried { end, flight, app, wire });
    });
    Stream { app, end, _drain: drain }
}

impl Stream {
    async fn end(self) -> (Result<Ended, Refusal>, Box<Wire>) {
        let carried = timeout(SOON, self.end).await.unwrap().unwrap();
        (carried.end, carried.wire)
    }
}

/// The n-th byte of what the tests send.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ n >> 8 ^ n >> 16).to_le_bytes()[0]).collect()
}

async fn read_all(app: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    timeout(SOON, app.read_to_end(&mut all)).await.unwrap().unwrap();
    all
}

#[tokio::test]
async fn app_connections_of_every_size_and_ending_follow_each_other_on_one_wire() {
    let (client, server) = generations();
    let mut server = Server::start(server).await;
    let mut wire = wire_to(&server, &client).await;
    for (n, size) in [0, 1, 16_379, 16_380, 16_381, 32_768, 300_000, 5_000_000, 0, 17].into_iter().enumerate()
    {
        server.will(if n % 3 == 2 { Next::Rekey } else { Next::Carry }).await;
        if n % 4 == 3 {
            wire.refresh_keys().unwrap();
        }
        let mut stream = open(wire).await;
        let mut app = server.app().await;
        let sent = pattern(size);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        {
            let (mut client_in, mut client_out) = stream.app.split();
            let (mut server_in, mut server_out) = app.split();
            let ask = async {
                client_out.write_all(&sent).await.unwrap();
                client_out.shutdown().await.unwrap(); // half-close: the answer still comes
                client_in.read_to_end(&mut back).await.unwrap();
            };
            let answer = async {
                server_in.read_to_end(&mut there).await.unwrap();
                server_out.write_all(&there).await.unwrap();
                server_out.shutdown().await.unwrap();
            };
            timeout(SOON, async { tokio::join!(ask, answer) })
                .await
                .unwrap_or_else(|_| panic!("number {n}, {size} bytes, hangs"));
        }
        assert!(there == sent && back == sent, "{size} bytes");
        let (end, next) = stream.end().await;
        assert_eq!(end.unwrap(), Ended::Cleanly);
        server.end().await.unwrap();
        assert!(next.is_between_streams());
        wire = next;
    }
    assert_eq!(wire.opens, 10);
}

#[tokio::test]
async fn a_server_that_ends_first_is_heard_and_then_still_listens() {
    let (client, server) = generations();
    let mut server = Server::start(server).await;
    server.will(Next::Carry).await;
    let mut stream = open(wire_to(&server, &client).await).await;
    let mut app = server.app().await;
    app.write_all(b"220 hello\r\n").await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream.app).await, b"220 hello\r\n");
    stream.app.write_all(b"bye").await.unwrap();
    stream.app.shutdown().await.unwrap();
    assert_eq!(read_all(&mut app).await, b"bye");
    assert_eq!(stream.end().await.0.unwrap(), Ended::Cleanly);
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer_and_loses_nothing() {
    let (client, server) = generations();
    let mut server = Server::start(server).await;
    server.will(Next::Carry).await;
    let mut stream = open(wire_to(&server, &client).await).await;
    let mut app = server.app().await;
    let all = pattern(64 << 20);
    let mut sent = 0;
    // Kernel buffers and a batch fill up, and then nothing goes any more.
    while let Ok(n) = timeout(Duration::from_millis(300), stream.app.write(&all[sent..])).await {
        sent += n.unwrap();
        assert!(sent < all.len(), "64 MiB went into a reader that does not read");
    }
    let (mut got, mut buffer) = (0, vec![0; 100_000]);
    while got < sent {
        let n = timeout(SOON, app.read(&mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..n] == all[got..got + n], "at {got}");
        got += n;
    }
    drop((stream, app));
}

#[tokio::test]
async fn a_reset_of_either_app_is_one_to_the_other_and_ends_the_wire() {
    for server_resets in [true, false] {
        let (client, server) = generations();
        let mut server = Server::start(server).await;
        server.will(Next::Carry).await;
        let mut stream = open(wire_to(&server, &client).await).await;
        let mut app = server.app().await;
        stream.app.write_all(b"x").await.unwrap();
        app.read_exact(&mut [0]).await.unwrap();
        let (resetting, mut other) = if server_resets { (app, stream.app) } else { (stream.app, app) };
        socket2::SockRef::from(&resetting).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resetting);
        if server_resets {
            let end = server.end().await;
            assert!(matches!(end, Err(Refusal::AppReset { .. })), "{end:?}");
            // This test's server drops the wire; a real one says RST first, which is as much a reset.
            let carried = timeout(SOON, stream.end).await.unwrap().unwrap();
            assert!(
                matches!(carried.end, Err(Refusal::Lost { .. } | Refusal::PeerReset)),
                "{:?}",
                carried.end
            );
            drop(carried);
        } else {
            let carried = timeout(SOON, stream.end).await.unwrap().unwrap();
            assert!(matches!(carried.end, Err(Refusal::AppReset { .. })), "{:?}", carried.end);
            carried.wire.abort(&Refusal::AppReset { source: ErrorKind::ConnectionReset.into() }).await;
            let end = server.end().await;
            assert!(matches!(end, Err(Refusal::PeerReset)), "{end:?}");
        }
        let error = timeout(SOON, other.read(&mut [0])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_refused_stream_gives_back_what_the_app_said_and_the_wire_carries_the_next() {
    let (client, server) = generations();
    let mut server = Server::start(server).await;
    server.will(Next::Refuse(Reset::Refused)).await;
    server.will(Next::Refuse(Reset::Denied)).await;
    server.will(Next::Carry).await;
    let mut stream = open(wire_to(&server, &client).await).await;
    let said = pattern(10_000);
    stream.app.write_all(&said).await.unwrap();
    stream.app.shutdown().await.unwrap();
    for refused in [Reset::Refused, Reset::Denied] {
        let carried = timeout(SOON, stream.end).await.unwrap().unwrap();
        assert_eq!(carried.end.unwrap(), Ended::Refused(Refused::Reset(refused)));
        assert!(carried.wire.is_between_streams());
        stream = reopen(carried.wire, stream.app, carried.app.unwrap(), carried.flight);
    }
    let mut app = server.app().await;
    assert!(read_all(&mut app).await == said, "once, and whole");
    drop(app);
    assert_eq!(stream.end().await.0.unwrap(), Ended::Cleanly);
}

#[tokio::test]
async fn goaway_before_accept_gives_the_stream_back_and_the_wire_is_not_used_again() {
    let (client, server) = generations();
    let mut server = Server::start(server).await;
    server.will(Next::Carry).await;
    let stream = open(wire_to(&server, &client).await).await;
    drop(server.app().await);
    let (app, end) = (stream.app, stream.end);
    drop(app);
    let carried = timeout(SOON, end).await.unwrap().unwrap();
    assert_eq!(carried.end.unwrap(), Ended::Cleanly);
    server.will(Next::GoAway).await;
    let stream = open(carried.wire).await;
    let carried = timeout(SOON, stream.end).await.unwrap().unwrap();
    assert_eq!(carried.end.unwrap(), Ended::Refused(Refused::GoneAway));
    assert!(!carried.wire.may_open(0));
}

/// Polls the relay so many times and drops it: what a cut does at any await.
#[tokio::test]
async fn a_relay_that_is_dropped_at_any_point_resets_its_apps_and_never_ends_them() {
    let said = pattern(100_000);
    for polls in 0..40 {
        let (client, server) = generations();
        let mut server = Server::start(server).await;
        server.will(Next::Carry).await;
        let wire = wire_to(&server, &client).await;
        let (mut app, ours) = loopback().await;
        let (ours, entry) = (AppSocket::new(ours).unwrap(), entry(Way::Outbound));
        let drain = Drain::new();
        let (tell, cut) = oneshot::channel();
        drain.spawn(async move {
            let mut pump =
                Box::new(Pump::open(ours, wire, Open::default(), Box::default(), Arc::clone(entry.live())));
            let ended = {
                let mut relay = pin!(async {
                    opened(&mut pump, &entry, Instant::now() + SOON).await?;
                    framed(&mut pump, &entry).await
                });
                let mut polled = 0;
                poll_fn(|cx| {
                    polled += 1;
                    cx.waker().wake_by_ref(); // so often, whether there is anything to do or not
                    if polled > polls { Poll::Ready(None) } else { relay.as_mut().poll(cx).map(Some) }
                })
                .await
            };
            assert!(ended.is_none(), "an app that waits for an answer was ended");
            drop(pump);
            let _ = tell.send(());
        });
        let (mut reads, mut writes) = app.split();
        let write = async {
            let _ = writes.write_all(&said).await;
        };
        let read = async {
            let error = reads.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {polls} polls");
        };
        // Whoever is served gets a true beginning, and no clean end.
        let served = async {
            let Some(mut app) = server.apps.recv().await else { return };
            let mut got = Vec::new();
            let end = app.read_to_end(&mut got).await;
            assert!(said.starts_with(&got), "after {polls} polls");
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "after {polls} polls");
        };
        timeout(SOON, async { tokio::join!(write, read, served) }).await.unwrap();
        timeout(SOON, cut).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn two_plain_sockets_are_joined_with_what_was_already_read_in_front() {
    let ((mut client, ours), (mut server, theirs)) = (loopback().await, loopback().await);
    let (a, b) = (AppSocket::new(ours).unwrap(), AppSocket::new(theirs).unwrap());
    let (drain, entry) = (Drain::new(), entry(Way::Inbound));
    let (tell, end) = oneshot::channel();
    drain.spawn(async move {
        let end = plain(a, b, b"first ".to_vec(), &entry).await;
        let live = entry.live();
        let _ = tell.send((end, live.received.load(Relaxed), live.sent.load(Relaxed)));
    });
    let said = pattern(3_000_000);
    let (mut got, mut answer) = (Vec::new(), Vec::new());
    {
        let (mut client_in, mut client_out) = client.split();
        let (mut server_in, mut server_out) = server.split();
        let ask = async {
            client_out.write_all(&said).await.unwrap();
            client_out.shutdown().await.unwrap();
            client_in.read_to_end(&mut answer).await.unwrap();
        };
        let serve = async {
            server_in.read_to_end(&mut got).await.unwrap();
            server_out.write_all(b"done").await.unwrap();
            server_out.shutdown().await.unwrap();
        };
        timeout(SOON, async { tokio::join!(ask, serve) }).await.unwrap();
    }
    assert!(got[..6] == *b"first " && got[6..] == said && answer == b"done");
    let (end, received, sent) = timeout(SOON, end).await.unwrap().unwrap();
    end.unwrap();
    assert_eq!((received, sent), (3_000_006, 4));
}

/// A hang, not a measure.
const SOON: Duration = Duration::from_secs(30);
