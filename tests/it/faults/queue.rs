//! Many messages wait at a bridge that forgets, on many threads, and the daemon is killed again and
//! again while it catches up with them.

use super::{
    dice::{Dice, millis},
    run::{self, Figures, Site, wait},
};
use rustix::process::Signal;

#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) messages: u32,
    pub(super) threads: u32,
    pub(super) kills: u32,
}

pub(super) fn run(seed: u64, queue: Size) -> Result<Figures, String> {
    let dice = Dice { seed };
    let site = Site::new(dice, true);
    let threads: Vec<String> = (0..queue.threads).map(|number| format!("queue-{number}")).collect();
    let mut figures = Figures::default();
    let result = play(&site, dice, queue, &threads, &mut figures);
    let result = result.and_then(|()| run::judge_threads(&site, &threads, |_| false));
    run::finish(&site, figures, result)
}

fn play(
    site: &Site,
    dice: Dice,
    queue: Size,
    threads: &[String],
    figures: &mut Figures,
) -> Result<(), String> {
    let answers = site.answers();
    let daemon = site.daemon();
    site.connected()?;
    run::make_known(site, &answers, threads)?;
    daemon.signal(Signal::TERM);
    daemon.end().expect(0, &[]);
    let mut person = site.person();
    for number in 0..queue.messages {
        let thread = &threads[number as usize % threads.len()];
        person.write(thread, &format!("please do job/{number}/0"));
    }
    let mut rng = dice.rng("kills", 0);
    let mut daemon = site.daemon();
    for _ in 0..queue.kills {
        wait(millis(&mut rng, 0..2_000));
        daemon = run::kill(site, daemon, millis(&mut rng, 0..100), figures);
    }
    run::await_answers(&answers, queue.messages as usize)?;
    run::settle(site, daemon)
}
