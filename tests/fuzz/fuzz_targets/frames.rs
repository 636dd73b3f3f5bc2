//! The frames of the wire. However a stream of them is cut, the same frames come out, and each is written as it was read.
#![no_main]
use signet_wire::frames::{self, BadFrame, Frame, Unframer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(*size).max(1)), whole);
    if let Ok(written) = whole {
        assert_eq!(read(&written, written.len().max(1)).as_ref(), Ok(&written));
    }
});

/// The frames of `bytes` as they would be written, DATA byte by byte, so that pieces do not show.
fn read(bytes: &[u8], size: usize) -> Result<Vec<u8>, BadFrame> {
    let (mut unframer, mut written) = (Unframer::default(), Vec::new());
    for mut piece in bytes.chunks(size) {
        while let Some(frame) = unframer.next(&mut piece)? {
            match frame {
                Frame::Data(data) => data.chunks(1).for_each(|byte| frames::write(&Frame::Data(byte), &mut written)),
                frame => frames::write(&frame, &mut written),
            }
        }
        assert!(piece.is_empty());
    }
    Ok(written)
}
