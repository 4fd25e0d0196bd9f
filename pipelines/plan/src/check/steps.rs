//! Checking steps: each behind what it reads.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Check;
use crate::diagnostic::Diagnostic;
use crate::plan::{Source, Step};
use crate::spec::StepSection;
use crate::sql::{self, Accepted, Readable};

impl Check<'_> {
    /// The steps, each behind the steps that it reads.
    pub(super) fn steps(&mut self, sources: &[Source]) -> Vec<Step> {
        let spec = self.spec;
        let mut waiting: Vec<(&StepSection, Accepted)> = Vec::new();
        for section in &spec.steps {
            match sql::accept(&section.sql, self.problems) {
                Some(accepted) => waiting.push((section, accepted)),
                None => drop(self.broken.insert(section.name.clone())),
            }
        }
        waiting.retain(|(section, accepted)| self.reads_known(section, accepted));
        let mut lateness: BTreeMap<String, Duration> = sources
            .iter()
            .filter_map(|source| Some((source.table.name.to_string(), source.time.as_ref()?.lateness)))
            .collect();
        let mut done = Vec::new();
        while !waiting.is_empty() {
            let ready = waiting.iter().position(|(_, accepted)| {
                accepted.relations().all(|relation| self.is_settled(&relation.name))
            });
            let Some(ready) = ready else {
                self.cycle(&waiting);
                break;
            };
            let (section, accepted) = waiting.remove(ready);
            match self.step(section, &accepted, &mut lateness) {
                Some(step) => done.push(step),
                None => drop(self.broken.insert(section.name.clone())),
            }
        }
        done
    }

    fn is_settled(&self, relation: &str) -> bool {
        let section = relation.split('.').next().unwrap_or(relation);
        self.readable.contains_key(relation)
            || self.broken.contains(relation)
            || self.broken.contains(section)
    }

    fn reads_known(&mut self, section: &StepSection, accepted: &Accepted) -> bool {
        let mut all = true;
        for relation in accepted.relations() {
            all &= self.relation_exists(&relation.name, &relation.span);
        }
        if !all {
            self.broken.insert(section.name.clone());
        }
        all
    }

    fn cycle(&mut self, waiting: &[(&StepSection, Accepted)]) {
        for (section, accepted) in waiting {
            let reads: Vec<_> = accepted.relations().map(|relation| relation.name.as_str()).collect();
            let message = format!("'{}' reads {}, which waits for it", section.name, reads.join(" and "));
            let diagnostic = Diagnostic::new("cycle", section.name_span.clone(), message);
            self.problems
                .push(diagnostic.help("steps stand one behind the other; a step cannot read its own result"));
            self.broken.insert(section.name.clone());
        }
    }

    fn step(
        &mut self,
        section: &StepSection,
        accepted: &Accepted,
        lateness: &mut BTreeMap<String, Duration>,
    ) -> Option<Step> {
        let relations: Vec<&Readable> =
            accepted.relations().map(|relation| self.readable.get(&relation.name)).collect::<Option<_>>()?;
        let query = sql::plan(accepted, &relations, &section.sql, self.problems);
        let late = self.lateness(section, accepted, lateness);
        let query = query?;
        let own = match late {
            Ok(late) => late,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        // Results of windows leave in the order of their windows, and where ways of several partitions meet behind them each is
        // judged by its own, so nothing behind is ever late by this step's doing.
        let passed = match own {
            Some(_) => Some(Duration::ZERO),
            None => lateness.get(&accepted.from.name).copied(),
        };
        lateness.extend(passed.map(|passed| (section.name.clone(), passed)));
        let readable = Readable { schema: query.schema.clone(), table_key: None, updates: query.updates };
        self.readable.insert(section.name.clone(), readable);
        Some(Step { name: section.name.clone(), query, lateness: own, topic: None })
    }

    /// How late a row may be for the windows of a step: as the step says, or as the source that its rows come from.
    fn lateness(
        &self,
        section: &StepSection,
        accepted: &Accepted,
        upstream: &BTreeMap<String, Duration>,
    ) -> Result<Option<Duration>, Diagnostic> {
        let Some(window) = &accepted.window else {
            return match &section.time {
                None => Ok(None),
                Some(time) => {
                    let message = "'time' says how late a row may be for a window, and this step has none";
                    let help = "put it into the source, or read FROM TUMBLE(...)";
                    Err(Diagnostic::new("config", time.span.clone(), message).help(help))
                }
            };
        };
        match (&section.time, upstream.get(&accepted.from.name)) {
            (Some(time), _) if time.column != window.column => {
                let message = format!("time is '{}' here and '{}' in FROM", time.column, window.column);
                Err(Diagnostic::new("config", time.span.clone(), message)
                    .help("name the same column in both"))
            }
            (Some(time), _) => Ok(Some(time.lateness)),
            (None, Some(lateness)) => Ok(Some(*lateness)),
            (None, None) => {
                let message = "nothing says how late a row may be, so no window would ever be final";
                let help = format!(
                    "add to [step.{}]: time = {{ column = \"{}\", lateness = \"10s\" }}",
                    section.name, window.column
                );
                let span = section.sql.span(window.span);
                Err(Diagnostic::new("config", span, message).help(help))
            }
        }
    }
}
