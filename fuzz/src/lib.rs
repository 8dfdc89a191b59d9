//! Bodies of the fuzz targets: each takes any bytes, and panics only if a promise was broken.
//!
//! The targets in `fuzz_targets/` are one line each, so that a plain test replays the stored corpora through the same
//! code without a fuzzer, a nightly or a C++ compiler.

mod pages;

pub use pages::{chunk, merge, page, root};

use std::{path::Path, sync::OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use engine::codec::{
    Batch, FIRST_FRAME_OFFSET, FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, Frame, FrameKind, Header, IDENTITY_BYTES,
    IDENTITY_OFFSETS, Identity, Mark, Position, Seal, Start, encode_batch_body,
};
use engine::{
    aof::{
        CommandLog,
        check::{Check, End, check_bytes},
        load::{LoadOptions, load},
        manifest::Manifest,
        memtable,
        options::Options as AofOptions,
        resp::{self as commands, Kind, Parser, Reading},
    },
    env::block_on,
    keyspace::Keyspace,
    txn::redo::{Record, encode_part},
    wal::{Durability, Lsn, OpenError, Options, Wal},
};
use sim::{
    disk::{Disk, DiskOptions},
    env::SimEnv,
    scenario::Scenario,
};

/// A body: takes any bytes, panics on a broken promise.
pub type Body = fn(&[u8]);

/// All targets by name. Each has a line in `fuzz_targets/` and a corpus of the same name.
pub const TARGETS: [(&str, Body); 14] = [
    ("frame", frame),
    ("segment", segment),
    ("recovery", recovery),
    ("scenario", scenario),
    ("resp", resp),
    ("manifest", manifest),
    ("load", load_directory),
    ("open", open_directory),
    ("memtable", memtable_file),
    ("redo", redo),
    ("page", page),
    ("merge", merge),
    ("root", root),
    ("chunk", chunk),
];

/// A command log: hostile bytes, read strictly and leniently.
///
/// - What is good ends at a boundary: reading the good part alone finds all of it good.
/// - A strict reader takes nothing that a lenient one doesn't.
/// - Behind the good part a command can be appended, and is read: nothing that came before takes it in.
/// - What was read strictly, written again, is a command of at most the same length.
pub fn resp(data: &[u8]) {
    let check = |bytes: &[u8], reading| check_bytes(bytes, Check { reading, ..Check::default() });
    let (strict, lenient) = (check(data, Reading::Strict), check(data, Reading::Lenient));
    assert!(strict.good <= lenient.good && lenient.good <= data.len() as u64);
    for (reading, checked) in [(Reading::Strict, strict), (Reading::Lenient, lenient)] {
        let good = &data[..checked.good as usize];
        let again = check(good, reading);
        assert_eq!((again.good, again.end, again.commands), (checked.good, End::File, checked.commands));
        let mut longer = good.to_vec();
        commands::encode(&mut longer, &["SET", "k", "v"]);
        let longer = check(&longer, reading);
        assert_eq!((longer.end, longer.commands), (End::File, checked.commands + 1));
    }
    let (mut at, mut parser) = (0, Parser::new(Reading::Strict));
    while let Ok(found) = parser.next(&data[at..]) {
        if found.kind == Kind::Command {
            let (mut written, bytes) = (Vec::new(), &data[at..at + found.bytes]);
            commands::encode(&mut written, &parser.command(bytes).collect::<Vec<_>>());
            // Leading zeros of numbers are the only freedom.
            assert!(written.len() <= bytes.len());
            assert_eq!(Parser::new(Reading::Strict).next(&written).map(|found| found.bytes), Ok(written.len()));
        }
        at += found.bytes;
    }
}

/// A manifest: hostile bytes; what is read can be written, and is read again as the same.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data)
        && let Ok(written) = manifest.encode()
        && !written.is_empty()
    {
        assert_eq!(Manifest::parse(&written), Ok(manifest));
    }
}

