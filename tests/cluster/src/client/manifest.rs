//! YAML in, objects on the API server.

use anyhow::{Context as _, Result};
use kube::{
    Api, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde_json::json;

use super::Namespace;

impl Namespace {
    /// Applies every document of `yaml`, of any kind, server-side and by force. Namespaced objects come into this
    /// namespace; others belong to it and go with it.
    pub async fn apply(&self, yaml: &str) -> Result<Vec<DynamicObject>> {
        let mut applied = Vec::new();
        for object in parse(yaml)? {
            applied.push(self.apply_object(object).await?);
        }
        Ok(applied)
    }

    /// Applies one object like [`Namespace::apply`].
    pub async fn apply_object(&self, mut object: DynamicObject) -> Result<DynamicObject> {
        let (name, (resource, scope)) = (object.name_any(), self.resource(&object).await?);
        if scope == Scope::Cluster {
            let owner = json!({
                "apiVersion": "v1", "kind": "Namespace", "name": self.name, "uid": self.uid().await?,
            });
            object.metadata.owner_references = Some(vec![serde_json::from_value(owner)?]);
        }
        let force = PatchParams::apply("signet-cluster").force();
        self.dynamic(&resource, &scope)
            .patch(&name, &force, &Patch::Apply(&object))
            .await
            .with_context(|| format!("apply {} {name} in {self}", resource.kind))
    }

    /// Deletes the objects that `yaml` names, and does not wait until they are gone.
    pub async fn delete_objects(&self, yaml: &str) -> Result<()> {
        for object in parse(yaml)? {
            let (name, (resource, scope)) = (object.name_any(), self.resource(&object).await?);
            self.dynamic(&resource, &scope)
                .delete(&name, &DeleteParams::default())
                .await
                .with_context(|| format!("delete {} {name} in {self}", resource.kind))?;
        }
        Ok(())
    }

    async fn resource(&self, object: &DynamicObject) -> Result<(ApiResource, Scope)> {
        let types = object.types.as_ref().context("a document without apiVersion and kind")?;
        let kind = GroupVersionKind::try_from(types)?;
        let (resource, capabilities) = discovery::pinned_kind(&self.cluster.client, &kind)
            .await
            .with_context(|| format!("the API server knows no {} {}", types.api_version, types.kind))?;
        Ok((resource, capabilities.scope))
    }

    fn dynamic(&self, resource: &ApiResource, scope: &Scope) -> Api<DynamicObject> {
        let client = self.cluster.client.clone();
        match scope {
            Scope::Cluster => Api::all_with(client, resource),
            Scope::Namespaced => Api::namespaced_with(client, &self.name, resource),
        }
    }
}

fn parse(yaml: &str) -> Result<Vec<DynamicObject>> {
    serde_saphyr::from_multiple(yaml).with_context(|| format!("not Kubernetes objects:\n{yaml}"))
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;

    use super::*;

    #[test]
    fn documents_are_read_one_by_one_and_numbers_stay_numbers() {
        let objects = parse(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n\
             ---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\nstringData: {text: '80'}\n---\n",
        )
        .unwrap();
        assert_eq!(objects.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(objects[0].data["spec"]["ports"][0]["port"], 80);
        assert_eq!(objects[1].data["stringData"]["text"], "80");
        assert!(parse("just words").is_err());
    }
}
