//! The metrics listener: health, readiness, metrics.
