//! Requests to Route 53: signed, repeated where that may help, and each end named.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use rustls::ClientConfig;
use signet_core::clock;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::time::{sleep, timeout};

use super::{
    Route53Error, SKEW, Settings, bare_id,
    xml::{self, RecordSet, Refused},
};
use crate::dns::sigv4::{self, Signer, Unsigned};

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) settings: Settings,
    pub(crate) tls: Arc<ClientConfig>,
}

/// What became of a change batch.
pub(crate) enum Reply {
    /// The change's ID.
    Done(String),
    /// The record set is no longer what we read; in Route 53's words.
    Conflict(String),
}

/// A request as a person reads of it, and as it is sent.
struct Call<'a> {
    /// With the IAM action.
    action: &'static str,
    method: Method,
    path: &'a str,
    query: &'a str,
    body: &'a str,
}

impl Api {
    /// The public hosted zones with exactly this name.
    pub(crate) async fn zones_called(
        &self,
        name: &str,
        last: &mut String,
    ) -> Result<Vec<String>, Route53Error> {
        let action = "list hosted zones (route53:ListHostedZonesByName)";
        let query = sigv4::query(&[("dnsname", name), ("maxitems", ZONES)]);
        let call = Call {
            action,
            method: Method::GET,
            path: "/2013-04-01/hostedzonesbyname",
            query: &query,
            body: "",
        };
        let answer = self.call(&call, last).await?;
        xml::zones(&answer, name).map_err(|why| self.unreadable(action, why))
    }

    /// The TXT record set of `name`.
    pub(crate) async fn record_set(
        &self,
        zone: &str,
        name: &str,
        last: &mut String,
    ) -> Result<Option<RecordSet>, Route53Error> {
        let action = "read TXT records (route53:ListResourceRecordSets)";
        let path = format!("/2013-04-01/hostedzone/{zone}/rrset");
        let query = sigv4::query(&[("name", name), ("type", "TXT"), ("maxitems", "1")]);
        let call = Call { action, method: Method::GET, path: &path, query: &query, body: "" };
        let answer = self.call(&call, last).await?;
        xml::record_set(&answer, name).map_err(|why| self.unreadable(action, why))
    }

    pub(crate) async fn change(
        &self,
        zone: &str,
        batch: &str,
        last: &mut String,
    ) -> Result<Reply, Route53Error> {
        let action = "change TXT records (route53:ChangeResourceRecordSets)";
        let path = format!("/2013-04-01/hostedzone/{zone}/rrset/");
        let call = Call { action, method: Method::POST, path: &path, query: "", body: batch };
        match self.call(&call, last).await {
            Ok(answer) => {
                let id = xml::text_of(&answer, "Id").map_err(|why| self.unreadable(action, why))?;
                Ok(Reply::Done(bare_id(&id).to_owned()))
            }
            Err(Route53Error::Answer { code, words, .. })
                if code == "InvalidChangeBatch" && is_conflict(&words) =>
            {
                Ok(Reply::Conflict(words))
            }
            Err(e) => Err(e),
        }
    }

    /// PENDING or INSYNC.
    pub(crate) async fn change_status(&self, id: &str, last: &mut String) -> Result<String, Route53Error> {
        let action = "ask whether a change has spread (route53:GetChange)";
        let path = format!("/2013-04-01/change/{id}");
        let call = Call { action, method: Method::GET, path: &path, query: "", body: "" };
        let answer = self.call(&call, last).await?;
        xml::text_of(&answer, "Status").map_err(|why| self.unreadable(action, why))
    }

    /// The text of a good answer. Repeating is safe: reading changes nothing, and a change that was taken without our hearing of it
    /// conflicts with itself, and is found when it is read again.
    async fn call(&self, call: &Call<'_>, last: &mut String) -> Result<String, Route53Error> {
        let mut tries = 0;
        loop {
            let (error, after) = match timeout(ANSWER, self.send(call)).await {
                Ok(Ok(answer)) if answer.status().is_success() => {
                    let text = String::from_utf8(answer.into_body().into());
                    return text.map_err(|e| self.unreadable(call.action, e.to_string()));
                }
                Ok(Ok(answer)) => {
                    let after = retry_after(answer.headers());
                    let refused = xml::refused(answer.body());
                    let again = is_worth_another(answer.status(), &refused.code);
                    let error = self.named(call.action, &answer, refused);
                    if !again {
                        return Err(error);
                    }
                    (error, after)
                }
                // What rustls does not believe is the same the next time.
                Ok(Err(source)) if source.kind() == io::ErrorKind::InvalidData => {
                    return Err(self.unreached(source));
                }
                Ok(Err(source)) => (self.unreached(source), None),
                Err(_) => (self.unreached(io::ErrorKind::TimedOut.into()), None),
            };
            tries += 1;
            if tries == TRIES {
                return Err(error);
            }
            *last = error.to_string();
            sleep(after.unwrap_or_else(|| backoff(tries))).await;
        }
    }

    async fn send(&self, call: &Call<'_>) -> io::Result<Response<Bytes>> {
        let settings = &self.settings;
        let at = amz_date(clock::now());
        let host = settings.endpoint.authority.as_str();
        let mut headers = vec![("host", host), ("x-amz-date", &*at)];
        headers.extend(settings.session_token.iter().map(|token| ("x-amz-security-token", token.as_str())));
        let signer = Signer {
            access_key_id: &settings.access_key_id,
            secret_access_key: &settings.secret_access_key,
            region: settings.region,
            service: "route53",
        };
        let unsigned = Unsigned {
            method: call.method.as_str(),
            path: call.path,
            query: call.query,
            headers: &headers,
            body: call.body.as_bytes(),
        };
        let authorization = signer.authorization(&unsigned, &at);
        let target = if call.query.is_empty() {
            call.path.to_owned()
        } else {
            format!("{}?{}", call.path, call.query)
        };
        let mut request = Request::builder()
            .method(&call.method)
            .uri(target)
            .header(header::AUTHORIZATION, authorization)
            .header(header::USER_AGENT, concat!("signet/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/xml");
        }
        let request = request.body(Full::new(Bytes::from(call.body.to_owned()))).map_err(io::Error::other)?;
        self.settings.endpoint.exchange(&self.tls, request).await
    }