/// A command log's directory whose base is hostile bytes, in RDB format or as commands: it loads, or says why not. The first
/// byte says how exact the reader is.
pub fn load_directory(data: &[u8]) {
    let Some((first, base)) = data.split_first() else { return };
    let mut disk = Disk::new(DiskOptions::default());
    let dir = disk.make_dir(Path::new("/aof"));
    disk.write_foreign(dir, "appendonly.aof.manifest", b"file b seq 1 type b\n");
    disk.write_foreign(dir, "b", base);
    let reading = if first & 1 == 0 { Reading::Strict } else { Reading::Lenient };
    let options = LoadOptions { reading, ..LoadOptions::default() };
    let mut keys = Keyspace::new();
    let loaded = block_on(load(&SimEnv::still(disk), Path::new("/aof"), &options, &mut keys));
    if let Ok(loaded) = loaded {
        let (_, checked) = &loaded.files[0];
        assert!(checked.good <= base.len() as u64 && (checked.end == End::File || checked.end.is_torn()));
    }
}

/// A file in MemTable's dialect of hostile bytes: it is read up to some byte, and the part up to there holds the same.
pub fn memtable_file(data: &[u8]) {
    let read = |bytes: &[u8]| {
        let mut disk = Disk::new(DiskOptions::default());
        let dir = disk.make_dir(Path::new("/old"));
        disk.write_foreign(dir, "file", bytes);
        let mut keys = Keyspace::new();
        let loaded = block_on(memtable::load(&SimEnv::still(disk), Path::new("/old/file"), &mut keys));
        loaded.map(|loaded| (loaded, keys))
    };
    if let Ok((loaded, keys)) = read(data) {
        let good = loaded.checked.good as usize;
        assert!(good <= data.len());
        let (again, same) = read(&data[..good]).expect("its good part is read");
        assert_eq!((again.checked.good, again.checked.end), (loaded.checked.good, End::File));
        assert_eq!(same.databases(), keys.databases());
    }
}

/// A command log's directory whose only increment is hostile bytes, with checksums or without: it opens, or says why not. What it
/// opens with is what it opens with again. The first byte says whether there are checksums.
pub fn open_directory(data: &[u8]) {
    let Some((first, increment)) = data.split_first() else { return };
    let mut disk = Disk::new(DiskOptions::default());
    disk.make_dir(Path::new("/data"));
    let dir = disk.make_dir(Path::new("/data/appendonlydir"));
    let salt = if first & 1 == 0 { "" } else { " salt 7" };
    let manifest = format!("file appendonly.aof.1.incr.aof seq 1 type i{salt}\n");
    disk.write_foreign(dir, "appendonly.aof.manifest", manifest.as_bytes());
    disk.write_foreign(dir, "appendonly.aof.1.incr.aof", increment);
    let env = SimEnv::still(disk);
    let open = |env: &SimEnv| {
        let mut keys = Keyspace::new();
        let opened = CommandLog::open(env.clone(), Path::new("/data"), AofOptions::default(), &mut keys);
        block_on(opened).map(|(_, loaded)| (keys, loaded.failures))
    };
    if let Ok((keys, failures)) = open(&env) {
        let again = open(&SimEnv::still(env.disk())).expect("what was opened opens again");
        assert_eq!((again.0.databases(), again.1), (keys.databases(), failures));
    }
}

