//! `mode` and `monitor_until` of a tenant.

use super::catalogue::tenant;
use super::diagnostic::Diagnostics;
use super::table::TomlTable;
use crate::policy::TenantMode;
use jiff::{SignedDuration, Timestamp};

/// Time before a tenant begins to enforce at which `check` starts to warn.
const NEAR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Reads the tenant's mode, and warns where it has no effect or soon will have none.
pub(super) fn read(table: &TomlTable<'_>, now: Timestamp, out: &mut Diagnostics) -> TenantMode {
    let mode = table.read(&tenant::MODE, out).unwrap_or_default();
    let Some(until) = table.read(&tenant::MONITOR_UNTIL, out) else { return mode };
    let at = table.place_of(&tenant::MONITOR_UNTIL);
    match mode {
        TenantMode::Enforce => {
            let help = "remove it, or set `mode = \"monitor\"`";
            out.warning(at, "`monitor_until` changes nothing: the tenant enforces", help);
        }
        TenantMode::Monitor { .. } if until <= now => {
            let help = "set `mode = \"enforce\"` and remove it, or set a later one";
            out.warning(at, format!("`monitor_until`: {until} is past, and the tenant enforces"), help);
        }
        TenantMode::Monitor { .. } if until <= now + NEAR => {
            let days = until.duration_since(now).as_hours() / 24;
            let left = match days {
                0 => "less than a day".to_owned(),
                1 => "a day".to_owned(),
                days => format!("{days} days"),
            };
            let help = "look at `egret_would_deny_total` before, or set a later one";
            out.warning(at, format!("`monitor_until`: the tenant enforces in {left}"), help);
        }
        TenantMode::Monitor { .. } => {}
    }
    if mode == TenantMode::Enforce { mode } else { TenantMode::Monitor { until: Some(until) } }
}
