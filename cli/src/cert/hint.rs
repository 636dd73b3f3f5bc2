//! What a CA's words mean here, and what to do about them.

/// `kind`: the problem's type (RFC 8555 6.7, RFC 8737), without its URN. `challenge`: how the CA looked.
pub(super) fn hint(kind: &str, challenge: &str) -> Option<&'static str> {
    Some(match (kind, challenge) {
        ("connection" | "timeout", "tls-alpn-01") => {
            "the CA reached nobody: port 443 of every address of the host, IPv6 too, must lead to the gateways, from everywhere"
        }
        ("connection" | "timeout", "dns-01") => {
            "the zone's servers do not answer the CA: they must, on port 53, from everywhere"
        }
        ("connection" | "timeout", _) => {
            "the CA reached nobody: port 80 of every address of the host, IPv6 too, must lead to the gateways, from everywhere"
        }
        ("dns", "dns-01") => {
            "the CA did not find the TXT record: compare it on every server of the zone, and its delegation"
        }
        ("dns", _) => {
            "the CA did not find the host: it needs an A or AAAA record that is the edge's, and servers that answer"
        }
        ("unauthorized" | "incorrectResponse", "dns-01") => {
            "the CA saw another TXT record: a server of the zone is behind, or a CNAME leads elsewhere"
        }
        ("unauthorized" | "incorrectResponse", _) => {
            "somebody else answered: DNS leads elsewhere, or a CDN or proxy in front answers the challenge itself. DNS-01 needs neither"
        }
        ("tls", _) => {
            "TLS is ended before the gateways, or not passed on as it is; take http-01 or dns-01, or pass port 443 through"
        }
        ("caa", _) => "CAA in DNS forbids this CA: add a record for it, or take the one away",
        ("rateLimited", _) => {
            "a limit of the CA: nothing passes it, and it is tried again by itself. While you are trying things out, use its staging \
             directory (signet install --acme-staging)"
        }
        ("rejectedIdentifier", _) => {
            "the CA does not certify this name, whoever asks: ask it why, or take another CA"
        }
        ("externalAccountRequired", _) => {
            "the CA takes orders only of accounts that it knows from elsewhere (external account binding), which edge has none of: take another CA"
        }
        ("invalidContact" | "unsupportedContact", _) => {
            "the CA does not take the e-mail address: signet install --acme-email"
        }
        ("userActionRequired", _) => "the CA wants a person to do something first; its words say what",
        ("serverInternal", _) => "the CA's own trouble; it is tried again by itself",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_to_do_by_the_way_the_ca_looked() {
        for (kind, challenge, words) in [
            ("connection", "http-01", "port 80"),
            ("connection", "tls-alpn-01", "port 443"),
            ("dns", "dns-01", "TXT"),
            ("unauthorized", "http-01", "CDN"),
            ("rateLimited", "dns-01", "--acme-staging"),
        ] {
            assert!(hint(kind, challenge).unwrap().contains(words), "{kind} {challenge}");
        }
        assert_eq!(hint("something-new", "http-01"), None);
    }
}
