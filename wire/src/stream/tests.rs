//! Streams over loopback, against a server that is told what to do.

use signet_api::wire::Accept;
use signet_core::{
    bundle::root_id,
    drain::Drain,
    identity,
    telemetry::Metrics,
    tls::{self, Generation},
    trust::Trust,
};
use signet_link::svid::Svid;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::*;
use crate::{connection::Patience, pki_for_tests::trusting_generations};

/// What the server does with an OPEN.
enum Next {
    /// Sends back what it gets, and its end.
    Echo,
    /// Takes what comes and says nothing more, never its end.
    Listen,
    Refuse(Reset),
    GoAway,
    /// Accepts, says this, and breaks off.
    Break(&'static [u8]),
}

struct World {
    client: Arc<Client>,
    trust: Arc<Trust>,
    leaf: watch::Sender<Option<Arc<Generation>>>,
    address: SocketAddr,
    api: SpiffeId,
    next: mpsc::Sender<Next>,
    /// One line for each handshake.
    shaken: mpsc::Receiver<()>,
    drain: Drain,
}

impl World {
    async fn start() -> Self {
        let (web, api, trust) = trusting_generations();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (next, nexts) = mpsc::channel(16);
        let (shake, shaken) = mpsc::channel(16);
        let drain = Drain::new();
        drain.spawn(serve(listener, api, nexts, shake));
        let (leaf, current) = watch::channel(Some(Arc::new(web)));
        let pool = Pool::new(&mut Metrics::new());
        let algorithms = tls::default_provider().signature_verification_algorithms;
        let client = Client::new(
            pool,
            Svid::of(current),
            Arc::clone(&trust),
            algorithms,
            None,
            Patience::default(),
            &drain,
        );
        let api = identity::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap();
        Self { client: Arc::new(client), trust, leaf, address, api, next, shaken, drain }
    }

    async fn open(&self, next: Next) -> Result<Stream, Refusal> {
        self.next.send(next).await.unwrap_or_else(|_| panic!("the server has ended"));
        let open = Open { destination: "api.shop:80".into(), source: "gateway/1".into() };
        self.client.open(self.address, &self.api, &open, Instant::now() + SOON).await
    }

