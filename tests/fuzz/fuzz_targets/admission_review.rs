//! What stands at the webhook's port: anyone of the cluster may send it. Answered or refused, and the same pod always alike.
#![no_main]
use signet_core::pod::Mesh;
use signet_injector::{Outcome, Settings, inject, review::review, uninject};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mesh = Mesh {
        trust_domain: "cluster.local".into(),
        ca: "ca.signet-system.svc:15012".into(),
        controller: "controller.signet-system.svc:15010".into(),
        mesh_ranges: vec!["10.0.0.0/8".into()],
    };
    let settings = Settings { image: "signet".into(), mesh };
    let _ = review(bytes, &settings);
    // The fuzzer seldom gets through the envelope: the same bytes as the pod in it.
    let Ok(pod) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let _ = uninject(&pod);
    let outcome = inject(&pod, None, &settings);
    assert_eq!(inject(&pod, None, &settings), outcome);
    if let Outcome::Patch { ops, .. } = outcome {
        assert!(serde_json::to_vec(&ops).is_ok());
    }
});
