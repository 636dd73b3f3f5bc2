//! Regexes, each compiled once however many rules use it and however often tables are made.

use std::{collections::HashMap, sync::Arc};

use regex::{Regex, RegexBuilder};

use crate::model::{Anchor, Case, Pattern};

#[derive(Default)]
pub(super) struct Patterns(HashMap<Pattern, Compiled>);

/// Or why it cannot be.
pub(super) type Compiled = Result<Arc<Regex>, Arc<str>>;

impl Patterns {
    pub(super) fn compile(&mut self, pattern: &Pattern, before: &Self) -> Compiled {
        if let Some(compiled) = self.0.get(pattern) {
            return compiled.clone();
        }
        let earlier = before.0.get(pattern).cloned();
        let compiled = earlier.unwrap_or_else(|| build(pattern));
        self.0.insert(pattern.clone(), compiled.clone());
        compiled
    }
}

fn build(pattern: &Pattern) -> Compiled {
    if pattern.text.len() > MAX_TEXT {
        return Err(format!("a regex of {} bytes; {MAX_TEXT} is the limit", pattern.text.len()).into());
    }
    // The text alone first: anchors must not repair it.
    let parse = |text: &str| {
        RegexBuilder::new(text)
            .case_insensitive(pattern.case == Case::Insensitive)
            .size_limit(SIZE)
            .dfa_size_limit(LAZY_DFA)
            .nest_limit(NESTING)
            .build()
            .map_err(|e| Arc::<str>::from(format!("regex {:?}: {e}", pattern.text)))
    };
    parse(&pattern.text)?;
    let anchored = match pattern.anchor {
        Anchor::Whole => format!("^(?:{})$", pattern.text),
        Anchor::Start => format!("^(?:{})", pattern.text),
    };
    parse(&anchored).map(Arc::new)
}

/// Bytes of text: the Gateway API's limit of a path is 1024.
const MAX_TEXT: usize = 1024;
/// Bytes of a compiled program: a hundred times what a path's regex takes.
const SIZE: usize = 128 * 1024;
/// Bytes of the cache that a thread which runs it fills.
const LAZY_DFA: usize = 128 * 1024;
const NESTING: u32 = 32;
