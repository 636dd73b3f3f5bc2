//! A gateway's settings <-> limits. Both ways, so that what holds can be shown in the words in which it is set.

use std::time::Duration;

use signet_core::http_settings::{ClientSettings, H2Settings, HeadSettings, HttpSettings, UpstreamSettings};

use super::{ClientLimits, H2Limits, HeadLimits, Limits, Trust, UpstreamLimits};

impl Limits {
    /// The defaults, but for what was told and checked ([`HttpSettings::check`]).
    pub fn of(told: &HttpSettings, trusted_hops: usize) -> Self {
        let mut limits = Self { trust: Trust { hops: trusted_hops }, ..Self::default() };
        limits.head.take(&told.head);
        limits.h2.take(&told.h2);
        limits.client.take(&told.client);
        limits.upstream.take(&told.upstream);
        limits
    }

    /// All that could be told, as it holds.
    pub fn settings(&self) -> HttpSettings {
        HttpSettings {
            head: self.head.settings(),
            h2: self.h2.settings(),
            client: self.client.settings(),
            upstream: self.upstream.settings(),
        }
    }
}

impl HeadLimits {
    fn take(&mut self, told: &HeadSettings) {
        set(&mut self.line, told.line_bytes);
        set(&mut self.bytes, told.bytes);
        set(&mut self.fields, told.fields);
        set(&mut self.cookies, told.cookies);
        set(&mut self.underscores, told.underscores);
        set(&mut self.encoded_slash, told.encoded_slash);
    }

    fn settings(&self) -> HeadSettings {
        HeadSettings {
            line_bytes: Some(self.line),
            bytes: Some(self.bytes),
            fields: Some(self.fields),
            cookies: Some(self.cookies),
            underscores: Some(self.underscores),
            encoded_slash: Some(self.encoded_slash),
        }
    }
}

impl H2Limits {
    fn take(&mut self, told: &H2Settings) {
        set(&mut self.streams, told.streams);
        set(&mut self.stream_window, told.stream_window_bytes);
        set(&mut self.connection_window, told.connection_window_bytes);
        set(&mut self.frame, told.frame_bytes);
        set(&mut self.send_buffer, told.send_buffer_bytes);
        set(&mut self.resets, told.resets);
        set(&mut self.resets_per_second, told.resets_per_second);
        set(&mut self.errors, told.errors);
        set(&mut self.small_frames, told.small_frames_bytes);
    }

    fn settings(&self) -> H2Settings {
        H2Settings {
            streams: Some(self.streams),
            stream_window_bytes: Some(self.stream_window),
            connection_window_bytes: Some(self.connection_window),
            frame_bytes: Some(self.frame),
            send_buffer_bytes: Some(self.send_buffer),
            resets: Some(self.resets),
            resets_per_second: Some(self.resets_per_second),
            errors: Some(self.errors),
            small_frames_bytes: Some(self.small_frames),
        }
    }
}

impl ClientLimits {
    fn take(&mut self, told: &ClientSettings) {
        last(&mut self.head, told.head_seconds);
        last(&mut self.idle, told.idle_seconds);
        last(&mut self.body, told.body_seconds);
        last(&mut self.write, told.write_seconds);
        last(&mut self.drain_idle, told.drain_idle_seconds);
        last(&mut self.tunnel, told.tunnel_seconds);
        set(&mut self.write_buffer, told.write_buffer_bytes);
    }

    fn settings(&self) -> ClientSettings {
        ClientSettings {
            head_seconds: Some(self.head.as_secs()),
            idle_seconds: Some(self.idle.as_secs()),
            body_seconds: Some(self.body.as_secs()),
            write_seconds: Some(self.write.as_secs()),
            drain_idle_seconds: Some(self.drain_idle.as_secs()),
            tunnel_seconds: Some(self.tunnel.as_secs()),
            write_buffer_bytes: Some(self.write_buffer),
        }
    }
}

impl UpstreamLimits {
    fn take(&mut self, told: &UpstreamSettings) {
        last(&mut self.connect, told.connect_seconds);
        last(&mut self.idle, told.idle_seconds);
        last(&mut self.pool_idle, told.pool_idle_seconds);
        last(&mut self.h2_idle, told.h2_idle_seconds);
        set(&mut self.pool, told.pool);
        set(&mut self.connections, told.connections);
        set(&mut self.h2_connections, told.h2_connections);
        set(&mut self.stream_window, told.stream_window_bytes);
        set(&mut self.connection_window, told.connection_window_bytes);
        set(&mut self.small_frames, told.small_frames_bytes);
        set(&mut self.head_fields, told.head_fields);
        set(&mut self.head_bytes, told.head_bytes);
        set(&mut self.retry_percent, told.retry_percent);
        set(&mut self.retries_per_second, told.retries_per_second);
        set(&mut self.eject_after, told.eject_after);
        last(&mut self.eject, told.eject_seconds);
        last(&mut self.eject_max, told.eject_max_seconds);
    }

    fn settings(&self) -> UpstreamSettings {
        UpstreamSettings {
            connect_seconds: Some(self.connect.as_secs()),
            idle_seconds: Some(self.idle.as_secs()),
            pool_idle_seconds: Some(self.pool_idle.as_secs()),
            h2_idle_seconds: Some(self.h2_idle.as_secs()),
            pool: Some(self.pool),
            connections: Some(self.connections),
            h2_connections: Some(self.h2_connections),
            stream_window_bytes: Some(self.stream_window),
            connection_window_bytes: Some(self.connection_window),
            small_frames_bytes: Some(self.small_frames),
            head_fields: Some(self.head_fields),
            head_bytes: Some(self.head_bytes),
            retry_percent: Some(self.retry_percent),
            retries_per_second: Some(self.retries_per_second),
            eject_after: Some(self.eject_after),
            eject_seconds: Some(self.eject.as_secs()),
            eject_max_seconds: Some(self.eject_max.as_secs()),
        }
    }
}

fn set<T: Copy>(limit: &mut T, told: Option<T>) {
    *limit = told.unwrap_or(*limit);
}

fn last(limit: &mut Duration, seconds: Option<u64>) {
    *limit = seconds.map_or(*limit, Duration::from_secs);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Every leaf of a JSON object, by its pointer.
    fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| leaves(value, &format!("{at}/{name}"), found));
            }
            _ => found.push(at.to_owned()),
        }
    }

    #[test]
    fn each_limit_is_set_by_its_name_alone_and_shown_as_it_was_set() {
        let default = Limits::default();
        assert_eq!(Limits::of(&HttpSettings::default(), 0), default);
        assert_eq!(Limits::of(&default.settings(), 0), default, "seconds are whole");
        default.settings().check().unwrap();
        let shown = serde_json::to_value(default.settings()).unwrap();
        let mut all = Vec::new();
        leaves(&shown, "", &mut all);
        assert_eq!(all.len(), 39, "{all:?}");
        for pointer in all {
            let mut wanted = shown.clone();
            let leaf = wanted.pointer_mut(&pointer).unwrap();
            *leaf = match &*leaf {
                Value::String(_) => json!("pass"),
                number => json!(number.as_u64().unwrap() + 1),
            };
            let told: HttpSettings = serde_json::from_value(wanted.clone()).unwrap();
            let limits = Limits::of(&told, 0);
            assert_ne!(limits, default, "{pointer} changes nothing");
            assert_eq!(serde_json::to_value(limits.settings()).unwrap(), wanted, "{pointer}");
        }
    }
}
