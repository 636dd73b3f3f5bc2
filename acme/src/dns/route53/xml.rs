//! Route 53's XML, out and in. roxmltree reads it and takes no DTD, so nothing expands.

use std::{collections::BTreeSet, fmt::Write as _};

use roxmltree::{Document, Node};

use super::bare_id;

/// A TXT record set as it was read, to be deleted exactly so.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct RecordSet {
    pub(crate) ttl: u32,
    /// As Route 53 writes them, quotes and escapes included.
    pub(crate) values: Vec<String>,
    /// One of several, chosen by weight, place or health; or an alias.
    pub(crate) routed: bool,
}

/// A refusal in AWS's own words.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) words: String,
}

/// IDs of the public hosted zones called `name` in an answer of ListHostedZonesByName, which begins there and goes on.
pub(crate) fn zones(answer: &str, name: &str) -> Result<Vec<String>, String> {
    let document = parse(answer)?;
    let mut ids = Vec::new();
    for zone in all(&document, "HostedZone") {
        let private = below(zone, "PrivateZone").is_some_and(|private| private == "true");
        if !private && is_named(zone, name) {
            ids.push(bare_id(below(zone, "Id").ok_or("a zone has no Id")?).to_owned());
        }
    }
    Ok(ids)
}

/// The record set of `name` in an answer of ListResourceRecordSets, which answers with the next one where there is none.
pub(crate) fn record_set(answer: &str, name: &str) -> Result<Option<RecordSet>, String> {
    let document = parse(answer)?;
    let is_it = |set: &Node<'_, '_>| is_named(*set, name) && below(*set, "Type") == Some("TXT");
    let Some(set) = all(&document, "ResourceRecordSet").find(is_it) else { return Ok(None) };
    if below(set, "SetIdentifier").is_some()
        || set.descendants().any(|n| n.tag_name().name() == "AliasTarget")
    {
        return Ok(Some(RecordSet { ttl: 0, values: Vec::new(), routed: true }));
    }
    let ttl = below(set, "TTL").and_then(|ttl| ttl.parse().ok()).ok_or("a record set has no TTL")?;
    let values = set.descendants().filter(|n| n.tag_name().name() == "Value");
    let values = values.map(|n| n.text().unwrap_or_default().to_owned()).collect();
    Ok(Some(RecordSet { ttl, values, routed: false }))
}

/// The first element called `tag`.
pub(crate) fn text_of(answer: &str, tag: &str) -> Result<String, String> {
    let document = parse(answer)?;
    below(document.root_element(), tag).map(str::to_owned).ok_or_else(|| format!("no {tag} in it"))
}

/// Of any answer that is no success; what is no XML is shown as it is.
pub(crate) fn refused(answer: &[u8]) -> Refused {
    let text = String::from_utf8_lossy(answer);
    let Ok(document) = parse(&text) else {
        return Refused { code: String::new(), words: shown(&text) };
    };
    let root = document.root_element();
    let messages: Vec<&str> = all(&document, "Message").filter_map(|message| message.text()).collect();
    let code = below(root, "Code").unwrap_or_else(|| root.tag_name().name()); // InvalidChangeBatch comes without Code, too
    Refused { code: shown(code), words: shown(&messages.join(" ")) }
}

/// Delete what was read, create what shall be, whole or not at all.
pub(crate) fn batch(name: &str, old: Option<&RecordSet>, new: &BTreeSet<&str>, ttl: u32) -> String {
    let mut changes = String::new();
    if let Some(old) = old {
        change(&mut changes, "DELETE", name, old.ttl, old.values.iter().map(String::as_str));
    }
    if !new.is_empty() {
        change(&mut changes, "CREATE", name, ttl, new.iter().copied());
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
         <ChangeBatch><Changes>{changes}</Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    )
}

