//! Loading: from files to a configuration.

use super::catalogue::{flow_log, gateway, main_file, policy_file};
use super::comparisons::Comparisons;
use super::dead_rules::PoolFamilies;
use super::diagnostic::{ConfigReport, Diagnostic, Diagnostics, ReadFile, SourcePosition};
use super::file_stamp::FileStamps;
use super::hosts_file::HostsFiles;
use super::policy_folder::POLICY_FOLDER;
use super::rule_reach::steered_ports;
use super::schema::ConfigKey;
use super::settings::{Config, FlowLogTarget, TenantLimits};
use super::shares::TenantsOfPools;
use super::source::SourceFile;
use super::table::TomlTable;
use super::tenants::{PoolDraft, TenantDraft};
use super::texts::Texts;
use super::value_types::{NestedType, ValueType};
use super::{cross_checks, dead_rules, ech_names, other_protocols, plain_http, sections, shares};
use crate::policy::EchPolicy;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::DeTable;

/// A successfully loaded configuration.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// Probable mistakes.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read.
    pub files: Vec<ReadFile>,
    /// Fingerprints of the files before they were read.
    pub read: FileStamps,
    /// Contents of the files.
    pub texts: Texts,
}

/// Reads a configuration: the main file, `policy.d/*.toml` beside it in the order of their names, and the hosts files
/// of rules. Relative paths start at the main file's folder.
pub fn load(path: &Path) -> Result<LoadedConfig, ConfigReport> {
    load_as(path, &file_name(path))
}

/// Reads a configuration whose main file will have the given name, which labels rules that have no name of their own.
pub fn load_as(path: &Path, name: &str) -> Result<LoadedConfig, ConfigReport> {
    load_by(path, name, Diagnostics::new(path))
}

/// Reads a configuration from saved texts of its files, without the disk.
pub fn load_texts(path: &Path, texts: Texts) -> Result<LoadedConfig, ConfigReport> {
    load_by(path, &file_name(path), Diagnostics::of_texts(texts))
}

fn load_by(path: &Path, name: &str, mut out: Diagnostics) -> Result<LoadedConfig, ConfigReport> {
    let config = read(path, name, &mut out);
    let errors = out.errors();
    let (files, texts) = out.files_read();
    let (diagnostics, read) = out.finish();
    match config {
        Some(config) if errors == 0 => Ok(LoadedConfig { config, warnings: diagnostics, files, read, texts }),
        _ => Err(ConfigReport { diagnostics, read }),
    }
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

/// Returns the control socket set in a main file; `None` if it is off.
pub fn control_socket(path: &Path) -> Result<Option<PathBuf>, ConfigReport> {
    one_key(path, &main_file::GATEWAY, &gateway::ADMIN)
}

/// Returns the place of the flow log set in a main file.
pub fn flow_log_target(path: &Path) -> Result<FlowLogTarget, ConfigReport> {
    one_key(path, &main_file::FLOW_LOG, &flow_log::PATH)
}

/// Reads a key of a main file. Reads no other file and ignores other errors, because operators may ask about the running
/// gateway while they repair a configuration.
fn one_key<K: ValueType>(
    path: &Path,
    section: &'static ConfigKey<NestedType>,
    key: &'static ConfigKey<K>,
) -> Result<K::Value, ConfigReport> {
    let (mut out, mut elsewhere) = (Diagnostics::new(path), Diagnostics::new(path));
    let value = SourceFile::open(path, "", &mut out).and_then(|source| {
        let text = source.recover();
        let table = TomlTable::open(&source, &main_file::SECTION, text.get_ref(), 0, &mut elsewhere);
        table.section(section, &mut elsewhere).read(key, &mut out)
    });
    match value {
        Some(value) if out.errors() == 0 => Ok(value),
        _ => {
            let (diagnostics, read) = out.finish();
            Err(ConfigReport { diagnostics, read })
        }
    }
}

/// Contents of the files, as far as they can be read.
struct Draft {
    files: HostsFiles,
    pools: Vec<PoolDraft>,
    /// True if there are pools that could not be read.
    misses_pools: bool,
    tenants: Vec<TenantDraft>,
}

/// Reads everything. `None` only after an error, which is reported.
fn read(path: &Path, name: &str, out: &mut Diagnostics) -> Option<Config> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut draft =
        Draft { files: HostsFiles::new(folder), pools: Vec::new(), misses_pools: false, tenants: Vec::new() };
    let source = SourceFile::open(path, name, out)?;
    let text = source.parse(out);
    let main = text.as_ref().and_then(|text| {
        let table = TomlTable::open(&source, &main_file::SECTION, text.get_ref(), 0, out);
        draft.read_pools(&table, &main_file::POOL, out);
        draft.read_tenants(&table.sections(&main_file::TENANT, out), out);
        sections::read(&table, out)
    });
    let mut readable = text.is_some();
    let policies = out.policy_files(folder).unwrap_or_else(|error| {
        let folder = folder.join(POLICY_FOLDER);
        out.error(source.whole(), format!("{} cannot be listed: {error}", folder.display()), "");
        Vec::new()
    });
    for path in policies {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        readable &= draft.read_policy_file(&path, &format!("{POLICY_FOLDER}/{name}"), out).is_some();
    }
    out.warn_of_ignored_files(folder);
    // If a file could not be read, its contents must not be reported as missing.
    if readable { finish(main?, draft, source.whole(), out) } else { None }
}

