//! What edge says: authenticated, but of another version perhaps. Each resource is taken or refused; a route's rules one by one.
#![no_main]
use prost::Message;
use signet_api::edge;
use signet_http::contract;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = edge::Route::decode(bytes)
        && let Ok((route, _)) = contract::route::decode(message)
    {
        assert_eq!(contract::route::decode(contract::route::encode(&route)).expect("what we wrote").0, route);
    }
    if let Ok(message) = edge::Backend::decode(bytes)
        && let Ok(backend) = contract::backend::decode(message)
    {
        assert_eq!(contract::backend::decode(contract::backend::encode(&backend)).expect("what we wrote"), backend);
    }
    if let Ok(message) = edge::Challenge::decode(bytes)
        && let Ok(challenge) = contract::challenge::decode(message)
    {
        assert_eq!(contract::challenge::decode(contract::challenge::encode(&challenge)).expect("what we wrote"), challenge);
    }
    let _ = edge::Listener::decode(bytes).map(contract::listener::decode);
    let _ = edge::HttpsHost::decode(bytes).map(contract::https_host::decode);
    let _ = edge::Certificate::decode(bytes).map(contract::certificate::decode);
});
