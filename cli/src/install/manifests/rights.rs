//! Docs/design.md section 11 as a table. Held against deploy/ by the tests beside it, and against a live cluster by
//! tests/cluster/tests/mesh/rights.rs, which includes this file.

/// A right as "<role> <resource>.<group> <resourceNames> <verbs>", and the words of the design that ask for it.
pub(crate) const RIGHTS: &[(&str, &str)] = &[
    ("Role/ca secrets signet-ca get,update", "get/update those named signet-ca"),
    ("Role/ca secrets signet-ca-intermediate get", "get the one named signet-ca-intermediate"),
    ("Role/ca secrets  create", "create secrets and leases"),
    ("Role/ca leases.coordination.k8s.io signet-ca get,update", "get/update those named signet-ca"),
    ("Role/ca leases.coordination.k8s.io  create", "create secrets and leases"),
    ("ClusterRole/signet-ca tokenreviews.authentication.k8s.io  create", "create tokenreviews"),
    ("ClusterRole/signet-ca pods  get", "get pods"),
    ("ClusterRole/signet-ca namespaces  list", "list namespaces"),
    ("ClusterRole/signet-ca configmaps signet-trust get,update", "get/update those named signet-trust"),
    ("ClusterRole/signet-ca configmaps  create", "create configmaps"),
    (
        "ClusterRole/signet-ca mutatingwebhookconfigurations.admissionregistration.k8s.io signet-injector get,patch",
        "get/patch our one MutatingWebhookConfiguration",
    ),
    ("ClusterRole/signet-controller namespaces  list,watch", "list/watch namespaces"),
    ("ClusterRole/signet-controller serviceaccounts  list,watch", "serviceaccounts"),
    ("ClusterRole/signet-controller services  list,watch", "services"),
    ("ClusterRole/signet-controller pods  list,watch", "pods"),
    ("ClusterRole/signet-controller endpointslices.discovery.k8s.io  list,watch", "endpointslices"),
    ("ClusterRole/signet-controller events  create", "create events"),
    ("ClusterRole/signet-viewer pods  get,list", "viewer"),
    ("ClusterRole/signet-viewer namespaces  get,list", "viewer"),
    ("ClusterRole/signet-viewer nodes  get,list", "viewer"),
    ("ClusterRole/signet-viewer deployments.apps  get", "get deployments"),
    (
        "ClusterRole/signet-viewer mutatingwebhookconfigurations.admissionregistration.k8s.io signet-injector get",
        "viewer",
    ),
    ("ClusterRole/signet-viewer services  list", "list services, networkpolicies"),
    ("ClusterRole/signet-viewer networkpolicies.networking.k8s.io  list", "list services, networkpolicies"),
    (
        "ClusterRole/signet-viewer mutatingwebhookconfigurations.admissionregistration.k8s.io  list",
        "webhook configurations",
    ),
    (
        "ClusterRole/signet-viewer validatingwebhookconfigurations.admissionregistration.k8s.io  list",
        "webhook configurations",
    ),
    ("ClusterRole/signet-viewer apiservices.apiregistration.k8s.io  list", "apiservices"),
    (
        "ClusterRole/signet-viewer customresourcedefinitions.apiextensions.k8s.io  list",
        "customresourcedefinitions",
    ),
    ("ClusterRole/signet-ask pods  get,list", "pods/portforward"),
    ("ClusterRole/signet-ask pods/portforward  get,create", "pods/portforward"),
];
