//! What a gateway does, step by step, as `src/gateway` does it. Each step accesses one store; what follows from it on the
//! gateway's own side happens with it.

use highwater::domain::{Cause, JobState, Rule as Due, Sight, TrackerView, due};

use crate::model::{Protocol, marks_of, marks_of_all};
use crate::rules::Rule;
use crate::stores::{Belief, Commit, Draft, Postgres, Redis, Refusal};
use crate::world::{Caller, Event, Held, Listed, Mirror, Report, Round, Step, Task, World};

/// How a store is reached in this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As it is: a store that is cut off does nothing.
    Plain,
    /// A store that is cut off does what it was asked, and the answer is lost.
    AnswerLost,
}

/// Where a use case goes on.
enum Next {
    To(Step),
    /// Another use case first; this caller goes on.
    Call(Caller, Step),
    /// The step's caller goes on: with what became of what it asked for.
    Return(Outcome),
    /// It is over: answered, or given up.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The job has ended.
    Ended,
    /// A store is away.
    Unavailable,
    RedisAway,
}

use Next::{Call, Return, Stop, To};

/// One gateway taking one step.
pub struct Taking<'a, const N: usize> {
    pub protocol: &'a Protocol<N>,
    pub world: &'a mut World<N>,
    pub gateway: usize,
    pub link: Link,
}

