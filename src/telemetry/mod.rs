//! The metric catalogue and the flow log.