    /// One word of AWS's to one of ours.
    fn named(&self, action: &'static str, answer: &Response<Bytes>, refused: Refused) -> Route53Error {
        let (secret, id) = (self.settings.secret.clone(), self.settings.access_key_id.clone());
        let Refused { code, words } = refused;
        let apart = apart(answer.headers(), clock::now()).filter(|apart| *apart > SKEW);
        match (code.as_str(), apart) {
            (
                "SignatureDoesNotMatch"
                | "InvalidSignatureException"
                | "RequestExpired"
                | "RequestTimeTooSkewed",
                Some(apart),
            ) => Route53Error::ClockSkew { apart },
            ("SignatureDoesNotMatch" | "InvalidSignatureException", None) => {
                Route53Error::WrongSecret { id, secret }
            }
            ("InvalidClientTokenId" | "UnrecognizedClientException", _) => {
                Route53Error::UnknownKey { id, code, secret }
            }
            ("ExpiredToken" | "ExpiredTokenException", _) => Route53Error::Expired { secret },
            ("AccessDenied" | "AccessDeniedException", _) => Route53Error::Denied { id, action, words },
            _ => Route53Error::Answer { status: answer.status().as_u16(), code, action, words },
        }
    }

    fn unreached(&self, source: io::Error) -> Route53Error {
        Route53Error::Unreached { endpoint: self.settings.endpoint.authority.clone(), source }
    }

    fn unreadable(&self, action: &'static str, why: String) -> Route53Error {
        Route53Error::Unreadable { action, why, secret: self.settings.secret.clone() }
    }
}

/// As 20150830T123600Z.
fn amz_date(at: OffsetDateTime) -> String {
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

/// Throttled, busy, or broken for now.
fn is_worth_another(status: StatusCode, code: &str) -> bool {
    let throttled = ["Throttling", "ThrottlingException", "PriorRequestNotComplete", "RequestLimitExceeded"];
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || throttled.contains(&code)
}

/// The three ways in which a batch says that it was made from another reading. Any other is about the batch itself.
fn is_conflict(words: &str) -> bool {
    ["but it was not found", "do not match the current values", "but it already exists"]
        .iter()
        .any(|said| words.contains(said))
}

/// Seconds between their clock and ours.
fn apart(headers: &HeaderMap, now: OffsetDateTime) -> Option<u64> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let theirs = OffsetDateTime::parse(date, &Rfc2822).ok()?;
    Some((now - theirs).whole_seconds().unsigned_abs())
}

/// What they ask for, as far as it is worth waiting for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

/// 0.5, 1, 2, 4, 8 s, each between its half and itself.
fn backoff(tries: u32) -> Duration {
    let most = 500_u64 << (tries - 1).min(4);
    Duration::from_millis(fastrand::u64(most / 2..=most))
}

const ZONES: &str = "20"; // zones of one name that anybody tells apart: a public one and private ones of VPCs
const ANSWER: Duration = Duration::from_secs(15); // one request; Route 53 answers within one second
const TRIES: u32 = 6; // 15 s of waiting together, more than an account's five requests a second need
const LONGEST: Duration = Duration::from_secs(60); // a Retry-After beyond it is not waited out within one publication

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_clock_is_read_off_the_answer() {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, "Mon, 30 Aug 2015 12:36:00 GMT".parse().unwrap());
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(1_440_938_160 + seconds).unwrap();
        for (ours, expected) in [(0, 0), (301, 301), (-4000, 4000)] {
            assert_eq!(apart(&headers, at(ours)), Some(expected), "{ours}");
        }
        headers.insert(header::DATE, "yesterday".parse().unwrap());
        assert_eq!(apart(&headers, at(0)), None);
    }

    #[test]
    fn an_instant_is_written_as_aws_reads_it() {
        assert_eq!(amz_date(OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap()), "20150830T123600Z");
    }

    #[test]
    fn waiting_grows_and_is_never_longer_than_it_may_be() {
        for (tries, most) in [(1, 500), (2, 1000), (5, 8000), (60, 8000)] {
            let wait = backoff(tries).as_millis();
            assert!((most / 2..=most).contains(&wait), "{tries}: {wait} ms");
        }
        let mut headers = HeaderMap::new();
        for (said, waited) in [("3", Some(3)), ("86400", Some(60)), ("soon", None)] {
            headers.insert(header::RETRY_AFTER, said.parse().unwrap());
            assert_eq!(retry_after(&headers).map(|wait| wait.as_secs()), waited, "{said}");
        }
    }

    #[test]
    fn only_what_another_reading_mends_is_a_conflict() {
        let conflict = "[Tried to delete resource record set [name='a.', type='TXT'] but it was not found]";
        let conflicts = [
            conflict,
            "[Tried to delete resource record set [name='a.', type='TXT'] but the values provided do not match the current values]",
            "[Tried to create resource record set [name='a.', type='TXT'] but it already exists]",
        ];
        assert!(conflicts.iter().all(|words| is_conflict(words)));
        assert!(!is_conflict(
            "[RRSet of type TXT with DNS name a. is not permitted because a conflicting RRSet of type CNAME with the same DNS name already exists in zone b.]"
        ));
    }
}