impl<const N: usize> Taking<'_, N> {
    /// Takes the next step of what the gateway is doing.
    pub fn step(&mut self) {
        let Some(Task { step, caller }) = self.me().task else { return };
        let next = self.take(step, caller);
        self.me().task = self.go_on(next, caller);
    }

    /// Begins a report.
    pub fn report(&mut self, bit: u8) {
        let known = self.me().listed();
        let report = Report { bit, incarnation: known.map_or(0, |listed| listed.incarnation), only_adopted: true };
        let step = if self.me().ended {
            self.say_ended();
            return;
        } else if known.is_some() {
            Step::Mark
        } else {
            Step::FirstFooting
        };
        self.me().task = Some(Task { step, caller: Caller::Report(report) });
    }

    /// Looks at the tracker as the reconciler does, of a job that the feed lists or of one that has `ended` with a lower
    /// bound, and begins with what is due; false if nothing is.
    pub fn round(&mut self, ended: bool) -> bool {
        let Some(listed) = (if ended { self.lower_bound() } else { self.me().listed() }) else { return false };
        let tracker = if self.me().redis { self.world.redis.view() } else { TrackerView::Unreachable };
        let found = self.world.redis.tracker.filter(|_| self.me().redis);
        let held: Held = (found.map_or(0, |tracker| tracker.incarnation), self.world.redis.generation);
        let mirror_ahead = found.is_some() && self.me().mirror.is_ahead(held);
        let Listed { incarnation, ledger } = listed;
        let sight = Sight { incarnation: incarnation.into(), tracker, ledger, mirror_ahead, ended };
        let mut rules = due(&sight).into_iter();
        let believed = matches!(tracker, TrackerView::Present { adopted: true, sealed: false, .. });
        let news = found.is_some_and(|tracker| !tracker.marks.are_in(self.me().mirror.marks));
        let pull = believed && news && !ended;
        let round = Round { due: std::array::from_fn(|_| rules.next()), incarnation, held, pull };
        if round.due[0] == Some(Due::FinishWithoutTracker) && !self.could_end_now() {
            return false;
        }
        let task = self.follow(round);
        self.me().task = task;
        task.is_some()
    }

    /// The end that is a lower bound, if Postgres tells of one.
    fn lower_bound(&mut self) -> Option<Listed> {
        let postgres = self.world.postgres;
        let asked = self.me().postgres && self.me().feed.is_some();
        let bound = asked && postgres.ended.is_some_and(|ended| ended.lower_bound);
        bound.then_some(Listed { incarnation: postgres.incarnation, ledger: false })
    }

    /// Whether a commit without the tracker would be an end: otherwise nothing comes of trying.
    fn could_end_now(&mut self) -> bool {
        let postgres = self.world.postgres;
        let marks = self.me().mirror.marks.and(marks_of_all(postgres.ledger));
        self.me().postgres && marks.end(Cause::Complete, self.unseen(postgres.tracked)).is_some()
    }

    /// The next step of a round.
    fn follow(&mut self, mut round: Round) -> Option<Task> {
        let Some(due) = round.due[0] else {
            let caller = Caller::Round(Round { pull: false, ..round });
            return round.pull.then_some(Task { step: Step::Pull, caller });
        };
        round.due.rotate_left(1);
        round.due[4] = None;
        let incarnation = round.incarnation;
        let step = match due {
            Due::Restore => Step::Look { seen: incarnation },
            Due::TakeUp => Step::TakeUp,
            Due::Merge => Step::Merge,
            Due::Drain => Step::DrainRead,
            Due::Adopt => Step::Adopt,
            Due::Finish => Step::Seal { incarnation },
            Due::FinishWithoutTracker => Step::EndWithoutTracker { incarnation, cancelled: false },
            Due::Complete if self.protocol.has(Rule::CompletionSeals) => Step::SealLeft,
            Due::Complete => Step::ReadLeft,
            // No tracker is ever corrupt here.
            _ => return self.follow(round),
        };
        Some(Task { step, caller: Caller::Round(round) })
    }

    fn go_on(&mut self, next: Next, caller: Caller) -> Option<Task> {
        let outcome = match next {
            To(step) => return Some(Task { step, caller }),
            Call(caller, step) => return Some(Task { step, caller }),
            Return(outcome) => outcome,
            Stop => return None,
        };
        let step = match (caller, outcome) {
            (Caller::Nobody, _) => return None,
            (Caller::Report(_), Outcome::Ended) => {
                self.say_ended();
                return None;
            }
            (Caller::Report(_), Outcome::RedisAway) => Step::Record,
            (_, Outcome::Unavailable | Outcome::RedisAway) => return None,
            (Caller::Report(_), Outcome::Done) => Step::StandAgain,
            (Caller::Cancel, _) => Step::AskBeforeCancel,
            (Caller::Round(round), _) => return self.follow(round),
        };
        Some(Task { step, caller })
    }

    fn take(&mut self, step: Step, caller: Caller) -> Next {
        match (step, caller) {
            (Step::Issue | Step::Open { .. } | Step::Commit { .. } | Step::AdoptStarted { .. }, _)
            | (Step::OpenLate { .. }, _) => self.start(step),
            (Step::Look { .. } | Step::Reissue { .. } | Step::Rebuild { .. }, _) => self.restore(step),
            (Step::Seal { .. } | Step::End { .. } | Step::Expire | Step::EndWithoutTracker { .. }, _) => {
                self.finish(step)
            }
            (Step::AskBeforeCancel | Step::SealCancelled { .. }, _) => self.cancel(step),
            (_, Caller::Report(report)) => self.mark(step, report),
            (_, Caller::Round(round)) => self.upkeep(step, round),
            (_, Caller::Nobody | Caller::Cancel) => Return(Outcome::Done),
        }
    }

    fn start(&mut self, step: Step) -> Next {
        let opens_first = self.protocol.has(Rule::StartOpensFirst);
        match step {
            Step::Issue => match self.postgres(Postgres::issue).flatten() {
                Some(incarnation) if opens_first => To(Step::Open { incarnation }),
                Some(incarnation) => To(Step::Commit { incarnation, tracked: true }),
                None => Return(Outcome::Done),
            },
            Step::Open { incarnation } => match self.redis(|redis| redis.open(incarnation, None)) {
                Some(Ok(())) => To(Step::Commit { incarnation, tracked: true }),
                Some(Err(_)) => Return(Outcome::Done),
                None => To(Step::Commit { incarnation, tracked: false }),
            },
            Step::Commit { incarnation, tracked } => {
                let leave = self.protocol.has(Rule::StartLeavesWhatItMayHaveOpened);
                let started = self.postgres_tells(
                    |postgres| postgres.start(incarnation, tracked, leave),
                    |started| started.map(Event::Running),
                );
                match started.flatten() {
                    Some(_) if !opens_first => To(Step::OpenLate { incarnation }),
                    Some(_) if tracked => To(Step::AdoptStarted { incarnation }),
                    _ => Return(Outcome::Done),
                }
            }
            Step::OpenLate { incarnation } => {
                self.redis(|redis| {
                    if redis.open(incarnation, None).is_ok() {
                        let _ = redis.adopt(incarnation, true);
                    }
                });
                Return(Outcome::Done)
            }
            Step::AdoptStarted { incarnation } => {
                self.redis(|redis| redis.adopt(incarnation, true));
                Return(Outcome::Done)
            }
            _ => Return(Outcome::Done),
        }
    }

    fn mark(&mut self, step: Step, report: Report) -> Next {
        let marks = marks_of(report.bit);
        let on = |incarnation, only_adopted| {
            Call(Caller::Report(Report { incarnation, only_adopted, ..report }), Step::Mark)
        };
        match step {
            Step::FirstFooting => match (self.stand(), self.me().seen) {
                (Err(Outcome::Unavailable), seen @ 1..) => on(seen, true),
                (Ok(incarnation), _) => on(incarnation, true),
                (Err(outcome), _) => self.end_report(outcome),
            },
            Step::Mark => {
                let Report { incarnation, only_adopted, .. } = report;
                let belief = if only_adopted { Belief::Adopted } else { self.current() };
                match self.redis(|redis| redis.report(incarnation, belief, marks)) {
                    None => To(Step::Record),
                    Some(Ok(tracker)) => {
                        let complete = tracker.marks.are_complete();
                        let held = only_adopted.then_some((tracker.incarnation, tracker.generation));
                        if only_adopted || !self.protocol.has(Rule::AskBeforeAcknowledging) {
                            To(Step::Acknowledge { held, complete })
                        } else {
                            To(Step::Confirm { complete })
                        }
                    }
                    // Without the rule it asks Postgres, and marks what it finds.
                    Some(Err(Refusal::Stale)) if self.current() == Belief::Any => {
                        To(Step::StandAfter(Refusal::NotAdopted))
                    }
                    Some(Err(Refusal::Sealed)) if !self.protocol.has(Rule::HelpBeforeSuperseded) => {
                        self.end_report(Outcome::Ended)
                    }
                    // Helped along; if that is no end after all, it stands again.
                    Some(Err(Refusal::Sealed)) => To(Step::Seal { incarnation }),
                    Some(Err(refusal)) => To(Step::StandAfter(refusal)),
                }
            }
            Step::Confirm { complete } => match self.stand() {
                Ok(incarnation) if incarnation == report.incarnation => To(Step::Acknowledge { held: None, complete }),
                Ok(incarnation) => on(incarnation, true),
                Err(outcome) => self.end_report(outcome),
            },
            Step::Acknowledge { held, complete } => {
                self.me().mirror.took(marks, held);
                let truth = &mut self.world.truth;
                truth.acknowledged = truth.acknowledged.and(marks);
                if complete { Call(Caller::Nobody, Step::Seal { incarnation: report.incarnation }) } else { Stop }
            }
            Step::StandAfter(refusal) => match (self.stand(), refusal) {
                (Ok(incarnation), _) if incarnation != report.incarnation => on(incarnation, true),
                (Ok(incarnation), Refusal::NotAdopted) => on(incarnation, false),
                (Ok(seen), Refusal::Missing | Refusal::OtherIncarnation | Refusal::Stale) => To(Step::Look { seen }),
                (Ok(_), _) => To(Step::Record),
                (Err(outcome), _) => self.end_report(outcome),
            },
            Step::StandAgain => match self.stand() {
                Ok(incarnation) => on(incarnation, true),
                Err(outcome) => self.end_report(outcome),
            },
            Step::Record => {
                let recorded = self.postgres_tells(
                    |postgres| postgres.record(report.bit),
                    |recorded| recorded.then_some(Event::Recorded),
                );
                match recorded {
                    Some(true) => {
                        let remember = self.protocol.has(Rule::RecordedIsRemembered);
                        let me = self.me();
                        me.recorded = me.recorded.and(marks);
                        me.mirror.took(marks, None);
                        if let Some(session) = &mut me.feed {
                            session.recorded(remember);
                        }
                        let truth = &mut self.world.truth;
                        truth.recorded = truth.recorded.and(marks);
                        Stop
                    }
                    Some(false) if self.world.postgres.state.is_ended() => self.end_report(Outcome::Ended),
                    _ => Stop,
                }
            }
            _ => Stop,
        }
    }

    /// What Postgres says: the incarnation of the running job.
    fn stand(&mut self) -> Result<u8, Outcome> {
        let Some((state, incarnation)) = self.postgres(|postgres| (postgres.state, postgres.incarnation)) else {
            return Err(Outcome::Unavailable);
        };
        match state {
            JobState::Pending => Err(Outcome::Unavailable),
            JobState::Running => {
                if self.protocol.remembers_seen() {
                    self.me().seen = incarnation;
                }
                Ok(incarnation)
            }
            _ => {
                self.saw_ended();
                Err(Outcome::Ended)
            }
        }
    }

    fn saw_ended(&mut self) {
        let me = self.me();
        (me.ended, me.seen) = (true, 0);
    }

    fn end_report(&mut self, outcome: Outcome) -> Next {
        if outcome == Outcome::Ended {
            self.say_ended();
        }
        Stop
    }

    /// A client is told that the job has ended.
    fn say_ended(&mut self) {
        if !self.world.postgres.state.is_ended() && !self.world.truth.forgotten {
            self.world.truth.wrong = Some("a client was told that the job has ended, and no end is committed");
        }
    }

    fn restore(&mut self, step: Step) -> Next {
        match step {
            Step::Look { seen } => {
                let Some(Redis { tracker, generation, .. }) = self.redis(|redis| *redis) else {
                    return Return(Outcome::RedisAway);
                };
                match tracker {
                    Some(tracker) if tracker.incarnation == seen => {
                        if tracker.generation == generation || tracker.seal.is_some() {
                            Return(Outcome::Done)
                        } else if self.protocol.has(Rule::TakeUpFences) {
                            To(Step::Reissue { seen, found: Some(seen) })
                        } else {
                            To(Step::Rebuild { incarnation: seen, found: Some(seen) })
                        }
                    }
                    found => To(Step::Reissue { seen, found: found.map(|tracker| tracker.incarnation) }),
                }
            }
            Step::Reissue { seen, found } => {
                let issued =
                    self.postgres_tells(|postgres| postgres.reissue(seen), |issued| issued.map(Event::Running));
                match (issued, found) {
                    (None, _) => Return(Outcome::Unavailable),
                    (Some(None), _) => Return(Outcome::Done),
                    (Some(Some(incarnation)), Some(found)) if found >= incarnation => Return(Outcome::Done),
                    (Some(Some(incarnation)), found) => To(Step::Rebuild { incarnation, found }),
                }
            }
            Step::Rebuild { incarnation, found } => {
                let marks = self.me().mirror.marks;
                let rebuilt = self.redis(|redis| match found {
                    Some(found) => redis.take_up(found, incarnation),
                    None => redis.open(incarnation, Some(marks)),
                });
                Return(if rebuilt.is_some() { Outcome::Done } else { Outcome::RedisAway })
            }
            _ => Return(Outcome::Done),
        }
    }

    fn finish(&mut self, step: Step) -> Next {
        match step {
            Step::Seal { incarnation } => {
                let unsure = !self.protocol.has(Rule::UnseenIsUnsure);
                match self.redis(|redis| redis.seal(incarnation, Cause::Complete, unsure)) {
                    None => Return(Outcome::Unavailable),
                    Some(Err(_)) => Return(Outcome::Done),
                    Some(Ok(tracker)) => {
                        let cause = tracker.seal.unwrap_or(Cause::Complete);
                        let unseen = self.unseen(!tracker.adopted);
                        let draft = Draft { cause, marks: tracker.marks, unseen, sealed: true };
                        To(Step::End { incarnation, draft })
                    }
                }
            }
            Step::EndWithoutTracker { incarnation, cancelled } => {
                let Some(tracked) = self.postgres(|postgres| postgres.tracked) else {
                    return Return(Outcome::Unavailable);
                };
                let cause = if cancelled { Cause::Cancelled } else { Cause::Complete };
                let (marks, unseen) = (self.me().mirror.marks, self.unseen(tracked));
                To(Step::End { incarnation, draft: Draft { cause, marks, unseen, sealed: false } })
            }
            Step::End { incarnation, draft } => {
                let rules = Commit {
                    fences: self.protocol.has(Rule::CommitFences),
                    takes_ledger: self.protocol.has(Rule::CommitTakesLedger),
                };
                let ended = self.postgres_tells(
                    |postgres| {
                        let rows = postgres.ledger != 0;
                        let won = postgres.end(incarnation, draft, &rules, marks_of_all);
                        (postgres.state.is_ended(), won, rows)
                    },
                    |(_, won, _)| won.then_some(Event::Ended),
                );
                match ended {
                    None => Return(Outcome::Unavailable),
                    Some((false, ..)) => Return(Outcome::Done),
                    Some((true, ..)) => {
                        self.saw_ended();
                        self.world.hear_ended(self.gateway);
                        if draft.sealed && !self.protocol.has(Rule::SealExpires) {
                            return To(Step::Expire);
                        }
                        Return(Outcome::Ended)
                    }
                }
            }
            // That it goes away after an hour is no step; without the rule it is deleted at once.
            Step::Expire if !self.protocol.has(Rule::SealExpires) => {
                self.redis(|redis| {
                    if redis.tracker.is_some_and(|tracker| tracker.seal.is_some()) {
                        redis.tracker = None;
                    }
                });
                Return(Outcome::Ended)
            }
            _ => Return(Outcome::Done),
        }
    }

    /// What marks need that Postgres is asked about.
    fn current(&self) -> Belief {
        if self.protocol.has(Rule::MarksNeedTheGeneration) { Belief::Current } else { Belief::Any }
    }

    /// Whether an end is unsure; never without the rule.
    fn unseen(&self, unseen: bool) -> bool {
        unseen && self.protocol.has(Rule::UnseenIsUnsure)
    }

    fn cancel(&mut self, step: Step) -> Next {
        match step {
            Step::AskBeforeCancel => {
                let asked = self.postgres(|postgres| {
                    postgres.cancel_pending();
                    (postgres.state, postgres.incarnation)
                });
                match asked {
                    None => Stop,
                    Some((JobState::Running, incarnation)) => To(Step::SealCancelled { incarnation }),
                    Some(_) => {
                        self.saw_ended();
                        self.say_ended();
                        Stop
                    }
                }
            }
            Step::SealCancelled { incarnation } => {
                match self.redis(|redis| redis.seal(incarnation, Cause::Cancelled, false)) {
                    Some(Ok(_)) => To(Step::Seal { incarnation }),
                    Some(Err(Refusal::Missing | Refusal::OtherIncarnation)) => To(Step::Look { seen: incarnation }),
                    Some(Err(_)) | None => To(Step::EndWithoutTracker { incarnation, cancelled: true }),
                }
            }
            _ => Stop,
        }
    }

    fn upkeep(&mut self, step: Step, round: Round) -> Next {
        let (incarnation, held) = (round.incarnation, round.held);
        match step {
            Step::TakeUp => self.returns(|redis| redis.take_up(incarnation, incarnation)),
            Step::Merge => {
                let marks = self.me().mirror.marks;
                let belief = self.current();
                match self.redis(|redis| redis.report(held.0, belief, marks)) {
                    None => return Return(Outcome::Unavailable),
                    Some(Ok(_)) => self.me().mirror.merged = Some(held),
                    Some(Err(_)) => {}
                }
                Return(Outcome::Done)
            }
            Step::DrainRead => match self.postgres(|postgres| postgres.ledger) {
                None => Return(Outcome::Unavailable),
                Some(0) => Return(Outcome::Done),
                Some(rows) if self.protocol.has(Rule::DrainMergesFirst) => To(Step::DrainMerge { rows }),
                Some(rows) => To(Step::DrainDelete { rows }),
            },
            Step::DrainMerge { rows } => {
                let marks = marks_of_all(rows);
                let belief = self.current();
                match self.redis(|redis| redis.report(incarnation, belief, marks)) {
                    None => Return(Outcome::Unavailable),
                    Some(Err(_)) => Return(Outcome::Done),
                    Some(Ok(_)) => {
                        self.me().mirror.took(marks, None);
                        if self.protocol.has(Rule::DrainMergesFirst) {
                            To(Step::DrainDelete { rows })
                        } else {
                            To(Step::DrainRead)
                        }
                    }
                }
            }
            Step::DrainDelete { rows } => {
                let merged_first = self.protocol.has(Rule::DrainMergesFirst);
                let deleted = self.postgres_tells(|postgres| postgres.ledger &= !rows, |()| Some(Event::Drained));
                match deleted {
                    None => Return(Outcome::Unavailable),
                    Some(()) if merged_first => To(Step::DrainRead),
                    Some(()) => To(Step::DrainMerge { rows }),
                }
            }
            Step::Adopt => {
                let (settled, late) = self.world.settled();
                let settled = settled || !self.protocol.has(Rule::Settle);
                let adopted = self.redis(|redis| {
                    let before = redis.tracker.is_some_and(|tracker| tracker.adopted);
                    redis.adopt(incarnation, settled).is_ok() && !before
                });
                if adopted == Some(true) {
                    self.world.truth.at_risk = self.world.truth.at_risk.and(late);
                }
                Return(if adopted.is_some() { Outcome::Done } else { Outcome::Unavailable })
            }
            Step::Pull => {
                match self.redis(|redis| redis.tracker) {
                    None => return Return(Outcome::Unavailable),
                    Some(Some(tracker)) => self.me().mirror.took(tracker.marks, Some(held)),
                    Some(None) => {}
                }
                Return(Outcome::Done)
            }
            Step::SealLeft => match self.redis(|redis| redis.seal(incarnation, Cause::Cancelled, false)) {
                Some(Ok(tracker)) if tracker.adopted || !self.protocol.has(Rule::CompletionNeedsBelief) => {
                    To(Step::Complete { left: tracker.marks })
                }
                _ => Return(Outcome::Done),
            },
            Step::ReadLeft => match self.redis(|redis| redis.tracker) {
                Some(Some(tracker)) if tracker.incarnation == incarnation => To(Step::Complete { left: tracker.marks }),
                _ => Return(Outcome::Done),
            },
            Step::Complete { left } => {
                let left = left.and(self.me().mirror.marks);
                if self.postgres(|postgres| postgres.complete(left)).is_some() {
                    self.me().mirror = Mirror::default();
                }
                Return(Outcome::Done)
            }
            _ => Return(Outcome::Done),
        }
    }

    fn returns(&mut self, script: impl Fn(&mut Redis) -> Result<(), Refusal>) -> Next {
        Return(if self.redis(script).is_some() { Outcome::Done } else { Outcome::Unavailable })
    }

    fn me(&mut self) -> &mut crate::world::Gateway {
        &mut self.world.gateways[self.gateway]
    }

    /// Asks Redis; `None`: no answer.
    fn redis<T>(&mut self, ask: impl FnOnce(&mut Redis) -> T) -> Option<T> {
        let reached = self.me().redis;
        let answer = (reached || self.link == Link::AnswerLost).then(|| ask(&mut self.world.redis));
        answer.filter(|_| reached)
    }

    /// Asks Postgres; `None`: no answer.
    fn postgres<T>(&mut self, ask: impl FnOnce(&mut Postgres) -> T) -> Option<T> {
        let reached = self.me().postgres;
        let answer = (reached || self.link == Link::AnswerLost).then(|| ask(&mut self.world.postgres));
        answer.filter(|_| reached)
    }

    /// Asks Postgres for what the feed tells of.
    fn postgres_tells<T: Copy>(
        &mut self,
        ask: impl FnOnce(&mut Postgres) -> T,
        event: impl FnOnce(T) -> Option<Event>,
    ) -> Option<T> {
        let reached = self.me().postgres;
        let answer = (reached || self.link == Link::AnswerLost).then(|| ask(&mut self.world.postgres));
        if let Some(event) = answer.and_then(event) {
            self.world.announce(event, !self.protocol.feed_lags);
        }
        answer.filter(|_| reached)
    }
}

/// The steps that change a store, whose answer can be lost.
pub fn writes(step: Step) -> (bool, bool) {
    match step {
        Step::Open { .. }
        | Step::OpenLate { .. }
        | Step::AdoptStarted { .. }
        | Step::Mark
        | Step::Rebuild { .. }
        | Step::Seal { .. }
        | Step::SealCancelled { .. }
        | Step::TakeUp
        | Step::Merge
        | Step::DrainMerge { .. }
        | Step::Adopt
        | Step::SealLeft => (true, false),
        Step::Issue
        | Step::Commit { .. }
        | Step::Record
        | Step::Reissue { .. }
        | Step::End { .. }
        | Step::AskBeforeCancel
        | Step::DrainDelete { .. }
        | Step::Complete { .. } => (false, true),
        _ => (false, false),
    }
}
