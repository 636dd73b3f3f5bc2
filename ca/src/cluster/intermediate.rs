//! The Secret in which a user brings an intermediate of his own: read, and never written.

use std::sync::Arc;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};
use signet_core::identity::SYSTEM_NAMESPACE;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use crate::{
    brought::{CA_CRT, SECRET, TLS_CRT, TLS_KEY},
    state::{Offer, Secret as Key},
    store::StoreError,
};
use signet_lease::call;

/// Secret [`NAME`] in our namespace. Its type is not asked for: what is in it decides.
pub(crate) struct IntermediateSecret {
    api: Api<Secret>,
    /// Reading blocks; this runtime drives it meanwhile.
    runtime: Handle,
}

impl IntermediateSecret {
    pub(crate) fn new(client: Client, runtime: Handle) -> Self {
        Self { api: Api::namespaced(client, SYSTEM_NAMESPACE), runtime }
    }

    /// `None`: there is no such Secret. Blocks for 5 s at most.
    pub(crate) fn read(&self) -> Result<Option<Offer>, StoreError> {
        self.runtime.block_on(self.ask())
    }

    async fn ask(&self) -> Result<Option<Offer>, StoreError> {
        let answer = call(self.api.get_opt(NAME)).await;
        let secret =
            answer.map_err(|error| StoreError::Api { place: SECRET.into(), why: error.to_string() })?;
        let Some(Secret { data, .. }) = secret else { return Ok(None) };
        let mut data = data.unwrap_or_default();
        // What is no text is no PEM either; `brought` says so.
        let mut text = |key: &str| {
            let bytes = Zeroizing::new(data.remove(key).map(|ByteString(bytes)| bytes).unwrap_or_default());
            Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (chain, key, root) = (text(TLS_CRT), text(TLS_KEY), text(CA_CRT));
        Ok(Some(Offer {
            chain: Arc::from(chain.as_str()),
            key: Key::new(key),
            root: Arc::from(root.as_str()),
        }))
    }
}

const NAME: &str = "signet-ca-intermediate";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use signet_lease::double::{Double, Fault};

    const PATH: &str = "/api/v1/namespaces/signet-system/secrets/signet-ca-intermediate";

    fn secret(api: &Double) -> IntermediateSecret {
        IntermediateSecret::new(api.client(), Handle::current())
    }

    #[tokio::test]
    async fn what_is_in_it_is_read_as_it_is_and_what_is_missing_is_empty() {
        let api = Double::default();
        assert_eq!(secret(&api).ask().await.unwrap(), None);
        api.put(PATH, json!({ "data": { "tls.crt": "Yw==", "tls.key": "aw==", "ca.crt": "cg==" } }));
        let offer = secret(&api).ask().await.unwrap().unwrap();
        assert_eq!((&*offer.chain, offer.key.expose(), &*offer.root), ("c", "k", "r"));
        api.put(PATH, json!({ "data": { "tls.crt": "/w==" } }));
        let offer = secret(&api).ask().await.unwrap().unwrap();
        assert_eq!((&*offer.chain, offer.key.expose(), &*offer.root), ("\u{fffd}", "", ""));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_refuses_or_hangs_is_an_error_and_never_a_secret_that_is_not_there() {
        for fault in [Fault::Status(500), Fault::Status(403), Fault::Hang] {
            let api = Double::default();
            api.fault("GET", PATH, fault);
            let error = secret(&api).ask().await.unwrap_err();
            assert!(error.is_passing() && error.to_string().contains("signet-ca-intermediate"), "{error}");
        }
    }
}
