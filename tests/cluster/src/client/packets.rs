//! Packets that tcpdump recorded, read from its pcap format: Ethernet, IPv4 and IPv6, TCP and UDP; nothing else is needed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};

/// A recording, in the order in which the packets passed.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    /// Whole Ethernet frames.
    raw: Vec<Vec<u8>>,
}

/// A TCP segment or a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub transport: Transport,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp { sequence: u32 },
    Udp,
}

impl Packets {
    /// Reads a pcap file. A last packet that is cut off, because its writer was killed, is left out.
    pub(super) fn parse(mut file: &[u8]) -> Result<Self> {
        let header: [u8; 24] = take(&mut file).context("no pcap header")?;
        // The byte order is the writer's, and the writer is on this machine; nanoseconds have another magic number.
        let [magic, link] = [u32_ne(&header[..4]), u32_ne(&header[20..])];
        ensure!(matches!(magic, 0xa1b2_c3d4 | 0xa1b2_3c4d), "not a pcap file of this machine: {magic:08x}");
        ensure!(link == ETHERNET, "link type {link} is not Ethernet");
        let mut raw = Vec::new();
        while let Some(header) = take::<16>(&mut file) {
            let (length, original) = (u32_ne(&header[8..12]), u32_ne(&header[12..]));
            ensure!(length == original, "a packet of {original} bytes was recorded as {length}");
            ensure!(length <= LARGEST_PACKET, "a packet of {length} bytes; the limit is {LARGEST_PACKET}");
            let Some((packet, rest)) = file.split_at_checked(length as usize) else { break };
            raw.push(packet.to_vec());
            file = rest;
        }
        Ok(Self { raw })
    }

    /// Without the frames that contain `bytes`.
    pub(super) fn without(mut self, bytes: &[u8]) -> Self {
        self.raw.retain(|frame| !contains(frame, bytes));
        self
    }

    /// Frames of any protocol.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The TCP segments and UDP datagrams that are whole; not the fragments.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        self.raw.iter().filter_map(|frame| transport(frame))
    }

    /// Whether these bytes passed in plain sight, in either direction: within one frame, headers included, or across the
    /// segments of a TCP connection.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.raw.iter().any(|frame| contains(frame, bytes))
            || self.streams().values().any(|stream| contains(stream, bytes))
    }

    /// What each side of each TCP connection said, keyed by source and destination; retransmissions once, in order, and
    /// without a sign where a segment is missing.
    pub fn streams(&self) -> BTreeMap<(SocketAddr, SocketAddr), Vec<u8>> {
        let mut segments = BTreeMap::<_, Vec<(u32, &[u8])>>::new();
        for frame in self.frames() {
            if let Transport::Tcp { sequence } = frame.transport {
                segments
                    .entry((frame.source, frame.destination))
                    .or_default()
                    .push((sequence, frame.payload));
            }
        }
        segments.into_iter().map(|(ends, segments)| (ends, in_order(segments))).collect()
    }
}

/// Sequence numbers wrap at 2^32: they are compared by their distance from the first that was seen, less half the space,
/// because an older one may come after it.
fn in_order(mut segments: Vec<(u32, &[u8])>) -> Vec<u8> {
    let Some(&(first, _)) = segments.first() else { return Vec::new() };
    let origin = first.wrapping_sub(1 << 31);
    segments.sort_by_key(|(sequence, payload)| (sequence.wrapping_sub(origin), payload.len()));
    let (mut stream, mut next) = (Vec::new(), 0);
    for (sequence, payload) in segments {
        let position = sequence.wrapping_sub(origin) as usize;
        let known = next.max(position) - position; // bytes of it that another segment has brought
        if let Some(new) = payload.get(known..) {
            stream.extend_from_slice(new);
        }
        next = next.max(position + payload.len());
    }
    stream
}

fn transport(frame: &[u8]) -> Option<Frame<'_>> {
    let mut rest = frame;
    let ethernet: [u8; 14] = take(&mut rest)?;
    let (source, destination, protocol, segment) = match u16_be(&ethernet[12..]) {
        IPV4 => ipv4(rest)?,
        IPV6 => ipv6(rest)?,
        _ => return None,
    };
    let ports = segment.get(..4)?;
    let (transport, header) = match protocol {
        TCP => {
            let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
            (Transport::Tcp { sequence }, usize::from(segment.get(12)? >> 4) * 4)
        }
        UDP => (Transport::Udp, 8),
        _ => return None,
    };
    Some(Frame {
        source: (source, u16_be(&ports[..2])).into(),
        destination: (destination, u16_be(&ports[2..])).into(),
        transport,
        payload: segment.get(header..)?,
    })
}

/// RFC 791 3.1. Ethernet pads short frames: the total length says where the packet ends.
fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let header = packet.get(..20)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let is_fragment = u16_be(&header[6..8]) & 0x3fff != 0;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).ok()?).into());
    let payload = packet.get(length..total(u16_be(&header[2..4]).into(), packet))?;
    (!is_fragment).then_some((address(12)?, address(16)?, header[9], payload))
}

/// RFC 8200 3 and 4: extension headers are passed over; behind a fragment header nothing is looked at.
fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let header = packet.get(..40)?;
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).ok()?).into());
    let end = 40 + usize::from(u16_be(&header[4..6]));
    let (mut next, mut payload) = (header[6], packet.get(40..total(end, packet))?);
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
        let length = (usize::from(*payload.get(1)?) + 1) * 8;
        next = *payload.first()?;
        payload = payload.get(length..)?; // gets shorter by 8 at least, so this ends
    }
    Some((address(8)?, address(24)?, next, payload))
}

/// A packet that the kernel did not cut into segments yet can be longer than 16 bits say; then they are 0 (RFC 2675 has
/// the same), or 40 for the header alone, and it ends with its frame.
fn total(said: usize, packet: &[u8]) -> usize {
    if matches!(said, 0 | 40) && packet.len() > usize::from(u16::MAX) { packet.len() } else { said }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn u16_be(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn u32_ne(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

// https://www.tcpdump.org/linktypes.html
const ETHERNET: u32 = 1;
/// tcpdump's own limit (MAXIMUM_SNAPLEN); what is longer was not recorded by it.
const LARGEST_PACKET: u32 = 262_144;
// EtherTypes and protocol numbers (IANA).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

#[cfg(test)]
#[path = "packets/tests.rs"]
mod tests;
