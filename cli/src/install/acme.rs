//! Which CA certifies public hosts: the options of `signet install`, judged as edge would, and the flags that edge is started with.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use signet_acme::issuer::{Issuer, LETS_ENCRYPT_STAGING};
use signet_core::bundle::certificate_pem;

/// All optional: without any, only Issuer and ClusterIssuer objects name a CA.
#[derive(Debug, Default, clap::Args)]
#[group(skip)] // its name is that of the options around it
pub(crate) struct Args {
    /// Your e-mail address: Let's Encrypt certifies the hosts of Ingresses that ask (docs/acme.md), and you agree to its terms
    #[arg(long, value_name = "EMAIL", value_parser = email)]
    acme_email: Option<String>,
    /// Another CA than Let's Encrypt: the URL of its ACME directory
    #[arg(long, value_name = "URL", value_parser = directory)]
    acme_directory: Option<String>,
    /// To try things out: order of Let's Encrypt's staging environment, which no browser believes. With --acme-directory: the URL of that
    /// CA's staging environment, where first orders are rehearsed
    #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = staging)]
    acme_staging: Option<String>,
    /// One of the CA's profiles, like shortlived [default: the CA's own]
    #[arg(long, value_name = "NAME", value_parser = profile)]
    acme_profile: Option<String>,
    /// PEM file with the roots that the CA's own server is believed by [default: public roots]
    #[arg(long, value_name = "FILE")]
    acme_roots: Option<PathBuf>,
    /// DNS server that is asked about names before an order, whoever the CA is; may be repeated [default: the cluster's]
    #[arg(long, value_name = "IP:PORT")]
    acme_resolver: Vec<SocketAddr>,
}

/// What edge is told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Acme {
    pub(crate) email: Option<String>,
    /// `None`: Let's Encrypt's.
    pub(crate) directory: Option<String>,
    /// Of the staging environment beside it.
    pub(crate) staging: Option<String>,
    pub(crate) profile: Option<String>,
    /// PEM, certificates only; empty: public roots.
    pub(crate) roots: String,
    /// DNS servers; none: the cluster's.
    pub(crate) resolvers: Vec<SocketAddr>,
}

impl Args {
    pub(crate) fn read(self) -> Result<Acme> {
        let Self {
            acme_email: email,
            acme_directory: directory,
            acme_staging,
            acme_profile: profile,
            acme_roots,
            acme_resolver: resolvers,
        } = self;
        let (directory, staging) = match (directory, acme_staging.as_deref()) {
            (Some(_), Some("")) => bail!(
                "--acme-staging beside --acme-directory: write --acme-staging=URL of that CA's staging environment, or name it as --acme-directory"
            ),
            (None, Some("")) => (Some(LETS_ENCRYPT_STAGING.to_owned()), None),
            (None, Some(_)) => bail!(
                "--acme-staging=URL says where another CA's staging environment is; name that CA with --acme-directory. Let's Encrypt's is \
                 known: --acme-staging alone"
            ),
            (directory, staging) => (directory, staging.map(str::to_owned)),
        };
        let roots = acme_roots.map(|file| roots(&file)).transpose()?.unwrap_or_default();
        if email.is_none() && directory.is_none() && (profile.is_some() || !roots.is_empty()) {
            bail!(
                "--acme-profile and --acme-roots are about a CA; name it with --acme-directory, or Let's Encrypt with --acme-email"
            );
        }
        Ok(Acme { email, directory, staging, profile, roots, resolvers })
    }
}

impl Acme {
    /// In the order in which the Helm chart has them.
    pub(crate) fn flags(&self) -> Vec<String> {
        let flags = [
            ("--acme-email", &self.email),
            ("--acme-directory", &self.directory),
            ("--acme-staging", &self.staging),
            ("--acme-profile", &self.profile),
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value.clone()?]));
        let resolvers =
            self.resolvers.iter().map(|server| ["--acme-resolver".to_owned(), server.to_string()]);
        given.chain(resolvers).flatten().collect()
    }
}

