//! Writes every measurement as a line of JSON.

use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

pub struct Journal(Option<BufWriter<File>>);

impl Journal {
    pub fn new(path: Option<&Path>) -> Result<Self, String> {
        let create = |path: &Path| File::create(path).map_err(|e| format!("{}: {e}", path.display()));
        Ok(Self(path.map(create).transpose()?.map(BufWriter::new)))
    }

    /// Writes one line: the kind of measurement and its fields.
    pub fn note(&mut self, what: &str, fields: &impl Serialize) {
        let Some(file) = &mut self.0 else { return };
        let mut line = json!({ "what": what });
        if let (Value::Object(line), Ok(Value::Object(fields))) = (&mut line, serde_json::to_value(fields)) {
            line.extend(fields);
        }
        writeln!(file, "{line}").and_then(|()| file.flush()).expect("the measurements can be written");
    }
}
