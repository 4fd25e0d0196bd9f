//! What is logged to standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use millstream_env::Env;
use parking_lot::Mutex;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Warnings of one kind that are shown in [`PERIOD`], unless all are asked for: what goes on says so again and again.
const SHOWN: u32 = 3;
const PERIOD: Duration = Duration::from_secs(10);

/// Whatever runs, connectors and their worker say which input they leave out or read again, and what they wait for.
const CONNECTORS: &str =
    "error,millstream_connect_runtime=warn,millstream_connector_file=warn,millstream_connector_postgres=warn";

/// Logs from here on. A daemon shows its own warnings unasked, since nobody would know else that it serves nobody. Those of the
/// quorum's library come many times a second when a peer is down, and only with -vv.
pub(crate) fn to_stderr(verbose: u8, is_daemon: bool, env: &Env) {
    let level = match verbose {
        0 if is_daemon => "error,millstream=warn",
        0 => CONNECTORS,
        1 => "warn,millstream=info,openraft=error",
        _ => "warn,millstream=debug",
    };
    let asked = EnvFilter::try_from_env("MILLSTREAM_LOG");
    let shows_all = verbose > 0 || asked.is_ok();
    let filter = asked.unwrap_or_else(|_| EnvFilter::new(level));
    let (env, seldom) = (env.clone(), Mutex::new(Seldom::default()));
    let seldom = dynamic_filter_fn(move |event, _| {
        shows_all
            || LevelFilter::WARN != *event.level()
            || seldom.lock().may_show(event.name(), env.elapsed())
    });
    let is_terminal = std::io::stderr().is_terminal(); // colours are no part of a log file
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal);
    tracing_subscriber::registry().with(layer.with_filter(filter.and(seldom))).init();
}

/// How often what was shown lately, by the place in the code.
#[derive(Default)]
struct Seldom(BTreeMap<&'static str, (Duration, u32)>);

impl Seldom {
    fn may_show(&mut self, place: &'static str, now: Duration) -> bool {
        let (began, shown) = self.0.entry(place).or_insert((now, 0));
        if now.saturating_sub(*began) >= PERIOD {
            (*began, *shown) = (now, 0);
        }
        *shown += 1;
        *shown <= SHOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are those of crates: a crate that is named anew would fall silent.
    #[test]
    fn connectors_are_heard() {
        let targets = [
            std::any::type_name::<millstream_connect_runtime::Status>(),
            std::any::type_name::<millstream_connector_file::FileSource>(),
            std::any::type_name::<millstream_connector_postgres::PostgresSink>(),
        ];
        for target in targets {
            let name = target.split("::").next().unwrap();
            assert!(CONNECTORS.split(',').any(|part| part == format!("{name}=warn")), "{name}");
        }
    }

    #[test]
    fn a_warning_that_comes_again_and_again_is_shown_a_few_times() {
        let mut seldom = Seldom::default();
        let shown = |seldom: &mut Seldom, from: u64| {
            (0..100).filter(|at| seldom.may_show("a", Duration::from_millis(from + at))).count()
        };
        assert_eq!(shown(&mut seldom, 0), 3);
        assert!(seldom.may_show("b", Duration::ZERO), "another kind");
        assert_eq!(shown(&mut seldom, 10_000), 3);
    }
}
