//! What the network sees of a pod: the eye of every later test that says "nothing in plaintext".

use anyhow::Result;
use signet_cluster::{Transport, test};

use crate::pods::{addresses, nginx, toolbox, url};

#[tokio::test]
async fn a_capture_at_either_pod_shows_an_http_request_between_nodes_in_plain_text() -> Result<()> {
    test(async |namespace| {
        namespace.apply(&(toolbox("client", "node1") + &nginx("web", "web", "node2"))).await?;
        let client = addresses(&namespace.wait_ready("client").await?)?;
        let web = addresses(&namespace.wait_ready("web").await?)?;
        let captures = [namespace.capture("client").await?, namespace.capture("web").await?];
        for address in &web {
            let header = format!("X-Word: sesame-{}", if address.is_ipv6() { "six" } else { "four" });
            let argv = ["curl", "-sS", "-m", "10", "-H", &header, &url(*address, 8080)];
            namespace.exec("client", "toolbox", &argv).await?.ok()?;
        }
        for capture in captures {
            let packets = capture.stop().await?;
            for word in ["sesame-four", "sesame-six", "nginx on web for "] {
                assert!(packets.contains(word.as_bytes()), "{word} is not in {} frames", packets.len());
            }
            assert!(!packets.contains(b"sesame-seven"));
            for (from, to) in client.iter().zip(&web) {
                let asked = packets.frames().any(|frame| {
                    matches!(frame.transport, Transport::Tcp { .. })
                        && frame.source.ip() == *from
                        && frame.destination == (*to, 8080).into()
                        && frame.payload.starts_with(b"GET / HTTP/1.1\r\n")
                });
                assert!(asked, "no request from {from} to {to}");
            }
        }
        Ok(())
    })
    .await
}

/// Everything before `stop` is in it, every time: a test that looks for plaintext may rely on what it does not find.
#[tokio::test]
async fn a_capture_holds_the_last_request_before_it_was_stopped() -> Result<()> {
    test(async |namespace| {
        namespace.apply(&(toolbox("client", "node1") + &nginx("web", "web", "node2"))).await?;
        let web = addresses(&namespace.wait_ready("web").await?)?[0];
        namespace.wait_ready("client").await?;
        for word in ["one", "two", "three", "four", "five"] {
            let capture = namespace.capture("web").await?;
            let header = format!("X-Word: sesame-{word}");
            namespace
                .exec("client", "toolbox", &["curl", "-sS", "-H", &header, &url(web, 8080)])
                .await?
                .ok()?;
            let packets = capture.stop().await?;
            assert!(packets.contains(header.as_bytes()), "{} frames", packets.len());
            // The kubelet's probes are beside it; they say nothing.
            let streams = packets.streams();
            let said = streams.values().filter(|stream| !stream.is_empty()).count();
            assert_eq!(said, 2, "one connection, both ways: no other was recorded");
        }
        Ok(())
    })
    .await
}
