//! The report for people, and for machines.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::{Decision, Report};

impl Decision {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Refuse => "refuse",
            Self::Unknown => "unknown",
        }
    }
}

impl Report {
    /// The report as one JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| {
                json!({
                    "check": step.check,
                    "outcome": step.outcome.name(),
                    "expected": step.expected,
                    "found": step.found,
                })
            })
            .collect();
        let fields = |list: &[(String, String)]| -> Vec<Value> {
            list.iter()
                .map(|(name, value)| json!({ "name": name, "value": value }))
                .collect()
        };
        let document = json!({
            "decision": self.decision.name(),
            "status": self.status,
            "code": self.code,
            "diagnosis": self.diagnosis,
            "method": self.method,
            "path": self.path,
            "steps": steps,
            "upstream_headers": fields(&self.upstream),
            "answer_headers": fields(&self.answer),
        });
        format!("{document:#}")
    }

    fn write_text(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "{} {}", self.method, self.path)?;
        writeln!(text)?;
        let width = self
            .steps
            .iter()
            .map(|step| step.check.chars().count())
            .filter(|width| *width <= 32)
            .max()
            .unwrap_or_default();
        for step in &self.steps {
            let outcome = step.outcome.name();
            write!(text, "{outcome:<8}{:<width$}", step.check)?;
            match (&step.found, &step.expected) {
                (Some(found), Some(expected)) => {
                    write!(text, "  {found}  [expected: {expected}]")?;
                }
                (Some(found), None) => write!(text, "  {found}")?,
                (None, Some(expected)) => write!(text, "  [expected: {expected}]")?,
                (None, None) => {}
            }
            // A name without anything behind it leaves its column empty.
            while text.ends_with(' ') {
                text.pop();
            }
            writeln!(text)?;
        }
        writeln!(text)?;
        match (self.status, self.code) {
            (None, _) => writeln!(text, "answer: that of the upstream, which gets:")?,
            (Some(status), None) => writeln!(text, "answer: {status}")?,
            (Some(status), Some(code)) => writeln!(text, "answer: {status} {code}")?,
        }
        for (name, value) in self.upstream.iter().chain(&self.answer) {
            writeln!(text, "  {name}: {value}")?;
        }
        writeln!(text)?;
        writeln!(text, "{}: {}", self.decision.name(), self.diagnosis)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write_text(&mut text)?;
        f.write_str(text.trim_end())
    }
}
