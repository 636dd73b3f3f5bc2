//! Inside a stream: records taken apart into the app's bytes and what the frames say beside them.

use crate::{
    connection::Fault,
    frames::{Frame, Reset, Unframer},
    tls::Then,
};

/// What arrived in a batch of records.
#[derive(Default)]
pub struct Heard {
    /// Payload bytes at the front of the scratch.
    pub len: usize,
    /// ACCEPT came, now or before.
    pub accepted: bool,
    pub fin: bool,
    pub reset: Option<Reset>,
    pub going_away: Option<u32>,
}

impl Heard {
    /// Takes one record's plaintext.
    pub fn record(
        &mut self,
        unframer: &mut Unframer,
        mut payload: &[u8],
        plain: &mut [u8],
    ) -> Result<Then, Fault> {
        while let Some(frame) = unframer.next(&mut payload)? {
            match frame {
                Frame::Data(data) if self.accepted => {
                    let room = plain.get_mut(self.len..self.len + data.len());
                    room.ok_or(Fault::Protocol("more than fits a batch"))?.copy_from_slice(data);
                    self.len += data.len();
                }
                Frame::Accept(_) if !self.accepted => self.accepted = true,
                Frame::Fin if self.accepted => self.fin = true,
                Frame::Rst(reset) => self.reset = Some(reset),
                Frame::GoAway(accepted) => self.going_away = Some(accepted),
                Frame::Data(_) | Frame::Fin => return Err(Fault::Protocol("data before ACCEPT")),
                Frame::Open(_) | Frame::Accept(_) => {
                    return Err(Fault::Protocol("OPEN or ACCEPT inside a stream"));
                }
            }
            // What follows belongs to the wire or to the next stream, in a record of its own.
            if self.fin || self.reset.is_some() {
                return if payload.is_empty() {
                    Ok(Then::Stop)
                } else {
                    Err(Fault::Protocol("bytes behind FIN or RST in its record"))
                };
            }
        }
        Ok(Then::GoOn)
    }
}
