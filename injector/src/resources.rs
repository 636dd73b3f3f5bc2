//! What our containers request, so that the pod keeps its QoS class: the kubelet takes the class from every container, init
//! containers too (pkg/apis/core/v1/helper/qos).

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use serde_json::{Map, Value, json};

use crate::{
    judge::{View, Wishes},
    quantity::Quantity,
};

/// A pod's class, and what follows for us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    /// Nobody asks for anything; we neither.
    BestEffort,
    /// Every container has limits, and requests them; so do we.
    Guaranteed,
    Burstable {
        /// Every container has a limit for it: a quota may demand that.
        limit_cpu: bool,
        limit_memory: bool,
    },
    /// The pod itself has resources (KEP-2837): the class comes from there, and ours come out of it.
    PodLevel,
}

/// `pod` has nothing of ours.
pub(crate) fn class(pod: &View) -> Class {
    if has_pod_level(&pod.spec) {
        return Class::PodLevel;
    }
    let of_all = |test: fn(Asked) -> bool, resource| pod.containers().all(|c| test(asked(c, resource)));
    let of_none = |resource| pod.containers().all(|c| asked(c, resource) == Asked::Nothing);
    let is_full = |asked| asked == Asked::Full;
    let is_limited = |asked| matches!(asked, Asked::Full | Asked::Limited);
    if of_none(CPU) && of_none(MEMORY) {
        Class::BestEffort
    } else if of_all(is_full, CPU) && of_all(is_full, MEMORY) {
        Class::Guaranteed
    } else {
        Class::Burstable { limit_cpu: of_all(is_limited, CPU), limit_memory: of_all(is_limited, MEMORY) }
    }
}

/// The `resources` of both our containers. The capture step is over before the proxy starts, so it costs nothing more.
pub(crate) fn resources(class: Class, wishes: &Wishes) -> Option<Value> {
    let wish = |wish: &Option<String>, default: &str| wish.clone().unwrap_or_else(|| default.to_owned());
    let (cpu, memory) = (&wishes.cpu, &wishes.memory);
    match class {
        Class::BestEffort | Class::PodLevel => None,
        Class::Guaranteed => {
            let all = json!({ CPU: wish(cpu, GUARANTEED_CPU), MEMORY: wish(memory, GUARANTEED_MEMORY) });
            Some(json!({ "requests": all, "limits": all }))
        }
        Class::Burstable { limit_cpu, limit_memory } => {
            let requests = json!({ CPU: wish(cpu, REQUEST_CPU), MEMORY: wish(memory, REQUEST_MEMORY) });
            let mut limits = Map::new();
            if limit_cpu {
                limits.insert(CPU.into(), wish(cpu, LIMIT_CPU).into());
            }
            if limit_memory {
                limits.insert(MEMORY.into(), wish(memory, LIMIT_MEMORY).into());
            }
            if limits.is_empty() {
                return Some(json!({ "requests": requests }));
            }
            Some(json!({ "requests": requests, "limits": limits }))
        }
    }
}

fn has_pod_level(spec: &PodSpec) -> bool {
    let of =
        |list: &Option<std::collections::BTreeMap<String, _>>| list.as_ref().is_some_and(|l| !l.is_empty());
    spec.resources.as_ref().is_some_and(|resources| of(&resources.requests) || of(&resources.limits))
}

/// What a container asks of one resource.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Nothing,
    /// A request alone.
    Some,
    /// A limit, and a smaller request.
    Limited,
    /// A limit that is its request; the API server takes a missing request from the limit.
    Full,
}

fn asked(container: &Container, resource: &str) -> Asked {
    let Some(ResourceRequirements { requests, limits, .. }) = &container.resources else {
        return Asked::Nothing;
    };
    let amount = |list: &Option<std::collections::BTreeMap<String, _>>| amount(list.as_ref()?.get(resource)?);
    match (amount(requests), amount(limits)) {
        (None, None) => Asked::Nothing,
        (Some(_), None) => Asked::Some,
        (None, Some(_)) => Asked::Full,
        (Some(request), Some(limit)) if request == limit => Asked::Full,
        (Some(_), Some(_)) => Asked::Limited,
    }
}

/// Zero is nothing asked, in the kubelet's eyes too. One that does not parse the API server refuses anyway.
fn amount(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Option<Quantity> {
    quantity.0.parse().ok().filter(|quantity: &Quantity| !quantity.is_zero())
}

const CPU: &str = "cpu";
const MEMORY: &str = "memory";
// docs/design.md section 12: 6 MB at rest and 6.5 kB for each idle connection; a core carries 30 000 requests/s.
/// Seen by the scheduler; a busy proxy takes what is free.
const REQUEST_CPU: &str = "10m";
const REQUEST_MEMORY: &str = "24Mi";
/// One worker, so that it is never throttled.
const LIMIT_CPU: &str = "1";
/// 20 000 connections, all that its descriptors allow, at 8 kB; and the buffers of a burst.
const LIMIT_MEMORY: &str = "256Mi";
/// Reserved in full, so a compromise: 6 000 requests/s. Not a whole core, which a static CPU policy would pin.
const GUARANTEED_CPU: &str = "200m";
/// 5 000 connections and the buffers of a burst.
const GUARANTEED_MEMORY: &str = "96Mi";