fn finish(
    (mut config, ech): (Config, EchPolicy),
    draft: Draft,
    whole_file: SourcePosition,
    out: &mut Diagnostics,
) -> Option<Config> {
    config.pools = draft.pools.iter().map(|pool| pool.spec.clone()).collect();
    cross_checks::check(&draft.pools, &draft.tenants, &config.reserved_ports(), out);
    if !draft.misses_pools {
        cross_checks::known_pools(&draft.pools, &draft.tenants, out);
    }
    // Warnings of probable mistakes matter only once there are no errors.
    if out.errors() > 0 {
        return None;
    }
    cross_checks::unused_pools(&draft.pools, &draft.tenants, out);
    if draft.tenants.is_empty() {
        out.warning(whole_file, "there is no tenant: every flow is denied", "add a [[tenant]]");
    }
    dead_rules::unheard_clients(config.gateway.listen, &draft.tenants, whole_file, out);
    let of_pools = TenantsOfPools::new(&draft.tenants);
    for pool in &mut config.pools {
        pool.shares = shares::of_pool(pool, &of_pools);
    }
    let pools: HashMap<_, _> =
        config.pools.iter().map(|pool| (&*pool.name, PoolFamilies::of(pool))).collect();
    let steered = steered_ports(&config.steering.ports);
    let comparisons = Comparisons::default();
    for mut tenant in draft.tenants {
        tenant.spec.ech = tenant.ech.unwrap_or(ech);
        ech_names::check(&tenant, out);
        dead_rules::check(&tenant, pools.get(&*tenant.spec.pool), &steered, &comparisons, out);
        other_protocols::check(&tenant, &steered, &comparisons, out);
        plain_http::check(&tenant, &steered, out);
        if tenant.limits != TenantLimits::default() {
            config.limits.insert(Arc::clone(&tenant.spec.name), tenant.limits);
        }
        config.tenants.push(tenant.spec);
    }
    if comparisons.were_too_few() {
        let message = "too many rules overlap to compare all of them: more of them may never match";
        out.warning(whole_file, message, "");
    }
    Some(config)
}

impl Draft {
    /// Reads one policy file; `None` if it is unreadable or not TOML, which is reported.
    fn read_policy_file(&mut self, path: &Path, label: &str, out: &mut Diagnostics) -> Option<()> {
        let source = SourceFile::open(path, label, out)?;
        let text: Spanned<DeTable<'_>> = source.parse(out)?;
        let table = TomlTable::open(&source, &policy_file::SECTION, text.get_ref(), 0, out);
        self.read_pools(&table, &policy_file::POOL, out);
        self.read_tenants(&table.sections(&policy_file::TENANT, out), out);
        Some(())
    }

    fn read_pools(
        &mut self,
        file: &TomlTable<'_>,
        key: &'static ConfigKey<NestedType>,
        out: &mut Diagnostics,
    ) {
        self.misses_pools |= file.misses_some(key);
        let tables = file.sections(key, out);
        self.pools.extend(tables.iter().filter_map(|table| PoolDraft::read(table, out)));
    }

    fn read_tenants(&mut self, tables: &[TomlTable<'_>], out: &mut Diagnostics) {
        for table in tables {
            if out.has_room() {
                self.tenants.push(TenantDraft::read(table, &mut self.files, out));
            }
        }
    }
}
