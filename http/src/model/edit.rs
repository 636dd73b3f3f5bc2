//! Changes of headers.

use http::{HeaderName, HeaderValue, header};

/// Changes of a message's headers: `set` replaces, then `add` appends, then `remove` takes away.
///
/// Never of those that carry a message over one hop or say where it ends: a rule cannot break the framing. Host is changed by
/// [`Forward::host`](super::Forward::host). Errors: [`BadEdit`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HeaderEdits {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl HeaderEdits {
    pub fn new(
        set: Vec<(HeaderName, HeaderValue)>,
        add: Vec<(HeaderName, HeaderValue)>,
        remove: Vec<HeaderName>,
    ) -> Result<Self, BadEdit> {
        let names = set.iter().map(|(name, _)| name).chain(add.iter().map(|(name, _)| name)).chain(&remove);
        match names.into_iter().find(|name| is_of_the_hop(name)) {
            Some(name) => Err(BadEdit { name: name.clone() }),
            None => Ok(Self { set, add, remove }),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    pub fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }

    pub fn add(&self) -> &[(HeaderName, HeaderValue)] {
        &self.add
    }

    pub fn remove(&self) -> &[HeaderName] {
        &self.remove
    }
}

fn is_of_the_hop(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("header {name} belongs to the connection or to the framing and cannot be changed by a rule")]
pub struct BadEdit {
    name: HeaderName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_cannot_touch_what_frames_a_message() {
        for name in
            ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade", "keep-alive"]
        {
            let name: HeaderName = name.parse().unwrap();
            let value = HeaderValue::from_static("x");
            assert!(HeaderEdits::new(vec![(name.clone(), value.clone())], vec![], vec![]).is_err(), "{name}");
            assert!(HeaderEdits::new(vec![], vec![(name.clone(), value)], vec![]).is_err(), "{name}");
            assert!(HeaderEdits::new(vec![], vec![], vec![name.clone()]).is_err(), "{name}");
        }
        assert!(HeaderEdits::new(vec![], vec![], vec![header::SERVER]).is_ok());
    }
}