fn change<'a>(out: &mut String, action: &str, name: &str, ttl: u32, values: impl Iterator<Item = &'a str>) {
    let records: String = values
        .map(|value| format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", escape(value)))
        .collect();
    let _ = write!(
        out, // a String takes everything
        "<Change><Action>{action}</Action><ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type><TTL>{ttl}</TTL>\
         <ResourceRecords>{records}</ResourceRecords></ResourceRecordSet></Change>"
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn parse(text: &str) -> Result<Document<'_>, String> {
    Document::parse(text).map_err(|e| e.to_string())
}

fn all<'a, 'input>(document: &'a Document<'input>, tag: &str) -> impl Iterator<Item = Node<'a, 'input>> {
    document.descendants().filter(move |n| n.tag_name().name() == tag)
}

fn below<'a>(node: Node<'a, '_>, tag: &str) -> Option<&'a str> {
    node.descendants().find(|n| n.tag_name().name() == tag)?.text()
}

fn is_named(node: Node<'_, '_>, name: &str) -> bool {
    below(node, "Name").is_some_and(|said| said.trim_end_matches('.').eq_ignore_ascii_case(name))
}

/// One line, short enough for a log.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect()
}

const WORDS: usize = 500; // characters

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_zones_of_exactly_this_name_are_found() {
        let zone = |id: &str, name: &str, private: bool| {
            format!(
                "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}</Name><Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>"
            )
        };
        let answer = format!(
            "<?xml version=\"1.0\"?><ListHostedZonesByNameResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><HostedZones>{}{}{}{}</HostedZones>\
             <DNSName>example.com</DNSName><IsTruncated>true</IsTruncated></ListHostedZonesByNameResponse>",
            zone("Z1", "example.com.", false),
            zone("Z2", "example.com.", true),
            zone("Z3", "Example.com.", false),
            zone("Z4", "a.example.com.", false)
        );
        assert_eq!(zones(&answer, "example.com").unwrap(), ["Z1", "Z3"]);
        assert!(zones(&answer, "com").unwrap().is_empty());
    }

    #[test]
    fn a_record_set_is_read_as_it_has_to_be_deleted_and_another_name_is_none() {
        let answer = |inner: &str| {
            format!(
                "<R xmlns=\"x\"><ResourceRecordSets><ResourceRecordSet><Name>_acme-challenge.a.b.</Name><Type>TXT</Type>{inner}</ResourceRecordSet></ResourceRecordSets></R>"
            )
        };
        let plain = answer(
            "<TTL>17</TTL><ResourceRecords><ResourceRecord><Value>\"a&amp;b\"</Value></ResourceRecord><ResourceRecord><Value>&quot;c&quot; \"d\"</Value></ResourceRecord></ResourceRecords>",
        );
        let read = record_set(&plain, "_acme-challenge.a.b").unwrap().unwrap();
        assert_eq!(
            read,
            RecordSet { ttl: 17, values: vec!["\"a&b\"".into(), "\"c\" \"d\"".into()], routed: false }
        );
        assert_eq!(record_set(&plain, "a.b"), Ok(None));
        let weighted = answer("<SetIdentifier>x</SetIdentifier><Weight>1</Weight><TTL>1</TTL>");
        assert!(record_set(&weighted, "_acme-challenge.a.b").unwrap().unwrap().routed);
        assert!(record_set(&answer(""), "_acme-challenge.a.b").is_err());
    }

    #[test]
    fn a_batch_says_what_was_and_what_shall_be() {
        let old = RecordSet { ttl: 17, values: vec!["\"a&b\"".into()], routed: false };
        let both = batch("n.a", Some(&old), &BTreeSet::from(["\"a&b\"", "\"c\""]), 17);
        let delete = "<Action>DELETE</Action><ResourceRecordSet><Name>n.a.</Name><Type>TXT</Type><TTL>17</TTL><ResourceRecords><ResourceRecord><Value>\"a&amp;b\"</Value></ResourceRecord></ResourceRecords>";
        assert!(both.find(delete).unwrap() < both.find("<Action>CREATE</Action>").unwrap());
        assert!(!batch("n.a", Some(&old), &BTreeSet::new(), 17).contains("CREATE"));
        assert!(!batch("n.a", None, &BTreeSet::from(["\"c\""]), 60).contains("DELETE"));
    }

    #[test]
    fn a_refusal_is_read_in_both_shapes_and_in_none() {
        let error = b"<ErrorResponse xmlns=\"x\"><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>1</RequestId></ErrorResponse>";
        let batch = b"<InvalidChangeBatch xmlns=\"x\"><Messages><Message>one</Message><Message>two</Message></Messages></InvalidChangeBatch>";
        let is = |code: &str, words: &str| Refused { code: code.into(), words: words.into() };
        assert_eq!(refused(error), is("Throttling", "Rate exceeded"));
        assert_eq!(refused(batch), is("InvalidChangeBatch", "one two"));
        assert_eq!(refused(b"<html>\nbad gateway"), is("", "<html> bad gateway"));
        let bomb = b"<!DOCTYPE a [<!ENTITY b \"cc\">]><a><Code>&b;</Code></a>";
        assert_eq!(refused(bomb).code, "");
        assert_eq!(refused(&b"<a>".repeat(300_000)).code, ""); // as deep as an answer may be long
    }
}
