//! OCI images without a builder: layers as plain tar, blobs in one image layout, names in its `index.json`.
//! The same content always has the same digest: no times, owner root, entries sorted by path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use signet_core::files;

use super::{
    layer::Layer,
    oci::{
        CONFIG, Config, Descriptor, INDEX, ImageConfig, Index, KEY, LAYER, MANIFEST, Manifest, NAME,
        Platform, REF_NAME, RootFs,
    },
};
use crate::sha256::Sha256;

/// An OCI image layout: `oci-layout`, `index.json`, `blobs/sha256/`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn create(root: PathBuf) -> Result<Self> {
        let layout = Self { root };
        fs::create_dir_all(layout.blobs()).with_context(|| layout.root.display().to_string())?;
        files::write_atomic(&layout.root.join("oci-layout"), LAYOUT_VERSION, files::PUBLIC)?;
        Ok(layout)
    }

    /// For readers: whoever made it may still add to it.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Empty when nothing was published yet.
    pub(crate) fn index(&self) -> Result<Index> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::of(Vec::new())),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// None for what is no digest, so that no request leads out of the directory.
    pub(crate) fn blob(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let is_sha256 = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_sha256.then(|| self.blobs().join(hex))
    }

    /// The image that has all these names, when it was made from `key` and is complete.
    pub(crate) fn made_from(&self, names: &[String], key: &str) -> Result<Option<Descriptor>> {
        let index = self.index()?;
        let mut image = None;
        for name in names {
            let fresh = |image: &&Descriptor| image.annotations.get(KEY).is_some_and(|it| it == key);
            let Some(found) = index.find(name).filter(fresh) else { return Ok(None) };
            image = self.reachable(found).is_ok().then(|| found.clone());
        }
        Ok(image)
    }

    /// Writes an image of one layer, and returns its manifest's descriptor. It has no name yet.
    pub(crate) fn write_image(
        &self,
        platform: &Platform,
        config: &Config,
        layer: &Layer,
    ) -> Result<Descriptor> {
        let layer = self.write(LAYER, |out| layer.write(out))?;
        let rootfs = RootFs { r#type: "layers", diff_ids: vec![layer.digest.clone()] };
        let config = self.write_json(CONFIG, &ImageConfig { platform, config, rootfs })?;
        let manifest =
            Manifest { schema_version: 2, media_type: MANIFEST.to_owned(), config, layers: vec![layer] };
        let manifest = self.write_json(MANIFEST, &manifest)?;
        Ok(Descriptor { platform: Some(platform.clone()), ..manifest })
    }

    /// One image for several platforms.
    pub(crate) fn write_index(&self, images: Vec<Descriptor>) -> Result<Descriptor> {
        self.write_json(INDEX, &Index::of(images))
    }

    /// Gives the image its names, whoever had them, and removes blobs without a name that are older than a day.
    pub(crate) fn publish(&self, names: &[String], key: &str, image: &Descriptor) -> Result<()> {
        let lock = File::create(self.root.join("lock"))?; // released when it is dropped
        lock.lock()?;
        let mut index = self.index()?;
        for name in names {
            index.manifests.retain(|other| other.annotations.get(NAME).is_none_or(|it| it != name));
            let mut named = named(image, name);
            named.annotations.insert(KEY.to_owned(), key.to_owned());
            index.manifests.push(named);
        }
        index.manifests.sort_by_cached_key(|image| image.annotations.get(NAME).cloned());
        files::write_atomic(
            &self.root.join("index.json"),
            &serde_json::to_vec_pretty(&index)?,
            files::PUBLIC,
        )?;
        self.sweep(&index)
    }

    /// One image as an OCI archive, for `ctr images import`, `skopeo copy oci-archive:` and the like.
    pub(crate) fn export(&self, name: &str, image: &Descriptor, to: &Path) -> Result<()> {
        let mut archive = Layer::default();
        archive.file("oci-layout", 0o644, LAYOUT_VERSION.to_vec());
        archive.file("index.json", 0o644, serde_json::to_vec(&Index::of(vec![named(image, name)]))?);
        for digest in self.reachable(image)? {
            let blob = self.blob(&digest).context("not a digest")?;
            archive.file(&format!("blobs/{}", digest.replace(':', "/")), 0o644, fs::read(blob)?);
        }
        let temporary = to.with_added_extension("new");
        let mut out = BufWriter::new(File::create(&temporary)?);
        archive.write(&mut out)?;
        out.into_inner()?.sync_all()?;
        Ok(fs::rename(temporary, to)?)
    }

    /// Size of everything that the image consists of, in bytes.
    pub(crate) fn size(&self, image: &Descriptor) -> Result<u64> {
        let sizes = self.reachable(image)?.into_iter().map(|digest| {
            let blob = self.blob(&digest).context("not a digest")?;
            Ok(fs::metadata(blob)?.len())
        });
        sizes.sum()
    }

    /// The digests of everything that the image consists of; an error when a part is missing.
    fn reachable(&self, image: &Descriptor) -> Result<BTreeSet<String>> {
        let path = self.blob(&image.digest).with_context(|| format!("not a digest: {}", image.digest))?;
        ensure!(path.is_file(), "the layout has no blob {}", image.digest);
        let mut digests = BTreeSet::from([image.digest.clone()]);
        let parts = match image.media_type.as_str() {
            INDEX => serde_json::from_slice::<Index>(&fs::read(path)?)?.manifests,
            MANIFEST => {
                let manifest: Manifest = serde_json::from_slice(&fs::read(path)?)?;
                [manifest.layers, vec![manifest.config]].concat()
            }
            _ => Vec::new(),
        };
        for part in &parts {
            digests.append(&mut self.reachable(part)?);
        }
        Ok(digests)
    }

    fn sweep(&self, index: &Index) -> Result<()> {
        let mut used = BTreeSet::new();
        for image in &index.manifests {
            used.extend(self.reachable(image).unwrap_or_default());
        }
        for entry in fs::read_dir(self.blobs())? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > UNNAMED_BLOBS_LIVE);
            if old && !used.contains(&digest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn write_json(&self, media_type: &str, value: &impl Serialize) -> Result<Descriptor> {
        let text = serde_json::to_vec(value)?;
        self.write(media_type, |out| out.write_all(&text))
    }

    /// Writes a blob under the digest that it turns out to have.
    fn write(
        &self,
        media_type: &str,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Descriptor> {
        let temporary = self.blobs().join(format!("new-{:016x}", fastrand::u64(..)));
        let mut blob =
            Hashing { file: BufWriter::new(File::create(&temporary)?), hash: Sha256::default(), size: 0 };
        content(&mut blob).with_context(|| format!("write {}", temporary.display()))?;
        blob.file.flush()?;
        let hex = blob.hash.hex();
        fs::rename(&temporary, self.blobs().join(&hex))?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{hex}"),
            size: blob.size,
            platform: None,
            annotations: BTreeMap::new(),
        })
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }
}