/// Its certificates and nothing else of the file: what is printed may be kept in Git.
fn roots(file: &Path) -> Result<String> {
    let name = file.display();
    let text = std::fs::read(file).with_context(|| format!("--acme-roots {name}"))?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .with_context(|| format!("--acme-roots {name}"))?;
    if all.is_empty() {
        bail!(
            "--acme-roots {name}: there is no certificate in it; it is to be PEM, -----BEGIN CERTIFICATE-----"
        );
    }
    let roots: String = all.iter().map(|root| certificate_pem(root)).collect();
    if roots.len() > MOST_ROOTS {
        bail!(
            "--acme-roots {name}: {} bytes of certificates, and {MOST_ROOTS} fit; name only those that the CA's server needs",
            roots.len()
        );
    }
    Ok(roots)
}

/// As far as a CA looks before it sends a letter.
fn email(text: &str) -> Result<String, String> {
    let parts = text.split_once('@').filter(|(name, host)| !name.is_empty() && host.contains('.'));
    match parts {
        Some(_) if text.chars().all(|c| c.is_ascii_graphic() && !",;<>\"".contains(c)) => Ok(text.to_owned()),
        _ => Err("use one address like you@example.com".into()),
    }
}

fn directory(text: &str) -> Result<String, String> {
    Issuer::new("acme", text).map(|issuer| issuer.directory).map_err(|e| e.to_string())
}

fn staging(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { directory(text) }
}

fn profile(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if fine { Ok(text.to_owned()) } else { Err("use a name like shortlived".into()) }
}

/// Bytes: they are one variable of the environment, for which Linux has 128 KiB.
const MOST_ROOTS: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        acme: Args,
    }

    fn read(line: &str) -> Result<Acme, String> {
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        cli.acme.read().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn an_address_means_lets_encrypt_and_staging_its_staging_environment() {
        assert_eq!(read("signet").unwrap(), Acme::default());
        assert_eq!(read("signet --acme-email a@b.example").unwrap().flags(), ["--acme-email", "a@b.example"]);
        let staging = read("signet --acme-email a@b.example --acme-staging").unwrap();
        assert_eq!(
            staging.flags(),
            ["--acme-email", "a@b.example", "--acme-directory", LETS_ENCRYPT_STAGING]
        );
        let own = read(
            "signet --acme-directory https://ca.example/d --acme-staging=https://ca.example/s --acme-profile short",
        );
        assert_eq!(
            own.unwrap().flags(),
            [
                "--acme-directory",
                "https://ca.example/d",
                "--acme-staging",
                "https://ca.example/s",
                "--acme-profile",
                "short"
            ]
        );
    }

    #[test]
    fn dns_servers_are_named_without_a_ca_too_because_issuers_name_cas() {
        let read = read("signet --acme-resolver 192.0.2.53:53 --acme-resolver [2001:db8::53]:5353").unwrap();
        assert_eq!(
            read.flags(),
            ["--acme-resolver", "192.0.2.53:53", "--acme-resolver", "[2001:db8::53]:5353"]
        );
    }

    #[test]
    fn what_edge_would_refuse_or_nobody_could_mean_is_refused_with_what_to_write() {
        for (line, words) in [
            ("--acme-email me", "you@example.com"),
            ("--acme-email a@b.example,c@d.example", "you@example.com"),
            ("--acme-directory http://ca.example/d", "https://"),
            ("--acme-directory https://ca.example/d --acme-staging", "--acme-staging=URL"),
            ("--acme-email a@b.example --acme-staging=https://ca.example/s", "--acme-directory"),
            ("--acme-profile short", "--acme-email"),
            ("--acme-resolver dns.example", "--acme-resolver <IP:PORT>"),
            ("--acme-email a@b.example --acme-roots /nonexistent/roots", "/nonexistent/roots"),
        ] {
            let why = read(&format!("signet {line}")).unwrap_err();
            assert!(why.contains(words), "{line}: {why}");
        }
    }

    #[test]
    fn of_a_file_of_roots_only_its_certificates_are_printed() {
        let key = rcgen::KeyPair::generate().unwrap();
        let root = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let file = std::env::temp_dir().join(format!("signet-acme-roots-{}.pem", std::process::id()));
        std::fs::write(&file, format!("a comment\n{}{}", key.serialize_pem(), root.pem())).unwrap();
        let read = roots(&file).unwrap();
        assert_eq!(read, certificate_pem(root.der()));
        std::fs::write(&file, key.serialize_pem()).unwrap();
        assert!(roots(&file).unwrap_err().to_string().contains("no certificate"));
        std::fs::remove_file(file).unwrap();
    }
}
