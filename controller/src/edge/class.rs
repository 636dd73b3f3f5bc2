//! Whose Ingress it is. An Ingress names its class in `spec.ingressClassName`; older ones in an annotation; one that names none is
//! of the default class, if there is exactly one. Source: Kubernetes, "Ingress class" and "Deprecated annotation".

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::IngressClass;

use crate::source::{self, DEFAULT_CLASS};

/// The IngressClasses that there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    /// By name: the controller that serves it.
    controllers: BTreeMap<String, String>,
    defaults: Vec<String>,
}

impl Classes {
    pub(crate) fn add(&mut self, class: &IngressClass) {
        let name = source::name(&class.metadata);
        let controller = class.spec.as_ref().and_then(|spec| spec.controller.clone()).unwrap_or_default();
        let annotation = class.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CLASS));
        if annotation.is_some_and(|value| value == "true") {
            self.defaults.push(name.clone());
        }
        self.controllers.insert(name, controller);
    }

    /// Whether an Ingress with this `ingressClassName` and this annotation is ours.
    pub(crate) fn is_ours(&self, class: Option<&str>, annotation: Option<&str>) -> bool {
        match (class, annotation) {
            (Some(name), _) | (None, Some(name)) => self.serves(name),
            // Without a single class there is no other controller, either: a directory of one person.
            (None, None) if self.controllers.is_empty() => true,
            (None, None) => match &self.defaults[..] {
                [one] => self.serves(one),
                _ => false, // the API server takes no such Ingress, either, where there are several
            },
        }
    }

    /// Our own class may be used before its object is there.
    fn serves(&self, name: &str) -> bool {
        match self.controllers.get(name) {
            Some(controller) => controller == CONTROLLER,
            None => name == CLASS,
        }
    }
}

/// `spec.controller` of our classes.
pub(crate) const CONTROLLER: &str = "signet.dev/gateway";
/// The class that an installation makes.
pub(crate) const CLASS: &str = "signet";
/// On an Ingress; from before there were classes.
pub(crate) const ANNOTATION: &str = "kubernetes.io/ingress.class";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn classes(all: &[(&str, &str, bool)]) -> Classes {
        let mut classes = Classes::default();
        for (name, controller, default) in all {
            let annotations = json!({ DEFAULT_CLASS: default.to_string() });
            let class = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}});
            classes.add(&serde_json::from_value(class).unwrap());
        }
        classes
    }

    #[test]
    fn an_ingress_is_ours_by_class_by_annotation_or_by_default_and_never_by_another_controllers_class() {
        let ours = ("signet", CONTROLLER, false);
        let nginx = ("nginx", "k8s.io/ingress-nginx", false);
        for (case, all, class, annotation, want) in [
            ("our class", &[ours, nginx][..], Some("signet"), None, true),
            ("another's", &[ours, nginx], Some("nginx"), None, false),
            ("the class wins over the annotation", &[ours, nginx], Some("nginx"), Some("signet"), false),
            ("the old annotation", &[ours, nginx], None, Some("signet"), true),
            ("the old annotation of another", &[ours, nginx], None, Some("nginx"), false),
            ("none named, no default", &[ours, nginx], None, None, false),
            ("none named, ours is the default", &[("signet", CONTROLLER, true), nginx], None, None, true),
            ("none named, another is", &[ours, ("nginx", "k8s.io/ingress-nginx", true)], None, None, false),
            (
                "two defaults are none",
                &[("signet", CONTROLLER, true), ("nginx", "k8s.io/ingress-nginx", true)],
                None,
                None,
                false,
            ),
            ("a second class of ours", &[ours, ("nginx", CONTROLLER, false)], Some("nginx"), None, true),
            (
                "our name in another's hands",
                &[("signet", "example.com/x", false)],
                Some("signet"),
                None,
                false,
            ),
            ("our name without an object", &[nginx], Some("signet"), None, true),
            ("any other name without one", &[], Some("public"), None, false),
            ("no class at all", &[], None, None, true),
        ] {
            assert_eq!(classes(all).is_ours(class, annotation), want, "{case}");
        }
    }
}
