//! `signet allow`: the right to read a namespace's TLS Secrets, for edge, as a manifest. Who applies it gives it.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use signet_core::identity::SYSTEM_NAMESPACE;

use crate::{
    Exit,
    named::is_name,
    output::{Format, Output},
};

/// Print the right that lets edge read the TLS Secrets of a namespace
///
/// Edge reads a Secret only where an Ingress names it and its namespace allows it. What is printed is a Role and a RoleBinding of
/// that namespace: whoever administers it can apply them, and take them back with kubectl delete.
///
/// Changes nothing; prints.
///
/// Examples:
///   signet allow shop | kubectl apply -f -
///   signet allow shop --secret web-tls | kubectl apply -f -     # that one alone
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Exit status: 0 printed, 2 no such name is possible")]
pub(crate) struct Args {
    /// Namespace
    #[arg(value_name = "NAMESPACE")]
    namespace: String,
    /// Only this Secret; its renewals are then seen within 30 s. May be repeated
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<Exit> {
    if let Some(bad) = std::iter::once(&args.namespace).chain(&args.secret).find(|name| !is_name(name)) {
        bail!("{bad:?} is no name of a namespace or Secret");
    }
    let out = Output::to_stdout(Format::Table);
    for object in objects(&args.namespace, &args.secret) {
        out.print(&format!("---\n{}\n", serde_json::to_string_pretty(&object)?))?;
    }
    Ok(Exit::Fine)
}

/// JSON is YAML, too.
fn objects(namespace: &str, secrets: &[String]) -> [Value; 2] {
    let labels = json!({"app.kubernetes.io/part-of": "signet", "app.kubernetes.io/name": "edge"});
    let metadata = json!({"name": NAME, "namespace": namespace, "labels": labels});
    let mut rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch"]});
    if !secrets.is_empty() {
        // A watch is of all of them.
        (rule["resourceNames"], rule["verbs"]) = (json!(secrets), json!(["get"]));
    }
    [
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": [rule]}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": "edge", "namespace": SYSTEM_NAMESPACE}],
        }),
    ]
}

const NAME: &str = "signet-edge";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_edge_and_nobody_else_secrets_of_that_namespace_and_nothing_more() {
        let [role, binding] = objects("shop", &[]);
        assert_eq!(
            role["rules"],
            json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch"]}])
        );
        assert_eq!(
            (&role["metadata"]["namespace"], &binding["metadata"]["namespace"]),
            (&json!("shop"), &json!("shop"))
        );
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "edge", "namespace": "signet-system"}])
        );
        let [one, _] = objects("shop", &["web-tls".into()]);
        assert_eq!(
            (&one["rules"][0]["resourceNames"], &one["rules"][0]["verbs"]),
            (&json!(["web-tls"]), &json!(["get"]))
        );
    }

    #[test]
    fn what_is_no_name_is_not_printed() {
        for (namespace, secret) in [("Shop", None), ("shop\n---", None), ("shop", Some("a b"))] {
            let args =
                Args { namespace: namespace.into(), secret: secret.map(str::to_owned).into_iter().collect() };
            assert!(run(&args).is_err(), "{namespace} {secret:?}");
        }
    }
}
