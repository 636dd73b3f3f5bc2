//! Puts challenges where an authority looks. Of HTTP-01 and TLS-ALPN-01 that is every gateway: through the Secret that all replicas stream, or
//! straight to the one gateway of a directory; each is then asked as the authority will ask. Of DNS-01 it is the zone's servers, by
//! credentials that the namespace may use.

use std::{net::IpAddr, sync::Arc};

use futures_util::{StreamExt as _, future::join_all, stream};
use signet_acme::{
    challenge::{Answer, Challenge},
    dns::{Dns01, PATIENCE, Saw, Sight, credentials::Registry},
    problem::Problem,
    solver::{Missing, Seen, Solver},
};
use signet_http::contract::challenge as contract;
use tokio::sync::watch;
use tracing::warn;

use super::{
    super::snapshot::EdgeSnapshot,
    Challenges,
    asked::{self, Gateway},
    challenge_secret::{ChallengeSecret, answerable},
};

/// Of a cluster, and of a directory: they differ in how gateways are told, and where they are.
pub(crate) struct EdgeSolver<T> {
    pub(crate) told: T,
    pub(crate) credentials: watch::Receiver<Arc<Registry>>,
    /// `None`: there is no resolver, and why.
    pub(crate) dns: Result<Dns01, String>,
}

/// How gateways hear of challenges.
pub(crate) trait Tell: Send + Sync {
    fn put(&self, challenges: &[Challenge]) -> impl Future<Output = Result<(), Problem>> + Send;
    fn take_back(&self, challenges: &[Challenge]) -> impl Future<Output = Result<(), Problem>> + Send;
    /// Those that take requests now, each with a name for people.
    fn gateways(&self) -> Vec<(String, Gateway)>;
}

/// By the Secret; gateways are the Ready pods.
pub(crate) struct ByCluster {
    pub(crate) secret: ChallengeSecret,
    pub(crate) snapshots: watch::Receiver<Arc<EdgeSnapshot>>,
    /// Ports that gateways listen on, in their pods.
    pub(crate) http: u16,
    pub(crate) https: u16,
}

/// By our own stream; one gateway, on this machine.
pub(crate) struct ByDirectory {
    pub(crate) challenges: watch::Sender<Arc<Challenges>>,
    pub(crate) gateway: Gateway,
}

impl Tell for ByCluster {
    async fn put(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        self.secret.put(challenges).await.map_err(Problem::ours)
    }

    async fn take_back(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        self.secret.remove(challenges).await.map_err(Problem::ours)
    }

    fn gateways(&self) -> Vec<(String, Gateway)> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let all = snapshot.translated.gateways.iter();
        let gateway = |address: IpAddr| Gateway { address, http: self.http, https: self.https };
        all.map(|(pod, address)| (pod.clone(), gateway(*address))).collect()
    }
}

impl Tell for ByDirectory {
    async fn put(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        let all: Result<Vec<_>, _> = challenges.iter().map(answerable).collect();
        let all = all.map_err(Problem::ours)?;
        self.challenges.send_modify(|held| {
            let held = Arc::make_mut(held);
            held.extend(all.into_iter().map(|challenge| (challenge.name(), Arc::new(challenge))));
        });
        Ok(())
    }

    async fn take_back(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        let is_over = |held: &contract::Challenge| challenges.iter().any(|ended| answers(held, ended));
        self.challenges.send_modify(|held| Arc::make_mut(held).retain(|_, one| !is_over(one)));
        Ok(())
    }

    fn gateways(&self) -> Vec<(String, Gateway)> {
        vec![("the gateway".into(), self.gateway)]
    }
}

impl<T: Tell> Solver for EdgeSolver<T> {
    async fn present(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        let (dns, gateways) = divided(challenges);
        if !gateways.is_empty() {
            self.told.put(&gateways).await?;
        }
        let published: Vec<_> = dns.into_iter().map(|challenge| self.publish(challenge)).collect();
        all(published).await
    }

    async fn look(&self, challenges: &[Challenge]) -> Result<Seen, Problem> {
        let (dns, gateways) = divided(challenges);
        let (mut seen, waited) = tokio::join!(self.ask_gateways(&gateways), self.wait(&dns));
        let by_dns = waited?;
        // Both, where both were asked: who is missing in one of them is told, and nobody answers for the other.
        if gateways.is_empty() {
            seen = by_dns;
        } else {
            seen.by.extend(by_dns.by);
            seen.missing.extend(by_dns.missing);
        }
        Ok(seen)
    }

    async fn clear(&self, challenges: &[Challenge]) -> Result<(), Problem> {
        let (dns, gateways) = divided(challenges);
        if !gateways.is_empty() {
            self.told.take_back(&gateways).await?;
        }
        let removed: Vec<_> = dns.into_iter().map(|challenge| self.remove(challenge)).collect();
        all(removed).await
    }
}

/// Some side by side, for providers that answer when a change is everywhere. One that fails keeps none of the others from being tried.
async fn all<F: Future<Output = Result<(), Problem>>>(changes: Vec<F>) -> Result<(), Problem> {
    let done: Vec<_> = stream::iter(changes).buffer_unordered(AT_ONCE).collect().await;
    done.into_iter().collect()
}

