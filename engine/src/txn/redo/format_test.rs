//! FORMAT.md against the code: fields at fixed offsets row by row, as for the log's own bytes; ops by reading the samples with
//! nothing but the document's table.

use super::{
    MAX_KEY_BYTES, MAX_LOGS, MAX_NAME_BYTES, MAX_PART_BYTES, MAX_PIECE_BYTES, MAX_VALUE_BYTES, PART_HEAD_BYTES,
    RecordKind, VOID,
    ops::{Code, Shape},
    tests::{OPS, unhex},
};
use crate::{
    codec::{
        MAX_BODY_BYTES,
        format_test::{FORMAT, check},
    },
    txn::ids::TableId,
};

/// The cells of the rows under this heading of a table.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = FORMAT.lines().skip_while(|line| *line != heading).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[test]
fn every_field_stands_where_the_document_says() {
    let source = include_str!("../redo.rs");
    check("### Part record", source, "part_at", None);
    check("### Lob record", source, "lob_at", None);
    check("### Epoch record", source, "epoch_at", Some(super::epoch_at::END));
    check("### Checkpoint record", source, "checkpoint_at", Some(super::checkpoint_at::END));
    check("### Mark record", source, "mark_at", Some(super::mark_at::END));
    assert_eq!(super::part_at::BODY, PART_HEAD_BYTES);
}

#[test]
fn kinds_are_those_of_the_document() {
    let documented: Vec<String> = rows("| kind | record | states |").iter().map(|row| row[..2].join(" ")).collect();
    let code: Vec<String> = RecordKind::ALL.iter().map(|kind| format!("{} `{kind:?}`", *kind as u8)).collect();
    assert_eq!(documented, code);
    assert!(FORMAT.contains(&format!("`flags`: {VOID} if the part is void")));
    for (name, shape) in [
        ("rows", Shape::Rows),
        ("rows in memory", Shape::Memory),
        ("an index", Shape::Index { of: TableId(1), derive: "d" }),
    ] {
        assert!(FORMAT.contains(&format!("{} {name}", shape.code())), "{name}");
    }
}

#[test]
fn limits_are_those_of_the_document() {
    let expected = [
        ("logs of a store", u64::from(MAX_LOGS)),
        ("bytes of a key", MAX_KEY_BYTES),
        ("bytes of a value", MAX_VALUE_BYTES),
        ("bytes of a piece", MAX_PIECE_BYTES),
        ("bytes of a name", MAX_NAME_BYTES),
        ("bytes of a part", MAX_PART_BYTES),
    ];
    let expected: Vec<Vec<String>> =
        expected.into_iter().map(|(what, limit)| vec![what.to_owned(), limit.to_string()]).collect();
    assert_eq!(rows("| at most | |"), expected);
    const { assert!(MAX_PART_BYTES <= MAX_BODY_BYTES, "a part is one record of a log") };
}

/// Reads the sample of each op by the document's row alone: every field must have the sample's value, and nothing may be left.
#[test]
fn ops_are_those_of_the_document() {
    let documented = rows("| code | op | fields |");
    let code: Vec<String> = Code::ALL.iter().map(|code| format!("{} `{code:?}`", *code as u8)).collect();
    assert_eq!(documented.iter().map(|row| row[..2].join(" ")).collect::<Vec<_>>(), code);
    for (_, hex, expected) in OPS {
        let bytes = unhex(hex);
        let row = &documented[usize::from(bytes[0]) - 1];
        let mut rest = &bytes[1..];
        let mut found: Vec<(&str, Vec<u8>)> = Vec::new();
        for field in row[2].split(", ") {
            let (name, form) = field.trim_start_matches('`').split_once('`').expect("a name in backticks");
            let length = match form.trim() {
                "u8" => 1,
                "u32" => 4,
                "u64" => 8,
                "varint" => rest.iter().position(|byte| *byte < 0x80).expect("an end") + 1,
                "" => {
                    let length = found.iter().find(|(before, _)| *before == format!("{name}_bytes"));
                    usize::from(length.expect("the length stands before").1[0])
                }
                other => panic!("{other} is no form of a field"),
            };
            found.push((name, rest[..length].to_vec()));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "{row:?} leaves {rest:x?} of {hex}");
        let found: Vec<String> =
            found.iter().map(|(name, bytes)| format!("{name}={}", super::tests::hex(bytes))).collect();
        assert_eq!(found.join(" "), *expected);
    }
}
