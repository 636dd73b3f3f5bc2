use super::*;

fn file(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = 0xa1b2_c3d4u32.to_ne_bytes().to_vec();
    file.extend([0; 16]);
    file.extend(ETHERNET.to_ne_bytes());
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap().to_ne_bytes();
        file.extend([[0; 4], [0; 4], length, length].concat());
        file.extend(packet);
    }
    file
}

fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&[0; 12], &kind.to_be_bytes()[..], packet].concat()
}

fn tcp(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut segment =
        [&[0x03, 0xe8, 0, 80][..], &sequence.to_be_bytes(), &[0; 4], &[0x50, 0], &[0; 6]].concat();
    segment.extend(payload);
    segment
}

/// From 198.18.0.1 to 198.18.0.2, with as much padding as Ethernet wants.
fn v4(protocol: u8, flags: u16, segment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + segment.len()).unwrap().to_be_bytes();
    let header = [
        &[0x45, 0][..],
        &length,
        &[0, 0],
        &flags.to_be_bytes(),
        &[64, protocol, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2],
    ]
    .concat();
    let mut frame = ethernet(IPV4, &[&header, segment].concat());
    frame.resize(frame.len().max(60), 0xee);
    frame
}

/// From 2001:2::1 to 2001:2::2.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let [from, to] = ["2001:2::1", "2001:2::2"].map(|address| address.parse::<Ipv6Addr>().unwrap().octets());
    ethernet(IPV6, &[&[0x60, 0, 0, 0][..], &length, &[next, 64], &from, &to, payload].concat())
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    [&[0x03, 0xe8, 0, 53][..], &length, &[0, 0], payload].concat()
}

fn parse(packets: &[Vec<u8>]) -> Packets {
    Packets::parse(&file(packets)).unwrap()
}

#[test]
fn segments_and_datagrams_of_both_families_are_read_and_padding_is_not() {
    let hop_by_hop = [&[UDP, 0][..], &[0; 6], &datagram(b"query")].concat();
    let packets =
        parse(&[v4(TCP, 0x4000, &tcp(7, b"GET /")), v6(HOP_BY_HOP, &hop_by_hop), ethernet(0x0806, &[0; 28])]);
    assert_eq!(packets.len(), 3);
    let frames: Vec<_> = packets.frames().collect();
    let want = [
        Frame {
            source: "198.18.0.1:1000".parse().unwrap(),
            destination: "198.18.0.2:80".parse().unwrap(),
            transport: Transport::Tcp { sequence: 7 },
            payload: b"GET /",
        },
        Frame {
            source: "[2001:2::1]:1000".parse().unwrap(),
            destination: "[2001:2::2]:53".parse().unwrap(),
            transport: Transport::Udp,
            payload: b"query",
        },
    ];
    assert_eq!(frames, want);
}

#[test]
fn words_are_found_across_segments_late_repeated_and_wrapped() {
    let (first, second, third) = (u32::MAX - 2, 1, 5); // 4 bytes each
    let late =
        [(first, &b"one "[..]), (third, b"tree"), (second, b"two "), (first, b"one "), (first, b"one two ")];
    let packets = parse(&late.map(|(sequence, payload)| v4(TCP, 0, &tcp(sequence, payload))));
    assert_eq!(packets.streams().into_values().collect::<Vec<_>>(), [b"one two tree"]);
    assert!(packets.contains(b"e two t"));
    assert!(!packets.contains(b"three"));
    assert!(!packets.contains(b""));
    assert!(packets.without(b"tree").frames().all(|frame| frame.payload != b"tree"));
}

#[test]
fn what_is_not_whole_is_left_out() {
    let mut frames = vec![
        v4(TCP, 0x2000, &tcp(1, b"first fragment")),
        v4(TCP, 0x0001, b"a later fragment"),
        v6(44, &[0; 16]), // fragment header
        v6(HOP_BY_HOP, &[UDP, 255]),
        ethernet(IPV4, &[0x45]),
        ethernet(IPV6, &[0x60]),
        vec![0; 3],
    ];
    let mut longer_than_it_is = v4(UDP, 0, &datagram(b"x"));
    longer_than_it_is[14 + 2] = 0xff;
    frames.push(longer_than_it_is);
    let packets = parse(&frames);
    assert_eq!((packets.len(), packets.frames().count()), (8, 0));
}

#[test]
fn a_recording_may_end_anywhere_but_must_be_one() {
    let whole = file(&[v4(UDP, 0, &datagram(b"one")), v4(UDP, 0, &datagram(b"two"))]);
    for end in 0..whole.len() {
        match Packets::parse(&whole[..end]) {
            Ok(packets) => assert!(end >= 24 && packets.len() < 2, "{end}"),
            Err(_) => assert!(end < 24, "{end}"),
        }
    }
    let mut swapped = whole.clone();
    swapped[..4].reverse();
    let mut other_link = whole.clone();
    other_link[20..24].copy_from_slice(&113u32.to_ne_bytes());
    let mut cut = whole.clone();
    cut[24 + 12..24 + 16].copy_from_slice(&1000u32.to_ne_bytes());
    let mut large = whole;
    for at in [24 + 8, 24 + 12] {
        large[at..at + 4].copy_from_slice(&(LARGEST_PACKET + 1).to_ne_bytes());
    }
    for (wrong, why) in [
        (swapped, "not a pcap"),
        (other_link, "link type 113"),
        (cut, "recorded as"),
        (large, "the limit is"),
    ] {
        let error = Packets::parse(&wrong).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
