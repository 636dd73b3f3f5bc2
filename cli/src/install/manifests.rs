//! deploy/*.yaml as values, the settings put in. Settings never become YAML by pasting: a value that is exactly `$NAME` is replaced in
//! the parsed document, and printed from there. Pure.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// What a user may choose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) trust_domain: String,
    pub(crate) image: String,
    pub(crate) leaf_life: String,
    pub(crate) allow_short_leaves: bool,
    pub(crate) mesh_ranges: Vec<String>,
    /// One replica of each, and no budgets.
    pub(crate) dev: bool,
}

/// A file of deploy/ and its objects.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) objects: Vec<Value>,
}

/// What stands for one placeholder: itself in a field, all of it, one after the other, in a list.
type Fill<'a> = &'a dyn Fn(&str) -> Option<Vec<Value>>;

/// Every object, in the order in which to apply them.
pub(crate) fn render(settings: &Settings) -> Result<Vec<Value>> {
    let mut leaf_life = vec![json!(settings.leaf_life)];
    leaf_life.extend(settings.allow_short_leaves.then(|| json!("--allow-short-leaves")));
    let ranges = settings.mesh_ranges.iter().flat_map(|range| [json!("--mesh-range"), json!(range)]);
    let ranges: Vec<Value> = ranges.collect();
    let fill = |name: &str| {
        Some(match name {
            "$TRUST_DOMAIN" => vec![json!(settings.trust_domain)],
            "$IMAGE" => vec![json!(settings.image)],
            "$LEAF_LIFE" => leaf_life.clone(),
            "$MESH_RANGES" => ranges.clone(),
            "$REPLICAS" => vec![json!(if settings.dev { 1 } else { 2 })],
            _ => return None,
        })
    };
    let objects = filled(&fill)?.into_iter().flat_map(|file| file.objects);
    Ok(objects.filter(|object| !(settings.dev && is_budget(object))).collect())
}

/// The files of deploy/ with their placeholders filled.
pub(crate) fn filled(fill: Fill<'_>) -> Result<Vec<File>> {
    FILES
        .iter()
        .map(|(name, text)| {
            let mut objects: Vec<Value> =
                serde_saphyr::from_multiple(text).with_context(|| format!("deploy/{name}"))?;
            for object in &mut objects {
                put_in(object, fill).with_context(|| format!("deploy/{name}"))?;
            }
            Ok(File { name, objects })
        })
        .collect()
}

fn put_in(value: &mut Value, fill: Fill<'_>) -> Result<()> {
    match value {
        Value::String(text) if text.starts_with('$') => match fill(text).as_deref() {
            Some([one]) => *value = one.clone(),
            Some(_) => bail!("{text} is a list, and stands in a field"),
            None => bail!("nothing stands for {text}"),
        },
        Value::Array(items) => {
            let mut all = Vec::with_capacity(items.len());
            for mut item in std::mem::take(items) {
                match item.as_str().filter(|text| text.starts_with('$')) {
                    Some(text) => {
                        all.extend(fill(text).with_context(|| format!("nothing stands for {text}"))?)
                    }
                    None => {
                        put_in(&mut item, fill)?;
                        all.push(item);
                    }
                }
            }
            *items = all;
        }
        Value::Object(fields) => {
            for field in fields.values_mut() {
                put_in(field, fill)?;
            }
        }
        _ => {}
    }
    Ok(())
}

pub(crate) fn is_budget(object: &Value) -> bool {
    object["kind"] == "PodDisruptionBudget"
}

/// One YAML document for each, with sorted keys: the same objects are the same text.
pub(crate) fn print(objects: &[Value]) -> Result<String> {
    let documents: Vec<String> = objects.iter().map(yaml).collect::<Result<_>>()?;
    Ok(documents.join("---\n"))
}

pub(crate) fn yaml(object: &Value) -> Result<String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let mut text = serde_saphyr::to_string_with_options(object, options)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// In the order in which to apply them: the webhook last, so that no pod waits for an injector that is not there yet.
const FILES: [(&str, &str); 6] = [
    ("namespace.yaml", include_str!("../../../deploy/namespace.yaml")),
    ("viewer.yaml", include_str!("../../../deploy/viewer.yaml")),
    ("ca.yaml", include_str!("../../../deploy/ca.yaml")),
    ("controller.yaml", include_str!("../../../deploy/controller.yaml")),
    ("injector.yaml", include_str!("../../../deploy/injector.yaml")),
    ("webhook.yaml", include_str!("../../../deploy/webhook.yaml")),
];

#[cfg(test)]
mod tests;
