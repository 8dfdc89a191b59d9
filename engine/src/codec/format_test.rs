//! FORMAT.md is the truth about bytes; the constants are held against it, row by row, both ways.

use super::{FORMAT_MAJOR, FORMAT_MINOR, FrameKind, IDENTITY_BYTES, MAGIC, body, frame, identity};

const FORMAT: &str = include_str!("../../../FORMAT.md");

/// The rows of the table whose third column is headed `what field`: offset and name.
fn table(what: &str) -> Vec<(usize, String)> {
    let header = format!("| offset | bytes | {what} field |");
    let rows = FORMAT.lines().skip_while(|line| *line != header).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].parse().expect("an offset"), cells[3].trim_matches('`').to_owned())
    })
    .collect()
}

macro_rules! holds {
    ($what:literal, $module:path, $($name:ident)*) => {{
        use $module as at;
        let code = vec![$((at::$name, stringify!($name).to_lowercase())),*];
        assert_eq!(table($what), code, "the {} table", $what);
    }};
}

#[test]
fn every_field_stands_where_the_document_says() {
    holds!("identity", identity::at, MAGIC MAJOR MINOR SEGMENT_BLOCKS UUID NUMBER GENERATION DURABLE_GENERATION DURABLE_OFFSET FLAGS FIRST_FRAME RESERVED CRC);
    holds!("frame", frame::at, CRC LENGTH_KIND ORDINAL UNDURABLE HCHECK BODY);
    holds!("start", body::start_at, BASE_LSN PREDECESSOR_GENERATION PREDECESSOR_END PREDECESSOR_CRC DURABLE_GENERATION DURABLE_OFFSET CARRIED_FRAMES CARRIED_CRC FLOOR_LSN WALL_NS METADATA);
    holds!("seal", body::seal_at, NEXT_LSN SUCCESSOR_GENERATION);
    holds!("batch item", body::item_at, LENGTH CRC PAYLOAD);
    assert_eq!(identity::at::CRC + 4, IDENTITY_BYTES);
    assert_eq!(body::seal_at::END, 16);
}

#[test]
fn kinds_magic_and_version_are_as_the_document_says() {
    for kind in FrameKind::ALL {
        let row = format!("| {} | `{kind:?}` |", kind as u8);
        assert!(FORMAT.lines().any(|line| line.starts_with(&row)), "{row}");
    }
    assert!(FORMAT.starts_with(&format!("# Format {FORMAT_MAJOR}.{FORMAT_MINOR}\n")));
    assert_eq!(MAGIC, *b"seawall\0");
}
