//! Hosted zones and their TXT record sets, as Route 53 keeps them.

use std::{collections::BTreeMap, fmt::Write as _};

use roxmltree::{Document, Node};

use super::{NS, Values};

/// Zone ID -> zone.
#[derive(Clone, Debug, Default)]
pub struct Zones(BTreeMap<String, Zone>);

#[derive(Clone, Debug)]
struct Zone {
    name: String,
    private: bool,
    /// Name without the final dot -> TTL, values.
    sets: BTreeMap<String, (u32, Values)>,
    /// Names whose set has a routing policy.
    weighted: Values,
}

impl Zones {
    pub fn with(mut self, id: &str, name: &str) -> Self {
        let zone = Zone { name: name.into(), private: false, sets: BTreeMap::new(), weighted: Values::new() };
        self.0.insert(id.into(), zone);
        self
    }

    pub fn with_private(self, id: &str, name: &str) -> Self {
        let mut zones = self.with(id, name);
        zones.0.get_mut(id).unwrap_or_else(|| panic!("{id} was just made")).private = true;
        zones
    }

    /// Another client's value, beside what is there.
    pub fn add(&mut self, id: &str, name: &str, ttl: u32, value: &str) {
        let zone = self.0.get_mut(id).unwrap_or_else(|| panic!("no zone {id}"));
        let (had, values) = zone.sets.entry(name.into()).or_default();
        *had = ttl;
        values.insert(value.into());
    }

    pub fn weigh(&mut self, id: &str, name: &str) {
        self.add(id, name, 60, "weighted");
        self.0.get_mut(id).unwrap_or_else(|| panic!("no zone {id}")).weighted.insert(name.into());
    }

    pub fn txt(&self, id: &str, name: &str) -> Option<(u32, Vec<String>)> {
        let (ttl, values) = self.0.get(id)?.sets.get(name)?;
        Some((*ttl, values.iter().cloned().collect()))
    }

    /// From `name` on, in the order of reversed labels.
    pub(super) fn by_name(&self, name: &str, most: &str) -> String {
        let key = |name: &str| name.rsplit('.').map(str::to_owned).collect::<Vec<_>>();
        let mut zones: Vec<(&String, &Zone)> = self.0.iter().collect();
        zones.sort_by_key(|(_, zone)| key(&zone.name));
        let mut xml = String::new();
        for (id, zone) in
            zones.iter().filter(|(_, zone)| key(&zone.name) >= key(name)).take(most.parse().unwrap_or(100))
        {
            let Zone { name, private, .. } = zone;
            let _ = write!(
                xml,
                "<HostedZone><Id>/hostedzone/{id}</Id><Name>{name}.</Name><CallerReference>x</CallerReference>\
                 <Config><PrivateZone>{private}</PrivateZone></Config><ResourceRecordSetCount>2</ResourceRecordSetCount></HostedZone>"
            );
        }
        format!(
            "<ListHostedZonesByNameResponse xmlns=\"{NS}\"><HostedZones>{xml}</HostedZones></ListHostedZonesByNameResponse>"
        )
    }

    /// One record set, from `name` on.
    pub(super) fn record_sets(&self, id: &str, name: &str) -> Option<String> {
        let zone = self.0.get(id)?;
        let name = name.trim_end_matches('.').to_owned();
        let mut xml = String::new();
        if let Some((name, (ttl, values))) = zone.sets.range(name..).next() {
            let values: String = values
                .iter()
                .map(|value| format!("<ResourceRecord><Value>\"{}\"</Value></ResourceRecord>", escape(value)))
                .collect();
            let weight = if zone.weighted.contains(name) {
                "<SetIdentifier>a</SetIdentifier><Weight>1</Weight>"
            } else {
                ""
            };
            let _ = write!(
                xml,
                "<ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type>{weight}<TTL>{ttl}</TTL><ResourceRecords>{values}</ResourceRecords></ResourceRecordSet>"
            );
        }
        Some(format!(
            "<ListResourceRecordSetsResponse xmlns=\"{NS}\"><ResourceRecordSets>{xml}</ResourceRecordSets><IsTruncated>true</IsTruncated></ListResourceRecordSetsResponse>"
        ))
    }

    /// A batch, whole or not at all; `None`: no such zone.
    pub(super) fn change(&mut self, id: &str, body: &str) -> Option<Result<(), String>> {
        let zone = self.0.get_mut(id)?;
        let mut sets = zone.sets.clone();
        let done = Document::parse(body).map_err(|e| e.to_string()).and_then(|document| {
            document
                .descendants()
                .filter(|n| n.has_tag_name((NS, "Change")))
                .try_for_each(|n| apply(&mut sets, &zone.name, n))
        });
        if done.is_ok() {
            zone.sets = sets;
        }
        Some(done)
    }
}

fn apply(sets: &mut BTreeMap<String, (u32, Values)>, zone: &str, change: Node<'_, '_>) -> Result<(), String> {
    let of = |tag: &str| {
        change.descendants().find(|n| n.has_tag_name((NS, tag))).and_then(|n| n.text()).unwrap_or_default()
    };
    let name = of("Name").trim_end_matches('.').to_owned();
    if of("Type") != "TXT" || !name.ends_with(zone) {
        return Err(format!("RRSet with DNS name {name}. is not permitted in zone {zone}."));
    }
    let values = change.descendants().filter(|n| n.has_tag_name((NS, "Value"))).filter_map(|n| n.text());
    let quoted = |value: &str| value.strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
    let values: Option<Values> = values.map(quoted).collect();
    let set = (of("TTL").parse().map_err(|_| "no TTL")?, values.ok_or("a TXT value is not quoted")?);
    let tried = |what: &str, why: &str| {
        format!("[Tried to {what} resource record set [name='{name}.', type='TXT'] {why}]")
    };
    match (of("Action"), sets.get(&name)) {
        ("DELETE", None) => Err(tried("delete", "but it was not found")),
        ("DELETE", Some(old)) if *old != set => {
            Err(tried("delete", "but the values provided do not match the current values"))
        }
        ("DELETE", Some(_)) => {
            sets.remove(&name);
            Ok(())
        }
        ("CREATE", Some(_)) => Err(tried("create", "but it already exists")),
        ("CREATE" | "UPSERT", _) => {
            sets.insert(name, set);
            Ok(())
        }
        (other, _) => Err(format!("unknown action {other}")),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
