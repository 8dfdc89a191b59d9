//! What a killed process leaves is opened.

use std::time::Instant;

use super::read::expect_all;
use crate::{
    Result,
    child::{Figures, Task, die, figure},
    keys::Rows,
    peer::{Call, Peer, Safety, Seawall, Use},
};

pub fn crash(task: &Task) -> Result<Figures> {
    let rows = Rows::new(task.sizes.recovered);
    let peer = open(task)?;
    for place in 0..rows.count() {
        let number = rows.shuffled(place);
        peer.put(&rows.key(number), rows.value(number))?;
    }
    peer.sync()?;
    die()
}

pub fn recover(task: &Task) -> Result<Figures> {
    let rows = Rows::new(task.sizes.recovered);
    let began = Instant::now();
    let peer = open(task)?;
    let found = peer.reader(Call::One)?(&[rows.key(0)])?;
    let elapsed = began.elapsed().as_secs_f64();
    expect_all(found, 1)?;
    expect_all(peer.scan()?, rows.count())?;
    peer.close()?;
    Ok(Figures::from([figure("commits/s", rows.count() as f64 / elapsed), figure("seconds", elapsed)]))
}

/// Ours without checkpoints, so that all is replayed; the others as they are.
fn open(task: &Task) -> Result<Box<dyn Peer>> {
    if task.peer == "seawall" {
        let settings = task.settings(Safety::Buffered);
        return Ok(Box::new(Seawall::open(&task.folder, settings, Use::RarelyCheckpointed)?));
    }
    task.open(Safety::Buffered)
}
