//! What the controller decided about our own workload: mode and policies. One snapshot judges one connection.

use std::sync::Arc;

use signet_api::v1;
use signet_core::identity::{self, SpiffeId};

/// Our own workload's settings, parsed once.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub mode: Mode,
    /// Pod ports that take plaintext in strict mode too.
    pub permissive_ports: Vec<u16>,
    /// Every policy that selects this pod; none: everyone may call.
    pub policies: Vec<Policy>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    Permissive,
    Strict,
}

#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// "<namespace>/<name>"
    pub name: Arc<str>,
    /// Says what it would deny, denies nothing.
    pub audit: bool,
    pub rules: Vec<Rule>,
    /// The object does not parse: it allows nobody.
    pub error: Option<Arc<str>>,
}

#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Any of these; empty: any caller, authenticated or not.
    #[serde(serialize_with = "display_all")]
    pub callers: Vec<SpiffeId>,
    /// Any of these pod ports; empty: every port.
    pub ports: Vec<u16>,
}

/// What the policies say about one caller and port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Judgement {
    Allowed,
    /// Allowed, but these audit policies would have denied it.
    Audited(Arc<str>),
    /// Names of the policies that select us and do not allow it.
    Denied(Arc<str>),
}

impl Settings {
    /// Whether a caller that proved nothing may be relayed on `port`, before policy.
    pub fn takes_plaintext(&self, port: u16) -> bool {
        self.mode == Mode::Permissive || self.permissive_ports.contains(&port)
    }

    /// ALLOW rules add up over all policies; one that does not parse adds none. `caller` is a verified identity, never a
    /// source address.
    pub fn judge(&self, caller: Option<&SpiffeId>, port: u16) -> Judgement {
        let allows = |policy: &&Policy| {
            policy.error.is_none() && policy.rules.iter().any(|rule| rule.allows(caller, port))
        };
        let names = |audit: bool| {
            let names: Vec<&str> =
                self.policies.iter().filter(|p| p.audit == audit).map(|p| &*p.name).collect();
            Arc::from(names.join(", "))
        };
        let (audits, enforced): (Vec<&Policy>, Vec<&Policy>) =
            self.policies.iter().partition(|policy| policy.audit);
        if !enforced.is_empty() && !enforced.iter().any(allows) {
            return Judgement::Denied(names(false));
        }
        if !audits.is_empty() && !audits.iter().any(allows) {
            return Judgement::Audited(names(true));
        }
        Judgement::Allowed
    }
}

impl Rule {
    fn allows(&self, caller: Option<&SpiffeId>, port: u16) -> bool {
        (self.ports.is_empty() || self.ports.contains(&port))
            && (self.callers.is_empty() || caller.is_some_and(|caller| self.callers.contains(caller)))
    }
}

impl TryFrom<v1::WorkloadSettings> for Settings {
    type Error = String;

    /// A mode that we do not know, a port out of range or a broken SPIFFE ID refuses the whole message (NACK): the
    /// settings before it stay, or the inbound stays closed.
    fn try_from(message: v1::WorkloadSettings) -> Result<Self, String> {
        let mode = match message.mode() {
            v1::Mode::Permissive => Mode::Permissive,
            v1::Mode::Strict => Mode::Strict,
            v1::Mode::Unspecified => return Err(format!("mode {} is unknown to this proxy", message.mode)),
        };
        let policies = message.policies.into_iter().map(Policy::try_from).collect::<Result<_, _>>()?;
        Ok(Self { mode, permissive_ports: ports(message.permissive_ports)?, policies })
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = String;
    fn try_from(message: v1::Policy) -> Result<Self, String> {
        let rules = message.rules.into_iter().map(Rule::try_from).collect::<Result<_, _>>()?;
        let error = Some(message.error).filter(|error| !error.is_empty()).map(Into::into);
        Ok(Self { name: message.name.into(), audit: message.audit, rules, error })
    }
}

impl TryFrom<v1::Rule> for Rule {
    type Error = String;
    fn try_from(message: v1::Rule) -> Result<Self, String> {
        let callers = message.spiffe_ids.iter().map(|id| identity::parse(id).map_err(|e| e.to_string()));
        Ok(Self { callers: callers.collect::<Result<_, _>>()?, ports: ports(message.ports)? })
    }
}

fn ports(ports: Vec<u32>) -> Result<Vec<u16>, String> {
    ports.into_iter().map(port).collect()
}

/// A port number off the wire.
pub(crate) fn port(port: u32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| format!("{port} is not a port"))
}

fn display_all<S: serde::Serializer>(ids: &[SpiffeId], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    const CRON: &str = "spiffe://cluster.local/ns/jobs/sa/cron";

    fn policy(name: &str, callers: &[&str], ports: &[u16]) -> Policy {
        let callers = callers.iter().map(|id| identity::parse(id).unwrap()).collect();
        Policy {
            name: name.into(),
            audit: false,
            rules: vec![Rule { callers, ports: ports.to_vec() }],
            error: None,
        }
    }

    fn judge(policies: Vec<Policy>, caller: &str, port: u16) -> Judgement {
        let settings = Settings { mode: Mode::Permissive, permissive_ports: vec![], policies };
        settings.judge(identity::parse(caller).ok().as_ref(), port)
    }

    #[test]
    fn policies_add_up_and_a_broken_one_allows_nobody() {
        let web = policy("shop/web", &[WEB], &[8080]);
        let broken = Policy { error: Some("what?".into()), ..policy("shop/broken", &[], &[]) };
        let audit = Policy { audit: true, ..web.clone() };
        for (case, policies, caller, port, want) in [
            ("no policy: everyone", vec![], "", 80, Judgement::Allowed),
            ("named", vec![web.clone()], WEB, 8080, Judgement::Allowed),
            ("other port", vec![web.clone()], WEB, 8081, Judgement::Denied("shop/web".into())),
            ("other caller", vec![web.clone()], CRON, 8080, Judgement::Denied("shop/web".into())),
            ("nobody proved", vec![web.clone()], "", 8080, Judgement::Denied("shop/web".into())),
            (
                "two add up",
                vec![web.clone(), policy("shop/cron", &[CRON], &[])],
                CRON,
                8080,
                Judgement::Allowed,
            ),
            ("broken alone", vec![broken.clone()], WEB, 8080, Judgement::Denied("shop/broken".into())),
            ("broken beside a good one", vec![broken, web], WEB, 8080, Judgement::Allowed),
            ("audit denies nothing", vec![audit], CRON, 8080, Judgement::Audited("shop/web".into())),
            ("empty rule: anyone", vec![policy("shop/all", &[], &[])], "", 1, Judgement::Allowed),
        ] {
            assert_eq!(judge(policies, caller, port), want, "{case}");
        }
    }

    #[test]
    fn an_unknown_mode_is_refused_whole() {
        assert!(Settings::try_from(v1::WorkloadSettings { mode: 7, ..Default::default() }).is_err());
        assert!(Settings::try_from(v1::WorkloadSettings::default()).is_err());
    }
}
