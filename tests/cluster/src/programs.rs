//! Everything that the cluster runs, built from the Go modules pinned under `go/` into `<cache>/programs/<name>-<key>/`.
//! The key covers what goes in (our `go/<name>`, its row in `table`, the compiler's version), so a directory that exists is right.

mod table;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::table::{CONFORMANCE, PROGRAMS, Program, Source};
use crate::{
    paths,
    run::{output, run},
    sha256::Sha256,
};

/// Where every program is. Proof that all of them are there.
#[derive(Clone, Debug)]
pub struct Programs {
    directories: Vec<(&'static Program, PathBuf)>,
}

impl Programs {
    /// What [`build_all`] has built.
    pub fn open() -> Result<Self> {
        let programs = Self::named()?;
        for (program, directory) in &programs.directories {
            ensure!(
                directory.is_dir(),
                "{} is not built for this checkout and this Go; run make cluster-build",
                program.name
            );
        }
        Ok(programs)
    }

    /// A program by its file name: `etcd`, `kubelet`, `containerd-shim-runc-v2`, `bridge`, ...
    pub fn path(&self, program: &str) -> Result<PathBuf> {
        self.directories
            .iter()
            .find(|(row, _)| row.outputs.contains(&program) || row.links.contains(&program))
            .map(|(_, directory)| directory.join(program))
            .with_context(|| format!("no row of PROGRAMS builds {program}"))
    }

    /// The directory of one row (`kubernetes`, `containerd`, `cni`, ...), for a PATH or as the directory of plugins.
    pub fn directory(&self, name: &str) -> Result<&Path> {
        self.directories
            .iter()
            .find(|(row, _)| row.name == name)
            .map(|(_, directory)| directory.as_path())
            .with_context(|| format!("no row of PROGRAMS is called {name}"))
    }

    fn named() -> Result<Self> {
        let named = |program: &'static Program| Ok((program, program.result()?));
        Ok(Self { directories: PROGRAMS.iter().map(named).collect::<Result<_>>()? })
    }
}

/// Builds what is missing, one program at a time, and says on `progress` what and how long. About 8 minutes from nothing.
pub fn build_all(progress: &dyn Fn(&str)) -> Result<Programs> {
    let programs = Programs::named()?;
    for (program, directory) in &programs.directories {
        program.build(directory, progress)?;
    }
    Ok(programs)
}

/// The Gateway API conformance suite as a test binary. About 4 minutes from nothing.
pub fn build_conformance(progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let directory = CONFORMANCE.result()?;
    CONFORMANCE.build(&directory, progress)?;
    Ok(directory.join("conformance.test"))
}

impl Program {
    /// Where the result of exactly this source, row and compiler is, or will be.
    fn result(&self) -> Result<PathBuf> {
        let mut key = Sha256::default();
        let mut files: Vec<PathBuf> = fs::read_dir(self.go_directory())
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>())
            .with_context(|| self.go_directory().display().to_string())?;
        files.sort();
        for file in files {
            key.field(file.file_name().unwrap_or_default().as_encoded_bytes());
            key.field(&fs::read(&file).with_context(|| file.display().to_string())?);
        }
        key.field(format!("{self:?}").as_bytes());
        key.field(self.compiler()?.as_bytes());
        Ok(paths::programs()?.join(format!("{}-{}", self.name, &key.hex()[..KEY_DIGITS])))
    }

    fn build(&self, directory: &Path, progress: &dyn Fn(&str)) -> Result<()> {
        if directory.is_dir() {
            progress(&format!("{}: cached", self.name));
            return Ok(());
        }
        progress(&format!("{}: building ...", self.name));
        let begun = Instant::now();
        let temporary = directory.with_added_extension(format!("{}.new", std::process::id()));
        fs::create_dir_all(&temporary).with_context(|| temporary.display().to_string())?;
        let built = self.build_into(&temporary);
        if built.is_ok() && !directory.is_dir() {
            fs::rename(&temporary, directory)?;
        } else {
            fs::remove_dir_all(&temporary)?;
        }
        built.with_context(|| format!("build {}", self.name))?;
        progress(&format!("{}: {:.0} s", self.name, begun.elapsed().as_secs_f32()));
        self.remove_older_than(directory, KEPT)
    }

