//! Loads of many rows into a new table.

use std::time::Instant;

use super::read::expect_all;
use crate::{
    Result,
    child::{Figures, Task, figure},
    keys::Rows,
    peer::Safety,
};

pub fn load(task: &Task, sorted: bool) -> Result<Figures> {
    let rows = Rows::new(task.sizes.keys);
    let peer = task.open(Safety::Buffered)?;
    let began = Instant::now();
    let numbers = (0..rows.count()).map(|place| if sorted { place } else { rows.shuffled(place) });
    peer.load(&mut numbers.map(|number| (rows.key(number), rows.value(number))), sorted)?;
    let elapsed = began.elapsed();
    expect_all(peer.scan()?, rows.count())?;
    peer.close()?;
    Ok(Figures::from([figure("rows/s", rows.count() as f64 / elapsed.as_secs_f64())]))
}

/// The table that others read.
pub fn prepare(task: &Task) -> Result<Figures> {
    load(task, true)
}
