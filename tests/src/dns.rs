//! A cluster's DNS as a pod sees it: it knows a few names, says NXDOMAIN to all others, and keeps who was asked for.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use signet_core::drain::Drain;
use tokio::net::UdpSocket;

/// Answers until it is dropped.
pub struct Dns {
    asked: Arc<Mutex<Vec<String>>>,
    drain: Drain,
}

impl Dns {
    /// Listens at port 53 of `at`, in this thread's network namespace. Names are written without the final dot.
    pub async fn start(at: IpAddr, names: &[(&str, IpAddr)]) -> io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(at, PORT)).await?;
        let names: BTreeMap<String, IpAddr> =
            names.iter().map(|(name, address)| (name.to_string(), *address)).collect();
        let dns = Self { asked: Arc::default(), drain: Drain::new() };
        let (asked, stop) = (Arc::clone(&dns.asked), dns.drain.clone());
        dns.drain.spawn(async move {
            let mut query = [0; 512];
            loop {
                let received = tokio::select! {
                    () = stop.stopping() => return,
                    received = socket.recv_from(&mut query) => received,
                };
                let Ok((length, from)) = received else { continue };
                let Some((name, answer)) = answer(&query[..length], &names) else { continue };
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                let _ = socket.send_to(&answer, from).await; // who asked may be gone
            }
        });
        Ok(dns)
    }

    /// Every name that was asked for, in order, once for each kind of address.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

/// RFC 1035 4.1: the name of a query's one question, and the answer to it.
fn answer(query: &[u8], names: &BTreeMap<String, IpAddr>) -> Option<(String, Vec<u8>)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let name = labels.join(".");
    let known = names.get(&name);
    let data = match (known, query.get(at..at + 2)?) {
        (Some(IpAddr::V4(v4)), [0, A]) => v4.octets().to_vec(),
        (Some(IpAddr::V6(v6)), [0, AAAA]) => v6.octets().to_vec(),
        _ => Vec::new(),
    };
    let flags = [0x85, if known.is_some() { 0x80 } else { 0x83 }]; // an authoritative answer; NXDOMAIN
    let mut answer =
        [&query[..2], &flags, &[0, 1, 0, u8::from(!data.is_empty()), 0, 0, 0, 0], question].concat();
    if !data.is_empty() {
        let length = u8::try_from(data.len()).ok()?;
        answer.extend([0xc0, 12, 0, question[question.len() - 3], 0, 1, 0, 0, 0, 30, 0, length]);
        answer.extend(data);
    }
    Some((name, answer))
}

const PORT: u16 = 53;
const HEADER: usize = 12;
const A: u8 = 1;
const AAAA: u8 = 28;
