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
    fault::{Class, Fault, patiently},
    issuer::Issuer,
    order::{Kind, Order, Pending, Stage},
    outcome::{self, Outcome},
    plan::{Plan, Step, Wish},
    problem::Problem,
    record::{Held, Record, Window, With},
    returned,
    secret::Secret,
    solver::Solver,
    store::{Store, StoreError, Stored, Version},
    transport::{WHOLE, Web},
};
use authorizations::{ended, name_of, read_authorizations};

mod authorizations;

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
        Step::Notice => Outcome::Noticed,
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
            let limit = longest_call(record, hands.web.now());
            let who = who(&wish.issuer, &order.directory, order.email.as_deref(), limit);
            let went = async {
                match account::open(&hands.store, &hands.web, &who).await {
                    Ok(opened) => at_ca(hands, record, order, &opened, of_order).await,
                    Err(fault) => Err(Fault { unsure: false, ..fault }), // nothing of this step was asked for
                }
            };
            let most = longest_step(record);
            let slow = |_| Fault {
                unsure: true,
                ..Fault::call(format!("the CA did not get through with it in {} s", most.as_secs()))
            };
            match timeout(most, went).await.map_err(slow).flatten() {
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
fn who<'a>(issuer: &'a Issuer, directory: &'a str, email: Option<&'a str>, limit: Duration) -> Who<'a> {
    let eab = issuer.eab.as_ref().filter(|_| directory == issuer.directory);
    Who { directory, email, eab, roots: issuer.roots.as_deref(), limit }
}

/// Where a certificate has little life left, a call takes a quarter of it at most, so that there is time for another one.
fn longest_call(record: &Record, now: i64) -> Duration {
    let left = record.served(now).map_or(i64::MAX, |held| held.not_after - now);
    Duration::from_secs(u64::try_from(left / 4).unwrap_or(0)).clamp(SHORTEST_CALL, WHOLE)
}

/// A CA that answers each call at the last moment does not hold our hands for ever.
fn longest_step(record: &Record) -> Duration {
    let names = u32::try_from(record.names.len()).unwrap_or(u32::MAX);
    STEP + STEP_NAME.saturating_mul(names)
}

/// Whether a fault ends the order, or is a call to be made again.
fn judge(fault: Fault, step: Step, order: &Order) -> Outcome {
    let Fault { class, problem, after, unsure } = fault;
    let is_asking = matches!(step, Step::Ask { .. });
    let trouble = |with| Outcome::Trouble { with, problem: problem.clone(), after, seen: None, unsure };
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
        Step::Read => read(record, order, &mut at_ca).await,
        Step::Tell => tell(record, order, &mut at_ca).await,
        Step::Poll => poll(record, order, &mut at_ca, opened).await,
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
    let url = made.url();
    if url.len() > MAX_URL {
        return Err(Fault::refused(format!("the URL of the CA's order has {} bytes", url.len())));
    }
    Ok(Outcome::Ordered { url: url.to_owned() })
}

async fn read(record: &Record, order: &Order, at_ca: &mut instant_acme::Order) -> Result<Outcome, Fault> {
    match at_ca.state().status {
        OrderStatus::Ready => return Ok(Outcome::Proven),
        OrderStatus::Pending => {}
        _ => return ended(&record.names, order, at_ca).await,
    }
    read_authorizations(&record.names, at_ca).await?;
    let mut wanted = Vec::new();
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = name_of(&authorization);
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
            wildcard: name.starts_with("*."),
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
    let trouble =
        |problem, seen| Outcome::Trouble { with: With::Solver, problem, after: None, seen, unsure: false };
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

async fn tell(record: &Record, order: &Order, at_ca: &mut instant_acme::Order) -> Result<Outcome, Fault> {
    read_authorizations(&record.names, at_ca).await?;
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

async fn poll(
    record: &Record,
    order: &Order,
    at_ca: &mut instant_acme::Order,
    opened: &Opened,
) -> Result<Outcome, Fault> {
    let after = opened.call.retry_after();
    match at_ca.state().status {
        OrderStatus::Ready => return Ok(Outcome::Proven),
        OrderStatus::Pending => {}
        _ => return ended(&record.names, order, at_ca).await,
    }
    if !matches!(order.stage, Stage::Telling { .. }) {
        return Ok(Outcome::NotYet { after });
    }
    // We may have died before it was told about all of them.
    read_authorizations(&record.names, at_ca).await?;
    let (mut proven, mut is_told) = (Vec::new(), true);
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => proven.push(name_of(&authorization)),
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
        OrderStatus::Invalid => return ended(&record.names, order, at_ca).await,
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
        OrderStatus::Invalid => return ended(&record.names, order, at_ca).await,
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
    let who = who(&wish.issuer, &held.directory, wish.issuer.email.as_deref(), WINDOW_CALL);
    let asked = async {
        let opened = account::open(&hands.store, &hands.web, &who).await?;
        Ok::<_, Fault>(opened.account.renewal_info(&id).await)
    };
    let asked = timeout(WINDOW_STEP, asked).await;
    match asked.unwrap_or_else(|_| Err(Fault::call("the CA is too slow"))) {
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
/// Of a step at a CA, in all, and for each name: reading a hundred authorizations takes its time.
const STEP: Duration = Duration::from_secs(180);
const STEP_NAME: Duration = Duration::from_secs(3);
/// A call that takes less may be one that would have gone well: a TLS handshake over a slow path takes a second.
const SHORTEST_CALL: Duration = Duration::from_secs(5);
/// For the window: without it the life decides, so that it is worth no waiting. Where there is no account yet, there are more calls.
const WINDOW_CALL: Duration = Duration::from_secs(10);
const WINDOW_STEP: Duration = Duration::from_secs(30);
const STORE_TRIES: u32 = 6; // with the pauses below: for half a minute
const STORE_PAUSE: Duration = Duration::from_millis(500);
const MAX_TOKEN: usize = 256; // Let's Encrypt's have 43 characters
const MAX_URL: usize = 2048; // of an order; Let's Encrypt's have 70. It is stored

#[cfg(test)]
pub(crate) mod tests;
