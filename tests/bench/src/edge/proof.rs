//! Did everything go through TLS? A capture of the link holds no plaintext and says what was negotiated, plaintext to the TLS
//! port gets no answer of the origin, and a client that believes another CA talks to nobody. Without a proxy the capture must
//! hold the marker, or the check would prove nothing. Every sample proves the rest: the client holds each connection to
//! its offer ([`crate::edge::offer`]), and the origin counts.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;
use rustls::NamedGroup;

use crate::{
    edge::{
        client::{self, Client},
        lab::Lab,
        offer::{H1, HOST, Offer},
        systems::{Running, System},
        workloads::Workload,
    },
    exchange::MARKER,
    load::{self, Outcome},
    pki::Pki,
    proof::{ANSWERED, Proof, WATCHED, captured, holds, negotiated},
    side::Side,
    window::Window,
};

/// Each of `systems`, once for every key exchange that it takes part with.
pub fn of_all(lab: &Lab, systems: &[System]) -> Result<Vec<Proof>> {
    let mut all = Vec::new();
    for system in systems {
        let mut running = system.launch(lab)?;
        running.wait(lab)?;
        all.push(prove(lab, &running, "X25519", Workload::Handshake(4))?);
        if system.knows_mlkem() {
            all.push(prove(lab, &running, "X25519MLKEM768", Workload::HandshakeMlkem(4))?);
        }
        running.stop();
    }
    Ok(all)
}

fn prove(lab: &Lab, running: &Running, group: &str, workload: Workload) -> Result<Proof> {
    let (word, is_tls) = (running.system.word(), running.system != System::Direct);
    let file = lab.directory.join(format!("{word}-{group}"));
    let asking = workload.client(lab, running)?;
    let capture = captured(&lab.net, &file, running.entry, || {
        let mut window = Window::new(Vec::new());
        load::run(&lab.net, || client::handshakes(asking, false, 4, WATCHED, &mut window))
    })?;
    let mut strangers = BTreeMap::new();
    if is_tls {
        strangers.insert("plaintext".to_owned(), plaintext(lab, running.entry)?);
        strangers.insert("believes another CA".to_owned(), doubter(lab, running.entry)?);
    }
    Ok(Proof {
        system: word.into(),
        mtls: is_tls,
        wanted: is_tls.then(|| group.to_owned()),
        captured_bytes: capture.len() as u64,
        marker_seen: holds(&capture, MARKER.as_bytes()),
        negotiated: negotiated(&capture),
        strangers,
    })
}

/// What became of a request in plaintext on the TLS port.
fn plaintext(lab: &Lab, to: SocketAddr) -> Result<String> {
    let ask = || -> io::Result<String> {
        let mut tcp = TcpStream::connect(to)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        write!(tcp, "GET /1k HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer)?;
        Ok(match String::from_utf8_lossy(&answer) {
            text if text.contains("xxxxxxxx") => ANSWERED.to_owned(),
            text if text.starts_with("HTTP/1.1 ") => text.lines().next().unwrap_or_default().to_owned(),
            _ => format!("closed after {} bytes", answer.len()),
        })
    };
    lab.net.within(Side::Client, || ask().unwrap_or_else(|error| error.to_string()))
}

/// What became of a client with another root.
fn doubter(lab: &Lab, to: SocketAddr) -> Result<String> {
    let offer = Offer::new(Pki::new()?.root_pem(), NamedGroup::X25519, H1)?;
    let asking = Client::new(to, Some(offer));
    let outcome = load::run(&lab.net, || async move {
        let mut outcome = Outcome::default();
        match asking.open().await {
            Ok(_) => outcome.done += 1,
            Err(error) => outcome.failed(&error),
        }
        outcome
    })?;
    Ok(outcome.first_error.unwrap_or_else(|| ANSWERED.to_owned()))
}

const PATIENCE: Duration = Duration::from_secs(5);
