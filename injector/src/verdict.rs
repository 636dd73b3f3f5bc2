//! Why a pod is not injected: one word each, for the webhook's answer, its metric, the Event on the pod and `signet explain`.
//! docs/injection.md has a row for every word.

use signet_core::pod::{POD_SECURITY, PROXY_UID};

/// The pod starts as it is, outside the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Skip {
    /// Labelled `signet.dev/inject: disabled`.
    OptedOut,
    /// Its network is the node's: capture would redirect the node.
    HostNetwork,
    Windows,
    /// The kubelet made it from a file; the API server shows it only.
    MirrorPod,
    OtherMesh {
        container: String,
    },
    /// For `uninject`.
    NotInjected,
}

/// The pod is not created, because it would be in the mesh in name only, or not as its author meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    ProxyUid {
        container: String,
    },
    PodSecurity {
        namespace: String,
        level: String,
    },
    /// "container signet-proxy", "volume signet-identity".
    NameTaken {
        what: String,
    },
    /// Keys in our name that we do not know, or that stand in the wrong place; in words.
    UnknownSetting {
        why: String,
    },
    /// `key: why` of each.
    BadSetting {
        why: String,
    },
    BadPod {
        why: String,
    },
}

impl Skip {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OptedOut => "pod_opted_out",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::MirrorPod => "mirror_pod",
            Self::OtherMesh { .. } => "other_mesh",
            Self::NotInjected => "not_injected",
        }
    }

    pub fn words(&self) -> String {
        match self {
            Self::OptedOut => "its label signet.dev/inject is disabled".into(),
            Self::HostNetwork => {
                "it uses the node's network, which is not captured; strict servers refuse its plaintext"
                    .into()
            }
            Self::Windows => "it runs on Windows, where nothing is captured".into(),
            Self::MirrorPod => "it is a static pod, which the kubelet runs as its file says".into(),
            Self::OtherMesh { container } => {
                format!("it is in another mesh already: it has a container {container}")
            }
            Self::NotInjected => "it has no proxy of ours".into(),
        }
    }
}

impl Refusal {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ProxyUid { .. } => "proxy_uid",
            Self::PodSecurity { .. } => "pod_security",
            Self::NameTaken { .. } => "name_taken",
            Self::UnknownSetting { .. } => "unknown_setting",
            Self::BadSetting { .. } => "bad_setting",
            Self::BadPod { .. } => "bad_pod",
        }
    }

    /// What is wrong and what to do.
    pub fn words(&self) -> String {
        match self {
            Self::ProxyUid { container } => format!(
                "container {container} runs as uid {PROXY_UID}, the proxy's, which is not captured: give it another \
                 user (securityContext.runAsUser)"
            ),
            Self::PodSecurity { namespace, level } => format!(
                "namespace {namespace} enforces Pod Security {level}, which forbids the capture step its NET_ADMIN: \
                 kubectl label --overwrite namespace {namespace} {POD_SECURITY}=privileged, or leave it out of the mesh"
            ),
            Self::NameTaken { what } => format!("{what} is a name that we need, and it is taken: rename it"),
            Self::UnknownSetting { why } | Self::BadSetting { why } | Self::BadPod { why } => why.clone(),
        }
    }
}
