//! The option that names the configuration.

use std::path::PathBuf;

/// The configuration, unless another is named.
pub(super) const DEFAULT_CONFIG: &str = "/etc/egret/egret.toml";

#[derive(Debug, clap::Args)]
pub(super) struct ConfigPath {
    /// The configuration; policy.d/*.toml beside it belongs to it
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "EGRET_CONFIG")]
    pub(super) config: PathBuf,
}
