//! What a CA says of each name of an order. Its word is a stranger's: it may speak of our names only, and of each of them once, or
//! gateways would answer for a name, and limits be used up, that others have.

use instant_acme::{AuthorizationState, OrderStatus};

use crate::{
    fault::{Fault, MOST_NONCES, is_bad_nonce},
    names::{MAX_NAMES, NameSet},
    order::Order,
    outcome::Outcome,
    problem::{OfName, Problem, bounded},
};

/// Reads them all, so that going through them asks nothing more. (One that failed to be read would be left out by instant-acme the next
/// time, so that each failure begins anew.) Errors: they are too many, which is said before any is read; one is of no name of ours, or the
/// second of the same.
pub(super) async fn read_authorizations(
    names: &NameSet,
    at_ca: &mut instant_acme::Order,
) -> Result<(), Fault> {
    let many = at_ca.state().authorizations.len();
    if many > names.len() {
        return Err(Fault::refused(format!(
            "the CA wants {many} authorizations for an order of {}",
            names.len()
        )));
    }
    let mut tries = 0;
    'anew: loop {
        let mut authorizations = at_ca.authorizations();
        while let Some(read) = authorizations.next().await {
            match read {
                Ok(_) => {}
                Err(error) if tries < MOST_NONCES && is_bad_nonce(&error) => {
                    tries += 1;
                    continue 'anew;
                }
                Err(error) => return Err(error.into()),
            }
        }
        break;
    }
    let mut seen = Vec::with_capacity(many);
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let name = name_of(&*authorization?);
        let shown = bounded(&name);
        if !names.contains(&name) {
            return Err(Fault::refused(format!("the CA wants {shown:?} proven, which was not ordered")));
        }
        if seen.contains(&name) {
            return Err(Fault::refused(format!("the CA wants {shown:?} proven twice")));
        }
        seen.push(name);
    }
    Ok(())
}

/// As in the certificate.
pub(super) fn name_of(authorization: &AuthorizationState) -> String {
    authorization.identifier().to_string().to_ascii_lowercase()
}

/// An order that is over, in the CA's words: its own, and those about each name.
pub(super) async fn ended(
    ours: &NameSet,
    order: &Order,
    at_ca: &mut instant_acme::Order,
) -> Result<Outcome, Fault> {
    if at_ca.state().status != OrderStatus::Invalid {
        return Err(Fault::refused("the CA has made a certificate of this order that we did not ask for"));
    }
    let own = at_ca.state().error.as_ref().map(Problem::from);
    read_authorizations(ours, at_ca).await?;
    let mut names = Vec::new();
    let mut authorizations = at_ca.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        for problem in authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let Problem { kind, detail, .. } = Problem::from(problem);
            names.push(OfName { name: name_of(&authorization), kind, detail });
        }
    }
    names.truncate(MAX_NAMES);
    let mut problem = own.unwrap_or_else(|| {
        let kind = order.kind.as_str();
        Problem::ours(format!("the CA looked by {kind} and does not believe that the names are ours"))
    });
    if problem.names.is_empty() {
        problem.names = names;
    }
    Ok(Outcome::Refused { problem, after: None })
}
