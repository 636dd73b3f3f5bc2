//! What comes on the discovery stream: authenticated, but of another version perhaps. Taken whole or refused whole.
#![no_main]
use prost::Message as _;
use signet_api::{v1, xds::DeltaDiscoveryResponse};
use signet_proxy::{model::Answer, settings::Settings};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    resource(bytes);
    let Ok(response) = DeltaDiscoveryResponse::decode(bytes) else { return };
    for any in response.resources.into_iter().filter_map(|resource| resource.resource) {
        resource(&any.value);
    }
});

fn resource(bytes: &[u8]) {
    if let Ok(address) = v1::Address::decode(bytes) {
        let _ = Answer::try_from(address);
    }
    if let Ok(settings) = v1::WorkloadSettings::decode(bytes) {
        let _ = Settings::try_from(settings);
    }
}
