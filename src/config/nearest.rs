//! Suggestions for mistyped words.

/// Returns the nearest of the words, if it is near enough to suggest: at most one edit per three characters.
pub(super) fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let longest_worth_a_look = 64;
    if typed.len() > longest_worth_a_look {
        return None;
    }
    let (distance, word) = words.map(|word| (distance(typed, word), word)).min()?;
    (distance <= word.chars().count().max(3) / 3).then_some(word)
}

/// Edit distance (insert, delete, replace, swap of neighbours) between two words.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, f) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, t) in to.iter().enumerate() {
            let replaced = last[j] + usize::from(f != t);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *f == to[j - 1] && from[i - 1] == *t {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
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
