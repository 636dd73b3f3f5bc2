//! The bounds of the edge (docs/design.md section 12): CPU per request, as nginx's at most.

use crate::budgets::{Budget, ratio};

const fn beside_nginx(workload: &'static str) -> Budget {
    Budget { later: None, ..ratio("7.6a", workload, "cpu_us", "nginx", 1.0, 1.0) }
}

static BUDGETS: [Budget; 3] = [beside_nginx("h1-16"), beside_nginx("h1-64"), beside_nginx("h2-4x16")];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Budget> + Clone {
    BUDGETS.iter()
}

/// The line that says that everything went through TLS and no exchange failed.
pub const HONEST: &str = "7.6b";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::workloads::Workload;

    #[test]
    fn every_budget_names_a_workload_that_there_is() {
        for budget in all() {
            assert!(
                Workload::ALL.iter().any(|workload| workload.word() == budget.workload),
                "{}",
                budget.workload
            );
        }
    }
}