/// One frame: read from hostile bytes, and written with a hostile body.
///
/// - Decoding never panics, and accepts only what encoding writes: a frame has one form.
/// - A frame passes only whole, with its own seed and at its own offset.
/// - The bodies that have a structure keep the same promises.
pub fn frame(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((seed, place, kind, ordinal, undurable)) = input.arbitrary::<(u32, u32, u8, u32, u16)>() else { return };
    let offset = aligned(place);
    let bytes = input.take_rest();

    if let Ok(found) = Frame::decode(bytes, seed, offset) {
        assert_eq!(Header::peek(bytes, seed, offset), Some(found.header));
        let covered = covered_bytes(found.body);
        assert_eq!(encode(&found, seed, offset)[..covered], bytes[..covered]);
    }

    let header = Header { kind: kind_of(kind), body_bytes: bytes.len() as u64, ordinal, undurable };
    let written = encode(&Frame { header, crc: 0, body: bytes }, seed, offset);
    assert_eq!(written.len() as u64, header.frame_bytes());
    let read = Frame::decode(&written, seed, offset).expect("what was written is read");
    assert_eq!((read.header, read.body), (header, bytes));
    assert!(Frame::decode(&written, seed ^ 1, offset).is_err(), "a frame of another segment");
    assert!(Frame::decode(&written, seed, offset ^ FRAME_ALIGN_BYTES).is_err(), "a frame from another place");
    assert!(Frame::decode(&written[..covered_bytes(bytes) - 1], seed, offset).is_err(), "a frame that is cut off");

    structured_bodies(bytes);
}

/// Reads `body` as each of the structured kinds; what is accepted must be what encoding writes.
fn structured_bodies(body: &[u8]) {
    let mut again = Vec::new();
    if let Some(start) = Start::decode(body) {
        start.encode(&mut again);
        assert_eq!(again, body);
    }
    if let Some(seal) = Seal::decode(body) {
        again.clear();
        seal.encode(&mut again);
        assert_eq!(again, body);
    }
    if let Some(mark) = Mark::decode(body) {
        again.clear();
        mark.encode(&mut again);
        assert!(body.starts_with(&again));
    }
    if let Some(count) = Batch::count(body) {
        again.clear();
        let items: Vec<&[u8]> = Batch::new(body).map(|item| &body[item.expect("it was counted")]).collect();
        assert_eq!(items.len(), count as usize);
        encode_batch_body(&mut again, items);
        assert_eq!(again, body);
    }
}

/// A record of a store: hostile bytes, read whole or not at all; what is read has one form, as a whole and op by op.
pub fn redo(data: &[u8]) {
    let Ok(record) = Record::decode(data) else { return };
    let mut again = Vec::new();
    record.encode(&mut again).expect("what was read can be written");
    assert_eq!(again, data);
    if let Record::Part(part) = record {
        let ops = part.ops();
        assert_eq!(ops.len(), ops.clone().count());
        again.clear();
        encode_part(&mut again, ops).expect("what was read can be written");
        part.stamp.put(&mut again).expect("it is a part");
        assert_eq!(again, data);
    }
}

/// One whole segment: written as drawn, then read back intact, damaged in one byte, cut off, and as a stale file.
///
/// - Intact, it yields exactly what was written.
/// - Damage takes the frame that it hit, and none before it; no frame is ever read that was not written.
/// - Of two identity copies, one byte of damage leaves one, and never makes another identity.
/// - In a later life of the same file no old frame passes.
pub fn segment(data: &[u8]) {
    let Ok(plan) = Plan::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let identity = plan.identity();
    let seed = identity.seed();
    let mut image = identity.head();
    let mut ends = Vec::new();
    for drawn in &plan.frames {
        let frame = drawn.frame();
        image.extend(encode(&frame, seed, image.len() as u64));
        ends.push(image.len());
    }
    let written = frames(&image, seed);
    assert_eq!(written.len(), plan.frames.len());
    for (drawn, read) in plan.frames.iter().zip(&written) {
        assert_eq!((read.header, read.body), (drawn.frame().header, drawn.frame().body));
        structured_bodies(read.body);
    }
    assert_eq!(identities(&image), [Some(identity.clone()), Some(identity.clone())]);

    let at = plan.damaged_byte as usize % image.len();
    let mut damaged = image.clone();
    damaged[at] ^= plan.damage.max(1);
    let found = identities(&damaged);
    assert!(found.contains(&Some(identity.clone())));
    assert!(found.iter().flatten().all(|found| *found == identity));
    assert_same_up_to(&frames(&damaged, seed), &written, ends.partition_point(|end| *end <= at));

    let length = plan.length as usize % (image.len() + 1);
    let cut = frames(&image[..length], seed);
    assert_same_up_to(&cut, &written, ends.partition_point(|end| *end <= length));

    let next_life = Identity { generation: identity.generation + 1, ..identity };
    if next_life.seed() != seed {
        assert_eq!(frames(&image, next_life.seed()), []);
    }
}

