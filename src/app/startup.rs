//! Inputs of a start.

use crate::control::LastGoodStore;
use crate::telemetry::FlowTraces;
use std::path::PathBuf;

/// Everything that a start needs beside the configuration itself.
#[derive(Debug)]
pub struct Startup {
    /// The main configuration file.
    pub path: PathBuf,
    /// The configurations to start with if the files are of no use.
    pub last_good: LastGoodStore,
    /// Traces that operators start, of which `tracing` knows already.
    pub traces: FlowTraces,
}
