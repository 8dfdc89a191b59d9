//! Small files, whole: read, and put in place of another one in a single step.

use std::io;

use super::StorageError;
use crate::env::{Dir, File, OpenMode, interruptible, read_at_most, write_all_at};

/// The name of a file that isn't in its place yet. It means nothing to who finds it.
pub(crate) const TEMPORARY: &str = "root.tmp";

/// The bytes of a file, `most` of them, or `None` if there is no such.
pub(crate) async fn read_whole<D: Dir>(dir: &D, name: &str, most: u64) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match interruptible(|| dir.open(name, OpenMode::Read)).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("open", name, &error)),
    };
    let length = interruptible(|| file.len()).await.map_err(|error| StorageError::io("read", name, &error))?;
    let mut bytes = vec![0; usize::try_from(length.min(most)).unwrap_or(usize::MAX)];
    let read = read_at_most(&file, &mut bytes, 0).await.map_err(|error| StorageError::io("read", name, &error))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// A file of these bytes under a temporary name, durable. [`put_in_place`] makes it the one that it is to be.
pub(crate) async fn prepare<D: Dir>(dir: &D, bytes: &[u8]) -> Result<(), StorageError> {
    let failed = |operation| move |error: io::Error| StorageError::io(operation, TEMPORARY, &error);
    remove(dir, TEMPORARY).await?;
    let file = interruptible(|| dir.open(TEMPORARY, OpenMode::CreateNew)).await.map_err(failed("create"))?;
    write_all_at(&file, bytes, 0).await.map_err(failed("write"))?;
    interruptible(|| file.sync_all()).await.map_err(failed("sync"))
}

/// Gives the prepared file its name, durably. After an error it may have it or not.
pub(crate) async fn put_in_place<D: Dir>(dir: &D, name: &str) -> Result<(), StorageError> {
    let failed = |operation| move |error: io::Error| StorageError::io(operation, name, &error);
    interruptible(|| dir.rename(TEMPORARY, name)).await.map_err(failed("rename"))?;
    interruptible(|| dir.sync()).await.map_err(failed("sync the name"))
}

/// Removes a file, if it is there.
pub(crate) async fn remove<D: Dir>(dir: &D, name: &str) -> Result<(), StorageError> {
    match interruptible(|| dir.remove(name)).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("remove", name, &error)),
        _ => Ok(()),
    }
}
