//! FORMAT.md is the truth about bytes. Its tables are held against the constants, row by row and both ways: what the code
//! has is read from the source itself, so no list in this test can forget a field.

use super::{
    BLOCK_BYTES, FIRST_FRAME_OFFSET, FORMAT_MAJOR, FORMAT_MINOR, FRAME_HEADER_BYTES, FrameKind, IDENTITY_BYTES,
    IDENTITY_OFFSETS, MAGIC, Mark, SEAL_BODY_BYTES, START_BODY_BYTES, body, frame, identity,
};

pub(crate) const FORMAT: &str = include_str!("../../../FORMAT.md");

/// One field: where it begins, how long it is (`None`: to the end), its name.
type Field = (usize, Option<usize>, String);

/// The rows of the byte table under a heading.
fn table(heading: &str) -> Vec<Field> {
    let section = FORMAT.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    let rows = section.skip_while(|line| *line != "| offset | bytes | field |").skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let bytes = (cells[2] != "rest").then(|| cells[2].parse().expect("a length"));
            let name = cells[3].strip_prefix('`').and_then(|name| name.strip_suffix('`')).expect("a name in backticks");
            (cells[1].parse().expect("an offset"), bytes, name.to_owned())
        })
        .collect()
}

/// The fields that `source` defines in its module `name`; `end` is where the last one ends, if anywhere. A constant `END`
/// is such an end, not a field.
fn constants(source: &str, name: &str, end: Option<usize>) -> Vec<Field> {
    let opening = format!("pub(super) mod {name} {{");
    let lines = source.lines().skip_while(|line| *line != opening).skip(1).take_while(|line| *line != "}");
    let found: Vec<(usize, &str)> = lines
        .map(|line| {
            let constant = line.trim().strip_prefix("pub(crate) const ").and_then(|rest| rest.split_once(": usize = "));
            let (name, value) = constant.unwrap_or_else(|| panic!("not an offset: {line}"));
            (value.trim_end_matches(';').parse().expect("a number"), name)
        })
        .collect();
    let ends = found.iter().skip(1).map(|(offset, _)| Some(*offset)).chain([end]);
    found
        .iter()
        .zip(ends)
        .filter(|((_, name), _)| *name != "END")
        .map(|((offset, name), end)| (*offset, end.map(|end| end - offset), name.to_lowercase()))
        .collect()
}

/// The heading's table and the module's constants are the same fields, and there are some.
pub(crate) fn check(heading: &str, source: &str, name: &str, end: Option<usize>) {
    let documented = table(heading);
    assert!(!documented.is_empty(), "no table under '{heading}'");
    assert_eq!(documented, constants(source, name, end), "the table under '{heading}' against the module {name}");
}

#[test]
fn every_field_stands_where_the_document_says() {
    check("## Identity", include_str!("identity.rs"), "at", Some(IDENTITY_BYTES));
    check("## Frame", include_str!("frame.rs"), "at", None);
    check("### Batch item", include_str!("body.rs"), "item_at", None);
    check("### Start", include_str!("body.rs"), "start_at", None);
    check("### Seal", include_str!("body.rs"), "seal_at", None);
    check("### Mark", include_str!("body.rs"), "mark_at", None);
}

/// The source was read as text; these are the compiled values of what the text must not get wrong.
#[test]
fn lengths_follow_from_the_last_fields() {
    assert_eq!(identity::at::CRC + 4, IDENTITY_BYTES);
    assert_eq!(frame::at::BODY as u64, FRAME_HEADER_BYTES);
    assert_eq!(body::start_at::METADATA as u64, START_BODY_BYTES);
    assert_eq!((body::seal_at::SUCCESSOR_GENERATION + 8) as u64, SEAL_BODY_BYTES);
    assert_eq!(body::item_at::PAYLOAD, body::item_at::CRC + 4);
}

#[test]
fn kinds_are_those_of_the_document() {
    let rows = FORMAT.lines().skip_while(|line| *line != "| code | kind | body |").skip(2);
    let documented: Vec<String> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.split('|').take(3).map(str::trim).collect::<Vec<_>>().join(" "))
        .collect();
    let code: Vec<String> = FrameKind::ALL.iter().map(|kind| format!(" {} `{kind:?}`", *kind as u8)).collect();
    assert_eq!(documented, code);
    let marks = [("synced", Mark::Synced), ("closed", Mark::Closed), ("floor", Mark::Floor { lsn: 1 })];
    for (name, mark) in marks {
        let row = format!("| {} | {name} | {} | ", mark.code(), mark.body_bytes());
        assert!(FORMAT.contains(&row), "{row}");
    }
}

#[test]
fn magic_version_and_places_are_those_of_the_document() {
    assert!(FORMAT.starts_with(&format!("# Format {FORMAT_MAJOR}.{FORMAT_MINOR}\n")));
    assert!(FORMAT.contains("`magic` is `seawall` and a zero byte"));
    assert_eq!(MAGIC, *b"seawall\0");
    assert!(FORMAT.contains(&format!("A **block** is {BLOCK_BYTES} bytes")));
    let [first, second] = IDENTITY_OFFSETS;
    assert!(FORMAT.contains(&format!("Written at offset {first} and again at offset {second}.")));
    assert!(FORMAT.contains(&format!("The first frame stands at {FIRST_FRAME_OFFSET};")));
}
