//! A YAML document whose maps keep their order: what a user wrote comes back in the order in which they wrote it.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::{Number, Value};

use crate::patch::Op;

#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Document>),
    /// In order; a key stands there once.
    Map(Vec<(String, Document)>),
}

impl Document {
    /// Carries out one step. `None`: there is nothing at its path, and the document is as it was.
    pub fn apply(&mut self, op: &Op) -> Option<()> {
        let (path, value) = match op {
            Op::Add { path, value } => (path, Some((value, true))),
            Op::Replace { path, value } => (path, Some((value, false))),
            Op::Remove { path } => (path, None),
        };
        let Some((parent, last)) = path.rsplit_once('/') else {
            *self = value?.0.into(); // the whole document
            return Some(());
        };
        let last = last.replace("~1", "/").replace("~0", "~");
        match (self.at(parent)?, value) {
            (Self::Map(map), value) => {
                let at = map.iter().position(|(key, _)| *key == last);
                match (at, value) {
                    (Some(at), Some((value, _))) => map[at].1 = value.into(),
                    (Some(at), None) => drop(map.remove(at)),
                    (None, Some((value, true))) => map.push((last, value.into())),
                    (None, _) => return None,
                }
            }
            (Self::List(list), value) => {
                let at: usize = last.parse().ok()?;
                match value {
                    Some((value, true)) if at <= list.len() => list.insert(at, value.into()),
                    Some((value, false)) => *list.get_mut(at)? = value.into(),
                    None if at < list.len() => drop(list.remove(at)),
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// What stands at a JSON pointer.
    fn at(&mut self, pointer: &str) -> Option<&mut Self> {
        let Some(pointer) = pointer.strip_prefix('/') else { return Some(self) };
        pointer.split('/').try_fold(self, |at, token| match at {
            Self::Map(map) => {
                let token = token.replace("~1", "/").replace("~0", "~");
                map.iter_mut().find(|(key, _)| *key == token).map(|(_, value)| value)
            }
            Self::List(list) => list.get_mut(token.parse::<usize>().ok()?),
            _ => None,
        })
    }
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(value) => Self::Number(value.clone()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(map) => {
                Self::Map(map.iter().map(|(key, value)| (key.clone(), value.into())).collect())
            }
        }
    }
}

impl From<&Document> for Value {
    fn from(document: &Document) -> Self {
        match document {
            Document::Null => Self::Null,
            Document::Bool(value) => Self::Bool(*value),
            Document::Number(value) => Self::Number(value.clone()),
            Document::Text(text) => Self::String(text.clone()),
            Document::List(list) => Self::Array(list.iter().map(Self::from).collect()),
            Document::Map(map) => {
                Self::Object(map.iter().map(|(key, value)| (key.clone(), value.into())).collect())
            }
        }
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Map(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, value)| out.serialize_entry(key, value))?;
                out.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML that JSON could hold")
    }
    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }
    fn visit_none<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        Document::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Document, E> {
        Ok(Document::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Document, E> {
        Ok(Document::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Document, E> {
        Ok(Document::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Document, E> {
        let number = Number::from_f64(value).map(Document::Number);
        number.ok_or_else(|| E::custom("infinity and not-a-number have no place in a manifest"))
    }
    fn visit_str<E>(self, text: &str) -> Result<Document, E> {
        Ok(Document::Text(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Document, E> {
        Ok(Document::Text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Document, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Document::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Document, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Document::Map(map))
    }
}
