//! Answers that go on: each piece passes when it is said, and the end is the origin's end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use signet_api::xds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use signet_core::drain::Drain;
use signet_http::model::{Backend, Protocol, Security};
use signet_tests::{
    eventually::{SOON, eventually},
    gateway::{Edge, backend, shake},
    teller::Teller,
    web::Web,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use super::{BACKEND, origin, serves};

const HOST: &str = "a.example.com";

/// Answers each message with one that says the same, and ends with a status and everything that trailers can carry. The contract
/// is one that we have.
#[derive(Clone)]
struct Echo {
    drain: Drain,
    /// Calls that go on.
    open: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Echo {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if request.metadata().contains_key("x-refuse") {
            return Err(Status::permission_denied("without a message: 100 %"));
        }
        let (said, stream) = mpsc::channel(1);
        let (mut asked, open) = (request.into_inner(), Arc::clone(&self.open));
        open.fetch_add(1, Relaxed);
        self.drain.spawn(async move {
            let mut count = 0;
            let ended = loop {
                match asked.message().await {
                    Ok(Some(request)) => {
                        count += 1;
                        let answer = DeltaDiscoveryResponse { nonce: request.type_url, ..Default::default() };
                        let _ = said.send(Ok(answer)).await;
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if ended {
                let mut metadata = MetadataMap::new();
                metadata.insert("x-count", MetadataValue::from(count));
                metadata.insert_bin("x-raw-bin", MetadataValue::from_bytes(&[0, 255, 10, 13]));
                let (code, details) = (Code::FailedPrecondition, b"\0details\n".to_vec().into());
                let status =
                    Status::with_details_and_metadata(code, "told so: \u{fc} 100 %", details, metadata);
                let _ = said.send(Err(status)).await;
            }
            open.fetch_sub(1, Relaxed);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn grpc(at: SocketAddr) -> (Drain, Arc<AtomicU64>) {
    let (drain, open) = (Drain::new(), Arc::<AtomicU64>::default());
    let listener = TcpListener::bind(at).await.unwrap();
    let service =
        AggregatedDiscoveryServiceServer::new(Echo { drain: drain.clone(), open: Arc::clone(&open) });
    let serve = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    drain.spawn(async move { drop(Box::pin(serve).await) });
    (drain, open)
}

/// One HTTP/2 connection to the gateway.
async fn channel(edge: &Edge) -> Channel {
    let (from, to, tls) = (edge.network.address(9, 9), edge.at(8443), edge.tls(&[b"h2"]));
    let connector = tower::service_fn(move |_: Uri| {
        let tls = Arc::clone(&tls);
        async move { io::Result::Ok(TokioIo::new(shake(from, to, &tls, HOST).await?)) }
    });
    let endpoint = Endpoint::from_static("http://gateway").origin(format!("https://{HOST}").parse().unwrap());
    endpoint.connect_with_connector(connector).await.unwrap()
}

async fn call(channel: Channel, number: usize) {
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let (ask, asked) = mpsc::channel(1);
    let mut stream =
        client.delta_aggregated_resources(ReceiverStream::new(asked)).await.unwrap().into_inner();
    for n in 0..MESSAGES {
        // Some are larger than every window on the way, and one is empty.
        let words = format!("{number}.{n} ").repeat(n % 7 * 4000);
        ask.send(DeltaDiscoveryRequest { type_url: words.clone(), ..Default::default() }).await.unwrap();
        let answer = timeout(SOON, stream.message()).await.expect("an answer to each").unwrap().unwrap();
        assert!(answer.nonce == words, "call {number}, message {n}");
    }
    drop(ask);
    let status = timeout(SOON, stream.message()).await.expect("an end").expect_err("its status");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "told so: \u{fc} 100 %"));
    assert_eq!(status.details(), b"\0details\n");
    assert_eq!(status.metadata().get("x-count").unwrap(), &MESSAGES.to_string());
    assert_eq!(
        status.metadata().get_bin("x-raw-bin").unwrap().to_bytes().unwrap().as_ref(),
        [0, 255, 10, 13]
    );
}

#[tokio::test]
async fn grpc_calls_stream_both_ways_at_once_and_end_with_the_origins_trailers() {
    let edge = Edge::start(|world, web, network| {
        serves(world, web, network, &[HOST]);
        let plain = backend(BACKEND, origin(network), Security::Plain);
        world.backend(&Backend { protocol: Protocol::Http2, ..plain });
    })
    .await;
    let (_server, open) = grpc(origin(&edge.network)).await;
    let channel = channel(&edge).await;
    let calls = (0..CALLS).map(|number| call(channel.clone(), number));
    futures_util::future::join_all(calls).await;

    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let mut refused = Request::new(tokio_stream::empty());
    refused.metadata_mut().insert("x-refuse", MetadataValue::from(1));
    let status = client.delta_aggregated_resources(refused).await.expect_err("refused");
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "without a message: 100 %"));

    let (ask, asked) = mpsc::channel(1);
    let stream = client.delta_aggregated_resources(ReceiverStream::new(asked)).await.unwrap();
    eventually("the call", SOON, async || (open.load(Relaxed) == 1).then_some(())).await;
    drop((stream, ask));
    eventually("the origin to hear that nobody listens", SOON, async || {
        (open.load(Relaxed) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn events_pass_one_by_one_as_they_are_said_and_a_client_that_leaves_is_missed_at_once() {
    let edge = Edge::start(|world, web, network| serves(world, web, network, &[HOST])).await;
    let from = edge.network.address(9, 9);
    let teller = Teller::start(origin(&edge.network), "origin").await.unwrap();
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let mut web = Web::connect(from, edge.at(8443), &edge.tls(&[alpn]), HOST).await.unwrap();
        let answer = web.begin(HOST, "/events").await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        drop(answer);
        drop(web);
        eventually("nobody to listen", SOON, async || (teller.streams() == 0).then_some(())).await;
    }
    let mut said = 0;
    let mut clients = Vec::new();
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let mut web = Web::connect(from, edge.at(8443), &edge.tls(&[alpn]), HOST).await.unwrap();
        let body = web.begin(HOST, "/events").await.unwrap().into_body();
        clients.push((web, body));
    }
    for _ in 0..EVENTS {
        teller.tell();
        said += 1;
        for (_, body) in &mut clients {
            let frame =
                timeout(SOON, body.frame()).await.expect("each before the next is said").unwrap().unwrap();
            assert_eq!(frame.data_ref().unwrap(), &*format!("data: {said}\n\n"));
        }
    }
    teller.end();
    for (body, _web) in clients.into_iter().map(|(web, body)| (body, web)) {
        let rest = timeout(SOON, body.collect()).await.expect("an end").unwrap();
        assert!(rest.to_bytes().is_empty());
    }
}

const CALLS: usize = 20;
const MESSAGES: usize = 30;
const EVENTS: u64 = 50;
