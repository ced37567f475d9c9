//! The word that was meant.

/// From this likeness on (Jaro and Winkler's, at most 1) a word is worth naming beside one that nobody knows.
pub(super) const LIKE_ENOUGH: f64 = 0.85;

/// The one of `known` that was meant, when one is near.
pub(super) fn nearest_of<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let (likeness, best) = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness >= LIKE_ENOUGH).then_some(best)
}
