//! Compares the generated documents with their generators. `EGRET_BLESS=1 cargo test --test integration generated_docs` writes them
//! anew.

use std::path::Path;

type Generator = fn() -> String;

const DOCUMENTS: [(&str, Generator); 4] = [
    ("docs/commands.md", egret::cli::reference),
    ("docs/config.md", egret::config::reference),
    ("docs/metrics.md", egret::telemetry::catalogue::reference),
    ("docs/outcomes.md", egret::outcome::reference),
];

#[test]
fn generated_documents_match_the_code() {
    let bless = std::env::var_os("EGRET_BLESS").is_some_and(|value| value == "1");
    let mut stale = Vec::new();
    for (name, generate) in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let fresh = generate();
        if bless {
            std::fs::write(&path, fresh).expect("the document can be written");
        } else if std::fs::read_to_string(&path).ok().as_deref() != Some(&*fresh) {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} differ from the code; run `EGRET_BLESS=1 cargo test --test integration generated_docs`"
    );
}
