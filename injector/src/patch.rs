//! JSON patches (RFC 6902), as far as the API server needs them: `add`, `remove` and `replace`.

use serde::Serialize;
use serde_json::{Map, Value};

/// One step of a patch. Paths are JSON pointers (RFC 6901).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
}

/// The steps that make `to` of `from`; none when they are equal. What is equal on both sides is not touched, so a field that
/// we know nothing of stays.
pub(crate) fn diff(from: &Value, to: &Value) -> Vec<Op> {
    let mut ops = Vec::new();
    values(String::new(), from, to, &mut ops);
    ops
}

fn values(path: String, from: &Value, to: &Value, ops: &mut Vec<Op>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(from), Value::Object(to)) => objects(&path, from, to, ops),
        (Value::Array(from), Value::Array(to)) => arrays(&path, from, to, ops),
        _ => ops.push(Op::Replace { path, value: to.clone() }),
    }
}

fn objects(path: &str, from: &Map<String, Value>, to: &Map<String, Value>, ops: &mut Vec<Op>) {
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        ops.push(Op::Remove { path: join(path, key) });
    }
    for (key, value) in to {
        match from.get(key) {
            Some(before) => values(join(path, key), before, value, ops),
            None => ops.push(Op::Add { path: join(path, key), value: value.clone() }),
        }
    }
}

/// Keeps what both begin and end with. In between, lists of one length change item by item; else items go and come.
fn arrays(path: &str, from: &[Value], to: &[Value], ops: &mut Vec<Op>) {
    let head = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[head..], &to[head..]);
    let tail = from.iter().rev().zip(to.iter().rev()).take_while(|(a, b)| a == b).count();
    let (from, to) = (&from[..from.len() - tail], &to[..to.len() - tail]);
    if from.len() == to.len() {
        for (n, (from, to)) in from.iter().zip(to).enumerate() {
            values(format!("{path}/{}", head + n), from, to, ops);
        }
        return;
    }
    ops.extend(from.iter().map(|_| Op::Remove { path: format!("{path}/{head}") }));
    let add =
        |(n, value): (usize, &Value)| Op::Add { path: format!("{path}/{}", head + n), value: value.clone() };
    ops.extend(to.iter().enumerate().map(add));
}

fn join(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl Op {
    /// The same step in a document that holds ours at `prefix`, a JSON pointer.
    pub fn below(self, prefix: &str) -> Self {
        let at = |path: String| format!("{prefix}{path}");
        match self {
            Self::Add { path, value } => Self::Add { path: at(path), value },
            Self::Remove { path } => Self::Remove { path: at(path) },
            Self::Replace { path, value } => Self::Replace { path: at(path), value },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::document::Document;

    fn applied(from: &Value, ops: &[Op]) -> Value {
        let mut document: Document = serde_json::from_value(from.clone()).unwrap();
        ops.iter().for_each(|op| document.apply(op).unwrap());
        serde_json::to_value(document).unwrap()
    }

    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4).prop_map(Value::from),
            "[a~/]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab~/]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_one_of_the_other(from in any_json(), to in any_json()) {
            prop_assert_eq!(applied(&from, &diff(&from, &to)), to);
        }
        #[test]
        fn what_is_equal_needs_no_patch(value in any_json()) {
            prop_assert!(diff(&value, &value).is_empty());
        }
    }

    #[test]
    fn items_at_the_front_leave_those_behind_alone() {
        let (from, to) = (json!({ "a": [1, 2] }), json!({ "a": [8, 9, 1, 2] }));
        let add = |path: &str, value: i32| Op::Add { path: path.into(), value: value.into() };
        assert_eq!(diff(&from, &to), [add("/a/0", 8), add("/a/1", 9)]);
    }
}