/// What to write into a segment, and what to do to it.
#[derive(Arbitrary, Debug)]
struct Plan<'a> {
    uuid: [u8; 16],
    number: u64,
    generation: u32,
    segment_blocks: u32,
    durable: (u32, u32),
    damaged_byte: u32,
    damage: u8,
    length: u32,
    frames: Vec<Drawn<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Drawn<'a> {
    kind: u8,
    ordinal: u32,
    undurable: u16,
    body: &'a [u8],
}

impl Plan<'_> {
    fn identity(&self) -> Identity {
        let generation = u64::from(self.generation) + 1;
        let durable =
            Position { generation: u64::from(self.durable.0) % generation, offset: u64::from(self.durable.1) };
        Identity {
            uuid: self.uuid,
            number: self.number,
            generation,
            segment_blocks: self.segment_blocks,
            durable,
            salt: self.number.rotate_left(9),
        }
    }
}

impl Drawn<'_> {
    fn frame(&self) -> Frame<'_> {
        let &Drawn { kind, ordinal, undurable, body } = self;
        Frame {
            header: Header { kind: kind_of(kind), body_bytes: body.len() as u64, ordinal, undurable },
            crc: 0,
            body,
        }
    }
}

/// All frames from the first one on, up to the first place where none stands.
fn frames(image: &[u8], seed: u32) -> Vec<Frame<'_>> {
    let mut found = Vec::new();
    let mut offset = FIRST_FRAME_OFFSET;
    while let Some(rest) = image.get(offset as usize..) {
        let Ok(frame) = Frame::decode(rest, seed, offset) else { break };
        offset += frame.header.frame_bytes();
        found.push(frame);
    }
    found
}

fn identities(image: &[u8]) -> [Option<Identity>; 2] {
    IDENTITY_OFFSETS.map(|offset| Identity::decode(&image[offset as usize..][..IDENTITY_BYTES]).ok())
}

/// `found` is a prefix of `written`, and holds at least its first `intact` frames.
fn assert_same_up_to(found: &[Frame<'_>], written: &[Frame<'_>], intact: usize) {
    assert!(found.len() >= intact, "{} of {intact} intact frames were read", found.len());
    assert_eq!(found, &written[..found.len().min(written.len())]);
}

fn encode(frame: &Frame<'_>, seed: u32, offset: u64) -> Vec<u8> {
    let Header { kind, ordinal, undurable, .. } = frame.header;
    let mut out = Vec::new();
    Frame::encode(&mut out, seed, offset, kind, ordinal, undurable, |out| out.extend_from_slice(frame.body));
    out
}

/// Bytes of a frame without its padding: what its checksum covers, and the checksum.
fn covered_bytes(body: &[u8]) -> usize {
    FRAME_HEADER_BYTES as usize + body.len()
}

fn aligned(offset: u32) -> u64 {
    u64::from(offset) / FRAME_ALIGN_BYTES * FRAME_ALIGN_BYTES
}

fn kind_of(code: u8) -> FrameKind {
    FrameKind::ALL[usize::from(code) % FrameKind::ALL.len()]
}

/// A scenario file: parsing never panics, and what was parsed prints as a file that means the same.
pub fn scenario(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(parsed) = Scenario::parse(text, "fuzz") else { return };
    assert_eq!(Scenario::parse(&parsed.to_toml(), "fuzz"), Ok(parsed));
}

