//! The loops around single calls: interruption, short reads and short writes are ordinary, never an end or an error.

use std::{
    future::Future,
    io::{self, IoSlice},
};

use super::File;

/// How many times in a row a call may be interrupted, or a read fail, before the error is passed on.
const ATTEMPTS: u32 = 64;

/// Repeats `call` while it is interrupted. Bounded, so that a broken machine ends in an error and not in a spin.
pub(crate) async fn interruptible<T, F>(mut call: impl FnMut() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    call().await
}

/// Reads until `buf` is full or the file ends; returns the number of bytes read. An error is never taken for an end.
pub(crate) async fn read_at_most<F: File>(file: &F, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    let mut interruptions = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64).await {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                interruptions = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted && interruptions < ATTEMPTS => interruptions += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `buf`. On an error some prefix is written; the caller must treat the range as unknown.
pub(crate) async fn write_all_at<F: File>(file: &F, buf: &[u8], offset: u64) -> io::Result<()> {
    write_all_vectored_at(file, &mut [IoSlice::new(buf)], offset).await.1
}

/// Writes all of `bufs`, one behind the other. How many bytes were written for certain, and why not more.
pub(crate) async fn write_all_vectored_at<F: File>(
    file: &F,
    mut bufs: &mut [IoSlice<'_>],
    offset: u64,
) -> (usize, io::Result<()>) {
    let mut done = 0;
    let mut interruptions = 0;
    // (What is empty is done.)
    IoSlice::advance_slices(&mut bufs, 0);
    while !bufs.is_empty() {
        match file.write_vectored_at(bufs, offset + done as u64).await {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                done += count;
                interruptions = 0;
                IoSlice::advance_slices(&mut bufs, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted && interruptions < ATTEMPTS => interruptions += 1,
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}
