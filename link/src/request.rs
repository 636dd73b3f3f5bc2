//! One request for a certificate, whatever it is for: connect, ask, take the answer apart.

use std::{net::IpAddr, sync::Arc};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use signet_api::istio::{
    IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
};
use signet_core::{bundle::TrustBundle, trust::Trust};
use tonic::{Request, transport::Channel};
use zeroize::Zeroizing;

use crate::{Target, client, svid::NoSvid};

/// The answer as it came: PEM of leaf, intermediates.., trust bundle. Who asks is proven by `token`, or else by `config`'s
/// certificate. No deadline: the caller has one for the whole try.
pub(crate) async fn ask<F>(
    ca: &Target,
    source: Option<IpAddr>,
    config: F,
    token: Option<Zeroizing<String>>,
    request: IstioCertificateRequest,
) -> Result<Vec<String>, NoSvid>
where
    F: Fn() -> Option<Arc<rustls::ClientConfig>> + Clone + Send + Sync + 'static,
{
    let channel: Channel = client::channel(ca, source, config).await.map_err(Box::new)?;
    let mut request = Request::new(request);
    if let Some(token) = token {
        let mut header: tonic::metadata::AsciiMetadataValue =
            Zeroizing::new(format!("Bearer {}", *token)).parse().map_err(|_| NoSvid::TokenShape)?;
        header.set_sensitive(true);
        request.metadata_mut().insert("authorization", header);
    }
    let answer =
        IstioCertificateServiceClient::new(channel).create_certificate(request).await.map_err(Box::new)?;
    Ok(answer.into_inner().cert_chain)
}

/// The chain of an answer, leaf first, not yet checked. Its bundle is offered to `trust` on the way.
pub(crate) fn chain(answer: &[String], trust: &Trust) -> Result<Vec<CertificateDer<'static>>, NoSvid> {
    let Some((bundle, chain)) = answer.split_last().filter(|(_, chain)| !chain.is_empty()) else {
        return Err(NoSvid::Answer("fewer than two certificates".into()));
    };
    trust.offer(TrustBundle::from_pem(bundle.as_bytes()).map_err(NoSvid::Answer)?);
    let mut certificates = Vec::new();
    for pem in chain {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            certificates.push(certificate.map_err(|e| NoSvid::Answer(format!("not PEM: {e:?}")))?);
        }
    }
    Ok(certificates)
}
