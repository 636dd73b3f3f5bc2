//! The documents of the OCI image format (image-spec 1.1), as far as we write and read them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// On a descriptor in `index.json`: the image's full name, for us and for `ctr images import`.
pub(super) const NAME: &str = "io.containerd.image.name";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name"; // the same, for everyone else
/// Likewise: what the image was made from.
pub(super) const KEY: &str = "test.signet.key";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    /// As Go and OCI say it: amd64, arm64.
    pub(crate) architecture: String,
    pub(crate) os: String,
}

impl Platform {
    pub(crate) fn linux(architecture: &str) -> Self {
        Self { architecture: architecture.to_owned(), os: "linux".to_owned() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u8,
    media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

impl Index {
    pub(super) fn of(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: INDEX.to_owned(), manifests }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Descriptor> {
        self.manifests.iter().find(|image| image.annotations.get(NAME).is_some_and(|it| it == name))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u8,
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// How a container of the image is started.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Config {
    /// `uid` or `uid:gid`, in digits: `runAsNonRoot` refuses a name.
    pub(crate) user: String,
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) working_dir: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) stop_signal: &'static str,
}

#[derive(Serialize)]
pub(super) struct ImageConfig<'a> {
    #[serde(flatten)]
    pub(super) platform: &'a Platform,
    pub(super) config: &'a Config,
    pub(super) rootfs: RootFs,
}

#[derive(Serialize)]
pub(super) struct RootFs {
    pub(super) r#type: &'static str,
    pub(super) diff_ids: Vec<String>,
}
