//! The two sides of the path: the client's (load generator, client proxy) and the server's (server proxy, backend).

use serde::Serialize;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// One of each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Both<T> {
    pub client: T,
    pub server: T,
}

impl<T> Both<T> {
    pub fn of(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    pub fn map<U>(&self, what: impl Fn(&T) -> U) -> Both<U> {
        Both { client: what(&self.client), server: what(&self.server) }
    }
}
