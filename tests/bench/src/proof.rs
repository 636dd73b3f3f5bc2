//! Was mutual TLS really on? A capture of the link holds no plaintext and says what was negotiated, and strangers are refused.
//! Plain systems are captured too: there the marker must be seen, or the check would prove nothing.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::{Deserialize, Serialize};
use signet_core::tls::{ALPN_WIRE, default_provider};

use crate::{
    exchange::{ANSWER, MARKER, Wants},
    hello::server_hellos,
    lab::Lab,
    load::{self, Outcome},
    net::{LINK, Net},
    pki::{Credential, Pki},
    process::Process,
    side::Side,
    systems::Running,
};

/// Of one system.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    pub system: String,
    pub mtls: bool,
    /// The key exchange that must be chosen, and no other; `None`: any one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    pub captured_bytes: u64,
    pub marker_seen: bool,
    /// "TLS_AES_128_GCM_SHA256, X25519MLKEM768": every pair that a server chose on the link.
    pub negotiated: Vec<String>,
    /// How each stranger fared: words of the refusal, or "answered".
    pub strangers: BTreeMap<String, String>,
}

impl Proof {
    /// What is wrong with it; nothing: mutual TLS was on, or plainly off.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.mtls == self.marker_seen {
            let seen = if self.marker_seen { "holds" } else { "lacks" };
            faults.push(format!("{}: the capture {seen} the marker", self.system));
        }
        if self.mtls {
            let wanted = self.wanted.as_deref().unwrap_or_default();
            if self.negotiated.len() != 1 || !self.negotiated[0].ends_with(wanted) {
                faults.push(format!("{}: negotiated {:?}, not {wanted} alone", self.system, self.negotiated));
            }
            for (stranger, fate) in &self.strangers {
                if (fate == ANSWERED) != (stranger == FRIEND) {
                    faults.push(format!("{}: {stranger}: {fate}", self.system));
                }
            }
        }
        faults
    }
}

/// Watches `running` carry a few connections, then sends strangers.
pub fn prove(lab: &Lab, running: &Running) -> Result<Proof> {
    let system = running.system;
    let watched = running.inbound.map_or_else(|| running.entry(), Ok)?;
    let entry = running.entry()?;
    let capture = captured(&lab.net, &lab.directory.join(system.word()), watched, || {
        load::run(&lab.net, || load::new_connections(entry, 4, WATCHED))
    })?;
    let mut strangers = BTreeMap::new();
    if let (true, Some(inbound)) = (system.is_mtls(), running.inbound) {
        let foreign = Pki::new()?.credential("client")?;
        let alpn = system.is_signet().then_some(ALPN_WIRE);
        for (name, credential) in [("no certificate", None), ("foreign CA", Some(&foreign))] {
            strangers.insert(name.to_owned(), call(lab, inbound, alpn, credential)?);
        }
        if !system.is_signet() {
            // Signet's wire has words of its own, so that its friends are its proxies; see the load above.
            let friend = lab.pki.credential("client")?;
            strangers.insert(FRIEND.to_owned(), call(lab, inbound, alpn, Some(&friend))?);
        }
    }
    Ok(Proof {
        system: system.word().into(),
        mtls: system.is_mtls(),
        wanted: system.key_exchange().map(str::to_owned),
        captured_bytes: capture.len() as u64,
        marker_seen: holds(&capture, MARKER.as_bytes()),
        negotiated: negotiated(&capture),
        strangers,
    })
}

/// What crosses the link to and from `at` during `load`. Leaves `<file>.pcap`.
pub fn captured(
    net: &Net,
    file: &Path,
    at: SocketAddr,
    load: impl FnOnce() -> Result<Outcome>,
) -> Result<Vec<u8>> {
    let (pcap, log) = (file.with_extension("pcap"), file.with_extension("tcpdump.log"));
    let mut tcpdump = net.command(Side::Server, "tcpdump");
    tcpdump.args(["-i", LINK, "-s", "0", "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(&pcap);
    tcpdump.arg(format!("host {} and tcp port {}", at.ip(), at.port()));
    let mut watcher = Process::start("tcpdump", &mut tcpdump, &log)?;
    watcher.wait_until(|| Ok(std::fs::read_to_string(&log)?.contains("listening on")))?;
    load()?;
    watcher.end(Signal::SIGINT);
    std::fs::read(&pcap).with_context(|| pcap.display().to_string())
}

/// Suite and group of every ServerHello in `capture`, each once.
pub fn negotiated(capture: &[u8]) -> Vec<String> {
    let mut negotiated: Vec<String> = server_hellos(capture).iter().map(ToString::to_string).collect();
    negotiated.sort();
    negotiated.dedup();
    negotiated
}

/// A TLS client that believes anyone, as `credential` or as nobody; what became of its request.
fn call(lab: &Lab, to: SocketAddr, alpn: Option<&[u8]>, credential: Option<&Credential>) -> Result<String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAnyone));
    let mut config = match credential {
        Some(credential) => {
            builder.with_client_auth_cert(credential.chain.clone(), credential.private_key()?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.into_iter().map(<[u8]>::to_vec).collect();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("server.bench")?)?;
    lab.net.within(Side::Client, move || -> Result<String> {
        let mut tcp = TcpStream::connect(to)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let mut tls = Stream::new(&mut connection, &mut tcp);
        let mut answer = vec![0; ANSWER.len()];
        let ended = tls.write_all(&Wants::Close.request()).and_then(|()| tls.read_exact(&mut answer));
        Ok(match ended {
            Ok(()) if answer == **ANSWER => ANSWERED.to_owned(),
            Ok(()) => "another answer".to_owned(),
            Err(error) => error.to_string(),
        })
    })?
}

pub fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[derive(Debug)]
struct BelievesAnyone;

impl ServerCertVerifier for BelievesAnyone {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub const ANSWERED: &str = "answered";
/// The control: the same client with a certificate of the peers' own mesh.
const FRIEND: &str = "own certificate";
/// Some hundred connections.
pub const WATCHED: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_fails_on_plaintext_on_two_groups_and_on_an_answered_stranger() {
        let good = Proof {
            system: "envoy".into(),
            mtls: true,
            wanted: Some("X25519".into()),
            captured_bytes: 1,
            marker_seen: false,
            negotiated: vec!["a suite, X25519".into()],
            strangers: BTreeMap::from([
                ("foreign CA".into(), "alert".into()),
                (FRIEND.into(), ANSWERED.into()),
            ]),
        };
        assert_eq!(good.faults(), [""; 0]);
        let change = |change: fn(&mut Proof)| {
            let mut proof = good.clone();
            change(&mut proof);
            proof.faults().len()
        };
        assert_eq!(change(|p| p.marker_seen = true), 1);
        assert_eq!(change(|p| p.negotiated.push("b".into())), 1);
        assert_eq!(change(|p| p.negotiated.clear()), 1);
        assert_eq!(change(|p| p.negotiated = vec!["a suite, X25519MLKEM768".into()]), 1);
        assert_eq!(change(|p| drop(p.strangers.insert("foreign CA".into(), ANSWERED.into()))), 1);
        assert_eq!(change(|p| drop(p.strangers.insert(FRIEND.into(), "alert".into()))), 1);
        assert_eq!(change(|p| p.mtls = false), 1, "plain, and no marker: the capture is of nothing");
    }
}
