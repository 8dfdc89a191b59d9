//! Looks at all of a store's files, and says what is wrong with them and where. Changes no byte.
//! `cargo run -p engine --example check-store -- DIR [--json]`
//!
//! Exit code 0: nothing is wrong, or only what a crash leaves and the next open puts right. 1: damage, or an open would refuse the store.
//! 2: it can't be looked at.

use std::process::ExitCode;

use engine::txn::{CheckReport, blocking::Store, options::Options};

const USAGE: &str = "usage: check-store DIR [--json]";

fn main() -> ExitCode {
    let (flags, paths): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let ([path], true) = (&paths[..], flags.iter().all(|flag| flag == "--json")) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let report = match Store::check(path, Options::default()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    if flags.is_empty() {
        tell(&report)
    } else {
        println!("{}", json(&report))
    }
    ExitCode::from(u8::from(!report.is_sound()))
}

fn tell(report: &CheckReport) {
    for finding in &report.findings {
        println!("{finding}");
    }
    if let Some(refused) = &report.refused {
        println!("an open would refuse it: {refused}");
    }
    for file in &report.leftovers {
        println!("{file}: left over; the next open removes it");
    }
    if let Some(recovery) = &report.recovery {
        println!("an open would show all up to commit {}, {} of them from the logs", recovery.end, recovery.replayed);
    }
    println!("{} pages, {} rows, {} records of logs", report.pages, report.rows, report.records);
    println!(
        "{}",
        match (report.is_clean(), report.is_sound()) {
            (true, _) => "nothing is wrong",
            (false, true) => "nothing is wrong but what a crash leaves",
            (false, false) => "DAMAGED",
        }
    );
}

/// An object of one line. Texts are quoted by `{:?}`, which is JSON's way for what they are made of.
fn json(report: &CheckReport) -> String {
    let finding = |finding: &engine::txn::Finding| {
        let (file, offset, what) = (&finding.file, finding.offset, finding.what.to_string());
        format!(r#"{{"file":{file:?},"offset":{offset},"what":{what:?},"crash":{}}}"#, finding.crash)
    };
    let findings: Vec<_> = report.findings.iter().map(finding).collect();
    let refused = report.refused.as_ref().map_or("null".to_owned(), |refused| format!("{:?}", refused.to_string()));
    format!(
        r#"{{"clean":{},"sound":{},"refused":{refused},"pages":{},"rows":{},"records":{},"leftovers":{:?},"findings":[{}]}}"#,
        report.is_clean(),
        report.is_sound(),
        report.pages,
        report.rows,
        report.records,
        report.leftovers,
        findings.join(","),
    )
}
