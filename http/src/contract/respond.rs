//! Answers of our own.

use signet_api::edge;

use super::{Wrong, duration, encode_duration, status};
use crate::model::Respond;

pub(super) fn encode(respond: &Respond) -> edge::Respond {
    edge::Respond {
        status: respond.status.as_u16().into(),
        retry_after: respond.retry_after.map(encode_duration),
    }
}

pub(super) fn decode(message: edge::Respond) -> Result<Respond, Wrong> {
    Ok(Respond {
        status: status("status", message.status)?,
        retry_after: message.retry_after.map(|after| duration("retry_after", after)).transpose()?,
    })
}
