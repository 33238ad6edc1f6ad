//! One message for a failure that is met again at each look.

/// One message for a run of failures. The next success lets the next failure be reported.
#[derive(Debug, Default)]
pub(crate) struct FailureNotice {
    is_given: bool,
}

impl FailureNotice {
    /// True at the first failure since the last success.
    pub(crate) fn is_due(&mut self) -> bool {
        !std::mem::replace(&mut self.is_given, true)
    }

    /// Notes a success.
    pub(crate) fn clear(&mut self) {
        self.is_given = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_reported_once_until_success() {
        let mut notice = FailureNotice::default();
        assert!(notice.is_due() && !notice.is_due() && !notice.is_due());
        notice.clear();
        notice.clear();
        assert!(notice.is_due() && !notice.is_due());
    }
}
