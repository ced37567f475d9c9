//! A command line that asks for help, or is not understood: here nobody knows the flags yet.

use clap::error::{ContextKind, ContextValue};
use client::{Code, Failure};

use super::output::{exit_code, failure_json, tell, unwritten};
use super::screen;
use crate::exit::Exit;

/// How alike a suggestion must be, from 0 to 1: a slip of the finger, not just some other word.
const NEAR: f64 = 0.6;

/// Says so; the number is the exit code.
pub fn not_understood(mut error: clap::Error) -> i32 {
    only_near(&mut error);
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let printed = match error.use_stderr() && wants_json(&words) {
        true => screen::write(&json(&error.render().to_string()), false),
        false => error.print(),
    };
    // Help that nobody can read is no help; an error has its exit code all the same.
    match printed.err().and_then(unwritten).filter(|_| !error.use_stderr()) {
        Some(failure) => {
            tell(&failure);
            exit_code(&failure)
        }
        None if error.use_stderr() => Exit::Usage.code(),
        None => Exit::Done.code(),
    }
}

/// Keeps only suggestions that were probably meant.
fn only_near(error: &mut clap::Error) {
    for (typed, suggested) in [
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
    ] {
        let Some(ContextValue::String(typed)) = error.get(typed).cloned() else { continue };
        let is_near = |word: &String| strsim::normalized_damerau_levenshtein(&typed, word) >= NEAR;
        match error.remove(suggested) {
            Some(ContextValue::Strings(words)) => {
                let near: Vec<String> = words.into_iter().filter(is_near).collect();
                if !near.is_empty() {
                    error.insert(suggested, ContextValue::Strings(near));
                }
            }
            Some(ContextValue::String(word)) if !is_near(&word) => {}
            Some(other) => {
                error.insert(suggested, other);
            }
            None => {}
        }
    }
}

/// Whether programs read the answer.
fn wants_json(words: &[String]) -> bool {
    let is_json = |word: &str| matches!(word, "json" | "jsonl");
    let apart =
        words.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && is_json(&pair[1]));
    let joined = words
        .iter()
        .any(|word| word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o")).is_some_and(is_json));
    apart || joined || std::env::var("EPOCHLOG_OUTPUT").is_ok_and(|word| is_json(&word))
}

/// The error as the object that every failure is.
fn json(text: &str) -> String {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (first, rest) = text.trim().split_once("\n\n").unwrap_or((text, ""));
    let failure =
        Failure::new(Code::Usage, words(first.trim().trim_start_matches("error: "))).fix(words(rest));
    screen::json(&failure_json(&failure).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn json_is_wanted_by_any_spelling_of_the_flag() {
        let wants = |line: &str| wants_json(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for yes in ["-o json x", "x --output jsonl", "x --output=json", "-ojson x"] {
            assert!(wants(yes), "{yes}");
        }
        for no in ["x", "-o table x", "x json", "--output yaml"] {
            assert!(!wants(no), "{no}");
        }
    }

    #[test]
    fn only_what_was_probably_meant_is_suggested() {
        let said = |word: &str| {
            let mut error = crate::cli::Cli::command().try_get_matches_from(["epochlog", word]).unwrap_err();
            only_near(&mut error);
            error.render().to_string()
        };
        assert!(said("comit").contains("'commit'"), "{}", said("comit"));
        assert!(said("stauts").contains("'status'"), "{}", said("stauts"));
        assert!(!said("list").contains("digest") && !said("list").contains("similar"), "{}", said("list"));
    }

    #[test]
    fn an_error_of_usage_is_an_object_like_any_other() {
        let error = crate::cli::Cli::command().try_get_matches_from(["epochlog", "ls", "--limit", "x"]);
        let value: serde_json::Value =
            serde_json::from_str(&json(&error.unwrap_err().render().to_string())).unwrap();
        assert_eq!((&value["type"], &value["code"]), (&"error".into(), &"Usage".into()));
        assert!(value["error"].as_str().unwrap().contains("--limit"), "{value}");
    }
}
