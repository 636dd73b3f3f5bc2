//! Takes one step with the CA and the solver, and says what came of it. Nothing is decided here ([`crate::plan`]), and nothing stored but
//! accounts: the caller stores the record before ([`outcome::begin`]) and after ([`outcome::apply`]); [`advance`] is both.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Identifier, NewOrder,
    OrderStatus,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::timeout;

use crate::{
    account::{self, Opened, Who},
    challenge::Challenge,
    fault::{Class, Fault, is_bad_nonce, patiently},
    issuer::Issuer,
    order::{Kind, Order, Pending, Stage},
    outcome::{self, Outcome},
    plan::{Plan, Step, Wish},
    problem::{OfName, Problem},
    record::{Held, Record, Window, With},
    returned,
    secret::Secret,
    solver::Solver,
    store::{Store, StoreError, Stored, Version},
    transport::Web,
};

/// What steps are taken with.
#[derive(Debug)]
pub struct Hands<S, V> {
    pub store: S,
    pub solver: V,
    pub web: Arc<Web>,
}

/// Takes the step of `plan`, which is due: stores what must be known before, does it, stores what came of it. The record as it is stored
/// then, `None` where it was deleted, and what came of the step. Errors: the store's; the step was then not taken, or what came of it is
/// not stored: load the record again, and plan anew.
pub async fn advance<S: Store, V: Solver>(
    hands: &Hands<S, V>,
    record: Stored<Record>,
    wish: Option<&Wish>,
    plan: &Plan,
) -> Result<(Option<Stored<Record>>, Outcome), StoreError> {
    let Stored { mut value, mut version } = record;
    if plan.step == Step::Forget {
        hands.store.delete(&value.id(), &version).await?;
        return Ok((None, Outcome::Cleared));
    }
    let begun = outcome::begin(&mut value, plan.step, wish, hands.web.now());
    let changed =
        begun.map_err(|error| StoreError::Broken { place: "a new key".into(), why: error.to_string() })?;
    if changed {
        version = hands.store.put(&value, Some(&version)).await?;
    }
    let came = take(hands, &value, wish, plan.step).await;
    let before = value.clone();
    outcome::apply(&mut value, came.clone(), hands.web.now());
    if value != before {
        version = put(hands, &value, &version).await?;
    }
    Ok((Some(Stored { value, version }), came))
}

