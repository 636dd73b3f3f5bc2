//! Listeners.

use signet_api::edge;

use super::{Fault, Wrong, at, encode_host, encode_scheme, host, name, needs, port, scheme, some};
use crate::model::Listener;

pub fn encode(listener: &Listener) -> edge::Listener {
    edge::Listener {
        name: listener.name.to_string(),
        port: listener.port.into(),
        public_port: listener.public_port.into(),
        scheme: encode_scheme(listener.scheme).into(),
        hosts: Some(encode_host(&listener.hosts)),
        needs: Vec::new(),
    }
}

pub fn decode(message: edge::Listener) -> Result<Listener, Fault> {
    let resource = message.name.clone();
    listener(message).map_err(|wrong| wrong.of("listener", &resource))
}

fn listener(message: edge::Listener) -> Result<Listener, Wrong> {
    needs(&message.needs)?;
    Ok(Listener {
        name: name("name", message.name)?,
        port: port("port", message.port)?,
        public_port: port("public_port", message.public_port)?,
        scheme: scheme("scheme", message.scheme)?,
        hosts: at("hosts", some("", message.hosts).and_then(host))?,
    })
}
