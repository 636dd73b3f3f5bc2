//! What an opened record says (RFC 9846 5.1, 6 and 4.7): data, an alert, or the two messages that may follow a handshake. Pure.

use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved, Side};

/// One record, as the peer meant it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inner<'a> {
    /// The app's bytes; there may be none.
    Data(&'a [u8]),
    /// What follows is sealed with the peer's next key. `answer`: it wants the same of us.
    KeyUpdate { answer: bool },
    /// close_notify.
    Closed,
    /// A ticket, which we never use, or an alert that means nothing.
    Nothing,
}

/// Reads what `us` received in a record of type `kind`.
///
/// Errors: messages that may not come now, that are not whole in their record (nobody needs to cut one so short), or that do
/// not parse; an alert other than close_notify. The caller ends the connection, with the alert of [`alert_for`].
pub fn parse(us: Side, kind: ContentType, payload: &[u8]) -> Result<Inner<'_>, Error> {
    match kind {
        ContentType::ApplicationData => Ok(Inner::Data(payload)),
        ContentType::Handshake => messages(us, payload),
        ContentType::Alert => alert(payload),
        got_type => Err(Error::InappropriateMessage { expect_types: EXPECTED.to_vec(), got_type }),
    }
}

fn messages(us: Side, mut messages: &[u8]) -> Result<Inner<'static>, Error> {
    if messages.is_empty() {
        return Err(InvalidMessage::InvalidEmptyPayload.into());
    }
    while !messages.is_empty() {
        let (kind, body) =
            next(&mut messages).ok_or(PeerMisbehaved::MessageInterleavedWithHandshakeMessage)?;
        match (kind, us) {
            // The keys change with the next record, so nothing may follow in this one.
            (HandshakeType::KeyUpdate, _) if !messages.is_empty() => {
                return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
            }
            (HandshakeType::KeyUpdate, _) => return key_update(body),
            (HandshakeType::NewSessionTicket, Side::Client) => {}
            (got_type, _) => {
                let expect_types = vec![HandshakeType::KeyUpdate];
                return Err(Error::InappropriateHandshakeMessage { expect_types, got_type });
            }
        }
    }
    Ok(Inner::Nothing)
}

/// Takes the message at the front. `None`: it is not whole.
fn next<'a>(messages: &mut &'a [u8]) -> Option<(HandshakeType, &'a [u8])> {
    let ([kind, a, b, c], rest) = messages.split_first_chunk()?;
    let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    let (body, rest) = rest.split_at_checked(len)?;
    *messages = rest;
    Some(((*kind).into(), body))
}

fn key_update(body: &[u8]) -> Result<Inner<'static>, Error> {
    match body {
        [0] => Ok(Inner::KeyUpdate { answer: false }),
        [1] => Ok(Inner::KeyUpdate { answer: true }),
        _ => Err(InvalidMessage::InvalidKeyUpdate.into()),
    }
}

/// The level says nothing that the description does not.
fn alert(payload: &[u8]) -> Result<Inner<'static>, Error> {
    let [_, description] = payload else { return Err(InvalidMessage::MissingData("Alert").into()) };
    match AlertDescription::from(*description) {
        AlertDescription::CloseNotify => Ok(Inner::Closed),
        AlertDescription::UserCanceled => Ok(Inner::Nothing),
        alert => Err(Error::AlertReceived(alert)),
    }
}

/// What the peer is told about `error`. `None`: it told us.
pub fn alert_for(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::AlertReceived(_) => None,
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord | Error::InvalidMessage(InvalidMessage::MessageTooLarge) => {
            Some(AlertDescription::RecordOverflow)
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::InvalidEmptyPayload)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => Some(AlertDescription::UnexpectedMessage),
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        _ => Some(AlertDescription::InternalError),
    }
}

const EXPECTED: [ContentType; 3] = [ContentType::ApplicationData, ContentType::Handshake, ContentType::Alert];
