//! What the durability options of a store mean: what a commit waits for, what a crash takes at most, what others see before that.
//! `cargo run -p engine --example explain-durability -- --sync periodic --period-ms 500`; `--help` names all flags.

use std::{error::Error, process::ExitCode, time::Duration};

use engine::txn::{
    Explanation, Loss, Visibility,
    options::{Options, Sync},
};

const USAGE: &str = "\
usage: explain-durability [FLAG VALUE].. [--json]
  --sync periodic|instant|no_sync      what a commit waits for (periodic)
  --period-ms N                        periodic: time between two syncs, 1 to 3600000 (500)
  --threshold N                        periodic: commits that make a sync due at once, 1 to 1000000000 (100)
  --visibility committed|durable       from when on others see a commit (instant: durable, else committed)
  --checkpoint-period-s N              time between two checkpoints, 1 to 2592000 (3600)
  --dirty-bytes N                      versions that make a checkpoint due, 16384 to 64 MiB (33554432)
  --log-buffer-bytes N                 what waits in memory for a log (1048576)
  --logs N                             logs of a new store, 1 to 16 (1)
  --json                               the same as an object";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match told(&mut args) {
        Ok(None) => println!("{USAGE}"),
        Ok(Some((explanation, true))) => println!("{}", json(&explanation)),
        Ok(Some((explanation, false))) => print!("{explanation}"),
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The explanation of what the flags say, and whether it is to be an object; `None` if help is wanted.
fn told(args: &mut impl Iterator<Item = String>) -> Result<Option<(Explanation, bool)>, Box<dyn Error>> {
    let (mut options, mut json) = (Options::default(), false);
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            return Ok(None);
        }
        if flag == "--json" {
            json = true;
            continue;
        }
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{flag}: '{text}' is no number"));
        match flag.as_str() {
            "--sync" => options.sync = value()?.parse::<Sync>()?,
            "--period-ms" => options.sync_period = Duration::from_millis(number(value()?)?),
            "--threshold" => options.sync_threshold = number(value()?)?,
            "--visibility" => {
                options.visibility = Some(match value()?.as_str() {
                    "committed" => Visibility::Committed,
                    "durable" => Visibility::Durable,
                    other => {
                        return Err(format!("--visibility: '{other}' is none; there are committed and durable").into());
                    }
                });
            }
            "--checkpoint-period-s" => options.checkpoint_period = Duration::from_secs(number(value()?)?),
            "--dirty-bytes" => options.dirty_bytes = number(value()?)?,
            "--log-buffer-bytes" => options.log_buffer_bytes = number(value()?)?,
            "--logs" => options.logs = number(value()?)?.try_into().unwrap_or(u16::MAX),
            unknown => return Err(format!("there is no flag '{unknown}'").into()),
        }
    }
    options.validate()?;
    Ok(Some((options.explain(), json)))
}

/// An object of one line. Its texts are plain ASCII without quotes, or are quoted by `{:?}` as JSON does it.
fn json(explanation: &Explanation) -> String {
    let loss = |loss: &Loss| {
        let window = loss.window.map_or("null".to_owned(), |window| window.as_millis().to_string());
        let bytes = loss.bytes.map_or("null".to_owned(), |bytes| bytes.to_string());
        format!(r#"{{"window_ms":{window},"bytes":{bytes},"words":{:?}}}"#, loss.words)
    };
    let settings: Vec<_> = explanation.settings.iter().map(|(name, value)| format!("{name:?}:{value:?}")).collect();
    format!(
        r#"{{"sync":"{}","returns":{:?},"kill":{},"power_cut":{},"others_see_what_may_be_lost":{},"others":{:?},"settings":{{{}}},"advice":{:?}}}"#,
        explanation.sync,
        explanation.returns,
        loss(&explanation.kill),
        loss(&explanation.power_cut),
        explanation.others_see_what_may_be_lost,
        explanation.others,
        settings.join(","),
        explanation.advice,
    )
}