fn named(image: &Descriptor, name: &str) -> Descriptor {
    let annotations = [NAME, REF_NAME].map(|annotation| (annotation.to_owned(), name.to_owned()));
    Descriptor { annotations: annotations.into(), ..image.clone() }
}

struct Hashing {
    file: BufWriter<File>,
    hash: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

const UNNAMED_BLOBS_LIVE: Duration = Duration::from_secs(24 * 60 * 60); // a node may still be pulling one

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("signet-oci-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        root
    }

    fn image(layout: &Layout, greeting: &str) -> Descriptor {
        let mut layer = Layer::base(&[]);
        layer.file("greeting", 0o644, greeting.into());
        let config = Config { user: "65532".to_owned(), ..Config::default() };
        layout.write_image(&Platform::linux("amd64"), &config, &layer).unwrap()
    }

    #[test]
    fn the_same_content_has_the_same_digest_wherever_it_is_written() {
        let roots = [scratch("here"), scratch("there")];
        let [here, there] = roots.clone().map(|root| Layout::create(root).unwrap());
        assert_eq!(image(&here, "hello"), image(&there, "hello"));
        assert_ne!(image(&here, "hello").digest, image(&here, "bye").digest);
        let archives = [(&here, &roots[0]), (&there, &roots[1])].map(|(layout, root)| {
            layout.export("signet.test/hello:1", &image(layout, "hello"), &root.join("hello.tar")).unwrap();
            fs::read(root.join("hello.tar")).unwrap()
        });
        assert!(archives[0] == archives[1]);
        for root in roots {
            fs::remove_dir_all(root).unwrap();
        }
    }

    #[test]
    fn a_name_leads_to_the_last_image_that_got_it_and_only_while_all_its_parts_are_there() {
        let root = scratch("names");
        let layout = Layout::create(root.clone()).unwrap();
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let (old, new) = (image(&layout, "old"), image(&layout, "new"));
        layout.publish(&names(&["a:1", "b:1"]), "key of old", &old).unwrap();
        layout.publish(&names(&["a:1"]), "key of new", &new).unwrap();
        let digest = |name: &str| layout.index().unwrap().find(name).map(|image| image.digest.clone());
        assert_eq!(digest("a:1"), Some(new.digest.clone()));
        assert_eq!(digest("b:1"), Some(old.digest.clone()));
        assert_eq!(digest("c:1"), None);
        for (wanted, key, there) in [
            (&["a:1"][..], "key of new", true),
            (&["a:1"], "key of old", false),
            (&["a:1", "b:1"], "key of new", false),
            (&["c:1"], "key of new", false),
        ] {
            assert_eq!(layout.made_from(&names(wanted), key).unwrap().is_some(), there, "{wanted:?} {key}");
        }
        let manifest: Manifest =
            serde_json::from_slice(&fs::read(layout.blob(&new.digest).unwrap()).unwrap()).unwrap();
        fs::remove_file(layout.blob(&manifest.layers[0].digest).unwrap()).unwrap();
        assert_eq!(layout.made_from(&names(&["a:1"]), "key of new").unwrap(), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_image_for_two_platforms_is_an_index_that_names_them() {
        let root = scratch("platforms");
        let layout = Layout::create(root.clone()).unwrap();
        let arm = Descriptor { platform: Some(Platform::linux("arm64")), ..image(&layout, "arm") };
        let both = layout.write_index(vec![image(&layout, "amd"), arm]).unwrap();
        let index: Index =
            serde_json::from_slice(&fs::read(layout.blob(&both.digest).unwrap()).unwrap()).unwrap();
        let platforms: Vec<_> = index.manifests.into_iter().filter_map(|image| image.platform).collect();
        assert_eq!(platforms, [Platform::linux("amd64"), Platform::linux("arm64")]);
        assert_eq!(
            layout.reachable(&both).unwrap().len(),
            1 + 2 * 2 + 2,
            "index, manifests, layers, configs"
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_no_digest_leads_nowhere() {
        let layout = Layout::at(PathBuf::from("/layout"));
        for digest in ["sha256:../../index.json", "sha256:", "../index.json", "sha512:00", &"a".repeat(71)] {
            assert_eq!(layout.blob(digest), None, "{digest}");
        }
    }
}
