//! Hosts whose plaintext requests are sent to HTTPS.

use signet_api::edge;

use super::{Fault, Wrong, at, encode_host, host, needs, port, respond, some};
use crate::model::{HostPattern, HttpsHost};

/// The resource's name.
pub fn name(host: &HostPattern) -> String {
    host.to_string()
}

pub fn encode(host: &HttpsHost) -> edge::HttpsHost {
    edge::HttpsHost {
        host: Some(encode_host(&host.host)),
        port: host.port.into(),
        unready: host.unready.as_ref().map(respond::encode),
        needs: Vec::new(),
    }
}

pub fn decode(message: edge::HttpsHost) -> Result<HttpsHost, Fault> {
    let resource = message.host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
    https_host(message).map_err(|wrong| wrong.of("https host", &resource))
}

fn https_host(message: edge::HttpsHost) -> Result<HttpsHost, Wrong> {
    needs(&message.needs)?;
    Ok(HttpsHost {
        host: at("host", some("", message.host).and_then(host))?,
        port: port("port", message.port)?,
        unready: at("unready", message.unready.map(respond::decode).transpose())?,
    })
}