/// Recovery of a whole directory: a real log, then whatever the input does to its files.
///
/// - Open never panics, and takes no more memory than the files have bytes.
/// - A refusal changes no byte.
/// - As long as no frame was forged with a right checksum, what is delivered is a prefix of what was appended.
pub fn recovery(data: &[u8]) {
    let Ok(harm) = Harm::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let (mut disk, records) = real_log();
    let Some(dir) = disk.dir_at(Path::new("/log")) else { return };
    let names: Vec<_> = disk.files(dir).map(|(name, _)| name.clone()).collect();
    let forged = !harm.forgeries.is_empty();
    for edit in &harm.edits {
        let name = &names[usize::from(edit.file) % names.len()];
        disk.damage(dir, name, u64::from(edit.offset), edit.bytes);
    }
    for forgery in harm.forgeries.iter().take(8) {
        let name = &names[usize::from(forgery.file) % names.len()];
        let image = disk.read_file(dir, name).unwrap_or_default();
        let Some(identity) = image.get(..IDENTITY_BYTES).and_then(|bytes| Identity::decode(bytes).ok()) else {
            continue;
        };
        let offset = FIRST_FRAME_OFFSET + aligned(u32::from(forgery.place));
        let bytes = encode(&forgery.frame.frame(), identity.seed(), offset);
        disk.damage(dir, name, offset, &bytes);
    }
    for cut in harm.cuts.iter().take(4) {
        let name = &names[usize::from(cut.file) % names.len()];
        let mut image = disk.read_file(dir, name).unwrap_or_default();
        image.truncate(cut.length as usize % (image.len() + 1));
        disk.write_foreign(dir, name, &image);
    }
    let env = SimEnv::still(disk.clone());
    match block_on(Wal::open(env.clone(), Path::new("/log"), options())) {
        Ok((wal, _)) => {
            let mut read = wal.records(Lsn(1));
            let mut count = 0;
            while let Ok(Some((lsn, record))) = block_on(read.next()) {
                assert!(forged || records.get(lsn.0 as usize - 1) == Some(&record), "LSN {lsn} was never appended");
                count += 1;
            }
            assert!(forged || count as u64 == wal.next().0 - 1, "what is reported is there");
        }
        Err(OpenError::Io { .. }) => {}
        Err(_) => assert!(disk.same_content(dir, &env.disk(), dir), "a refused open changes no byte"),
    }
}

/// What is done to the files of a log.
#[derive(Arbitrary, Debug)]
struct Harm<'a> {
    edits: Vec<Edit<'a>>,
    cuts: Vec<Cut>,
    forgeries: Vec<Forgery<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Edit<'a> {
    file: u8,
    offset: u16,
    bytes: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct Cut {
    file: u8,
    length: u16,
}

/// A frame with a right checksum that the log never wrote.
#[derive(Arbitrary, Debug)]
struct Forgery<'a> {
    file: u8,
    place: u16,
    frame: Drawn<'a>,
}

fn options() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A log of several segments that was closed, opened again and left without close.
fn real_log() -> (Disk, Vec<Bytes>) {
    static LOG: OnceLock<(Disk, Vec<Bytes>)> = OnceLock::new();
    let build = || {
        let mut disk = Disk::new(DiskOptions::default());
        disk.make_dir(Path::new("/log"));
        let env = SimEnv::still(disk);
        let records: Vec<Bytes> =
            (0..24_u8).map(|number| Bytes::from(vec![number; usize::from(number) * 97 % 1500])).collect();
        let write = async |records: &[Bytes], close: bool| {
            let (wal, _) = Wal::open(env.clone(), Path::new("/log"), options()).await.expect("a good log opens");
            for pair in records.chunks(2) {
                wal.append_batch(pair, Durability::Sync).await.expect("a good disk takes it");
            }
            if close {
                wal.close().await.expect("a good log closes");
            }
        };
        block_on(async {
            write(&records[..12], true).await;
            write(&records[12..], false).await;
        });
        (env.disk(), records)
    };
    LOG.get_or_init(build).clone()
}
