//! x
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let plant = std::env::args().nth(3).and_then(|p| engine::plant::Plant::from_name(&p));
    let calm = std::env::var("CALM").is_ok();
    let t = std::time::Instant::now();
    let mut total: Option<sim::report::Outcome> = None;
    let mut bad = 0;
    for seed in args[0]..args[1] {
        let o = std::thread::spawn(move || sim::runner::run(&sim::workload::draw(seed, "wal", calm), plant)).join();
        let Ok(o) = o else {
            println!("seed {seed} panicked");
            bad += 1;
            continue;
        };
        if !matches!(o.verdict, sim::report::Verdict::Pass) {
            bad += 1;
            if bad <= 3 {
                println!("seed {seed}\n{}", o.text(0, ""));
            } else if bad < 20 {
                if let sim::report::Verdict::Violation(v) = &o.verdict {
                    println!("seed {seed} {} {} | {}", v.invariant, v.expected, v.found);
                } else {
                    println!("seed {seed} {:?}", o.verdict)
                }
            }
        }
        match &mut total {
            None => total = Some(o),
            Some(t) => t.merge(&o),
        }
    }
    println!(
        "bad {bad} {:?}\n{}\nnever {:?}",
        t.elapsed(),
        total.as_ref().unwrap().numbers(0),
        total.as_ref().unwrap().never()
    );
}
