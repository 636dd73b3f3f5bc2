//! From a recipe to an image with a name, unless there is one made from the same things.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    catalogue::{self, Recipe},
    debian::{self, Package},
    layer::Layer,
    layout::Layout,
    oci::{Descriptor, Platform},
    python,
};
use crate::{paths, programs::Programs, run::output, sha256::Sha256};

/// An image in the layout.
#[derive(Clone, Debug)]
pub struct Image {
    pub name: String,
    /// `sha256:...` of its manifest, or of its index when it is for several platforms.
    pub digest: String,
    /// Bytes, of everything that it consists of.
    pub size: u64,
}

/// Builds the images that are missing or made from something else, and says on `progress` which and how long.
pub fn build_all(programs: &Programs, progress: &dyn Fn(&str)) -> Result<Vec<Image>> {
    let layout = Layout::create(paths::images()?)?;
    let mut images = Vec::new();
    for recipe in catalogue::recipes(programs)? {
        let names = recipe.names.clone();
        let built = build(&layout, &[(Platform::linux(host_architecture()), recipe)], progress)?;
        images.extend(names.into_iter().map(|name| Image { name, ..built.image.clone() }));
    }
    Ok(images)
}

/// The layout, when every image that [`build_all`] makes is in it.
pub fn open(programs: &Programs) -> Result<PathBuf> {
    let root = paths::images()?;
    let index = Layout::at(root.clone()).index()?;
    for name in catalogue::recipes(programs)?.iter().flat_map(|recipe| &recipe.names) {
        ensure!(index.find(name).is_some(), "image {name} is not built; run make cluster-build");
    }
    Ok(root)
}

pub(super) struct Built {
    pub(super) image: Image,
    pub(super) descriptor: Descriptor,
}

/// One image under all names of the first recipe; with several platforms, an index over one image each.
pub(super) fn build(
    layout: &Layout,
    recipes: &[(Platform, Recipe)],
    progress: &dyn Fn(&str),
) -> Result<Built> {
    let begun = Instant::now();
    let names = recipes.first().map(|(_, recipe)| &recipe.names).context("no recipe")?;
    let name = names.first().context("a recipe without a name")?;
    let mut key = Sha256::default();
    for source in SOURCES {
        key.field(source.as_bytes());
    }
    let mut packages = Vec::new();
    for (platform, recipe) in recipes {
        let of = debian::closure(recipe.packages, recipe.without)
            .with_context(|| format!("find the packages of image {name}"))?;
        key.field(format!("{platform:?} {recipe:?} {of:?}").as_bytes());
        packages.push(of);
        for (path, _) in &recipe.programs {
            key.field(Sha256::of_file(path).with_context(|| path.display().to_string())?.as_bytes());
        }
    }
    let key = key.hex();

    let (descriptor, how) = match layout.made_from(names, &key)? {
        Some(descriptor) => (descriptor, "cached"),
        None => {
            let mut images = Vec::new();
            for ((platform, recipe), packages) in recipes.iter().zip(&packages) {
                let layer =
                    layer(recipe, packages, platform).with_context(|| format!("build image {name}"))?;
                images.push(layout.write_image(platform, &recipe.config, &layer)?);
            }
            let one = (images.len() == 1).then(|| images.remove(0));
            let descriptor = one.map_or_else(|| layout.write_index(images), Ok)?;
            layout.publish(names, &key, &descriptor)?;
            (descriptor, "built")
        }
    };
    let size = layout.size(&descriptor)?;
    let seconds = begun.elapsed().as_secs_f32();
    progress(&format!("image {name}: {how}, {} MB, {seconds:.1} s", size / 1_000_000));
    Ok(Built { image: Image { name: name.clone(), digest: descriptor.digest.clone(), size }, descriptor })
}

fn layer(recipe: &Recipe, packages: &[Package], platform: &Platform) -> Result<Layer> {
    let mut layer = Layer::base(&recipe.users);
    debian::unpack(packages, &mut layer)?;
    if let Some(requirements) = recipe.python {
        python::unpack(requirements, &platform.architecture, &mut layer)?;
    }
    if recipe.links {
        link_busybox(&mut layer)?;
        link_postgresql(&mut layer);
    }
    for (path, mode) in &recipe.directories {
        layer.directory(path, *mode);
    }
    for (path, mode, text) in &recipe.texts {
        layer.file(path, *mode, text.as_bytes().to_vec());
    }
    for (from, to) in &recipe.programs {
        layer.file(to, 0o755, fs::read(from).with_context(|| from.display().to_string())?);
    }
    Ok(layer)
}

/// `/usr/bin/<applet>` for every applet that no package brought as a program.
fn link_busybox(layer: &mut Layer) -> Result<()> {
    let busybox = layer.content("usr/bin/busybox").context("the package has no busybox")?;
    let copy = paths::images()?.join(format!("busybox-{}", std::process::id()));
    fs::write(&copy, busybox)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let applets = output(Command::new(&copy).arg("--list"));
    fs::remove_file(&copy)?;
    for applet in applets?.lines() {
        let is_program = ["bin", "sbin"].iter().any(|bin| layer.contains(&format!("usr/{bin}/{applet}")));
        if !is_program {
            layer.link(&format!("usr/bin/{applet}"), "busybox");
        }
    }
    Ok(())
}

/// `/usr/bin/psql` and so on: Debian's are Perl scripts that choose between versions.
fn link_postgresql(layer: &mut Layer) {
    let programs: Vec<String> = layer
        .paths()
        .filter(|path| path.starts_with("usr/lib/postgresql/") && path.contains("/bin/"))
        .map(str::to_owned)
        .collect();
    for path in programs {
        let name = path.rsplit('/').next().unwrap_or_default();
        layer.link(&format!("usr/bin/{name}"), &format!("/{path}"));
    }
}

/// As Go and OCI say it.
pub(super) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What turns a recipe into an image: part of the key, because a change there may change every image.
const SOURCES: [&str; 6] = [
    include_str!("build.rs"),
    include_str!("debian.rs"),
    include_str!("layer.rs"),
    include_str!("layout.rs"),
    include_str!("oci.rs"),
    include_str!("python.rs"),
];
