//! Rules that require a certificate on the port of plain HTTP.

use super::findings_below;

const RULE: &str = "[[tenant.allow]]\nhosts = [\"api.example.org\"]\n";

#[test]
fn certificates_on_port_80_are_warned() {
    for (text, told) in [
        (format!("{RULE}certificate = \"require\"\nports = [80, 443]\n"), true),
        (format!("{RULE}certificate = \"require\"\nports = [\"1-1023\"]\n"), true),
        (format!("{RULE}certificate = \"require\"\nports = [443]\n"), false),
        (format!("{RULE}certificate = \"require\"\n"), false),
        (format!("{RULE}certificate = \"observe\"\nports = [80]\n"), false),
        (format!("{RULE}ports = [80]\n"), false),
    ] {
        let found = findings_below(&text);
        let said = |line: &String| line.contains("plain HTTP") && line.contains("warning");
        assert_eq!(found.iter().any(said), told, "{text}{found:#?}");
    }
}
