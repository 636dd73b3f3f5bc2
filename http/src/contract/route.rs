//! Routes. A rule that cannot be understood costs itself alone.

use signet_api::edge;

use super::{Fault, Wrong, each, encode_host, host, name, needs, rule};
use crate::model::Route;

pub fn encode(route: &Route) -> edge::Route {
    edge::Route {
        name: route.name.to_string(),
        created: route.created,
        parents: route.parents.iter().map(ToString::to_string).collect(),
        hosts: route.hosts.iter().map(encode_host).collect(),
        rules: route.rules.iter().map(rule::encode).collect(),
        needs: Vec::new(),
    }
}

/// The route, and the faults of its rules: each of those answers 500 to what the rest of its matches takes. One whose path is
/// not understood takes what no other rule of the host does.
///
/// Errors: where the route is served is not understood, or its limits are passed.
pub fn decode(message: edge::Route) -> Result<(Route, Vec<Fault>), Fault> {
    let resource = message.name.clone();
    let mut faults = Vec::new();
    let decoded = route(message, |wrong| faults.push(wrong.of("route", &resource)));
    decoded.map_err(|wrong| wrong.of("route", &resource)).map(|route| (route, faults))
}

fn route(message: edge::Route, mut report: impl FnMut(Wrong)) -> Result<Route, Wrong> {
    // Not knowing what a need asks of the whole, we serve none of it.
    let unknown = needs(&message.needs).err();
    let closed = unknown.is_some();
    if let Some(wrong) = unknown {
        report(wrong);
    }
    let mut index = 0;
    Ok(Route {
        name: name("name", message.name)?,
        created: message.created,
        parents: each("parents", MAX_PARENTS, message.parents, |parent| name("", parent))?,
        hosts: each("hosts", MAX_HOSTS, message.hosts, host)?,
        rules: each("rules", MAX_RULES, message.rules, |message| {
            let rule = if closed { Ok(rule::closed(message)) } else { rule::decode(message) };
            index += 1;
            Ok(rule.unwrap_or_else(|(wrong, closed)| {
                report(Wrong { field: format!("rules[{}].{}", index - 1, wrong.field), ..wrong });
                *closed
            }))
        })?,
    })
}

/// Listeners of one route: each of several Gateways has up to 64.
const MAX_PARENTS: usize = 1024;
/// An Ingress, which has no limit of its own, has at most 1.5 MB (etcd).
const MAX_HOSTS: usize = 4096;
const MAX_RULES: usize = 16_384;