/// What came of a step may be a certificate: a store that fails for a moment does not lose it.
async fn put<S: Store, V>(
    hands: &Hands<S, V>,
    record: &Record,
    over: &Version,
) -> Result<Version, StoreError> {
    let mut tries = 0;
    loop {
        match hands.store.put(record, Some(over)).await {
            Err(error) if tries < STORE_TRIES && !matches!(error, StoreError::Moved { .. }) => {
                tracing::warn!(%error, record = record.id(), "what came of a step cannot be stored; trying again");
                tokio::time::sleep(STORE_PAUSE * 2_u32.pow(tries)).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

/// What comes of `step`. `record` is stored as [`outcome::begin`] made it.
pub async fn take<S: Store, V: Solver>(
    hands: &Hands<S, V>,
    record: &Record,
    wish: Option<&Wish>,
    step: Step,
) -> Outcome {
    match step {
        Step::Wait | Step::Forget => Outcome::Cleared,
        Step::Promote => Outcome::Promoted,
        Step::Abandon { failed } => Outcome::Abandoned { failed },
        Step::Clear => clear(hands, record).await,
        Step::AskWindow => ask_window(hands, record, wish).await,
        of_order => {
            let (Some(wish), Some(order)) = (wish, &record.order) else {
                return Outcome::Abandoned { failed: false };
            };
            if of_order == Step::Present {
                return present(hands, order).await;
            }
            let who = who(&wish.issuer, &order.directory, order.email.as_deref());
            let came = match account::open(&hands.store, &hands.web, &who).await {
                Ok(opened) => at_ca(hands, record, order, &opened, of_order).await,
                Err(fault) => Err(fault),
            };
            match came {
                Ok(outcome) => outcome,
                Err(fault) => {
                    if fault.class == Class::NoAccount
                        && let Err(error) = account::forget_url(&hands.store, &who).await
                    {
                        tracing::warn!(%error, "the CA does not know our account, and that cannot be stored");
                    }
                    judge(fault, of_order, order)
                }
            }
        }
    }
}

/// The external account is the CA's own shop's, never its twin's.
fn who<'a>(issuer: &'a Issuer, directory: &'a str, email: Option<&'a str>) -> Who<'a> {
    let eab = issuer.eab.as_ref().filter(|_| directory == issuer.directory);
    Who { directory, email, eab, roots: issuer.roots.as_deref() }
}

/// Whether a fault ends the order, or is a call to be made again.
fn judge(fault: Fault, step: Step, order: &Order) -> Outcome {
    let Fault { class, problem, after } = fault;
    let is_asking = matches!(step, Step::Ask { .. });
    let trouble = |with| Outcome::Trouble { with, problem: problem.clone(), after, seen: None };
    match class {
        Class::Store => trouble(With::Store),
        Class::Call | Class::NoAccount => trouble(With::Ca),
        // Of a twin's limits, or its wish for another account, production knows nothing: that is silence.
        Class::Limited | Class::Account if order.rehearsal || !is_asking => trouble(With::Ca),
        // A CA that does not like what is replaced may like the same without.
        Class::NoReplacement | Class::Refused if is_asking && order.replaces => Outcome::NoReplacement,
        Class::Limited | Class::Account | Class::NoReplacement | Class::Refused => {
            Outcome::Refused { problem, after }
        }
    }
}

async fn at_ca<S: Store, V: Solver>(
    hands: &Hands<S, V>,
    record: &Record,
    order: &Order,
    opened: &Opened,
    step: Step,
) -> Result<Outcome, Fault> {
    if let Step::Ask { .. } = step {
        return ask(record, order, opened).await;
    }
    let Some(url) = &order.url else { return Err(Fault::refused("the order has no URL")) };
    let mut at_ca = patiently!(opened.account.order(url.clone()))?;
    match step {
        Step::Read => read(order, &mut at_ca).await,
        Step::Tell => tell(order, &mut at_ca).await,
        Step::Poll => poll(order, &mut at_ca, opened).await,
        Step::Finalize => finalize(record, order, &mut at_ca).await,
        Step::Collect => collect(hands, record, order, &mut at_ca, opened).await,
        _ => Err(Fault::refused(format!("{step:?} is no step at a CA"))),
    }
}

async fn ask(record: &Record, order: &Order, opened: &Opened) -> Result<Outcome, Fault> {
    let names: Vec<Identifier> = record.names.iter().map(|name| Identifier::Dns(name.to_owned())).collect();
    let mut new = NewOrder::new(&names);
    if let Some(profile) = &order.profile {
        new = new.profile(profile);
    }
    let replaced = record.held.as_ref().and_then(|held| held.ari_id.as_deref()).and_then(ari_id);
    if let Some(replaced) = replaced.filter(|_| order.replaces) {
        new = new.replaces(replaced);
    }
    let made = patiently!(opened.account.new_order(&new))?;
    Ok(Outcome::Ordered { url: made.url().to_owned() })
}

async fn read(order: &Order, at_ca: &mut instant_acme::Order) -> Result<Outcome, Fault> {
    match at_ca.state().status {
        OrderStatus::Ready => return Ok(Outcome::Proven),
        OrderStatus::Pending => {}
        _ => return ended(order, at_ca).await,
    }
    read_authorizations(at_ca).await?;
    let mut wanted = Vec::new();
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let (name, wildcard) = (authorization.identifier().to_string(), authorization.wildcard);
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let offered: Vec<String> =
            authorization.challenges.iter().map(|c| format!("{:?}", c.r#type)).collect();
        let Some(challenge) = authorization.challenge(of_kind(order.kind)) else {
            let offered = offered.join(", ");
            let kind = order.kind.as_str();
            return Err(Fault::refused(format!("the CA does not offer {kind} for {name}, but {offered}")));
        };
        if !is_token(&challenge.token) {
            return Err(Fault::refused(format!("the CA's token for {name} is not base64url (RFC 8555 8.3)")));
        }
        wanted.push(Pending {
            host: name.strip_prefix("*.").unwrap_or(&name).to_owned(),
            wildcard,
            kind: order.kind,
            token: challenge.token.clone(),
            key_authorization: challenge.key_authorization().as_str().to_owned(),
            namespace: order.namespace.clone(),
            proven: false,
        });
    }
    Ok(Outcome::Challenges(wanted))
}

async fn present<S, V: Solver>(hands: &Hands<S, V>, order: &Order) -> Outcome {
    let trouble = |problem, seen| Outcome::Trouble { with: With::Solver, problem, after: None, seen };
    let unproven = order.challenges.iter().filter(|pending| !pending.proven);
    let challenges: Vec<Challenge> = match unproven.map(Challenge::of).collect() {
        Ok(challenges) => challenges,
        Err(error) => return trouble(Problem::ours(format!("a challenge's certificate: {error}")), None),
    };
    if challenges.is_empty() {
        return Outcome::Presented(crate::solver::Seen { at: hands.web.now(), ..Default::default() });
    }
    let solve = async {
        hands.solver.present(&challenges).await?;
        hands.solver.look(&challenges).await
    };
    match timeout(SOLVE, solve).await {
        Ok(Ok(mut seen)) => {
            seen.at = hands.web.now();
            if !seen.by.is_empty() {
                return Outcome::Presented(seen);
            }
            let who: Vec<String> =
                seen.missing.iter().map(|missing| format!("{}: {}", missing.who, missing.why)).collect();
            let who = if who.is_empty() { "there is nobody to answer".to_owned() } else { who.join("; ") };
            trouble(Problem::ours(format!("nobody answers with the challenge: {who}")), Some(seen))
        }
        Ok(Err(problem)) => trouble(problem, None),
        Err(_) => trouble(
            Problem::ours(format!("the challenges were not in place within {} s", SOLVE.as_secs())),
            None,
        ),
    }
}

async fn tell(order: &Order, at_ca: &mut instant_acme::Order) -> Result<Outcome, Fault> {
    read_authorizations(at_ca).await?;
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(of_kind(order.kind)) else { continue };
        if challenge.status != ChallengeStatus::Pending {
            continue;
        }
        match patiently!(challenge.set_ready()) {
            // It looked at once and did not believe it: that is told with the rest, by the next question.
            Err(instant_acme::Error::Api(_)) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Outcome::Told)
}

async fn poll(order: &Order, at_ca: &mut instant_acme::Order, opened: &Opened) -> Result<Outcome, Fault> {
    let after = opened.call.retry_after();
    match at_ca.state().status {
        OrderStatus::Ready => return Ok(Outcome::Proven),
        OrderStatus::Pending => {}
        _ => return ended(order, at_ca).await,
    }
    if !matches!(order.stage, Stage::Telling { .. }) {
        return Ok(Outcome::NotYet { after });
    }
    // We may have died before it was told about all of them.
    read_authorizations(at_ca).await?;
    let (mut proven, mut is_told) = (Vec::new(), true);
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => proven.push(authorization.identifier().to_string()),
            AuthorizationStatus::Pending => {
                let challenge = authorization.challenge(of_kind(order.kind));
                is_told &= challenge.is_none_or(|challenge| challenge.status != ChallengeStatus::Pending);
            }
            _ => {}
        }
    }
    Ok(if is_told { Outcome::NotYet { after } } else { Outcome::NotTold { proven } })
}

async fn finalize(record: &Record, order: &Order, at_ca: &mut instant_acme::Order) -> Result<Outcome, Fault> {
    match at_ca.state().status {
        OrderStatus::Ready => {}
        OrderStatus::Processing | OrderStatus::Valid => return Ok(Outcome::Finalized),
        OrderStatus::Pending => return Err(Fault::call("the CA says that the order is pending again")),
        OrderStatus::Invalid => return ended(order, at_ca).await,
    }
    let mut params = CertificateParams::new(record.names.iter().map(str::to_owned).collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key_of(order)?)?;
    patiently!(at_ca.finalize_csr(csr.der()))?;
    Ok(Outcome::Finalized)
}

async fn collect<S, V>(
    hands: &Hands<S, V>,
    record: &Record,
    order: &Order,
    at_ca: &mut instant_acme::Order,
    opened: &Opened,
) -> Result<Outcome, Fault> {
    let after = opened.call.retry_after();
    match at_ca.state().status {
        OrderStatus::Processing => return Ok(Outcome::NotYet { after }),
        OrderStatus::Ready => return Ok(Outcome::NotFinalized),
        OrderStatus::Pending => return Err(Fault::call("the CA says that the order is pending again")),
        OrderStatus::Invalid => return ended(order, at_ca).await,
        OrderStatus::Valid => {}
    }
    let Some(pem) = patiently!(at_ca.certificate())? else { return Ok(Outcome::NotYet { after: None }) };
    let (key, now) = (key_of(order)?, hands.web.now());
    let returned = returned::check(&pem, &key, &record.names, now).map_err(Fault::refused)?;
    let key = order.key.clone().unwrap_or_else(|| Secret::new(String::new().into()));
    Ok(Outcome::Certificate(Box::new(Held {
        directory: order.directory.clone(),
        chain: returned.chain,
        key,
        not_before: returned.not_before,
        not_after: returned.not_after,
        since: now,
        ask_window: returned.ari_id.is_some().then_some(now),
        ari_id: returned.ari_id,
        replaced: false,
        window: None,
    })))
}

/// An order that is over, in the CA's words: its own, and those about each name.
async fn ended(order: &Order, at_ca: &mut instant_acme::Order) -> Result<Outcome, Fault> {
    if at_ca.state().status != OrderStatus::Invalid {
        return Err(Fault::refused("the CA has made a certificate of this order that we did not ask for"));
    }
    let own = at_ca.state().error.as_ref().map(Problem::from);
    read_authorizations(at_ca).await?;
    let mut names = Vec::new();
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        let name = authorization.identifier().to_string();
        for problem in authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let Problem { kind, detail, .. } = Problem::from(problem);
            names.push(OfName { name: name.clone(), kind, detail });
        }
    }
    let mut problem = own.unwrap_or_else(|| {
        let kind = order.kind.as_str();
        Problem::ours(format!("the CA looked by {kind} and does not believe that the names are ours"))
    });
    if problem.names.is_empty() {
        problem.names = names;
    }
    Ok(Outcome::Refused { problem, after: None })
}