    fn build_into(&self, directory: &Path) -> Result<()> {
        match &self.source {
            Source::Go { packages, tags, ldflags, .. } => {
                let ldflags = format!("-s -w {ldflags}");
                let mut build = self.go();
                build.args(["build", "-trimpath", "-tags", tags, "-ldflags", ldflags.trim(), "-o"]);
                match self.outputs {
                    [one] => build.arg(directory.join(one)),
                    _ => build.arg(directory.join("")), // a directory: each package under its own name
                };
                run(build.args(*packages))?;
            }
            Source::GoTest { .. } => {
                let out = directory.join(self.outputs[0]);
                run(self
                    .go()
                    .args(["test", "-c", "-trimpath", "-vet=off", "-ldflags", "-s -w", "-o"])
                    .arg(out))?;
            }
            Source::C { module, file } => {
                run(self.go().args(["mod", "download", module]))?;
                let module = output(self.go().args(["list", "-m", "-f", "{{.Dir}}", module]))?;
                let mut gcc = Command::new("gcc");
                gcc.args(["-static", "-Os", "-s", "-DVERSION=1", "-o"]).arg(directory.join(self.outputs[0]));
                run(gcc.arg(Path::new(module.trim()).join(file)))?;
            }
        }
        for link in self.links {
            std::os::unix::fs::symlink(self.outputs[0], directory.join(link))?;
        }
        for program in self.outputs.iter().chain(self.links) {
            ensure!(directory.join(program).is_file(), "the build left no {program}");
        }
        Ok(())
    }

    fn go_directory(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(self.directory)
    }

    fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.current_dir(self.go_directory());
        go.env("GOFLAGS", "-buildvcs=false").env("GOWORK", "off");
        go.env("GOGC", "400"); // the compiler's own garbage: memory for time
        let cgo = matches!(self.source, Source::Go { cgo: true, .. });
        go.env("CGO_ENABLED", if cgo { "1" } else { "0" });
        if let Source::GoTest { toolchain } = self.source {
            go.env("GOTOOLCHAIN", toolchain);
        }
        go
    }

    fn compiler(&self) -> Result<String> {
        match self.source {
            Source::C { .. } => output(Command::new("gcc").arg("-dumpfullversion"))
                .context("gcc builds `pause` and runc; install it (apt-get install gcc libc6-dev)"),
            // `go version` of another toolchain would download it.
            Source::GoTest { toolchain } => Ok(toolchain.to_owned()),
            Source::Go { .. } => output(self.go().args(["env", "GOVERSION"]))
                .context("the cluster's programs are built from source; install Go 1.26.6 or newer (https://go.dev/dl)"),
        }
    }

    /// Results of other keys. A running cluster keeps its open files, but may still have to start a program.
    fn remove_older_than(&self, current: &Path, age: Duration) -> Result<()> {
        let prefix = format!("{}-", self.name);
        for entry in fs::read_dir(paths::programs()?)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
            let ours = key.get(..KEY_DIGITS).is_some_and(|key| key.bytes().all(|b| b.is_ascii_hexdigit()));
            let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|elapsed| elapsed > age);
            if ours && old && entry.path() != current {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

const KEY_DIGITS: usize = 16; // of 64: a chance of 1 in 2^64 that two results meet

const KEPT: Duration = Duration::from_secs(24 * 60 * 60); // longer than any cluster of the tests lives

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_one_name_and_a_module_of_its_own() {
        let mut names: Vec<_> =
            PROGRAMS.iter().flat_map(|row| row.outputs.iter().chain(row.links)).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
        for row in PROGRAMS.iter().chain([&CONFORMANCE]) {
            let module = fs::read_to_string(row.go_directory().join("go.mod")).unwrap();
            assert!(module.starts_with(&format!("module signet.test/{}\n", row.directory)), "{row:?}");
        }
    }
}
