//! The words of a story.

use std::collections::BTreeMap;

use crate::directory::number;

/// The words of a command: its verb, and `name=value` or bare flags.
pub struct Words<'a> {
    pub verb: &'a str,
    pub rest: &'a str,
    pub named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub fn parse(line: &'a str) -> Self {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let named = rest.split(' ').filter(|word| !word.is_empty());
        let named = named.map(|word| word.split_once('=').unwrap_or((word, ""))).collect();
        Words { verb, rest, named }
    }
    pub fn get(&self, name: &str) -> &'a str {
        self.named.get(name).unwrap_or_else(|| panic!("{}: {name}=... is missing", self.verb))
    }
    pub fn number(&self, name: &str) -> u64 {
        number(self.get(name))
    }
    pub fn maybe(&self, name: &str) -> Option<u64> {
        self.named.get(name).map(|text| number(text))
    }
    pub fn list(&self, name: &str) -> Vec<u64> {
        self.get(name).split(',').map(number).collect()
    }
    pub fn files(&self, name: &str) -> Vec<u32> {
        self.list(name).into_iter().map(|file| file as u32).collect()
    }
    pub fn text(&self, name: &str) -> String {
        self.named.get(name).copied().unwrap_or_default().to_owned()
    }
}

/// Sixteen bytes that follow from a text.
pub fn seeded(seed: &str) -> [u8; 16] {
    let digest = checkpoint::digest::content(seed.as_bytes());
    digest.as_bytes()[..16].try_into().unwrap()
}
