//! Port usage as text.

use crate::admin::{DestinationPorts, PortsReport, SourcePorts};
use std::fmt::Write as _;
use std::iter;

/// Width of a bar in cells.
const BAR: u32 = 20;
/// Most tenants and clients named for each destination.
const NAMED: usize = 3;
/// Column of a destination's details, behind bar and percentage.
const INDENT: usize = 31;

/// Most rows to show.
pub(super) struct Extent {
    sources: usize,
    hot: usize,
}

impl Extent {
    /// For output in full.
    pub(super) const WHOLE: Self = Self { sources: 1000, hot: 100 };
    /// For one screen.
    pub(super) const SCREEN: Self = Self { sources: 12, hot: 5 };
}

/// Renders two tables: source addresses, and destinations. If there are too many rows, the most used are shown.
/// `is_part`: the report has only the rows that were asked for.
pub(super) fn render(report: &PortsReport, extent: &Extent, is_part: bool) -> String {
    let mut text = String::new();
    sources(&mut text, &report.sources, extent.sources);
    text.push('\n');
    if report.hot.is_empty() {
        let none = if is_part { "No such destination" } else { "No destination" };
        text.push_str(none);
        text.push_str(" is hot: none takes more than 1 % of a source address's ports and, in small pools, six ports or a quarter (looked at once a second).\n");
        return text;
    }
    text.push_str("HOTTEST DESTINATIONS\n");
    report.hot.iter().take(extent.hot).for_each(|row| destination(&mut text, row));
    more(&mut text, report.hot.len(), extent.hot);
    text
}

fn sources(text: &mut String, rows: &[SourcePorts], most: usize) {
    let mut order: Vec<_> = (0..rows.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(per_mille(rows[n].busiest, rows[n].capacity)));
    order.truncate(most);
    order.sort_unstable();
    let names: Vec<_> = order.iter().map(|&n| (&rows[n], name(&rows[n]))).collect();
    let width =
        |title: &str, cells: &mut dyn Iterator<Item = usize>| cells.max().unwrap_or(0).max(title.len());
    let pool = width("POOL", &mut names.iter().map(|(row, _)| row.pool.len()));
    let source = width("SOURCE", &mut names.iter().map(|(_, name)| name.len()));
    let _ = writeln!(
        text,
        "{:pool$}  {:source$}  {:9}  {:>8}  {:>8}  {:>8}  {:>5}  AT THE HOTTEST DESTINATION",
        "POOL", "SOURCE", "STATE", "CAPACITY", "LIVE", "HELD", "FREE"
    );
    for (row, name) in &names {
        let gives = row.state == "available";
        let free = if gives { row.capacity.saturating_sub(row.busiest).to_string() } else { "-".to_owned() };
        let _ = writeln!(
            text,
            "{:pool$}  {name:source$}  {:9}  {:>8}  {:>8}  {:>8}  {free:>5}  {}",
            row.pool,
            row.state,
            row.capacity,
            row.live,
            row.held,
            bar(row.busiest, row.capacity)
        );
    }
    more(text, rows.len(), most);
}

fn name(row: &SourcePorts) -> String {
    row.public.map_or_else(|| row.source.clone(), |public| format!("{} ({public})", row.source))
}

fn destination(text: &mut String, row: &DestinationPorts) {
    let public = row.public.map(|public| format!(" ({public})")).unwrap_or_default();
    let hostname = row.hostname.as_ref().map(|name| format!("  {name}")).unwrap_or_default();
    let bar = bar(row.in_use(), row.capacity);
    let _ = writeln!(text, "{bar}  {}{public} → {}{hostname}", row.source, row.destination);
    let _ = writeln!(
        text,
        "{:INDENT$}{} of {} in use, {} of them held; {}",
        "",
        row.in_use(),
        row.capacity,
        row.held,
        outlook(row)
    );
    let tenants = row.tenants.iter().map(|holder| format!("{} {}", holder.tenant, holder.ports));
    let clients =
        row.clients.iter().map(|holder| format!("{} ({}) {}", holder.client, holder.tenant, holder.ports));
    list(text, "tenants", tenants);
    list(text, "clients", clients);
}

fn list(text: &mut String, title: &str, names: impl ExactSizeIterator<Item = String>) {
    if names.len() == 0 {
        return;
    }
    let rest = (names.len() > NAMED).then(|| "…".to_owned());
    let names: Vec<_> = names.take(NAMED).chain(rest).collect();
    let _ = writeln!(text, "{:INDENT$}{title}: {}", "", names.join(", "));
}

fn outlook(row: &DestinationPorts) -> String {
    if row.in_use() >= row.capacity {
        return "exhausted".to_owned();
    }
    match (row.growth_per_second, row.exhausted_in_seconds) {
        (None, _) => "not hot enough to be watched".to_owned(),
        (Some(growth), Some(left)) => format!("{growth:+.1} a second, exhausted in {}", span(left)),
        (Some(growth), None) if growth.abs() < 0.05 => "steady".to_owned(),
        (Some(growth), None) => format!("{growth:+.1} a second"),
    }
}

/// Formats a time span in its natural unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A bar and a percentage. Neither is empty or full unless the ports are.
fn bar(used: u16, capacity: u16) -> String {
    let per_mille = per_mille(used, capacity);
    let cells = (per_mille * BAR / 1000).max(u32::from(used > 0));
    let cells = (0..BAR).map(|cell| if cell < cells { '█' } else { '░' });
    let percent = format!("{}.{} %", per_mille / 10, per_mille % 10);
    cells.chain(iter::once(' ')).collect::<String>() + &format!("{percent:>8}")
}

