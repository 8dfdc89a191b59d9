//! Files that Redis 7.0.15 wrote, whole and damaged, against what its server and its check tool said about them.
#![expect(clippy::disallowed_methods, reason = "a test reads its fixtures")]

use std::{fs, path::PathBuf};

use engine::{
    aof::{
        check::{Check, End, check, check_bytes},
        manifest::{Manifest, Wrong},
        resp::{Malformed, Reading},
    },
    env::{Dir, Env, OpenMode, OsEnv, block_on},
};

fn fixtures(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/redis").join(folder)
}

fn rows(folder: &str, table: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(fixtures(folder).join(table)).expect("the table is there");
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Where our strict reader says something else than the check tool, and why.
const DIVERGENCES: &[(&str, &str)] = &[
    ("38_annotation_too_long", "we end before an annotation that is too long, the tool within it"),
    ("39_torn_annotation", "an annotation that is cut off is torn: the next command would be appended to its line"),
    ("45_argc_zero", "a command without arguments is none; the server refuses it, the tool lets it pass"),
    ("46_argc_negative", "the same"),
    ("53_multi_discard", "DISCARD ends a unit, so the EXEC behind it is a stray one; the server crashes"),
    ("69_two_incr_first_torn_annotation", "as 39"),
    ("91_ts_cut_in_annotation", "as 39"),
    ("93_ts_cut_after_annotation_cr", "as 39"),
    ("94_ts_cut_after_hash", "as 39"),
];

#[test]
fn the_good_part_of_a_file_is_what_the_check_tool_says() {
    let mut diverging = Vec::new();
    let table = rows("e_torn", "check.tsv");
    assert!(table.len() >= 80, "{}", table.len());
    for row in &table {
        let [name, size, good, verdict] = row.as_slice() else { panic!("{row:?}") };
        let bytes = fs::read(fixtures("e_torn").join(name)).expect("the file is there");
        assert_eq!(bytes.len().to_string(), *size, "{name}");
        let checked = check_bytes(&bytes, Check::default());
        let same = checked.good.to_string() == *good && (checked.end == End::File) == (verdict == "valid");
        if let Some((case, _)) = DIVERGENCES.iter().find(|(case, _)| name.starts_with(case)) {
            if !same {
                diverging.push(*case);
            }
            continue;
        }
        assert!(same, "{name}: the tool says good up to {good} of {size}, we say {checked:?}");
    }
    let expected: Vec<&str> = DIVERGENCES.iter().map(|(case, _)| *case).collect();
    assert_eq!(diverging, expected, "each divergence shows");
}

/// What the server loads of a file that was cut: all whole commands, and no unit that isn't whole. It cuts the file there,
/// except within a unit, where it leaves the unit open (upstream defect B2); we don't.
#[test]
fn a_cut_file_is_good_up_to_where_the_server_cuts_it() {
    let whole = fs::read(fixtures("g_cuts").join("incr.aof")).expect("the file is there");
    let (mut short, mut within_units) = (0, 0);
    for row in rows("g_cuts", "cuts.tsv") {
        let [cut, after_load, tool, reverted, _] = row.as_slice() else { panic!("{row:?}") };
        let bytes = &whole[..cut.parse().expect("a number")];
        let checked = check_bytes(bytes, Check::default());
        assert_eq!(checked.good.to_string(), *tool, "cut at {cut}: {checked:?}");
        let lenient = check_bytes(bytes, Check { reading: Reading::Lenient, ..Check::default() });
        assert_eq!((lenient.good, lenient.end), (checked.good, checked.end), "cut at {cut}");
        short += usize::from(checked.end == End::ShortCommand);
        if after_load == tool {
            assert!(checked.end == End::File || checked.end.is_torn(), "cut at {cut}");
        } else {
            within_units += 1;
            assert!(reverted == "False" && checked.end == End::ShortCommand, "cut at {cut}: {row:?}");
        }
    }
    assert!(short > 20 && within_units > 3, "{short} and {within_units}");
}

/// What the server starts with, and our strict reader refuses; the lenient one reads it.
#[test]
fn a_lenient_reader_takes_what_the_server_takes() {
    for (name, what) in [
        ("29_crlf_replaced", Malformed::Terminator),
        ("42_lf_only_length_lines", Malformed::Terminator),
        ("47_argc_with_trailing_junk", Malformed::ArgumentCount),
    ] {
        let bytes = fs::read(fixtures("e_torn").join(format!("{name}.2.incr.aof"))).expect("the file is there");
        let strict = check_bytes(&bytes, Check::default());
        assert!(matches!(strict.end, End::Malformed(_, found) if found == what), "{name}: {strict:?}");
        let lenient = check_bytes(&bytes, Check { reading: Reading::Lenient, ..Check::default() });
        assert_eq!((lenient.good, lenient.end), (bytes.len() as u64, End::File), "{name}");
    }
}

/// Read through the machine, in windows, the verdict is the same.
#[test]
fn a_file_on_the_disk_is_judged_like_its_bytes() {
    let folder = fixtures("e_torn");
    let dir = block_on(OsEnv.dir(&folder, false)).expect("the folder is there");
    for row in rows("e_torn", "check.tsv") {
        let file = block_on(dir.open(&row[0], OpenMode::Read)).expect("the file is there");
        let bytes = fs::read(folder.join(&row[0])).expect("the file is there");
        let from_disk = block_on(check(&file, Check::default())).expect("readable");
        assert_eq!(from_disk, check_bytes(&bytes, Check::default()), "{}", row[0]);
    }
    // Larger than a window, with an argument that is larger than one.
    let large = tempfile::tempdir().expect("a folder");
    let mut bytes = Vec::new();
    for number in 0..20_000 {
        let value = if number == 10_000 { vec![b'x'; 1 << 20] } else { vec![b'y'; 10] };
        engine::aof::resp::encode(&mut bytes, &[b"SET".as_slice(), number.to_string().as_bytes(), &value]);
    }
    for length in [bytes.len(), bytes.len() - 1, 256 * 1024, 300_000] {
        fs::write(large.path().join("log"), &bytes[..length]).expect("written");
        let dir = block_on(OsEnv.dir(large.path(), false)).expect("the folder is there");
        let file = block_on(dir.open("log", OpenMode::Read)).expect("the file is there");
        let from_disk = block_on(check(&file, Check::default())).expect("readable");
        assert_eq!(from_disk, check_bytes(&bytes[..length], Check::default()));
    }
}

#[test]
fn a_manifest_is_refused_where_the_server_refuses_it_and_for_the_same_reason() {
    let table = rows("f_manifest", "verdicts.tsv");
    assert!(table.len() >= 80, "{}", table.len());
    let mut refused = 0;
    for row in &table {
        let [name, verdict, message] = row.as_slice() else { panic!("{row:?}") };
        let bytes = fs::read(fixtures("f_manifest").join(format!("{name}.manifest"))).expect("the file is there");
        let wrong = Manifest::parse(&bytes).err().map(|error| error.wrong);
        let same = match message.as_str() {
            "Found an empty AOF manifest" => matches!(wrong, Some(Wrong::Empty)),
            "The AOF manifest file contains too long line" => {
                matches!(wrong, Some(Wrong::LongLine | Wrong::NoNewline | Wrong::Nul))
            }
            "Invalid AOF manifest file format" => {
                matches!(wrong, Some(Wrong::Blank | Wrong::Quotes | Wrong::Pairs | Wrong::Missing(_)))
            }
            "Found a non-monotonic sequence number" => matches!(wrong, Some(Wrong::Order { .. })),
            "Unknown AOF file type" => matches!(wrong, Some(Wrong::Kind(_))),
            "Found duplicate base file information" => matches!(wrong, Some(Wrong::SecondBase)),
            "File can't be a path, just a filename" => matches!(wrong, Some(Wrong::Path(_))),
            // Refused for what the files hold, or not at all.
            _ => wrong.is_none(),
        };
        assert!(same, "{name}: the server {verdict} ({message}), we say {wrong:?}");
        refused += usize::from(wrong.is_some());
    }
    assert!(refused > 30, "{refused}");
}
