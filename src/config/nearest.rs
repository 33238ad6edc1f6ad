//! Suggestions for mistyped words.

use strsim::damerau_levenshtein;

/// Longest word that is compared, in bytes: the comparison takes time by the product of both lengths.
const LONGEST: usize = 64;

/// Returns the nearest of the words, if it is near enough to suggest: at most one edit per three characters.
pub(super) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if typed.len() > LONGEST {
        return None;
    }
    let (distance, word) = words.map(|word| (damerau_levenshtein(typed, word), word)).min()?;
    (distance <= word.chars().count().max(3) / 3).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_words_are_suggested() {
        let words = ["hosts", "hosts_file", "cidrs", "ports", "destination"];
        for (typed, meant) in [
            ("destnation", Some("destination")),
            ("host", Some("hosts")),
            ("hostsfile", Some("hosts_file")),
            ("cdirs", Some("cidrs")),
            ("port", Some("ports")),
            ("quota", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, words.into_iter()), meant, "{typed}");
        }
        assert_eq!(nearest(&"x".repeat(1000), words.into_iter()), None);
    }
}
