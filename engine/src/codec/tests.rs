//! Whatever is encoded reads back; whatever is changed does not; no bytes make a decoder panic.

use proptest::prelude::*;

use super::*;

fn identity() -> impl Strategy<Value = Identity> {
    (any::<[u8; 16]>(), any::<u64>(), 1..u64::MAX, any::<u32>(), any::<u32>()).prop_map(
        |(uuid, number, generation, segment_blocks, offset)| Identity {
            uuid,
            number,
            generation,
            segment_blocks,
            durable: Position { generation: generation / 2, offset: u64::from(offset) },
            salt: number.rotate_left(7),
        },
    )
}

fn frame(body: &[u8], seed: u32, offset: u64, ordinal: u32, undurable: u16) -> Vec<u8> {
    let mut out = Vec::new();
    Frame::encode(&mut out, seed, offset, FrameKind::Record, ordinal, undurable, |out| out.extend_from_slice(body));
    out
}

proptest! {
    #[test]
    fn identities_read_back_and_no_flipped_bit_passes(identity in identity(), bit in 0..IDENTITY_BYTES * 8) {
        let mut bytes = identity.encode();
        prop_assert_eq!(Identity::decode(&bytes), Ok(identity));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Identity::decode(&bytes), Err(BadIdentity::Unreadable));
    }

    #[test]
    fn frames_read_back_in_their_place_only(
        body in prop::collection::vec(any::<u8>(), 0..200),
        seed: u32,
        block in 0..1_000_000_u64,
        ordinal: u32,
        undurable: u16,
        other in 1..u32::MAX,
        bit: prop::sample::Index,
    ) {
        let offset = block * FRAME_ALIGN_BYTES;
        let mut bytes = frame(&body, seed, offset, ordinal, undurable);
        prop_assert_eq!(bytes.len() as u64, frame_bytes(body.len() as u64));
        {
            let decoded = Frame::decode(&bytes, seed, offset).expect("what was encoded");
            prop_assert_eq!(decoded.body, &body[..]);
            prop_assert_eq!((decoded.header.ordinal, decoded.header.undurable), (ordinal, undurable));
            prop_assert_eq!(Frame::decode_again(&bytes, seed, offset), Some((decoded.header, decoded.crc)));
            prop_assert_eq!(Frame::decode_again(&bytes[..bytes.len() - 1], seed, offset), None);
        }
        prop_assert!(Frame::decode(&bytes, seed ^ other, offset).is_err(), "of another segment");
        prop_assert!(Frame::decode(&bytes, seed, offset + FRAME_ALIGN_BYTES).is_err(), "at another offset");
        prop_assert!(Frame::decode(&bytes[..bytes.len() - 1 - (bytes.len() - 16 - body.len())], seed, offset).is_err(), "cut off");
        let bit = bit.index((16 + body.len()) * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Frame::decode(&bytes, seed, offset).is_err(), "bit {bit} flipped");
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), seed: u32, offset: u64) {
        let _ = Identity::decode(&bytes);
        let _ = Frame::decode(&bytes, seed, offset);
        let _ = Start::decode(&bytes);
        let _ = Seal::decode(&bytes);
        let _ = Mark::decode(&bytes);
        let _ = Batch::count(&bytes);
    }

    #[test]
    fn bodies_read_back(words: [u64; 4], small: [u32; 6], wall_ns: i64, metadata in prop::collection::vec(any::<u8>(), 0..40)) {
        let position = |generation, offset| Position { generation, offset: u64::from(offset) };
        let start = Start {
            base_lsn: words[0],
            predecessor: position(words[1], small[0]),
            predecessor_crc: small[1],
            durable: position(words[2], small[2]),
            carried_frames: small[3],
            carried_crc: small[4],
            floor_lsn: words[3],
            wall_ns,
            metadata: metadata.into(),
        };
        let mut bytes = Vec::new();
        start.encode(&mut bytes);
        prop_assert_eq!(Start::decode(&bytes), Some(start));
        let seal = Seal { next_lsn: words[0], successor_generation: words[1] };
        bytes.clear();
        seal.encode(&mut bytes);
        prop_assert_eq!(bytes.len() as u64, SEAL_BODY_BYTES);
        prop_assert_eq!(Seal::decode(&bytes), Some(seal));
    }

    #[test]
    fn batches_read_back_and_no_flipped_bit_passes(items in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..8), bit: prop::sample::Index) {
        let mut body = Vec::new();
        encode_batch_body(&mut body, items.iter().map(|item| &item[..]));
        prop_assert_eq!(Batch::count(&body), Some(items.len() as u32));
        let read: Vec<&[u8]> = Batch::new(&body).map(|range| &body[range.expect("an item")]).collect();
        prop_assert_eq!(read, items);
        let original = body.clone();
        let bit = bit.index(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        let same = Batch::new(&body).map(|range| range.map(|range| body[range].to_vec())).collect::<Option<Vec<_>>>()
            == Some(Batch::new(&original).filter_map(|range| range.map(|range| original[range].to_vec())).collect());
        prop_assert!(!same, "a changed batch never reads as before");
    }
}

#[test]
fn a_mark_reads_back_and_an_unknown_one_does_not() {
    for mark in [Mark::Synced, Mark::Closed, Mark::Floor { lsn: 7 }] {
        let mut body = Vec::new();
        mark.encode(&mut body);
        assert_eq!((body.len() as u64, Mark::decode(&body)), (mark.body_bytes(), Some(mark)));
        assert_eq!(Mark::decode(&body[1..]), None);
        body.push(0);
        assert_eq!(Mark::decode(&body), None, "a mark of another length states nothing");
    }
    assert_eq!(Mark::decode(&[9, 0, 0, 0]), None);
}

#[test]
fn a_claim_never_reaches_beyond_what_was_durable() {
    for offset in (8192..80_000).step_by(4) {
        for durable in [8192, 8196, 12_000, 12_288, 16_384, 50_000] {
            let undurable = Header::undurable_at(offset, Some(durable));
            let header = Header { kind: FrameKind::Record, body_bytes: 0, ordinal: 0, undurable };
            let claim = header.claim(7, offset).expect("a claim").offset;
            assert!(
                claim <= durable.max(offset) && (durable > offset || claim <= durable),
                "{offset} {durable} {claim}"
            );
        }
    }
    assert_eq!(Header::undurable_at(1 << 31, Some(8192)), NO_CLAIM, "too far back to say");
}
