//! Control words and stops, as the simulation checks them, and what is broken on purpose.

use obto_bridge::{
    dispatch::{Effect, Event, Why, control::Word},
    store::entry::EntryId,
};

use super::World;
use crate::sim::parts::{Message, Mutation, Outcome, ensure, index, machine_id};

impl World {
    /// Work, most of the time.
    pub(super) fn say_something(&mut self) -> &'static str {
        match self.rng.u32(0..24) {
            0..=3 => "/stop",
            4..=5 => "/stop all",
            6 => "/status",
            7 => "/new",
            _ => "work",
        }
    }

    /// A word was carried out, and answered at most once; what was forgotten was not answered.
    pub(super) fn check_end_of_word(i: usize, message: &Message) -> Outcome {
        let told = message.answers + message.errors;
        if message.is_cleared {
            return ensure(message.is_excused || told == 0, || {
                format!("message {i} is answered, and was forgotten")
            });
        }
        ensure(message.is_settled, || format!("word {i} is lost"))?;
        ensure(message.is_excused || told <= 1, || format!("word {i} has {told} answers"))
    }

    /// Whether a message may be stopped by this word.
    fn may_stop(&self, (stop, word): (EntryId, usize), (entry, message): (EntryId, usize)) -> bool {
        let is_all_timed = self.messages[word].is_timed && self.messages[message].is_timed;
        if is_all_timed { message < word } else { entry < stop }
    }

    /// What is stopped or forgotten on account of a word that just came in, is older than the word.
    pub(super) fn check_stops(&self, at: usize, event: &Event, effects: &[Effect]) -> Outcome {
        let Event::Inbound { entry: stop, .. } = event else { return Ok(()) };
        let inbox = &self.machines[at].disk.inbox;
        let message = |entry: &EntryId| inbox[entry].wire.message;
        let word = message(stop);
        if !matches!(self.messages[word].word(), Some(Word::Stop | Word::StopAll)) {
            return Ok(());
        }
        let held = |entry: &EntryId| {
            // It came with others that were held until the claim was won.
            effects.iter().any(|it| matches!(it, Effect::Deliver { entry: at, .. } if at == entry))
        };
        for effect in effects {
            let (Effect::Interrupt { entry } | Effect::Done { entry, why: Why::Cleared, .. }) =
                effect
            else {
                continue;
            };
            let is_fine = held(entry) || self.may_stop((*stop, word), (*entry, message(entry)));
            ensure(is_fine, || format!("word {word} stops the newer {}", message(entry)))?;
        }
        Ok(())
    }

    /// A turn that runs is stopped by a word that comes in on a thread of ours.
    pub(super) fn check_interrupted(
        &self,
        at: usize,
        event: &Event,
        effects: &[Effect],
    ) -> Outcome {
        let Event::Inbound { entry: stop, reply, .. } = event else { return Ok(()) };
        let machine = &self.machines[at];
        let refused = |it: &Effect| matches!(it, Effect::Done { entry, why: Why::Duplicate | Why::NotOurs, .. } if entry == stop);
        let is_ours = reply.machine == Some(machine_id(at))
            && !machine.is_stopping
            && !effects.iter().any(refused);
        let Some(found) = machine.disk.inbox.get(stop) else { return Ok(()) };
        let word = found.wire.message;
        let is_stop = matches!(self.messages[word].word(), Some(Word::Stop | Word::StopAll));
        let worker = machine.workers.get(&index(&reply.thread_id));
        if let Some((worker, current)) = worker.and_then(|it| Some((it, it.current?)))
            && is_ours
            && is_stop
            && self.may_stop((*stop, word), current)
        {
            let is_told = worker.interrupted.contains(&current.0);
            return ensure(is_told, || format!("message {} runs on", current.1));
        }
        Ok(())
    }

    pub(super) fn mutate(&mut self, effects: &mut Vec<Effect>) {
        let is_hit = |mutation: Mutation, effect: &Effect| match mutation {
            Mutation::LoseClaim => matches!(effect, Effect::Claim { .. }),
            Mutation::LoseDeliver | Mutation::DeliverTwice | Mutation::ReverseDeliveries => {
                matches!(effect, Effect::Deliver { .. })
            }
            Mutation::LoseDone => matches!(effect, Effect::Done { .. }),
            Mutation::LoseControl => matches!(effect, Effect::Control { .. }),
            Mutation::LoseInterrupt => matches!(effect, Effect::Interrupt { .. }),
            Mutation::StartTwice => matches!(effect, Effect::StartWorker { .. }),
            _ => false,
        };
        let mutation = self.mutation;
        match mutation {
            Mutation::DeliverTwice | Mutation::StartTwice => {
                if let Some(effect) = effects.iter().rfind(|it| is_hit(mutation, it)) {
                    effects.push(effect.clone());
                }
            }
            Mutation::ReverseDeliveries => {
                let places: Vec<usize> =
                    (0..effects.len()).filter(|at| is_hit(mutation, &effects[*at])).collect();
                for (from, to) in places.iter().zip(places.iter().rev()).take(places.len() / 2) {
                    effects.swap(*from, *to);
                }
            }
            _ => effects.retain(|effect| !is_hit(mutation, effect) || self.rng.bool()),
        }
    }
}
