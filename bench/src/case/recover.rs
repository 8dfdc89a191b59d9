//! What a killed process leaves is opened.
//!
//! An open may leave work to the reads behind it: who reads pages when they are asked for has none of the rows yet. So what counts is the
//! time until a user has had all of them.

use std::time::Instant;

use super::read::expect_all;
use crate::{
    Result,
    child::{Figures, Task, die, figure},
    keys::Rows,
    peer::{self, Call, Peer, Safety, Settings},
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
    let first = began.elapsed().as_secs_f64();
    let scanned = peer.scan()?;
    let all = began.elapsed().as_secs_f64();
    expect_all(found, 1)?;
    expect_all(scanned, rows.count())?;
    peer.close()?;
    Ok(Figures::from([
        figure("commits/s", rows.count() as f64 / all),
        figure("s to the first row", first),
        figure("s to all rows", all),
    ]))
}

/// With all commits in the log, for who can be told.
fn open(task: &Task) -> Result<Box<dyn Peer>> {
    let settings = Settings { stays_in_log: true, ..task.settings(Safety::Buffered) };
    peer::open(&task.peer, &task.folder, settings)
}
