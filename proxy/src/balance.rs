//! Which endpoint: the less busy of two random ones, so that no connection counts are shared and no herd forms.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

/// Connections of this proxy to each endpoint.
#[derive(Clone, Default)]
pub struct Balance {
    active: Arc<Mutex<HashMap<SocketAddr, usize>>>,
}

/// One connection's place in the count.
pub struct Busy {
    active: Arc<Mutex<HashMap<SocketAddr, usize>>>,
    endpoint: SocketAddr,
}

impl Balance {
    /// Picks one of `endpoints` (not empty: `None`) and counts it as busy until the result is dropped. `random` gives two
    /// indices below its argument.
    pub fn pick(
        &self,
        endpoints: &[SocketAddr],
        mut random: impl FnMut(usize) -> usize,
    ) -> Option<(usize, Busy)> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |i: usize| active.get(&endpoints[i]).copied().unwrap_or(0);
        let chosen = match endpoints.len() {
            0 => return None,
            1 => 0,
            n => {
                let first = random(n);
                let second = (first + 1 + random(n - 1)) % n; // another one, uniformly
                if load(second) < load(first) { second } else { first }
            }
        };
        *active.entry(endpoints[chosen]).or_default() += 1;
        Some((chosen, Busy { active: Arc::clone(&self.active), endpoint: endpoints[chosen] }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        match active.get_mut(&self.endpoint) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(active.remove(&self.endpoint)),
        }
    }
}

/// sessionAffinity ClientIP: the endpoint that this client always gets, and that the fewest clients change when endpoints
/// come and go (rendezvous hashing).
pub fn sticky(client: IpAddr, endpoints: &[SocketAddr]) -> Option<usize> {
    (0..endpoints.len()).max_by_key(|i| {
        let mut hasher = DefaultHasher::new();
        (client, endpoints[*i]).hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(n: u8) -> Vec<SocketAddr> {
        (1..=n).map(|i| SocketAddr::from(([198, 18, 0, i], 80))).collect()
    }

    #[test]
    fn the_less_busy_of_two_is_taken_and_given_back() {
        let balance = Balance::default();
        let two = endpoints(2);
        let both = || {
            let mut answers = [0, 0].into_iter(); // first index 0, second the other one
            move |_| answers.next().unwrap()
        };
        let (first, busy) = balance.pick(&two, both()).unwrap();
        assert_eq!(first, 0);
        assert_eq!(balance.pick(&two, both()).unwrap().0, 1);
        drop(busy);
        assert_eq!(balance.pick(&two, both()).unwrap().0, 0);
        assert!(balance.pick(&[], |_| 0).is_none());
    }

    #[test]
    fn a_sticky_client_moves_only_when_its_endpoint_goes() {
        let all = endpoints(8);
        for client in 0..100 {
            let client = IpAddr::from([10, 0, 0, client]);
            let chosen = all[sticky(client, &all).unwrap()];
            let fewer: Vec<_> = all.iter().copied().filter(|e| *e != all[3]).collect();
            let again = fewer[sticky(client, &fewer).unwrap()];
            assert!(again == chosen || chosen == all[3]);
        }
    }
}