/// Reads them all, so that going through them asks nothing more. (One that failed to be read would be left out by instant-acme the next
/// time, so that each failure begins anew.)
async fn read_authorizations(at_ca: &mut instant_acme::Order) -> Result<(), Fault> {
    let mut tries = 0;
    'anew: loop {
        let mut authorizations = at_ca.authorizations();
        while let Some(read) = authorizations.next().await {
            match read {
                Ok(_) => {}
                Err(error) if tries < crate::fault::MOST_NONCES && is_bad_nonce(&error) => {
                    tries += 1;
                    continue 'anew;
                }
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(());
    }
}

async fn clear<S, V: Solver>(hands: &Hands<S, V>, record: &Record) -> Outcome {
    let challenges: Result<Vec<Challenge>, _> =
        record.leftover.challenges.iter().map(Challenge::of).collect();
    let Ok(challenges) = challenges else { return Outcome::NotCleared };
    match timeout(SOLVE, hands.solver.clear(&challenges)).await {
        Ok(Ok(())) => Outcome::Cleared,
        Ok(Err(problem)) => {
            tracing::warn!(%problem, record = record.id(), "challenges of an ended order cannot be taken back yet");
            Outcome::NotCleared
        }
        Err(_) => Outcome::NotCleared,
    }
}

async fn ask_window<S: Store, V>(hands: &Hands<S, V>, record: &Record, wish: Option<&Wish>) -> Outcome {
    let (Some(wish), Some(held)) = (wish, &record.held) else { return Outcome::NoWindow };
    let Some(id) = held.ari_id.as_deref().and_then(ari_id) else { return Outcome::NoWindow };
    let who = who(&wish.issuer, &held.directory, wish.issuer.email.as_deref());
    let asked = async {
        let opened = account::open(&hands.store, &hands.web, &who).await?;
        Ok::<_, Fault>(opened.account.renewal_info(&id).await)
    };
    match asked.await {
        Ok(Ok((said, after))) => {
            let window = said.suggested_window;
            let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
            if end <= start {
                return Outcome::WindowTrouble; // RFC 9773 4.2: not to be followed
            }
            let explanation = said.explanation_url.map(|url| crate::problem::bounded(&url));
            let after = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
            Outcome::Window { window: Window { start, end, explanation }, after }
        }
        Ok(Err(instant_acme::Error::Unsupported(_))) => Outcome::NoWindow,
        Ok(Err(error)) => {
            let problem = Fault::from(error).problem;
            tracing::debug!(%problem, record = record.id(), "the CA does not say when to renew");
            Outcome::WindowTrouble
        }
        Err(fault) => {
            tracing::debug!(problem = %fault.problem, record = record.id(), "the CA does not say when to renew");
            Outcome::WindowTrouble
        }
    }
}

fn key_of(order: &Order) -> Result<KeyPair, Fault> {
    let key = order.key.as_ref().ok_or_else(|| Fault::refused("the order has no key"))?;
    Ok(KeyPair::from_pem(key.expose())?)
}

fn of_kind(kind: Kind) -> ChallengeType {
    match kind {
        Kind::Http01 => ChallengeType::Http01,
        Kind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Kind::Dns01 => ChallengeType::Dns01,
    }
}

/// It becomes part of a path, and of a Secret: RFC 8555 8.3 has it be base64url.
fn is_token(token: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(is_base64url)
}

fn ari_id(stored: &str) -> Option<CertificateIdentifier<'_>> {
    let (authority_key_identifier, serial) = stored.split_once('.')?;
    Some(CertificateIdentifier {
        authority_key_identifier: authority_key_identifier.into(),
        serial: serial.into(),
    })
}

/// Putting challenges where a CA looks, and seeing them there: zones take minutes until all their servers know.
const SOLVE: Duration = Duration::from_secs(600);
const STORE_TRIES: u32 = 6; // with the pauses below: for half a minute
const STORE_PAUSE: Duration = Duration::from_millis(500);
const MAX_TOKEN: usize = 256; // Let's Encrypt's have 43 characters

#[cfg(test)]
pub(crate) mod tests;