/// Rounded down; a capacity of 0 counts as full.
fn per_mille(used: u16, capacity: u16) -> u32 {
    (u32::from(used) * 1000).checked_div(capacity.into()).unwrap_or(1000).min(1000)
}

fn more(text: &mut String, all: usize, shown: usize) {
    if let Some(left) = all.checked_sub(shown).filter(|&left| left > 0) {
        let _ = writeln!(text, "… and {left} less used; choose by --pool, --tenant or --destination");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{ClientPorts, TenantPorts};

    fn source(address: &str, busiest: u16) -> SourcePorts {
        SourcePorts {
            pool: "acme".into(),
            source: address.into(),
            public: None,
            state: "available".into(),
            capacity: 64_510,
            live: 70_000,
            held: 1200,
            busiest,
        }
    }

    fn hot() -> DestinationPorts {
        let holder = |client: &str, tenant: &str, ports| ClientPorts {
            client: client.parse().unwrap(),
            tenant: tenant.into(),
            ports,
        };
        DestinationPorts {
            pool: "acme".into(),
            source: "203.0.113.16".parse().unwrap(),
            public: Some("192.0.2.9".parse().unwrap()),
            destination: "198.51.100.9:443".parse().unwrap(),
            hostname: Some("api.example.com".into()),
            live: 51_204,
            held: 1200,
            capacity: 64_510,
            growth_per_second: Some(26.04),
            exhausted_in_seconds: Some(464),
            tenants: vec![
                TenantPorts { tenant: "acme".into(), ports: 51_000 },
                TenantPorts { tenant: "beta".into(), ports: 204 },
            ],
            clients: vec![
                holder("10.0.1.7", "acme", 40_000),
                holder("10.0.1.8", "acme", 11_000),
                holder("10.0.2.1", "beta", 200),
                holder("10.0.2.2", "beta", 4),
            ],
        }
    }

    #[test]
    fn table_shows_forecast_exhaustion() {
        let mut mapped = source("10.9.0.4", 0);
        mapped.public = Some("192.0.2.4".parse().unwrap());
        mapped.state = "draining".into();
        (mapped.live, mapped.held) = (0, 0);
        let report = PortsReport { sources: vec![source("203.0.113.16", 52_404), mapped], hot: vec![hot()] };
        let wanted = "\
POOL  SOURCE                STATE      CAPACITY      LIVE      HELD   FREE  AT THE HOTTEST DESTINATION
acme  203.0.113.16          available     64510     70000      1200  12106  ████████████████░░░░   81.2 %
acme  10.9.0.4 (192.0.2.4)  draining      64510         0         0      -  ░░░░░░░░░░░░░░░░░░░░    0.0 %

HOTTEST DESTINATIONS
████████████████░░░░   81.2 %  203.0.113.16 (192.0.2.9) → 198.51.100.9:443  api.example.com
                               52404 of 64510 in use, 1200 of them held; +26.0 a second, exhausted in 7 min
                               tenants: acme 51000, beta 204
                               clients: 10.0.1.7 (acme) 40000, 10.0.1.8 (acme) 11000, 10.0.2.1 (beta) 200, …
";
        assert_eq!(render(&report, &Extent::WHOLE, false), wanted);
    }

    #[test]
    fn bar_ends_only_at_empty_or_full() {
        for (used, capacity, shown) in [
            (0, 16, "░░░░░░░░░░░░░░░░░░░░    0.0 %"),
            (1, 60_000, "█░░░░░░░░░░░░░░░░░░░    0.0 %"),
            (59_999, 60_000, "███████████████████░   99.9 %"),
            (16, 16, "████████████████████  100.0 %"),
            (0, 0, "████████████████████  100.0 %"),
        ] {
            assert_eq!(bar(used, capacity), shown);
        }
    }

    #[test]
    fn outlook_is_described() {
        let said = |growth, left, live| {
            let row = DestinationPorts {
                growth_per_second: growth,
                exhausted_in_seconds: left,
                live,
                held: 0,
                ..hot()
            };
            outlook(&row)
        };
        assert_eq!(said(Some(0.0), None, 1), "steady");
        assert_eq!(said(Some(-3.25), None, 1), "-3.2 a second");
        assert_eq!(said(Some(0.01), Some(500_000), 1), "+0.0 a second, exhausted in 5 days");
        assert_eq!(said(Some(9.0), Some(119), 1), "+9.0 a second, exhausted in 119 s");
        assert_eq!(said(None, None, 1), "not hot enough to be watched");
        assert_eq!(said(Some(9.0), Some(0), 64_510), "exhausted");
    }

    #[test]
    fn limited_table_shows_most_used() {
        let sources = vec![source("a", 3), source("b", 60_000), source("c", 1000), source("d", 50_000)];
        let report = PortsReport { sources, hot: vec![hot(), hot()] };
        let text = render(&report, &Extent { sources: 2, hot: 1 }, true);
        let shown: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(shown[1..3], ["b", "d"], "{text}");
        assert!(text.contains("… and 2 less used") && text.contains("… and 1 less used"), "{text}");
    }

    #[test]
    fn quiet_gateway_has_its_message() {
        let report = PortsReport { sources: vec![source("a", 0)], hot: Vec::new() };
        let text = render(&report, &Extent::WHOLE, false);
        assert!(text.ends_with("No destination is hot: none takes more than 1 % of a source address's ports and, in small pools, six ports or a quarter (looked at once a second).\n"));
        assert!(render(&report, &Extent::WHOLE, true).contains("\nNo such destination is hot: "));
    }
}
