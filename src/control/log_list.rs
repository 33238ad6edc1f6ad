//! Lists in lines of the log.

/// The first few items, and the number of the others.
pub(crate) fn list<T: ToString>(items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>) -> String {
    let items = items.into_iter();
    let more = items.len().saturating_sub(LOGGED);
    let mut words: Vec<_> = items.take(LOGGED).map(|item| item.to_string()).collect();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}

/// Most findings of one kind that are logged individually.
pub(crate) const LOGGED: usize = 10;
