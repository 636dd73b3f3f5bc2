//! The fuzzer finds no base64 by itself: its bytes as what a PEM holds.

pub fn encode(der: &[u8], label: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, chunk) in der.chunks(3).enumerate() {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for sextet in 0..4 {
            let index = (bits >> (18 - 6 * sextet)) & 63;
            text.push(if sextet <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
        if at % 16 == 15 {
            text.push('\n');
        }
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