    fn handshakes(&mut self) -> usize {
        std::iter::from_fn(|| self.shaken.try_recv().ok()).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

/// One wire after the other.
async fn serve(
    listener: TcpListener,
    own: Generation,
    mut nexts: mpsc::Receiver<Next>,
    shaken: mpsc::Sender<()>,
) {
    loop {
        let (tcp, from) = listener.accept().await.unwrap();
        let Ok(mut wire) = Wire::accept(tcp, vec![], from, &own, &Patience::default()).await else {
            continue;
        };
        let _ = shaken.send(()).await;
        while let Ok(Some(_)) = wire.next_open().await {
            let Some(next) = nexts.recv().await else { return };
            match next {
                Next::Refuse(reset) => wire.refuse(reset).await.unwrap(),
                Next::GoAway => {
                    wire.go_away().await.unwrap();
                    break;
                }
                Next::Break(said) => {
                    accept(&mut wire);
                    let mut frame = Vec::new();
                    frames::write(&Frame::Data(said), &mut frame);
                    send(&mut wire, &frame);
                    break;
                }
                Next::Listen => {
                    accept(&mut wire);
                    while hear(&mut wire).await.is_some() {}
                }
                Next::Echo => {
                    accept(&mut wire);
                    while let Some((data, fin)) = hear(&mut wire).await {
                        let mut frames_back = Vec::new();
                        for chunk in data.chunks(MAX_DATA) {
                            frames::write(&Frame::Data(chunk), &mut frames_back);
                        }
                        if !frames_back.is_empty() {
                            send(&mut wire, &frames_back);
                            poll_fn(|cx| {
                                while !wire.flush().unwrap_or(true) {
                                    ready!(wire.socket.poll_writable(cx));
                                }
                                Poll::Ready(())
                            })
                            .await;
                        }
                        if fin {
                            send(&mut wire, &FIN_FRAME);
                            break;
                        }
                    }
                }
            }
        }
    }
}

fn accept(wire: &mut Wire) {
    wire.opens += 1;
    let mut frame = Vec::new();
    frames::write(&Frame::Accept(Accept {}), &mut frame);
    send(wire, &frame);
}

fn send(wire: &mut Wire, frames: &[u8]) {
    let _ = with_scratch(|scratch| wire.send(frames, &mut scratch.sealed));
}

/// What came, and whether it was the end; `None`: the wire broke.
async fn hear(wire: &mut Wire) -> Option<(Vec<u8>, bool)> {
    loop {
        let mut heard = Heard { accepted: true, ..Heard::default() };
        let early = std::mem::take(&mut wire.early);
        let (received, data) = with_scratch(|Scratch { sealed, plain }| {
            let received = match early.is_empty() {
                true => wire.receive(sealed, |unframer, payload| heard.record(unframer, payload, plain)),
                false => heard.record(&mut wire.unframer, &early, plain).map(|_| Received::Some),
            };
            received.map(|received| (received, plain[..heard.len].to_vec()))
        })
        .ok()?;
        if heard.reset.is_some() || received == Received::End {
            return None;
        }
        if !data.is_empty() || heard.fin {
            return Some((data, heard.fin));
        }
        if received == Received::Nothing {
            wire.socket.readable().await;
        }
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("in time")
}

#[tokio::test]
async fn bytes_come_back_whole_and_a_finished_stream_gives_its_wire_to_the_next() {
    let mut world = World::start().await;
    for round in 0..3_usize {
        let stream = within(world.open(Next::Echo)).await.unwrap();
        assert_eq!(*stream.peer().id(), world.api);
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..=250).cycle().take(300_000 + round).collect();
        let (writing, mut got) = (sent.clone(), Vec::new());
        let wrote = async {
            write.write_all(&writing).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, read) = within(async { tokio::join!(wrote, read.read_to_end(&mut got)) }).await;
        read.unwrap();
        assert!(got == sent, "round {round}: {} bytes of {}", got.len(), sent.len());
    }
    assert_eq!(world.handshakes(), 1);
}

#[tokio::test]
async fn a_stream_that_is_dropped_in_the_middle_is_reset_and_its_wire_not_used_again() {
    let mut world = World::start().await;
    let mut stream = within(world.open(Next::Listen)).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    drop(stream);
    let mut next = within(world.open(Next::Echo)).await.unwrap();
    next.write_all(b"whole").await.unwrap();
    let mut got = [0; 5];
    within(next.read_exact(&mut got)).await.unwrap();
    assert_eq!((&got, world.handshakes()), (b"whole", 2));
}

#[tokio::test]
async fn a_stream_that_was_shut_down_and_dropped_gives_its_wire_back_once_the_peer_has_ended_too() {
    let mut world = World::start().await;
    let mut stream = within(world.open(Next::Echo)).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let until = Instant::now() + SOON;
    while world.client.pool.idle() == 0 {
        assert!(Instant::now() < until, "the wire never came back");
        tokio::task::yield_now().await;
    }
    within(world.open(Next::Echo)).await.unwrap();
    assert_eq!(world.handshakes(), 1);
}

#[tokio::test]
async fn the_end_of_a_stream_without_fin_is_an_error_and_never_an_end_of_file() {
    let world = World::start().await;
    let mut stream = within(world.open(Next::Break(b"half of it"))).await.unwrap();
    let mut got = Vec::new();
    let error = within(stream.read_to_end(&mut got)).await.unwrap_err();
    assert_eq!((got.as_slice(), error.kind()), (&b"half of it"[..], io::ErrorKind::UnexpectedEof));
    assert!(stream.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_refusal_says_by_whom_and_keeps_the_wire_unless_it_drains() {
    let mut world = World::start().await;
    let denied = within(world.open(Next::Refuse(Reset::Denied))).await.err().unwrap();
    assert!(matches!(denied, Refusal::DeniedByPeer { .. }), "{denied}");
    let refused = within(world.open(Next::Refuse(Reset::Refused))).await.err().unwrap();
    assert!(matches!(refused, Refusal::RefusedByPeer { word: "refused", .. }), "{refused}");
    assert_eq!(world.handshakes(), 1);
}

#[tokio::test]
async fn a_wire_on_which_the_server_said_draining_carries_no_other_stream() {
    let mut world = World::start().await;
    let refused = within(world.open(Next::Refuse(Reset::Draining))).await.err().unwrap();
    assert!(matches!(refused, Refusal::RefusedByPeer { word: "draining", .. }), "{refused}");
    assert_eq!(world.client.pool.idle(), 0);
    within(world.open(Next::Echo)).await.unwrap();
    assert_eq!(world.handshakes(), 2);
}

#[tokio::test]
async fn an_old_wire_that_goes_away_is_no_refusal_the_endpoint_is_asked_on_a_new_one() {
    let mut world = World::start().await;
    let mut first = within(world.open(Next::Echo)).await.unwrap();
    first.shutdown().await.unwrap();
    assert_eq!(within(first.read(&mut [0; 8])).await.unwrap(), 0);
    drop(first);
    world.next.send(Next::GoAway).await.unwrap_or_else(|_| panic!("the server has ended"));
    within(world.open(Next::Echo)).await.unwrap();
    assert_eq!(world.handshakes(), 2);
}

#[tokio::test]
async fn somebody_else_at_the_address_gets_no_open() {
    let world = World::start().await;
    let other = identity::parse("spiffe://cluster.local/ns/shop/sa/db").unwrap();
    let open = Open::default();
    world.next.send(Next::Echo).await.unwrap_or_else(|_| panic!("the server has ended"));
    let refused = world.client.open(world.address, &other, &open, Instant::now() + SOON);
    assert!(matches!(within(refused).await.err().unwrap(), Refusal::Identity { .. }));
    // Still there: the server has met no OPEN that it was for.
    let opened = world.client.open(world.address, &world.api, &open, Instant::now() + SOON);
    within(opened).await.unwrap();
}

#[tokio::test]
async fn a_distrusted_root_and_our_own_expiry_end_streams_that_wait() {
    for expired in [true, false] {
        let world = World::start().await;
        let mut stream = within(world.open(Next::Listen)).await.unwrap();
        let mut got = [0; 1];
        let ending = async {
            tokio::task::yield_now().await;
            if expired {
                world.leaf.send_replace(None);
            } else {
                let bundle = world.trust.bundle().unwrap();
                let bad = root_id(&bundle.roots[0]);
                let (other, ..) = crate::pki_for_tests::root();
                let next = signet_core::bundle::TrustBundle::new(2, vec![other], vec![bad.into()]).unwrap();
                world.trust.offer(next);
            }
        };
        let (error, ()) = within(async { tokio::join!(stream.read(&mut got), ending) }).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "expired {expired}: {error}");
    }
}

/// Only ends a test that hangs.
const SOON: Duration = Duration::from_secs(20);
