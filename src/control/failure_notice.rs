//! One message for a failure that is met again at each look, and a note of readiness while it lasts.

use crate::telemetry::StandingProblem;

/// A failure that lasts until the next success.
#[derive(Debug, Default)]
pub(crate) struct FailureNotice(StandingProblem);

impl FailureNotice {
    /// Notes a failure. The first one since the last success is logged.
    pub(crate) fn note(&self, failure: String) {
        if self.0.reason().is_none() {
            tracing::warn!("{failure}");
        }
        self.0.set(Some(failure));
    }

    /// Notes a success.
    pub(crate) fn clear(&self) {
        self.0.set(None);
    }

    /// The failure, while it lasts.
    pub(crate) fn problem(&self) -> StandingProblem {
        self.0.clone()
    }

    /// Text that readiness mentions.
    pub(crate) fn text(&self) -> Option<String> {
        self.0.reason()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_stands_until_success() {
        let (notice, failure) = (FailureNotice::default(), |text: &str| Some(text.to_owned()));
        assert_eq!(notice.text(), None);
        notice.note("cannot read".to_owned());
        notice.note("cannot read either".to_owned());
        assert_eq!(
            (notice.text(), notice.problem().reason()),
            (failure("cannot read either"), notice.text())
        );
        notice.clear();
        notice.clear();
        assert_eq!((notice.text(), notice.problem().reason()), (None, None));
    }
}
