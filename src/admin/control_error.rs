//! Error answers of the control API.

use axum::http::StatusCode;

/// Error of a query or an order, as a message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// An argument that means nothing or is out of range.
    #[error("{0}")]
    BadArgument(String),
    /// The gateway does not have what is asked for.
    #[error("{0}")]
    Unknown(String),
    /// The state of what is asked for does not permit it.
    #[error("{0}")]
    Conflict(String),
    /// The gateway cannot take it now; a later attempt may succeed.
    #[error("{0}")]
    Unavailable(String),
}

impl ControlError {
    /// Status of the HTTP response.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadArgument(_) => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status() {
        let kinds = [
            ControlError::BadArgument,
            ControlError::Unknown,
            ControlError::Conflict,
            ControlError::Unavailable,
        ];
        for (kind, status) in kinds.into_iter().zip([400, 404, 409, 503]) {
            let error: ControlError = kind("why".to_owned());
            assert_eq!((error.status().as_u16(), error.to_string().as_str()), (status, "why"));
        }
    }
}