impl<T: Tell> EdgeSolver<T> {
    fn dns(&self) -> Result<&Dns01, Problem> {
        self.dns.as_ref().map_err(Problem::ours)
    }

    async fn publish(&self, challenge: &Challenge) -> Result<(), Problem> {
        let Answer::Dns01 { name, value } = &challenge.answer else { return Ok(()) };
        let registry = Arc::clone(&self.credentials.borrow());
        let by = registry.choose(&challenge.namespace, &challenge.host).map_err(Problem::ours)?;
        self.dns()?.publish(by, name, value).await.map(drop).map_err(Problem::ours)
    }

    async fn remove(&self, challenge: &Challenge) -> Result<(), Problem> {
        let Answer::Dns01 { name, value } = &challenge.answer else { return Ok(()) };
        let registry = Arc::clone(&self.credentials.borrow());
        let by = registry.choose(&challenge.namespace, &challenge.host).map_err(Problem::ours)?;
        self.dns()?.remove(by, name, value).await.map_err(Problem::ours)
    }

    /// Each name's servers, all at once.
    async fn wait(&self, challenges: &[&Challenge]) -> Result<Seen, Problem> {
        let mut seen = Seen::default();
        for waited in join_all(challenges.iter().map(|challenge| self.wait_for(challenge))).await {
            for sight in waited? {
                note(&mut seen, sight);
            }
        }
        Ok(seen)
    }

    async fn wait_for(&self, challenge: &Challenge) -> Result<Vec<Sight>, Problem> {
        let Answer::Dns01 { name, value } = &challenge.answer else { return Ok(Vec::new()) };
        let registry = Arc::clone(&self.credentials.borrow());
        let by = registry.choose(&challenge.namespace, &challenge.host).map_err(Problem::ours)?;
        let dns = self.dns()?;
        // Published a moment ago: again it changes nothing, and says where it was written.
        let txt = dns.publish(by, name, value).await.map_err(Problem::ours)?;
        let mut seen = dns.wait(by, &txt, PATIENCE).await.map_err(Problem::ours)?;
        if seen.is_empty() {
            let server = format!("the word of {}'s provider (check-servers: none)", by.secret());
            seen.push(Sight { server, saw: Saw::Shown });
        }
        Ok(seen)
    }

    /// Every gateway for all of them: it has seen them when it answers each.
    async fn ask_gateways(&self, challenges: &[Challenge]) -> Seen {
        let mut seen = Seen::default();
        if challenges.is_empty() {
            return seen;
        }
        let questions: Result<Vec<contract::Challenge>, String> = challenges.iter().map(answerable).collect();
        let questions = match questions {
            Ok(questions) => questions,
            Err(why) => {
                seen.missing.push(Missing { who: "every gateway".into(), why });
                return seen;
            }
        };
        let asked = self.told.gateways().into_iter().map(|(who, gateway)| {
            let questions = &questions;
            async move {
                let answers = join_all(questions.iter().map(|question| asked::ask(&gateway, question))).await;
                (who, answers.into_iter().find_map(Result::err))
            }
        });
        for (who, unseen) in join_all(asked).await {
            match unseen {
                None => seen.by.push(who),
                Some(unseen) => {
                    let why = with_cause(&unseen);
                    warn!(gateway = who, why, "a gateway does not answer a challenge; it is passed over");
                    seen.missing.push(Missing { who, why });
                }
            }
        }
        seen
    }
}

/// Whether it is exactly this one's answer: of TLS-ALPN-01 a host has one, and it may be a newer order's. Its certificate is made anew each
/// time that it is asked for; what it answers with is in it.
fn answers(held: &contract::Challenge, challenge: &Challenge) -> bool {
    match (held, &challenge.answer) {
        (contract::Challenge::TlsAlpn01(held), Answer::TlsAlpn01(answer)) => {
            let has = |bytes: &[u8]| bytes.windows(answer.digest.len()).any(|part| part == answer.digest);
            held.host.as_str() == challenge.host && has(&held.certificate)
        }
        (_, Answer::TlsAlpn01(_)) => false,
        _ => answerable(challenge).is_ok_and(|this| this == *held),
    }
}

/// DNS-01's, and those that gateways answer.
fn divided(challenges: &[Challenge]) -> (Vec<&Challenge>, Vec<Challenge>) {
    let is_dns = |challenge: &&Challenge| matches!(challenge.answer, Answer::Dns01 { .. });
    let (dns, others): (Vec<_>, Vec<_>) = challenges.iter().partition(is_dns);
    (dns, others.into_iter().cloned().collect())
}

/// A server of several names is missing when it lacks one.
fn note(seen: &mut Seen, Sight { server, saw }: Sight) {
    let why = match saw {
        Saw::Shown => {
            if !seen.by.contains(&server) && seen.missing.iter().all(|missing| missing.who != server) {
                seen.by.push(server);
            }
            return;
        }
        Saw::Absent => "it does not show the value".to_owned(),
        Saw::Silent(why) => why,
    };
    seen.by.retain(|by| *by != server);
    if seen.missing.iter().all(|missing| missing.who != server) {
        seen.missing.push(Missing { who: server, why });
    }
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

/// Changes of DNS at once: Route 53 takes five requests a second, and a change is one for minutes.
const AT_ONCE: usize = 4;

#[cfg(test)]
#[path = "solver/tests.rs"]
mod tests;
